"""The list of adapters: what each file is, what fits, suggests and needs, without loading or hashing anything."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from facesnap import remedies
from facesnap.checkpoints import files
from facesnap.errors import CheckpointError
from facesnap.faces.known import BASE_TITLES
from facesnap.families import registry
from facesnap.settings.model import PERSON
from facesnap.weights import headers
from facesnap.weights.adapters import ListedAdapter, chosen, entries
from facesnap.weights.folders import Folders
from tests import public_files

SITES = {
    "sd15": [8, 8, 12, 12, 16, 16, 16, 16, 16, 12, 12, 12, 8, 8, 8, 16],
    "sdxl": [12] * 4 + [16] * 20 + [16] * 30 + [12] * 6 + [16] * 10,
}
FULL = {"sd15": [320] * 2 + [640] * 2 + [1280] * 5 + [640] * 3 + [320] * 3 + [1280],
        "sdxl": [640] * 4 + [1280] * 50 + [640] * 6 + [1280] * 10}  # fmt: skip
CASES = [
    (family, base, suffix)
    for family in public_files.FAMILIES
    for base in ("sd15", "sdxl")
    for suffix in (".bin", ".safetensors")
    if base == "sdxl" or family in (*public_files.FACEID, "portrait")
]


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """An empty WebUI, without the packs of this machine."""
    (tmp_path / "models" / "FaceSnap").mkdir(parents=True)
    return Folders.of(tmp_path / "models")


@pytest.fixture(autouse=True)
def _nothing_is_loaded_or_hashed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def never(*args: Any, **more: Any) -> Any:
        raise AssertionError("a list must not do this")

    monkeypatch.setattr(torch.serialization, "load", never)
    monkeypatch.setattr("facesnap.files.sha256_of", never)
    monkeypatch.setattr(files, "read_file", never)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.delenv("FACESNAP_MODELS", raising=False)


def _write(folders: Folders, family: str, base: str = "sdxl", suffix: str = ".bin", name: str = "") -> Path:
    state = public_files.public_state(family, SITES[base], 24 if base == "sd15" else 32)
    path = public_files.write(state, folders.own, family, base, suffix)
    return path.rename(path.with_name(name + suffix)) if name else path


def _only(folders: Folders, base: str | None = None) -> ListedAdapter:
    found = entries(folders, base)
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(("family", "base", "suffix"), CASES)
def test_every_family_is_told_as_the_loader_tells_it(folders: Folders, family: str, base: str, suffix: str) -> None:
    path = _write(folders, family, base, suffix)
    one, kind = _only(folders), registry.find(family)
    assert (one.family, one.base, one.path, one.licence) == (family, base, path, kind.licence)
    assert one.title == f"{one.name} · {kind.title.removeprefix('IP-Adapter ')} · {BASE_TITLES[base]}"
    assert one.fits and one.defaults["strength"] == kind.strength
    assert set(one.defaults) <= set(PERSON) and all(PERSON[k].kind.read(v, k) == v for k, v in one.defaults.items())
    other = {"sd15": "sdxl", "sdxl": "sd15"}[base]
    assert _only(folders, base).fits and not _only(folders, other).fits
    assert _only(folders, other).title == f"{one.title} · does not fit {BASE_TITLES[other]}"


def _sparse(path: Path, shapes: public_files.Shapes) -> int:
    """A .safetensors file that holds only holes behind its header."""
    header, end = {}, 0
    for name, shape in shapes.items():
        nbytes = 4 * int(torch.tensor(shape).prod())
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + nbytes]}
        end += nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path.stat().st_size


@pytest.mark.parametrize("family", public_files.FAMILIES)
def test_files_of_gigabytes_cost_their_header(folders: Folders, family: str) -> None:
    part = public_files.projection_shapes(family, 2048, small=False)
    processors = public_files.processor_shapes(family, FULL["sdxl"], 2048, rank=128)
    tops = ("id_adapter", "id_adapter_attn_layers") if family.startswith("pulid") else ("image_proj", "ip_adapter")
    shapes = {f"{top}.{k}": v for top, some in zip(tops, (part, processors), strict=True) for k, v in some.items()}
    path = folders.own / (public_files.NAMES[family].format(base="sdxl") + ".safetensors")
    size = _sparse(path, shapes)
    one = _only(folders, "sdxl")
    assert (one.family, one.base, one.size, one.fits) == (family, "sdxl", size, True) and size > 1_400_000_000


def test_a_header_is_read_again_only_when_the_file_changes(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = _write(folders, "faceid", "sd15", name="mine"), []
    read = headers.read_outline
    monkeypatch.setattr(headers, "read_outline", lambda p: (seen.append(p), read(p))[1])
    assert _only(folders).family == "faceid" and _only(folders).family == "faceid" and len(seen) == 1
    path.unlink()
    assert _write(folders, "portrait", "sd15", name="mine") == path
    assert _only(folders).family == "portrait" and len(seen) == 2


def test_names_that_do_not_tell_leave_the_choice_open(folders: Folders, in_webui: Callable[[], None]) -> None:
    """The file comes once for each family that it can be of; people choose, nothing else does."""
    in_webui()
    _write(folders, "faceid-plusv2", "sd15", name="face")
    plus, plusv2 = entries(folders, "sd15")
    assert [plus.name, plusv2.name] == ["face as faceid-plus", "face as faceid-plusv2"]
    assert [plus.family, plusv2.family] == ["faceid-plus", "faceid-plusv2"] and plus.title.endswith(
        "FaceID-Plus · SD1.5"
    )
    assert "s_struct" in plusv2.defaults and "s_struct" not in plus.defaults
    for one in (plus, plusv2):
        assert one.fits and one.choice and "face.bin can be" in one.note and f"'{one.name}'" in one.note and one.needs


def test_instantid_has_its_identitynet(folders: Folders) -> None:
    _write(folders, "instantid", name="ip-adapter")
    alone = _only(folders)
    assert alone.structure is None and "structure" not in alone.defaults
    assert [need.there for need in alone.needs if "IdentityNet" in need.what] == [False]
    net = folders.own / "ControlNetModel" / "diffusion_pytorch_model.safetensors"
    net.parent.mkdir()
    save_file({"controlnet_cond_embedding.conv_in.weight": torch.zeros(4, 3, 3, 3)}, net)
    both = _only(folders)  # one entry for two files
    assert (both.structure, both.size) == (net, alone.size + net.stat().st_size)
    assert both.defaults == {"strength": 0.8, "structure": 0.8} and both.hint == "CFG 5 · 1016 x 1016, not 1024"
    assert [need.there for need in both.needs if "IdentityNet" in need.what] == [True]
    _write(folders, "instantid", name="strange")
    assert {one.family for one in entries(folders)} == {"instantid"}  # the neighbour decides what no name tells


def test_needs_tell_what_is_there(folders: Folders) -> None:
    _write(folders, "faceid-plus", "sd15")
    assert [(need.download, need.there) for need in _only(folders).needs] == [("buffalo_l", False), ("vit-h", False)]
    pack = folders.models / "insightface" / "models" / "buffalo_l" / "w600k_r50.onnx"
    encoder = folders.models / "clip_vision" / "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors"
    for file in (pack, encoder):
        file.parent.mkdir(parents=True)
        file.write_bytes(b"not opened")
    assert [need.there for need in _only(folders).needs] == [True, True]
    assert "pack buffalo_l or buffalo_m: there" in map(str, _only(folders).needs)


def test_own_checkpoints_are_listed_by_their_metadata(folders: Folders) -> None:
    own = {"base": "sd15", "strength": 0.7, "shortcut": True, "licence": "mine", "recogniser": "ab" * 32,
           "encoder_name": "ViT-H/14 1280x32 proj1024", "ffrnet": {"strength": 9}}  # fmt: skip
    save_file({"mixer.a": torch.zeros(2)}, folders.own / "own.safetensors", metadata={"facesnap": json.dumps(own)})
    one = _only(folders, "sd15")
    assert (one.family, one.title, one.licence) == ("facesnap", "own · FaceSnap · SD1.5", "mine")
    assert one.defaults == {"strength": 0.7, "structure": 2.0, "s_struct": 1.0}  # within the settings' limits
    assert [(need.download, need.there) for need in one.needs] == [("", None), ("vit-h", False)]
    for wrong in ('{"strength": "much", "ffrnet": []}', "[]", "{", '{"base": 3, "strength": 1e999}'):
        save_file({"mixer.a": torch.zeros(2)}, folders.own / "own.safetensors", metadata={"facesnap": wrong})
        assert 0 <= _only(folders).defaults["strength"] <= 2


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_a_download_cut_short_is_listed_with_its_problem(folders: Folders, suffix: str) -> None:
    path = _write(folders, "faceid-plusv2", "sd15", suffix)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 3 // 4])
    one = _only(folders, "sd15")
    assert not one.fits and one.title.endswith("cannot be used") and path.name in one.note
    with pytest.raises(CheckpointError):
        registry.load_adapter(path)


def test_processors_of_no_known_model_are_a_problem(folders: Folders) -> None:
    state = public_files.public_state("faceid", [8, 8, 12], 24)
    public_files.write(state, folders.own, "faceid", "sd15")
    one = _only(folders, "sd15")
    assert not one.fits and "3 cross-attentions" in one.note


PAGE = b"\xef\xbb\xbf\r\n<!DOCTYPE html><html><title>Log in</title></html>" + b" " * 3000
LEFT_OVER = {
    "empty": (b"", "0 bytes"),
    "login": (PAGE, "web page"),
    "wide login": (PAGE.decode("utf-8-sig").encode("utf-16"), "web page"),
    "answer": (b'{"error": "Access to model x is restricted"}', "message of a server"),
    "short answer": (b"Entry not found", "'Entry not found'"),
    "denied": ("Zugriff verweigert: bitte anmelden, für Modelle".encode(), "Zugriff verweigert"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 132\n", "git-lfs"),
    "reserved": (bytes(4 << 20), "begins with zeros"),
}


@pytest.mark.parametrize("place", ("FaceSnap", "FaceSnap/InstantID", "ControlNet", "instantid", "pulid", "ipadapter"))
@pytest.mark.parametrize("suffix", (".safetensors", ".bin", ".pt"))
def test_what_a_download_left_is_listed_with_reason_and_remedy(folders: Folders, suffix: str, place: str) -> None:
    for name, (content, _) in LEFT_OVER.items():
        path = folders.models / place / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert {one.name for one in entries(folders)} == LEFT_OVER.keys()  # each of its own, equal ones too
    for one in entries(folders):
        reason, path = LEFT_OVER[one.name][1], one.path
        assert not one.fits and one.title == f"{one.name} · no weights · cannot be used" and not one.needs
        assert reason in one.note and "`facesnap download --list`" in one.remedy.replace(
            "python -m facesnap", "facesnap"
        )
        with pytest.raises(CheckpointError, match=re.escape(reason)) as caught:  # inspect and a generation say the same
            registry.load_adapter(path)
        assert caught.value.remedy == one.remedy
    assert chosen("", folders, "sd15") is None and chosen("", folders) is None


def test_empty_files_of_one_content_are_listed_each(folders: Folders) -> None:
    for name in ("a.bin", "b.safetensors"):
        (folders.own / name).write_bytes(b"")
    assert [one.name for one in entries(folders)] == ["a", "b"]


def test_a_known_name_says_which_download(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remedies, "_here", remedies.WEBUI)
    (folders.own / "ip-adapter-faceid-plusv2_sdxl.bin").write_bytes(PAGE)
    one = _only(folders)
    assert "choose faceid-plusv2-sdxl and press Download" in one.remedy and "web page" in one.note
    (folders.own / "ip-adapter-faceid-plusv2_sdxl.bin").rename(folders.own / "mine.bin")
    assert "Models at the foot of FaceSnap's accordion" in _only(folders).remedy


def test_links_to_nothing_are_listed(folders: Folders) -> None:
    try:
        (folders.own / "gone.safetensors").symlink_to("blobs/4d7a")
    except OSError:
        pytest.skip("this file system has no links")
    one = _only(folders)
    assert "a link to blobs/4d7a, which is not there" in one.note and one.remedy and not one.fits


@pytest.mark.parametrize(
    ("content", "reason"),
    (
        (b"GGUF" + bytes(range(200)), "GGUF"),
        (bytes(range(1, 250)), "cannot be read"),
        (b"PK\x03\x04" + bytes(99), "pickle of torch"),
    ),
)
def test_what_cannot_be_read_is_listed_in_our_own_folder_alone(folders: Folders, content: bytes, reason: str) -> None:
    for place in (folders.own, folders.models / "ControlNet"):
        place.mkdir(exist_ok=True)
        (place / "x.safetensors").write_bytes(content)
    one = _only(folders)
    assert one.path.parent == folders.own and not one.fits and one.remedy
    assert reason in one.note


def test_a_header_cut_short_still_says_what_the_file_was_to_be(folders: Folders) -> None:
    path = _write(folders, "faceid", "sd15", ".safetensors")
    header = int.from_bytes(path.read_bytes()[:8], "little")
    path.write_bytes(path.read_bytes()[: header - 40])
    moved = folders.models / "ControlNet" / path.name
    moved.parent.mkdir(exist_ok=True)
    path.rename(moved)
    assert _only(folders).family_title == "public adapter" and "cannot be read" in _only(folders).note
