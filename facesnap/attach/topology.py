"""The only place that knows the names of UNet modules: ldm, sgm, Forge, reForge and diffusers trees.

A site is one cross-attention module `attn2`. Its canonical name, for example `input.4.1.0`, is block kind, block
index, layer, transformer index, in the numbering of ldm; diffusers names are mapped to it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import nn

from facesnap.errors import TopologyError
from facesnap.models.projections import KINDS, site_key

_LDM = re.compile(r"(input_blocks|output_blocks)\.(\d+)\.(\d+)\.transformer_blocks\.(\d+)\.attn2")
_LDM_MIDDLE = re.compile(r"middle_block\.(\d+)\.transformer_blocks\.(\d+)\.attn2")
_DIFFUSERS = re.compile(r"(down_blocks|up_blocks)\.(\d+)\.attentions\.(\d+)\.transformer_blocks\.(\d+)\.attn2")
_DIFFUSERS_MIDDLE = re.compile(r"mid_block\.attentions\.(\d+)\.transformer_blocks\.(\d+)\.attn2")


@dataclass(frozen=True)
class Site:
    """One cross-attention module.

    Attributes:
        name: canonical, `input.4.1.0`.
        module: the attn2; has `to_q`, `to_out[0]` and `heads`.
        self_attention: the attn1 of the same block; only LoRA wants it.
        norm: makes the input of `module`, before extensions re-arrange its rows.
    """

    name: str
    module: nn.Module
    self_attention: nn.Module | None = None
    norm: nn.Module | None = None

    @property
    def to_q(self) -> nn.Module:
        return self.module.to_q  # type: ignore[return-value]

    @property
    def to_out(self) -> nn.Module:
        return self.module.to_out[0]  # type: ignore[index, return-value]

    @property
    def heads(self) -> int:
        return int(self.module.heads)  # type: ignore[arg-type]

    @property
    def width(self) -> int | None:
        """heads * dim_head where the layer has it (quantised layers do not)."""
        width = getattr(self.to_q, "out_features", None)
        return int(width) if isinstance(width, int) else None

    @property
    def context(self) -> int | None:
        """Width of the context that to_k takes, where the layer has it."""
        width = getattr(self.module.to_k, "in_features", None)
        return int(width) if isinstance(width, int) else None


@dataclass(frozen=True)
class Topology:
    """The sites of a UNet and the places where residuals are added.

    Attributes:
        layout: "ldm" (also sgm, Forge, reForge) or "diffusers".
        sites: in the order of running: input, middle, output.
        middle_last: the last layer of the middle block; FFRNet's middle residual is added to its output.
        output_first: the first layer of every output block; its input ends in the skip connection's channels.
    """

    layout: str
    sites: tuple[Site, ...]
    middle_last: nn.Module
    output_first: tuple[nn.Module, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(site.name for site in self.sites)

    @property
    def sizes(self) -> tuple[tuple[str, int | None, int | None], ...]:
        """(name, width, context) of every site: what is made for one UNet fits all with the same."""
        return tuple((site.name, site.width, site.context) for site in self.sites)

    @property
    def base(self) -> str:
        """ "sd15" or "sdxl": SD1.5's first input block has a site, SDXL's has none."""
        return "sd15" if any(name.startswith("input.1.") for name in self.names) else "sdxl"

    @property
    def skip_widths(self) -> tuple[int | None, ...]:
        """Channels of every skip connection, shallow to deep; None where a layer does not say.

        The input of an output block is the output of the block before it joined with the skip's channels.
        """
        before: nn.Module = self.middle_last
        widths = []
        for block in self.output_first:  # deep to shallow
            whole, own = _channels(block, "in_channels", "channels"), _channels(before, "out_channels")
            widths.append(None if whole is None or own is None else whole - own)
            before = block
        return tuple(reversed(widths))


def _channels(block: nn.Module, *names: str) -> int | None:
    """A residual block's number of channels, under diffusers' or ldm's name."""
    return next((int(getattr(block, n)) for n in names if isinstance(getattr(block, n, None), int)), None)


def ip_adapter_order(names: tuple[str, ...]) -> tuple[str, ...]:
    """Sites in the order of IP-Adapter files: input, output, middle last. Site i has the file's index 2 i + 1."""
    return tuple(sorted(names, key=lambda n: ((0, 2, 1)[KINDS.index(n.split(".")[0])], *site_key(n)[1:])))


