"""Checkpoints as trainers write them: an adapter's parts are found whatever stands beside and above them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from facesnap.checkpoints.layout import sd15_sites
from facesnap.errors import CheckpointError
from facesnap.families.registry import load_adapter
from facesnap.weights.headers import FAMILY, read_header
from tests.networks import CONTEXT
from tests.public_files import public_state

WIDTHS = [8] * 2 + [16] * 2 + [32] * 5 + [16] * 3 + [8] * 3 + [32]
State = dict[str, dict[str, Tensor]]


def parts(seed: int = 4) -> State:
    return public_state("faceid", WIDTHS, CONTEXT["sd15"], seed)


def flat(
    state: State, projection: str = "image_proj_model", processors: str = "adapter_modules", above: str = ""
) -> Any:
    named = {projection: state["image_proj"], processors: state["ip_adapter"]}
    return {f"{above}{part}.{name}": t for part, tensors in named.items() for name, t in tensors.items()}


def unet(processors: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Some of a UNet's own tensors and, as accelerate saves them, the same processors under the UNet's names."""
    found = {"unet.conv_in.weight": torch.ones(8, 4, 3, 3), "unet.down_blocks.0.resnets.0.norm1.weight": torch.ones(8)}
    for name, tensor in (processors or {}).items():
        number, _, rest = name.partition(".")
        found[f"unet.{path_of(int(number))}.processor.{rest}"] = tensor
    return found


def path_of(n: int) -> str:
    """The module of diffusers' UNet that has processor n."""
    kind, block, *_ = sd15_sites()[n // 2].split(".")
    if kind == "middle":
        place = "mid_block.attentions.0"
    elif kind == "input":
        place = f"down_blocks.{(int(block) - 1) // 3}.attentions.{(int(block) - 1) % 3}"
    else:
        place = f"up_blocks.{int(block) // 3}.attentions.{int(block) % 3}"
    return f"{place}.transformer_blocks.0.attn{1 + n % 2}"


OPTIMISER = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(4)}},
             "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999), "amsgrad": False, "params": [0, 1]}]}  # fmt: skip
NESTED = {"image_proj": "image_proj", "ip_adapter": "ip_adapter"}


def other() -> State:
    """An adapter that must not be taken: an average, or another run."""
    return parts(seed=40)


def wrapped(state: State, wrapper: str) -> State:
    """The names of parts whose modules were wrapped, the outer ones and one inside."""
    found = {p: {f"{wrapper}{k}": t for k, t in ts.items()} for p, ts in state.items()}
    found["image_proj"] = {k.replace("proj.", f"proj.{wrapper}"): t for k, t in found["image_proj"].items()}
    return found


