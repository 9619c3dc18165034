import copy


class ModelPatcher:
    def __init__(self, model, load_device, offload_device):
        self.model, self.load_device, self.offload_device = model, load_device, offload_device
        self.model_options = {"transformer_options": {}}


class UnetPatcher(ModelPatcher):
    def __init__(self, *args):
        super().__init__(*args)
        self.extra_preserved_memory_during_sampling = 0
        self.extra_model_patchers_during_sampling = []

    def clone(self):
        other = UnetPatcher(self.model, self.load_device, self.offload_device)
        other.model_options = copy.deepcopy(self.model_options)
        other.extra_preserved_memory_during_sampling = self.extra_preserved_memory_during_sampling
        other.extra_model_patchers_during_sampling = self.extra_model_patchers_during_sampling.copy()
        return other

    def memory_required(self, shape):
        return shape[0] * shape[2] * shape[3] * 16384

    def add_extra_preserved_memory_during_sampling(self, memory):
        self.extra_preserved_memory_during_sampling += memory

    def add_extra_model_patcher_during_sampling(self, patcher):
        self.extra_model_patchers_during_sampling.append(patcher)
