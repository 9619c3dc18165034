"""Whatever is missing, the message names the command that fetches it; and the command knows that name."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from facesnap.errors import EncoderError, PackError, UnknownAdapterError
from facesnap.faces.encoder_files import find_encoder
from facesnap.faces.encoder_search import encoder_of
from facesnap.faces.known import PACK_SOURCES
from facesnap.faces.packs import find_pack, is_installed
from facesnap.families.registry import BY_KEY, PUBLIC
from facesnap.remedies import program
from facesnap.weights.adapters import DiskLookup
from facesnap.weights.catalogue import CATALOGUE, find
from facesnap.weights.doctor import NOTE, OK, Finding, encoders, weights
from facesnap.weights.fetch import target
from facesnap.weights.folders import Folders, find_adapter
from tests import public_files

SITES = {
    "sd15": [8, 8, 12, 12, 16, 16, 16, 16, 16, 12, 12, 12, 8, 8, 8, 16],
    "sdxl": [12] * 4 + [16] * 50 + [12] * 6 + [16] * 10,
}


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of models, and nothing of this machine."""
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.delenv("FACESNAP_MODELS", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my models").mkdir()
    return tmp_path / "my models"


def _commands(text: str) -> list[str]:
    return re.findall(r"facesnap download ([\w.-]+)", text)


def test_messages_name_the_command(models: Path) -> None:
    for name in ("buffalo_l", "AntelopeV2", "auraface"):
        with pytest.raises(PackError) as missing:
            find_pack(name, [str(models)])
        assert _commands(missing.value.remedy) == [name.lower()]
    for name in ("vit-h", "eva02-clip-l-14-336"):
        with pytest.raises(EncoderError) as missing_encoder:
            find_encoder(name, [str(models)])
        assert _commands(missing_encoder.value.remedy) == [name]
    with pytest.raises(EncoderError) as by_name:
        encoder_of("", BY_KEY["faceid-plus"].encoder, [str(models)])
    assert _commands(by_name.value.remedy) == ["vit-h"]
    for name, command in (("ip-adapter-faceid-plusv2_sdxl", "faceid-plusv2-sdxl"), ("pulid_v1.1", "pulid-v1.1")):
        with pytest.raises(UnknownAdapterError) as missing_adapter:
            find_adapter(name, [])
        assert _commands(missing_adapter.value.remedy) == [command]
    with pytest.raises(PackError) as other:
        find_pack("buffalo_m", [str(models)])  # not in the catalogue: the address itself
    assert PACK_SOURCES["buffalo_m"] in other.value.remedy and not _commands(other.value.remedy)


def _by_family(findings: list[Finding]) -> dict[str, Finding]:
    return {one.what.split(":")[0]: one for one in findings if not one.what.startswith("adapter ")}


def _words(finding: Finding) -> list[str]:
    """Of the command that a finding names, without the command itself."""
    command, words = [*program().split(), "download"], shlex.split(finding.remedy)
    assert words[: len(command)] == command
    return words[len(command) :]


def test_doctor_gives_one_command_for_each_family(models: Path) -> None:
    found = _by_family(list(weights([str(models)])))
    assert {title.split(" for ")[0] for title in found} == {family.title for family in PUBLIC}
    for one in found.values():
        names = _words(one)
        assert names[-2:] == ["--folder", str(models)]
        assert all(find(name).name == name for name in names[:-2]) and len(names) >= 4 and one.level == NOTE


@pytest.mark.parametrize(("family", "base"), [("faceid-plusv2", "sd15"), ("portrait", "sd15"), ("instantid", "sdxl")])
def test_what_doctor_asks_for_is_all_that_a_family_needs(models: Path, family: str, base: str) -> None:
    """Put what the command fetches where it would put it: nothing is missing then."""
    folders = Folders.of(models)
    title = f"{BY_KEY[family].title} for {'SD1.5' if base == 'sd15' else 'SDXL'}"
    names = _words(_by_family(list(weights([str(models)])))[title])[:-2]
    state = public_files.public_state(family, SITES[base], 24 if base == "sd15" else 32)
    for n, name in enumerate(names):
        for file in find(name).files:
            place = target(file, folders) / ("w.onnx" if file.unpack else "")
            place.parent.mkdir(parents=True, exist_ok=True)
            net = {"controlnet_cond_embedding.conv_in.weight": torch.zeros(1)}
            place.write_bytes(save(net) if "control" in place.name else b"not opened for this")
        if n == 0:
            made = public_files.write(state, models.parent, family, base)
            made.replace(target(find(name).files[0], folders))
        now = _by_family(list(weights([str(models)])))[title]
        assert (now.level == OK) == (n == len(names) - 1), now
    assert any(one.what.startswith("adapter ") and one.level == OK for one in weights([str(models)]))


def test_every_place_of_the_catalogue_is_searched(models: Path) -> None:
    """Encoders and packs are found where they are put, adapters in FaceSnap's folder."""
    folders, look = Folders.of(models), DiskLookup([str(models)])
    for item in CATALOGUE:
        for file in item.files:
            place = target(file, folders) / ("w.onnx" if file.unpack else "")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(b"x")
        if item.kind == "pack":
            assert is_installed(item.name, folders.packs)
        elif item.kind == "adapter":
            assert all(target(file, folders).parent in folders.adapters for file in item.files)
    for family in PUBLIC:
        assert all(need.there for need in look.needs(family.recogniser, family.encoder)), family.key


def test_a_damaged_adapter_is_reported(models: Path) -> None:
    state = public_files.public_state("faceid", SITES["sd15"], 24)
    (models / "FaceSnap").mkdir()
    path = public_files.write(state, models / "FaceSnap", "faceid", "sd15", ".safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    (one,) = [one for one in weights([str(models)]) if str(path) in one.what]
    assert one.level == NOTE and "cannot be used" in one.what and one.remedy


def test_what_a_download_left_is_reported(models: Path) -> None:
    """Adapters and encoders that are pages, pointers or nothing: why, and what to do."""
    for place, content in (
        ("FaceSnap/ip-adapter-faceid_sd15.bin", b""),
        ("instantid/a.safetensors", b"Entry not found"),
        ("clip_vision/b.safetensors", b"version https://git-lfs.github.com/spec/v1\noid x\n"),
    ):
        (models / place).parent.mkdir(parents=True, exist_ok=True)
        (models / place).write_bytes(content)
    found = [one for one in (*weights([str(models)]), *encoders([str(models)])) if "cannot be used" in one.what]
    assert [one.level for one in found] == [NOTE] * 3
    wanted = {"faceid_sd15": ("0 bytes", "download faceid-sd15"), "a.safe": ("Entry not found", "download --list"),
              "b.safe": ("pointer of git-lfs", "git lfs pull")}  # fmt: skip
    for name, (reason, remedy) in wanted.items():
        (one,) = [one for one in found if name in one.what]
        assert reason in one.what and remedy in one.remedy
