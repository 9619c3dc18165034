"""Our own checkpoint format: exact round trips, and damaged files refused by name."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from facesnap.attach.conditioning import Rule
from facesnap.attach.topology import read_topology
from facesnap.checkpoints import native
from facesnap.checkpoints.adapter import Adapter, AdapterSpec, FFRNetSpec
from facesnap.errors import CheckpointError, IdentityMismatchError
from facesnap.models.fidelity import FFRNet
from facesnap.models.mixer import FacialAttributeMixer, MixerConfig
from facesnap.models.projections import IDProjections
from tests.donors import CLIP_WIDTH, faceid_config, instantid_config
from tests.networks import CONTEXT, diffusers_unet, ffrnet_for, ldm_unet, redraw

SITES = {"input.1.1.0": 32, "middle.0.1.0": 64, "output.3.1.0": 64}


def make_adapter(sites: dict[str, int] = SITES, context: int = 64, base: str = "sd15", **spec) -> Adapter:
    stage2 = instantid_config(context, (("h", context), ("x", CLIP_WIDTH))).stage2
    config = MixerConfig(faceid_config(context, clip=True, shortcut=True).stage1, stage2, levels=((1, 0), (2, 16)))
    mixer = redraw(FacialAttributeMixer(config), 5).eval()
    projections = redraw(IDProjections(sites, {"id": False, "mix": True}, context), 6).eval()
    fields = {"recogniser": "ab" * 32, "encoder": "cd" * 32, "shortcut": True, "name": "Größe 1"} | spec
    return Adapter(AdapterSpec(base, **fields), mixer, projections)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Adapter]:
    path = tmp_path_factory.mktemp("native") / "größe.safetensors"
    adapter = make_adapter(rule=Rule.ORTHO_V2, zero_tokens=8, strength=0.8)
    native.save(adapter, path)
    return path, adapter


@pytest.mark.parametrize("dtype", (torch.float32, torch.float16, torch.bfloat16))
def test_round_trip_is_bit_exact(tmp_path: Path, dtype: torch.dtype) -> None:
    adapter = make_adapter(rule=Rule.ORTHO, uncond="none", id_vector="raw", licence="CC0")
    adapter.mixer.to(dtype)
    adapter.projections.to(dtype)
    native.save(adapter, tmp_path / "deep" / "a.safetensors")
    loaded = native.load(tmp_path / "deep" / "a.safetensors")
    assert loaded.spec == adapter.spec and loaded.mixer.config == adapter.mixer.config
    for ours, theirs in ((adapter.mixer, loaded.mixer), (adapter.projections, loaded.projections)):
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in ours.state_dict().items())
        assert all(v.dtype == dtype for v in theirs.state_dict().values())
    native.save(loaded, tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes() == (tmp_path / "deep" / "a.safetensors").read_bytes()
    assert not list(tmp_path.rglob("*.partial"))


def _rewrite(path: Path, out: Path, change) -> Path:
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    spec = json.loads(metadata["facesnap"])
    change(tensors, spec, metadata)
    if "facesnap" in metadata:
        metadata["facesnap"] = json.dumps(spec if isinstance(metadata["facesnap"], str) else metadata["facesnap"])
    save_file(tensors, out, metadata=metadata)
    return out


def _set(d, **values):
    d.update(values)


KEY = "mixer.stage1.perceiver_resampler.layers.2.0.to_kv.weight"
DAMAGES = {
    "missing tensor": (lambda t, s, m: t.pop(KEY), r"1 missing: stage1\.perceiver.*\(128, 64\)"),
    "missing site half": (lambda t, s, m: t.pop("projections.sites.input_1_1_0.id.to_v.weight"), "missing"),
    "extra tensor": (lambda t, s, m: _set(t, **{"mixer.stage1.more": torch.ones(3)}), r"network: stage1\.more \(3,\)"),
    "foreign part": (lambda t, s, m: _set(t, **{"unet.x": torch.ones(3)}), r"unet\.x"),
    "wrong shape": (lambda t, s, m: _set(t, **{KEY: torch.ones(128, 63)}), r"\(128, 63\) instead of \(128, 64\)"),
    "wrong dims": (lambda t, s, m: _set(t, **{"mixer.stage1.norm.weight": torch.ones(8, 8)}), r"\(8, 8\)"),
    "NaN": (lambda t, s, m: t[KEY].view(-1)[7].fill_(float("nan")), "NaN"),
    "infinity": (lambda t, s, m: t["projections.sites.input_1_1_0.mix.gate"].fill_(float("inf")), "infinity"),
    "integers": (lambda t, s, m: _set(t, **{KEY: torch.ones(128, 64, dtype=torch.int32)}), "floating"),
    "no tensors": (lambda t, s, m: t.clear(), "holds no tensor|cannot be read as safetensors"),
    "no projections": (
        lambda t, s, m: [t.pop(k) for k in list(t) if k.startswith("projections")], "no key projection"),
    "no stage 2": (lambda t, s, m: [t.pop(k) for k in list(t) if "stage2" in k], "token counts"),
    "no group": (lambda t, s, m: [t.pop(k) for k in list(t) if ".mix." in k], "token groups"),
    "no level": (lambda t, s, m: [t.pop(k) for k in list(t) if "levels.2" in k], "CLIP levels"),
    "unknown version": (lambda t, s, m: _set(s, format_version=2), "version 2"),
    "no version": (lambda t, s, m: s.pop("format_version"), "format_version"),
    "no metadata": (lambda t, s, m: m.pop("facesnap"), "not a FaceSnap checkpoint"),
    "metadata that is no object": (lambda t, s, m: _set(m, facesnap=[1]), "metadata"),
    "unknown base": (lambda t, s, m: _set(s, base="sd3"), "sd3"),
    "unknown rule": (lambda t, s, m: _set(s, rule="magic"), "magic"),
    "unknown field": (lambda t, s, m: _set(s, surprise=1), "surprise"),
    "field of another type": (lambda t, s, m: _set(s, dim_head="64"), "dim_head"),
    "missing field": (lambda t, s, m: s.pop("base"), "base"),
    "heads that do not divide": (lambda t, s, m: _set(s, dim_head=60), "60"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_files_are_refused_by_name(saved, tmp_path: Path, name: str) -> None:
    change, message = DAMAGES[name]
    path = _rewrite(saved[0], tmp_path / "damaged.safetensors", change)
    with pytest.raises(CheckpointError, match=message) as caught:
        native.load(path)
    assert "Expected:" in str(caught.value) and "Remedy:" in str(caught.value)


@settings(max_examples=60)
@given(st.data())
def test_any_cut_or_changed_header_is_refused(saved, tmp_path_factory: pytest.TempPathFactory, data) -> None:
    """Cut anywhere; or a header that lies about its length: an error of ours, never another, never a half adapter."""
    whole = saved[0].read_bytes()
    path = tmp_path_factory.getbasetemp() / "cut.safetensors"
    if data.draw(st.booleans(), label="cut"):
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    else:
        length = data.draw(st.integers(0, 2**64 - 1).filter(lambda n: n != struct.unpack("<Q", whole[:8])[0]))
        path.write_bytes(struct.pack("<Q", length) + whole[8:])
    with pytest.raises(CheckpointError):
        native.load(path)


def test_not_a_file_and_not_safetensors(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint file"):
        native.load(tmp_path / "absent.safetensors")
    with pytest.raises(CheckpointError, match=r"is a folder.*it holds no weights itself"):
        native.load(tmp_path)
    torch.save({"a": torch.ones(3)}, tmp_path / "pickle.safetensors")
    with pytest.raises(CheckpointError, match="a pickle of torch"):
        native.load(tmp_path / "pickle.safetensors")


def test_a_failed_save_leaves_the_old_file(saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    native.save(saved[1], path)
    before = path.read_bytes()

    def full(tensors, file, metadata):
        Path(file).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(native, "save_file", full)
    with pytest.raises(OSError, match="disk full"):
        native.save(saved[1], path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_another_base_than_the_unets_is_refused(saved) -> None:
    unet = diffusers_unet("sd15")
    topology = read_topology(unet)
    sites = {s.name: s.width for s in topology.sites}
    make_adapter(sites, CONTEXT["sd15"]).check_unet(topology)
    for adapter, message in (
        (make_adapter(sites, CONTEXT["sd15"], base="sdxl"), "made for sdxl, the loaded UNet is sd15"),
        (make_adapter(sites, 128), r"Site input\.1\.1\.0.*\(32, 128\).*\(32, 64\)"),
        (make_adapter(sites | {"input.1.1.0": 48}, CONTEXT["sd15"]), r"\(48, 64\), the UNet \(32, 64\)"),
        (make_adapter(sites | {"output.3.1.1": 64}, CONTEXT["sd15"]), r"output\.3\.1\.1.*UNet None"),
        (make_adapter(dict(list(sites.items())[1:]), CONTEXT["sd15"]), r"adapter has \(width, context\) None"),
    ):
        with pytest.raises(CheckpointError, match=message):
            adapter.check_unet(topology)
    with pytest.raises(IdentityMismatchError, match="ViT-L"):
        saved[1].check_encoder("ef" * 32, "ViT-L/14")
    saved[1].check_encoder("cd" * 32, "")


@pytest.fixture(scope="module")
def with_ffrnet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Adapter]:
    """An adapter whose FFRNet has what its tensors do not tell: a five-point picture, other heads, other groups."""
    plain = make_adapter()
    net = ffrnet_for(diffusers_unet("sd15"), heads=4, donor_picture="five_points")
    adapter = Adapter(plain.spec, plain.mixer, plain.projections, "", net, FFRNetSpec(("mix", "id"), 0.7))
    path = tmp_path_factory.mktemp("ffrnet") / "a.safetensors"
    native.save(adapter, path)
    return path, adapter


@pytest.mark.parametrize("dtype", (torch.float32, torch.float16))
def test_ffrnets_round_trip_is_bit_exact(with_ffrnet, tmp_path: Path, dtype: torch.dtype) -> None:
    path, adapter = with_ffrnet
    if dtype is not torch.float32:
        net = FFRNet(adapter.ffrnet.config).to(dtype)
        net.load_state_dict(adapter.ffrnet.state_dict())
        path = tmp_path / "half.safetensors"
        adapter = Adapter(adapter.spec, adapter.mixer, adapter.projections, "", net, adapter.ffrnet_spec)
        native.save(adapter, path)
    loaded = native.load(path)
    assert loaded.ffrnet.config == adapter.ffrnet.config and loaded.ffrnet_spec == FFRNetSpec(("mix", "id"), 0.7)
    assert (loaded.ffrnet.config.heads, loaded.ffrnet.config.donor_picture) == (4, "five_points")
    state = loaded.ffrnet.state_dict()
    assert all(torch.equal(v, state[k]) and state[k].dtype == dtype for k, v in adapter.ffrnet.state_dict().items())
    assert not loaded.ffrnet.training and not any(p.requires_grad for p in loaded.ffrnet.parameters())
    native.save(loaded, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_files_without_ffrnet_still_load_and_say_so(saved) -> None:
    loaded = native.load(saved[0])
    assert loaded.ffrnet is None and loaded.ffrnet_spec is None
    with safe_open(saved[0], framework="pt") as file:
        assert "ffrnet" not in json.loads(file.metadata()["facesnap"])


def test_the_mixers_last_stage_is_what_ffrnet_sees_by_default() -> None:
    net, both = ffrnet_for(diffusers_unet("sd15")), make_adapter()
    first = FacialAttributeMixer(MixerConfig(faceid_config(64, clip=False).stage1, None))
    for mixer, groups in ((both.mixer, ("mix",)), (first, ("id",))):
        assert Adapter(both.spec, mixer, both.projections, ffrnet=net).ffrnet_spec.groups == groups


ZERO = "ffrnet.controlnet_down_blocks.3.weight"
FFRNET_DAMAGES = {
    "missing tensor": (lambda t, s: t.pop(ZERO), r"the ffrnet of .* 1 missing: controlnet_down_blocks\.3"),
    "extra tensor": (lambda t, s: _set(t, **{"ffrnet.more": torch.ones(3)}), r"of the network: more \(3,\)"),
    "wrong shape": (lambda t, s: _set(t, **{ZERO: torch.ones(32, 33, 1, 1)}), r"\(32, 33, 1, 1\) instead of"),
    "NaN": (lambda t, s: t[ZERO].view(-1)[7].fill_(float("nan")), r"ffrnet\.controlnet_down_blocks\.3.*NaN"),
    "no level": (lambda t, s: [t.pop(k) for k in list(t) if "ffrnet.down_blocks.3" in k], "ffrnet"),
    "no conv_in": (lambda t, s: t.pop("ffrnet.conv_in.weight"), r"conv_in\.weight is missing"),
    "not told of": (lambda t, s: s.pop("ffrnet"), "no FFRNet"),
    "told of, not there": (lambda t, s: [t.pop(k) for k in list(t) if k.startswith("ffrnet")], "0 tensors named"),
    "unknown group": (lambda t, s: _set(s["ffrnet"], groups=["text"]), r"groups \['text'\]"),
    "no group": (lambda t, s: _set(s["ffrnet"], groups=[]), "token groups are"),
    "a group twice": (lambda t, s: _set(s["ffrnet"], groups=["id", "id"]), "each once"),
    "group that is no text": (lambda t, s: _set(s["ffrnet"], groups=[1]), "groups"),
    "strength": (lambda t, s: _set(s["ffrnet"], strength=-1), "suggested strength"),
    "strength as text": (lambda t, s: _set(s["ffrnet"], strength="1"), "strength"),
    "unknown picture": (lambda t, s: _set(s["ffrnet"], donor_picture="depth"), "depth"),
    "heads that do not divide": (lambda t, s: _set(s["ffrnet"], heads=7), "7"),
    "heads and head dim": (lambda t, s: _set(s["ffrnet"], head_dim=8), "head dim"),
    "unknown field": (lambda t, s: _set(s["ffrnet"], surprise=1), "surprise"),
    "missing field": (lambda t, s: s["ffrnet"].pop("heads"), "ffrnet"),
    "no object": (lambda t, s: _set(s, ffrnet=[1]), "ffrnet"),
    "other base": (lambda t, s: _set(s, base="sdxl"), "vector y"),
}


@pytest.mark.parametrize("name", FFRNET_DAMAGES)
def test_damaged_ffrnets_are_refused_by_name(with_ffrnet, tmp_path: Path, name: str) -> None:
    change, message = FFRNET_DAMAGES[name]
    path = _rewrite(with_ffrnet[0], tmp_path / "damaged.safetensors", lambda t, s, m: change(t, s))
    with pytest.raises(CheckpointError, match=message) as caught:
        native.load(path)
    assert "Expected:" in str(caught.value) and "Remedy:" in str(caught.value)


def test_tokens_of_another_width_are_refused(tmp_path: Path) -> None:
    wide = make_adapter(context=128)
    native.save(
        Adapter(wide.spec, wide.mixer, wide.projections, ffrnet=ffrnet_for(diffusers_unet("sd15"))), tmp_path / "a"
    )
    with pytest.raises(CheckpointError, match=r"tokens of width 64.*Expected: 128"):
        native.load(tmp_path / "a")


@pytest.mark.parametrize("tree", ("ldm", "diffusers"))
def test_ffrnets_of_another_unet_are_refused(tree: str) -> None:
    unet = diffusers_unet("sd15")
    topology = read_topology(unet if tree == "diffusers" else ldm_unet("sd15"))
    plain = make_adapter({s.name: s.width for s in topology.sites})
    Adapter(plain.spec, plain.mixer, plain.projections, ffrnet=ffrnet_for(unet)).check_unet(topology)
    for other in (diffusers_unet("sdxl"), type(unet)(**unet.config | {"block_out_channels": (32, 64, 64, 128)})):
        wrong = Adapter(plain.spec, plain.mixer, plain.projections, ffrnet=ffrnet_for(other))
        with pytest.raises(CheckpointError, match=r"128.*Expected: \[32, 32, 32, 32, 64.*Remedy"):
            wrong.check_unet(topology)
