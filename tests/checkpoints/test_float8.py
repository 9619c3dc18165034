"""float8 in adapters and ControlNets: they do what the same files do that were raised to 16 or 32 bits beforehand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from facesnap.attach import ControlConditioning, ControlPictures, LoraPart, RowPlan, Speed, attach
from facesnap.checkpoints import native
from facesnap.checkpoints.adapter import Adapter
from facesnap.checkpoints.convert import with_structure
from facesnap.checkpoints.files import read_file
from facesnap.errors import CheckpointError
from facesnap.faces.identity import Identity
from facesnap.families.registry import load_adapter
from facesnap.models.tensors import copied_to
from facesnap.pipeline.id_tokens import mix
from facesnap.weights.headers import read_header
from tests.families.test_families import conditioning, inputs, ldm_of, twin_of, widths_of
from tests.families.test_instantid import identitynet
from tests.networks import CONTEXT, Batch, run
from tests.public_files import public_state, write

KINDS = (torch.float8_e4m3fn, torch.float8_e5m2)
State = dict[str, dict[str, Tensor]]
PARTS = {
    "all": lambda part, name: True,
    "the LoRA": lambda part, name: "_lora." in name,
    "attention": lambda part, name: part == "ip_adapter",
    "keys": lambda part, name: "to_k_ip" in name,
    "the projection": lambda part, name: part == "image_proj",
    "every second tensor": lambda part, name: len(name) % 2 == 0,
}


NETWORK_PARTS = {
    "all": lambda name: True,
    "attention": lambda name: ".attn" in name,
    "all but attention": lambda name: ".attn" not in name,
    "the first layer": lambda name: name.startswith("conv_in"),
}


def files(folder: Path, family: str, base: str, *states: State, suffix: str = ".bin") -> list[Adapter]:
    """Each state as a file of the same name in a folder of its own: tensors stay mapped to their file."""
    found = []
    for n, state in enumerate(states):
        (folder / str(n)).mkdir()
        found.append(load_adapter(write(state, folder / str(n), family, base, suffix)))
    return found


def lowered(state: State, kind: torch.dtype, which: str) -> State:
    return {p: {k: t.to(kind) if PARTS[which](p, k) else t for k, t in ts.items()} for p, ts in state.items()}


def raised(state: State, dtype: torch.dtype) -> State:
    return {p: {k: t.to(dtype) for k, t in ts.items()} for p, ts in state.items()}


@torch.no_grad()
def step(adapter: Adapter, family: str, base: str, dtype: torch.dtype = torch.float32) -> Tensor:
    unet = ldm_of(base) if dtype == torch.float32 else twin_of(base, str(dtype)).to(dtype)
    adapter.mixer.float()
    loras = [LoraPart(adapter.lora)] if adapter.lora else []
    with attach(unet, [conditioning(adapter, inputs(family))], RowPlan.classifier_free(), loras=loras):
        return run(unet, Batch.draw(base).to(dtype))


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("which", PARTS)
def test_an_adapter_is_equal_to_the_bit(tmp_path: Path, which: str, kind: torch.dtype) -> None:
    """In a pickle and in safetensors."""
    family, base = "faceid-plusv2", "sd15"
    state = lowered(public_state(family, widths_of(ldm_of(base)), CONTEXT[base]), kind, which)
    (before,) = files(tmp_path, family, base, raised(state, torch.float32), suffix=".safetensors")
    wanted = step(before, family, base)
    for suffix in (".bin", ".safetensors"):
        (tmp_path / suffix).mkdir()
        (found,) = files(tmp_path / suffix, family, base, state, suffix=suffix)
        assert found.spec.family == family
        assert torch.equal(step(found, family, base), wanted)


def test_the_unets_dtype_is_computed_in(tmp_path: Path) -> None:
    family, base = "faceid", "sd15"
    state = lowered(public_state(family, widths_of(ldm_of(base)), CONTEXT[base]), KINDS[0], "all")
    found, before = files(tmp_path, family, base, state, raised(state, torch.float16))
    ours = step(found, family, base, torch.bfloat16)
    assert ours.dtype == torch.bfloat16 and torch.equal(ours, step(before, family, base, torch.bfloat16))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    """InstantID's, without a network."""
    state = public_state("instantid", widths_of(ldm_of("sdxl")), CONTEXT["sdxl"])
    return load_adapter(write(state, tmp_path_factory.mktemp("instantid"), "instantid", "sdxl"))


@pytest.fixture(scope="module")
def donor() -> dict[str, Tensor]:
    """IdentityNet's tensors."""
    return identitynet().state_dict()


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("which", NETWORK_PARTS)
@pytest.mark.parametrize("rest", (torch.float16, pytest.param(torch.float32, marks=pytest.mark.thorough)))
@torch.no_grad()
def test_a_controlnet_is_equal_to_the_bit(
    adapter: Adapter, donor: dict[str, Tensor], tmp_path: Path, rest: torch.dtype, which: str, kind: torch.dtype
) -> None:
    """Also where a file mixes dtypes: the network computes in one, the UNet's."""
    chosen = NETWORK_PARTS[which]
    net = {k: t.to(kind if chosen(k) else rest) for k, t in donor.items()}
    save_file(net, tmp_path / "float8.safetensors")
    save_file({k: t.float() for k, t in net.items()}, tmp_path / "float32.safetensors")
    picture = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    given, results = inputs("instantid"), []
    for name in ("float8", "float32"):
        found = with_structure(adapter, tmp_path / f"{name}.safetensors", picture="five_points")
        tokens = found.mixer.float()(given["f_id"])["mix"].tokens
        kvs = [found.ffrnet.project_tokens(tokens[i : i + 1]) for i in (1, 0)]
        assert len({t.dtype for t in found.ffrnet.state_dict().values()}) == 1
        placed = copied_to(found.ffrnet, torch.device("cpu"), torch.float32)
        control = ControlConditioning(placed, kvs[0], lambda view: ControlPictures(None, picture), uncond=kvs[1])
        people = [conditioning(found, given)]
        with attach(ldm_of("sdxl"), people, RowPlan.classifier_free(), [control], Speed.EXACT):
            results.append(run(ldm_of("sdxl"), Batch.draw("sdxl")))
    assert torch.equal(*results)