CASES: dict[str, Callable[[State], Any]] = {
    "accelerate": lambda s: unet(s["ip_adapter"]) | flat(s),
    "data parallel": lambda s: flat(s, above="module.") | {"module.unet.conv_in.weight": torch.ones(2, 2)},
    "data parallel parts": lambda s: {p: {f"module.{k}": t for k, t in ts.items()} for p, ts in s.items()},
    "model": lambda s: {"model": s},
    "flat model": lambda s: {"model": flat(s), "optimizer": OPTIMISER, "epoch": 3},
    "state dict": lambda s: {"state_dict": s, "step": 1000, "config": {"lr": 0.1, "name": "run"}, "seeds": [1, 2]},
    "flat state dict": lambda s: {"state_dict": flat(s, above="module."), "global_step": torch.tensor(1000)},
    "step": lambda s: {"step": 1000, **s},
    "step as a tensor": lambda s: {**s, "global_step": torch.tensor(1000)},
    "words and nothing": lambda s: {"name": "run", "parent": None, "done": True, "loss": 0.5, **s},
    "an empty part": lambda s: {**s, "lora": {}, "state_dict": {}},
    "a UNet beside": lambda s: {**s, "unet": {"conv_in.weight": torch.ones(2, 2)}},
    "a state dict beside": lambda s: {**s, "state_dict": {"conv_in.weight": torch.ones(2, 2)}},
    "average beside": lambda s: {"ema": other(), **s},
    "average in a model": lambda s: {"ema_model": other(), "model": {"module": s}},
    "average alone": lambda s: {"ema": s, "decay": 0.999},
    "two places": lambda s: {"unet": {"adapter_modules": s["ip_adapter"]}, "image_proj_model": s["image_proj"]},
    "processors in the UNet": lambda s: {"image_proj": s["image_proj"]} | unet(s["ip_adapter"]),
    "processors in diffusers' lists": lambda s: {"image_proj": s["image_proj"]} | unet(
        {k.replace("_ip.weight", "_ip.0.weight"): t for k, t in s["ip_adapter"].items()}
    ),
    "compiled": lambda s: flat(s, above="_orig_mod."),
    "compiled parts": lambda s: wrapped(s, "_orig_mod."),
    "sharded parts": lambda s: flat(wrapped(s, "_fsdp_wrapped_module.")),
    "checkpointed activations": lambda s: flat(wrapped(s, "_checkpoint_wrapped_module.")),
    "compiled below data parallel": lambda s: flat({p: {f"module._orig_mod.{k}": t for k, t in ts.items()}
                                                    for p, ts in s.items()}),
    "compiled processors in the UNet": lambda s: {"image_proj": s["image_proj"]} | {
        k.replace(".processor.", ".processor._orig_mod."): t for k, t in unet(s["ip_adapter"]).items()},
    "the whole under a part's name": lambda s: flat(s, above="ip_adapter.") | {
        f"ip_adapter.{k}": t for k, t in unet().items()},
    "the same, nested": lambda s: {"state_dict": {"ip_adapter": s}},
    "empty tensors beside": lambda s: {**s, "scheduler": torch.zeros(0), "optimizer": {"moments": torch.zeros(0, 3)}},
    "other keys beside": lambda s: {**s, "seen": {("a", 1): 2, None: 3, 0.5: torch.ones(1)}, (1, 2): torch.ones(2)},
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_parts_are_found(tmp_path: Path, name: str) -> None:
    state = parts()
    torch.save(state, tmp_path / "plain.bin")
    torch.save(CASES[name](state), tmp_path / "pytorch_model.bin")
    plain, found = load_adapter(tmp_path / "plain.bin"), load_adapter(tmp_path / "pytorch_model.bin")
    assert found.spec.family == "faceid" and found.detection.why == "by its tensors"
    for ours, theirs in ((found.mixer, plain.mixer), (found.projections, plain.projections)):
        assert all(torch.equal(t, theirs.state_dict()[k]) for k, t in ours.state_dict().items())
    assert all(torch.equal(t, plain.lora.tensors()[k]) for k, t in found.lora.tensors().items())
    header = read_header(tmp_path / "pytorch_model.bin")  # the list sees the same
    assert (header.kind, header.families, header.base, header.problem) == (FAMILY, ("faceid",), "sd15", "")


@pytest.mark.parametrize("above", ("", "module.", "model."))
def test_the_same_in_safetensors(tmp_path: Path, above: str) -> None:
    tensors = {k: t.clone() for k, t in (flat(parts(), above=above) | unet()).items()}
    save_file(tensors | {"global_step": torch.tensor([1000])}, tmp_path / "model.safetensors")
    assert load_adapter(tmp_path / "model.safetensors").spec.family == "faceid"


def test_shared_processors_of_a_large_file_claim_no_more_than_it_has(tmp_path: Path) -> None:
    """accelerate saves each processor twice, under two names and in one storage."""
    wide = public_state("portrait", [40 * w for w in WIDTHS], 768)
    half = {p: {k: t.half() for k, t in ts.items()} for p, ts in wide.items()}
    torch.save(unet(half["ip_adapter"]) | flat(half), tmp_path / "pytorch_model.bin")
    twice = 2 * sum(t.numel() * 2 for t in half["ip_adapter"].values())
    assert twice > (tmp_path / "pytorch_model.bin").stat().st_size + (8 << 20)
    assert load_adapter(tmp_path / "pytorch_model.bin").spec.family == "portrait"


@pytest.mark.parametrize(
    ("name", "content", "missing"),
    (
        (
            "no projection",
            lambda s: {"adapter_modules": s["ip_adapter"], "step": 1},
            r"image projection.*image_proj\.\*",
        ),
        ("empty projection", lambda s: {"image_proj": {}, "ip_adapter": s["ip_adapter"]}, "image projection"),
        ("no processors", lambda s: {"image_proj": s["image_proj"]}, r"attention part.*ip_adapter\.\*"),
        ("empty processors", lambda s: {**s, "ip_adapter": {}}, "attention part"),
        ("a UNet and a projection", lambda s: unet() | {"image_proj_model": s["image_proj"]}, "attention part"),
    ),
)
def test_the_missing_half_is_named(tmp_path: Path, name: str, content: Callable, missing: str) -> None:
    torch.save(content(parts()), tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=missing) as caught:
        load_adapter(tmp_path / "pytorch_model.bin")
    assert "LoRA" not in str(caught.value)


def test_placeholders_of_weights_that_lie_in_shards_are_named(tmp_path: Path) -> None:
    """ZeRO's stage 3 saves parameters that other processes hold as empty tensors."""
    state = parts()
    state["ip_adapter"] = {k: torch.zeros(0) for k in state["ip_adapter"]}
    torch.save(flat(state), tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"adapter_modules\.\S+ is empty.*ZeRO.*zero_to_fp32"):
        load_adapter(tmp_path / "pytorch_model.bin")


def test_a_folder_names_the_files_in_it(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1000").mkdir()
    with pytest.raises(CheckpointError, match=r"checkpoint-1000 is a folder.*holds no weights itself"):
        load_adapter(tmp_path / "checkpoint-1000")
    torch.save(parts(), tmp_path / "checkpoint-1000" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"checkpoint-1000 is a folder.*give one.*pytorch_model\.bin"):
        load_adapter(tmp_path / "checkpoint-1000")
