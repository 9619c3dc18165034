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
from facesnap.checkpoints.adapter import Adapter, AdapterSpec
from facesnap.errors import CheckpointError, IdentityMismatchError
from facesnap.models.mixer import FacialAttributeMixer, MixerConfig
from facesnap.models.projections import IDProjections
from tests.donors import CLIP_WIDTH, faceid_config, instantid_config
from tests.networks import CONTEXT, diffusers_unet, redraw

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
    "missing tensor": (lambda t, s, m: t.pop(KEY), r"1 tensors missing: stage1\.perceiver.*\(128, 64\)"),
    "missing site half": (lambda t, s, m: t.pop("projections.sites.input_1_1_0.id.to_v.weight"), "missing"),
    "extra tensor": (lambda t, s, m: _set(t, **{"mixer.stage1.more": torch.ones(3)}), r"extra: stage1\.more \(3,\)"),
    "foreign part": (lambda t, s, m: _set(t, **{"unet.x": torch.ones(3)}), r"unet\.x"),
    "wrong shape": (lambda t, s, m: _set(t, **{KEY: torch.ones(128, 63)}), r"\(128, 63\) instead of \(128, 64\)"),
    "wrong dims": (lambda t, s, m: _set(t, **{"mixer.stage1.norm.weight": torch.ones(8, 8)}), r"\(8, 8\)"),
    "NaN": (lambda t, s, m: t[KEY].view(-1)[7].fill_(float("nan")), "NaN"),
    "infinity": (lambda t, s, m: t["projections.sites.input_1_1_0.mix.gate"].fill_(float("inf")), "infinity"),
    "integers": (lambda t, s, m: _set(t, **{KEY: torch.ones(128, 64, dtype=torch.int32)}), "floating"),
    "no tensors": (lambda t, s, m: t.clear(), "holds no tensor"),
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


@settings(max_examples=60, deadline=None)
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
    with pytest.raises(CheckpointError, match="no checkpoint file"):
        native.load(tmp_path)
    torch.save({"a": torch.ones(3)}, tmp_path / "pickle.safetensors")
    with pytest.raises(CheckpointError, match="not a FaceSnap checkpoint"):
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
