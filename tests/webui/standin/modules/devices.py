import torch

dtype_unet = torch.float32
