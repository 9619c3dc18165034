import sys

import torch

device = torch.device("cpu")  # the tests set it
room = None  # bytes that models may take on the device; None: enough
current_loaded_models = []


class LoadedModel:
    def __init__(self, patcher):
        self.model = patcher
        self.device = patcher.load_device

    def model_load(self):
        self.model.model.to(self.device)

    def model_unload(self, avoid_model_moving=False):
        if not avoid_model_moving:
            self.model.model.to(self.model.offload_device)

    def __eq__(self, other):
        return self.model is other.model


def get_torch_device():
    return device


def soft_empty_cache():
    pass


def size(patcher):
    return sum(p.numel() * p.element_size() for p in patcher.model.parameters())


def free_memory(needed, keep=()):
    """Abandoned models are forgotten; then, from the oldest on, models leave until there is room."""
    for i in reversed(range(len(current_loaded_models))):
        if sys.getrefcount(current_loaded_models[i].model) <= 2:
            current_loaded_models.pop(i).model_unload(avoid_model_moving=True)
    for i in reversed(range(len(current_loaded_models))):
        taken = sum(size(loaded.model) for loaded in current_loaded_models)
        if room is None or taken + needed <= room:
            break
        if current_loaded_models[i] not in keep:
            current_loaded_models.pop(i).model_unload()


def load_models_gpu(models, memory_required=0, hard_memory_preservation=0):
    there = [loaded for loaded in current_loaded_models if any(loaded.model is model for model in models)]
    new = [LoadedModel(model) for model in models if all(loaded.model is not model for loaded in there)]
    for one in new:  # clones of one model share its weights
        for i in reversed(range(len(current_loaded_models))):
            if current_loaded_models[i].model.model is one.model.model:
                current_loaded_models.pop(i).model_unload(avoid_model_moving=True)
    free_memory(sum(size(one.model) for one in new) + hard_memory_preservation, there)
    for one in new:
        one.model_load()
        current_loaded_models.insert(0, one)


def unload_all_models():
    while current_loaded_models:
        current_loaded_models.pop().model_unload()
