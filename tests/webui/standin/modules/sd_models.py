from types import SimpleNamespace

from modules import shared

checkpoints_list = {}  # title -> information, with `filename`


def get_closet_checkpoint_match(search_string):
    found = [info for title, info in checkpoints_list.items() if search_string and search_string in title]
    return found[0] if found else None


def checkpoint(filename):
    return SimpleNamespace(filename=str(filename))


class SdModelData:
    @property
    def sd_model(self):
        return shared.sd_model


model_data = SdModelData()