@torch.no_grad()
def test_a_mixer_of_several_dtypes_makes_the_same_tokens(tmp_path: Path) -> None:
    """The first of its tensors says nothing about the others."""
    state = public_state("faceid", widths_of(ldm_of("sd15")), CONTEXT["sd15"])
    first, *others = state["image_proj"]
    state["image_proj"] = {first: state["image_proj"][first]} | {k: state["image_proj"][k].to(KINDS[0]) for k in others}
    found, before = files(tmp_path, "faceid", "sd15", state, raised(state, torch.float32))
    assert len({p.dtype for p in found.mixer.parameters()}) == 2
    vectors = np.random.default_rng(0).normal(size=(1, 512)).astype(np.float32)
    ones = np.ones(1, np.float32)
    who = Identity(name="Zoe", recogniser="a" * 64, alias="buffalo_l", embeddings=vectors, weights=ones, scores=ones)
    ours, theirs = (mix(one, who, None)["id"].tokens for one in (found, before))
    assert ours.dtype == torch.float32 and torch.equal(ours, theirs)


@pytest.mark.parametrize("suffix", (".bin", ".safetensors"))
def test_a_converted_file_holds_what_the_float8_file_did(tmp_path: Path, suffix: str) -> None:
    state = lowered(public_state("faceid", widths_of(ldm_of("sd15")), CONTEXT["sd15"]), KINDS[1], "all")
    adapter = load_adapter(write(state, tmp_path, "faceid", "sd15", suffix))
    native.save(adapter, tmp_path / "own.safetensors")
    again = native.load(tmp_path / "own.safetensors")
    assert torch.equal(step(again, "faceid", "sd15"), step(adapter, "faceid", "sd15"))


def scaled(state: State, key: str, rows: bool = False) -> tuple[dict[str, Tensor], State]:
    """(a file in scaled float8, the same multiplied out)"""
    flat, plain = {}, {}
    for part, tensors in state.items():
        for name, tensor in tensors.items():
            name = f"{part}.{name}"
            if not name.endswith(".weight") or tensor.ndim != 2:
                flat[name] = plain[name] = tensor
                continue
            scale = tensor.abs().amax(1, keepdim=True) / 448 if rows else tensor.abs().amax() / 448
            flat[name] = (tensor / scale).to(KINDS[0])
            flat[f"{name.removesuffix('.weight')}.{key}"] = scale
            flat[f"{name.removesuffix('.weight')}.scale_input"] = torch.tensor(0.3)
            plain[name] = flat[name].float() * scale
    return flat, plain


@pytest.mark.parametrize("marker", (torch.zeros(2), torch.zeros(0)))
@pytest.mark.parametrize(("key", "rows"), (("scale_weight", False), ("weight_scale", False), ("weight_scale", True)))
def test_scaled_float8_is_multiplied_out(tmp_path: Path, key: str, rows: bool, marker: Tensor) -> None:
    state = public_state("faceid", widths_of(ldm_of("sd15")), CONTEXT["sd15"])
    flat, plain = scaled(state, key, rows)
    save_file(flat | {"scaled_fp8": marker.to(KINDS[0])}, tmp_path / "scaled.safetensors")
    save_file(plain, tmp_path / "plain.safetensors")
    ours, theirs = (load_adapter(tmp_path / f"{name}.safetensors") for name in ("scaled", "plain"))
    assert torch.equal(step(ours, "faceid", "sd15"), step(theirs, "faceid", "sd15"))
    header = read_header(tmp_path / "scaled.safetensors")
    assert (header.families, header.base, header.problem) == (("faceid",), "sd15", "")


@pytest.mark.parametrize(
    ("name", "scale", "word"),
    (
        ("image_proj.proj.9.scale_weight", torch.ones(1), "missing"),
        ("image_proj.norm.scale_weight", torch.ones(1), "float32"),
        ("image_proj.proj.0.scale_weight", torch.ones(3), r"\(3,\)"),
        ("image_proj.proj.0.weight_scale_inv", torch.ones(4, 4), "blocks"),
        ("image_proj.proj.0.weight_scale_2", torch.ones(1), "four bits"),
    ),
)
def test_a_scale_that_cannot_be_applied_is_named(tmp_path: Path, name: str, scale: Tensor, word: str) -> None:
    state = public_state("faceid", widths_of(ldm_of("sd15")), CONTEXT["sd15"])
    flat, _ = scaled(state, "scale_weight")
    save_file({**flat, name: scale}, tmp_path / "odd.safetensors")
    for read in (read_file, load_adapter):
        with pytest.raises(CheckpointError, match=rf"{name.replace('.', '.')}.*{word}"):
            read(tmp_path / "odd.safetensors")