def read_topology(unet: nn.Module, name: str = "") -> Topology:
    """Find the sites and the places of residuals in a live UNet of ldm, sgm, Forge or diffusers.

    Args:
        name: what the host calls a model that is no UNet; for the message.

    Raises:
        TopologyError: it is compiled, or none of the known layouts.
    """
    if type(unet).__name__ == "OptimizedModule" or getattr(unet, "_compiled_call_impl", None) is not None:
        raise TopologyError(
            f"The UNet ({type(unet).__name__}) is compiled with torch.compile.",
            expected="a UNet whose modules run as Python modules, so that the cross-attention can be reached",
            remedy="switch torch.compile off for this model",
        )
    if hasattr(unet, "input_blocks") and hasattr(unet, "output_blocks") and hasattr(unet, "middle_block"):
        layout, found = "ldm", _ldm_sites(unet)
    elif hasattr(unet, "down_blocks") and hasattr(unet, "up_blocks") and hasattr(unet, "mid_block"):
        layout, found = "diffusers", _diffusers_sites(unet)
    elif name:
        raise TopologyError(
            f"The loaded model is {name}, a transformer.",
            expected="a UNet of SD1.5 or SDXL, which FaceSnap works on",
            remedy="choose a checkpoint of SD1.5 or SDXL (Illustrious, NoobAI and Pony are SDXL)",
        )
    else:
        raise _unknown(unet, "it has neither of the two sets of blocks")
    blocks = {name: unet.get_submodule(found[name].removesuffix(".attn2")) for name in sorted(found, key=site_key)}
    sites = tuple(
        Site(name, block.get_submodule("attn2"), getattr(block, "attn1", None), getattr(block, "norm2", None))
        for name, block in blocks.items()
    )
    if not sites:
        raise _unknown(unet, "it has no cross-attention named attn2")
    for site in sites:
        m, to_out = site.module, getattr(site.module, "to_out", None)
        whole = isinstance(getattr(m, "to_q", None), nn.Module) and hasattr(m, "to_k") and hasattr(m, "heads")
        if not whole or not isinstance(to_out, (nn.Sequential, nn.ModuleList)) or len(to_out) == 0:
            lacks = "lacks to_q, to_k, heads or to_out[0]"
            raise _unknown(unet, f"its cross-attention {site.name} ({type(m).__name__}) {lacks}")
    if layout == "ldm":
        middle: nn.Module = unet.middle_block[-1]  # type: ignore
        output = [block[0] for block in unet.output_blocks]  # type: ignore
    else:
        middle = unet.mid_block.resnets[-1]  # type: ignore
        output = [resnet for block in unet.up_blocks for resnet in block.resnets]  # type: ignore
    return Topology(layout, sites, middle, tuple(output))


def latent_channels(unet: nn.Module) -> int | None:
    """Channels of what a UNet predicts, where its last layer says; its input has more for inpainting."""
    out = getattr(unet, "out", None)
    last = out[-1] if isinstance(out, nn.Sequential) and len(out) else getattr(unet, "conv_out", None)
    return getattr(last, "out_channels", None)


def _ldm_sites(unet: nn.Module) -> dict[str, str]:
    """Canonical name -> path of the attn2."""
    found = {}
    for path, _ in unet.named_modules():
        if m := _LDM.fullmatch(path):
            found[f"{m[1].split('_')[0]}.{m[2]}.{m[3]}.{m[4]}"] = path
        elif m := _LDM_MIDDLE.fullmatch(path):
            found[f"middle.0.{m[1]}.{m[2]}"] = path
    return found


def _diffusers_sites(unet: nn.Module) -> dict[str, str]:
    starts = {"down_blocks": [1], "up_blocks": [0]}  # ldm's input block 0 is conv_in
    for block in unet.down_blocks:  # type: ignore[union-attr]
        starts["down_blocks"].append(starts["down_blocks"][-1] + len(block.resnets) + bool(block.downsamplers))  # type: ignore
    for block in unet.up_blocks:  # type: ignore[union-attr]
        starts["up_blocks"].append(starts["up_blocks"][-1] + len(block.resnets))  # type: ignore
    found = {}
    for path, _ in unet.named_modules():
        if m := _DIFFUSERS.fullmatch(path):
            kind = "input" if m[1] == "down_blocks" else "output"
            found[f"{kind}.{starts[m[1]][int(m[2])] + int(m[3])}.1.{m[4]}"] = path
        elif m := _DIFFUSERS_MIDDLE.fullmatch(path):
            found[f"middle.0.{1 + 2 * int(m[1])}.{m[2]}"] = path
    return found


def _unknown(unet: nn.Module, why: str) -> TopologyError:
    return TopologyError(
        f"{type(unet).__name__} is not a UNet that FaceSnap can attach to: {why}.",
        expected=(
            "an SD1.5 or SDXL UNet with input_blocks/middle_block/output_blocks (ldm, sgm, Forge) or "
            "down_blocks/mid_block/up_blocks (diffusers), whose transformer_blocks have an attn2"
        ),
        remedy="load an SD1.5 or SDXL checkpoint; DiT models (SD3, FLUX) and TensorRT engines cannot be used",
    )
