"""A stand-in for Forge's `backend`: the memory management and the model patcher, as Forge was seen to behave."""
