"""Face parsing: which part of a face every pixel of an aligned picture is, by the networks that facexlib offers.

BiSeNet (Yu et al., arXiv 1808.00897) as trained on CelebAMask-HQ (parsing_bisenet.pth), and PSFR-GAN's ParseNet (Chen
et al., arXiv 2009.08709; parsing_parsenet.pth). Tensor names are the public files'. Written out here, because facexlib
needs torchvision to be imported and fetches weights by itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facesnap.errors import EncoderError

LABELS = 19
SIDE = 512  # of the pictures that both networks were trained on, px
# Not the face itself: background, clothes, hat, ears, ear rings, neck and necklace, as each network numbers them.
BISENET_BACKGROUND = (0, 7, 8, 9, 14, 15, 16, 18)
PARSENET_BACKGROUND = (0, 8, 9, 14, 15, 16, 17, 18)
_AUXILIARY = ("conv_out16.", "conv_out32.", "out_img_conv.")  # heads that only training needs


class Parser(nn.Module):
    """A parsing network. Pictures (B, 3, 512, 512) RGB in 0..1 -> scores (B, 19, 512, 512).

    Attributes:
        title: for people. background: labels that are not the face itself. mean, std: of what it was trained on.
    """

    title: str
    background: tuple[int, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def not_face(self, pixels: Tensor) -> Tensor:
        """Mask of everything but the face: (B, 3, 512, 512) RGB in 0..1 -> (B, 1, 512, 512) bool."""
        mean, std = (torch.tensor(v, dtype=pixels.dtype).view(1, 3, 1, 1) for v in (self.mean, self.std))
        labels = self((pixels - mean) / std).argmax(dim=1, keepdim=True)  # (B, 1, 512, 512)
        return torch.isin(labels, torch.tensor(self.background))


class _ConvNorm(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _Residual(nn.Module):
    """ResNet-18's basic block."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.downsample(x) + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class _ResNet18(nn.Module):
    """Features at 1/8 (128 channels), 1/16 (256) and 1/32 (512) of the side."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(_Residual(64, 64, 1), _Residual(64, 64, 1))
        self.layer2 = nn.Sequential(_Residual(64, 128, 2), _Residual(128, 128, 1))
        self.layer3 = nn.Sequential(_Residual(128, 256, 2), _Residual(256, 256, 1))
        self.layer4 = nn.Sequential(_Residual(256, 512, 2), _Residual(512, 512, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, padding=1)
        eighth = self.layer2(self.layer1(x))
        sixteenth = self.layer3(eighth)
        return eighth, sixteenth, self.layer4(sixteenth)


def _mean(x: Tensor) -> Tensor:
    """Of each channel over the picture, (B, C, 1, 1). Tensor.mean adds up in another order than facexlib's pooling, and
    a pixel whose two best labels are alike to the last bit would then change sides."""
    return F.avg_pool2d(x, x.shape[2:])


class _Refinement(nn.Module):
    """BiSeNet's attention refinement: channels are weighed by what the whole picture shows."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.conv = _ConvNorm(inputs, 128)
        self.conv_atten = nn.Conv2d(128, 128, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(128)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * torch.sigmoid(self.bn_atten(self.conv_atten(_mean(x))))


class _ContextPath(nn.Module):
    """Features at 1/8: the backbone's own, and coarser ones brought up to them (128 channels each)."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = _ResNet18()
        self.arm16, self.arm32 = _Refinement(256), _Refinement(512)
        self.conv_head32, self.conv_head16 = _ConvNorm(128, 128), _ConvNorm(128, 128)
        self.conv_avg = _ConvNorm(512, 128, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        eighth, sixteenth, deepest = self.resnet(x)
        coarse = self.arm32(deepest) + self.conv_avg(_mean(deepest))
        coarse = self.conv_head32(F.interpolate(coarse, sixteenth.shape[2:], mode="nearest"))
        coarse = self.arm16(sixteenth) + coarse
        return eighth, self.conv_head16(F.interpolate(coarse, eighth.shape[2:], mode="nearest"))


class _Fusion(nn.Module):
    """BiSeNet's feature fusion of two maps of 128 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.convblk = _ConvNorm(256, 256, 1)
        self.conv1 = nn.Conv2d(256, 64, 1, bias=False)
        self.conv2 = nn.Conv2d(64, 256, 1, bias=False)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        x = self.convblk(torch.cat((fine, coarse), dim=1))
        return x * torch.sigmoid(self.conv2(F.relu(self.conv1(_mean(x))))) + x


class _Output(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = _ConvNorm(256, 256)
        self.conv_out = nn.Conv2d(256, LABELS, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(self.conv(x))


class BiSeNet(Parser):
    """BiSeNet with a ResNet-18, its spatial path replaced by the backbone's features at 1/8."""

    title, background = "BiSeNet", BISENET_BACKGROUND
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(self) -> None:
        super().__init__()
        self.cp = _ContextPath()
        self.ffm = _Fusion()
        self.conv_out = _Output()

    def forward(self, x: Tensor) -> Tensor:
        scores = self.conv_out(self.ffm(*self.cp(x)))
        return F.interpolate(scores, x.shape[2:], mode="bilinear", align_corners=True)


class _Norm(nn.Module):
    """Batch norm, one name deeper, as the file has it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class _Layer(nn.Module):
    """ParseNet's convolution: scale, mirrored padding, 3 x 3, and batch norm where asked for."""

    def __init__(self, inputs: int, outputs: int, scale: str = "none", norm: bool = False) -> None:
        super().__init__()
        self.scale = scale
        self.conv2d = nn.Conv2d(inputs, outputs, 3, 2 if scale == "down" else 1, bias=not norm)
        self.norm: nn.Module = _Norm(outputs) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.scale == "up":
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        return self.norm(self.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect")))


class _Step(nn.Module):
    """ParseNet's residual block, which may halve or double the side."""

    def __init__(self, inputs: int, outputs: int, scale: str = "none") -> None:
        super().__init__()
        same = scale == "none" and inputs == outputs
        self.shortcut_func: nn.Module = nn.Identity() if same else _Layer(inputs, outputs, scale)
        self.conv1 = _Layer(inputs, outputs, "up" if scale == "up" else "none", norm=True)
        self.conv2 = _Layer(outputs, outputs, "down" if scale == "down" else "none", norm=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut_func(x) + self.conv2(F.leaky_relu(self.conv1(x), 0.2))


class ParseNet(Parser):
    """ParseNet for 512 pixels."""

    title, background = "ParseNet", PARSENET_BACKGROUND
    mean = std = (0.5, 0.5, 0.5)

    def __init__(self) -> None:
        super().__init__()
        down, up = (64, 128, 256, 256, 256), (256, 256, 256, 128, 64)
        self.encoder = nn.Sequential(_Layer(3, 64), *(_Step(down[i], down[i + 1], "down") for i in range(4)))
        self.body = nn.Sequential(*(_Step(256, 256) for _ in range(10)))
        self.decoder = nn.Sequential(*(_Step(up[i], up[i + 1], "up") for i in range(4)))
        self.out_mask_conv = _Layer(64, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(x)
        return self.out_mask_conv(self.decoder(x + self.body(x)))


def parser_of(state: Mapping[str, Tensor], where: str) -> Parser:
    """The network that a file's tensors are of, with them inside, on the CPU in float32.

    Raises:
        EncoderError: it is neither network's, or incomplete.
    """
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(_AUXILIARY)}
    parser = ParseNet() if "out_mask_conv.conv2d.weight" in kept else BiSeNet()
    expected = parser.state_dict()
    wrong = [name for name, tensor in expected.items() if name not in kept or kept[name].shape != tensor.shape]
    wrong += [name for name in kept if name not in expected]
    wrong += [name for name in kept if name not in wrong and not torch.isfinite(kept[name]).all()]
    if wrong:
        raise EncoderError(
            f"{where} is no face-parsing network: {len(wrong)} tensors are missing, unknown, of another shape or not "
            f"finite, such as {', '.join(name[:80] for name in wrong[:3])}.",
            expected="facexlib's parsing_bisenet.pth or parsing_parsenet.pth",
            remedy="fetch the file again, or remove it: the background is then taken away by a rule",
        )
    parser.load_state_dict(kept)
    return parser.eval().requires_grad_(False)
