"""Model folders, what files are by what is inside them, saved identities, and the extension's small files."""

from __future__ import annotations

import argparse
import configparser
import importlib.util
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from facesnap.errors import CheckpointError, SettingsError, UnknownAdapterError
from facesnap.faces.identity import Identity
from facesnap.files import sha256_of
from facesnap.webui import log, options
from facesnap.webui.ui import consent
from facesnap.weights.folders import Folders, choose_adapter, find_adapter, list_adapters
from facesnap.weights.headers import ADAPTER, FAMILY, IDENTITY, NOTHING, OTHER, read_header
from facesnap.weights.identities import IdentityStore
from tests import public_files

ROOT = Path(__file__).resolve().parents[2]
OWN = {"facesnap": '{"base": "sdxl", "name": "own"}'}
# The smallest files that are adapters by their shapes: SD1.5's 16 sites, of 8, 12 and 16 channels.
WIDTHS = [8, 8, 12, 12, 16, 16, 16, 16, 16, 12, 12, 12, 8, 8, 8, 16]


def _write(path: Path, names: list[str], metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: torch.full((2,), float(n)) for n, name in enumerate(names)}
    if path.suffix == ".safetensors":
        save_file(tensors, path, metadata=metadata)
    else:
        nested: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            nested.setdefault(name.split(".")[0], {})[name.partition(".")[2]] = tensor
        torch.save(nested, path, _use_new_zipfile_serialization=path.suffix == ".bin")
    return path


def _public(folder: Path, suffix: str, name: str = "", family: str = "faceid", seed: int = 4) -> Path:
    """A small file for SD1.5 in the public layout."""
    folder.mkdir(parents=True, exist_ok=True)
    state = public_files.public_state(family, WIDTHS, 24, seed)
    path = public_files.write(state, folder, family, "sd15", suffix)
    return path.rename(path.with_name(name + suffix)) if name else path


def _identity(name: str = "Zoe", seed: int = 0) -> Identity:
    vector = np.random.default_rng(seed).normal(size=(1, 512)).astype(np.float32)
    weights, scores = np.ones(1, np.float32), np.full(1, 0.5, np.float32)
    return Identity(name=name, recogniser="a" * 64, alias="pack", embeddings=vector, weights=weights, scores=scores)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A WebUI's models folder with files of every kind."""
    models = tmp_path / "models"
    _write(models / "FaceSnap" / "own.safetensors", ["mixer.a", "projections.b"], OWN)
    _public(models / "FaceSnap" / "sub", ".safetensors", "Renamed")
    _public(models / "ControlNet", ".bin")
    _write(models / "ControlNet" / "ip-adapter.safetensors", ["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"])
    _write(models / "ControlNet" / "control.safetensors", ["controlnet_cond_embedding.conv_in.weight"])
    old = _write(models / "ipadapter" / "old.pt", ["image_proj.proj.weight", "ip_adapter.1.w"])
    old.write_bytes(old.read_bytes()[:-4])  # the download was cut short
    _write(models / "ipadapter" / "lora.safetensors", ["lora_unet.down.weight"])
    (models / "FaceSnap" / "notes.txt").write_text("x", encoding="utf-8")
    IdentityStore(models / "FaceSnap" / ".identities").save(_identity())
    return models


def test_adapters_are_told_by_their_content(models: Path) -> None:
    files = list_adapters(Folders.of(models))
    assert [(f.name, f.header.kind) for f in files] == [
        ("ip-adapter-faceid_sd15", FAMILY), ("old", FAMILY), ("own", ADAPTER), ("Renamed", FAMILY),
    ]  # fmt: skip
    assert [f.header.base for f in files] == ["sd15", "", "sdxl", "sd15"]
    assert [f.name for f in files if f.header.problem] == ["old"] and "cut short" in files[1].header.problem
    assert read_header(models / "ControlNet" / "control.safetensors").kind == OTHER
    assert read_header(next((models / "FaceSnap" / ".identities").iterdir())).kind == IDENTITY


def test_an_adapter_is_found_by_name_extension_folder_or_hash(models: Path) -> None:
    files = list_adapters(Folders.of(models))
    for name in ("own", "OWN.safetensors", sha256_of(models / "FaceSnap" / "own.safetensors")[:10]):
        assert find_adapter(name, files).path.name == "own.safetensors"
    with pytest.raises(CheckpointError, match="ip-adapter-faceid_sd15, old, own, Renamed"):
        find_adapter("missing", files)
    with pytest.raises(CheckpointError, match="models/FaceSnap"):
        find_adapter("missing", [])
    _public(models / "ControlNet", ".safetensors", "own", seed=5)
    files = list_adapters(Folders.of(models))
    assert {"FaceSnap/own.safetensors", "ControlNet/own.safetensors"} <= {file.name for file in files}
    with pytest.raises(CheckpointError, match="2 adapters"):
        find_adapter("own", files)
    assert find_adapter("ControlNet/own.safetensors", files).header.kind == FAMILY


@pytest.mark.parametrize(
    "name",
    ("InstantID", "InstantID-main", "InstantID-master", "instantid (1)", "IP-Adapter-FaceID-main", "PuLID_models",
     "ip-adapter-master", "controlnet", "FaceSnap-main", "h94_IP-Adapter-FaceID", "IPAdapter"),
)  # fmt: skip
@pytest.mark.parametrize("deeper", ("", "checkpoints", "{}/sdxl"))
def test_folders_are_searched_as_they_were_unpacked(tmp_path: Path, name: str, deeper: str) -> None:
    models = tmp_path / "models"
    _public(models / name / deeper.format(name), ".bin", "x")
    _public(models / "Lora", ".bin", "y", seed=5)  # of other things
    assert [file.path.name for file in list_adapters(Folders.of(models))] == ["x.bin"]


def test_the_same_adapter_in_two_folders_is_one(models: Path) -> None:
    for folder, name in (("instantid", "ip-adapter-faceid_sd15"), ("ipadapter", "face (1)"), ("FaceSnap/deep", "x")):
        (models / folder).mkdir(exist_ok=True)
        shutil.copy(models / "ControlNet" / "ip-adapter-faceid_sd15.bin", models / folder / f"{name}.bin")
    one = _public(models / "ipadapter", ".bin", "other run", seed=5)  # of the same size and the same header
    assert one.stat().st_size == (models / "ControlNet" / "ip-adapter-faceid_sd15.bin").stat().st_size
    files = list_adapters(Folders.of(models))
    assert [file.name for file in files] == ["old", "other run", "own", "Renamed", "x"]
    assert len(files[-1].copies) == 3 and files[-1].path.parent.name == "deep"  # FaceSnap's own folder comes first
    for name in (
        "x",
        "face (1)",
        "ip-adapter-faceid_sd15",
        "instantid/ip-adapter-faceid_sd15.bin",
        "ControlNet\\ip-adapter-faceid_sd15",
    ):
        assert find_adapter(name, files) == files[-1]


def test_a_copy_is_chosen_by_what_lies_beside_it_and_keeps_its_family(tmp_path: Path) -> None:
    models = tmp_path / "models"
    alone = _public(models / "FaceSnap", ".bin", "ip-adapter", "instantid")
    (models / "ControlNet" / "ControlNetModel").mkdir(parents=True)
    shutil.copy(alone, models / "ControlNet" / "renamed.bin")
    net = models / "ControlNet" / "ControlNetModel" / "diffusion_pytorch_model.safetensors"
    save_file({"controlnet_cond_embedding.conv_in.weight": torch.zeros(4, 3, 3, 3)}, net)
    (one,) = list_adapters(Folders.of(models))
    assert one.path.name == "renamed.bin" and one.copies == (alone,)
    shutil.rmtree(models)
    plus = _public(models / "FaceSnap", ".bin", "mine plus", "faceid-plusv2")
    for name in ("mine plus v2", "open"):  # people's names for two kinds, of the same bytes
        shutil.copy(plus, plus.with_name(f"{name}.bin"))
    files = list_adapters(Folders.of(models))
    assert [(file.name, file.copies) for file in files] == [("mine plus", ()), ("mine plus v2", ()), ("open", ())]


def test_names_have_their_folders_with_and_without_extension_and_either_slash(tmp_path: Path) -> None:
    models = tmp_path / "models"
    paths = [
        _public(models / folder, suffix, "own", seed=seed)
        for seed, (folder, suffix) in enumerate(
            (("FaceSnap/a", ".bin"), ("ControlNet/A", ".bin"), ("ControlNet/A", ".safetensors"), ("pulid", ".bin"))
        )
    ]
    files = list_adapters(Folders.of(models))
    names = {file.path: file.name for file in files}
    assert [names[path] for path in paths] == ["FaceSnap/a/own.bin", "ControlNet/A/own.bin", "A/own.safetensors",
                                               "pulid/own.bin"]  # fmt: skip
    for file in files:
        for name in (file.name, file.name.replace("/", "\\"), str(file.path), f" {file.name.upper()} "):
            assert find_adapter(name, files) == file
    for name, path in (("pulid/own", 3), ("pulid\\own", 3), ("models/pulid/own.bin", 3), ("FaceSnap/a/own", 0)):
        assert find_adapter(name, files).path == paths[path]
    for name in ("own", "A/own", "own.bin"):
        with pytest.raises(CheckpointError, match="give the name with its folder"):
            find_adapter(name, files)
    for name in ("", "/", "wn", "n.bin", "lid/own"):
        with pytest.raises(UnknownAdapterError):
            find_adapter(name, files)


@pytest.mark.parametrize("suffix", (".ckpt", ".PT", ".SAFETENSORS"))
def test_a_trainers_file_is_listed_whatever_its_ending(tmp_path: Path, suffix: str) -> None:
    written = ".safetensors" if suffix == ".SAFETENSORS" else ".bin"
    path = _public(tmp_path / "FaceSnap", written, "epoch=3 [best] (1)")
    path = path.rename(path.with_suffix(suffix))
    assert find_adapter(path.name, list_adapters(Folders.of(tmp_path))).path == path


def test_people_say_the_family_with_the_name(tmp_path: Path) -> None:
    models = tmp_path / "models"
    path = _public(models / "FaceSnap", ".bin", "face", "faceid-plusv2")
    _public(models / "FaceSnap", ".bin", "same as before", "faceid", seed=5)
    files = list_adapters(Folders.of(models))
    digest = sha256_of(path)[:10]
    for name in ("face", "FACE.bin", digest, "FaceSnap\\face"):
        assert choose_adapter(name, files) == (choose_adapter("face", files)[0], "")
        for family in ("faceid-plus", "FaceID-PlusV2", "x"):  # the loader refuses what there is not
            file, said = choose_adapter(f"{name} as {family}", files)
            assert (file.path, said) == (path, family.lower())
    assert choose_adapter("same as before", files)[0].path.stem == "same as before"
    with pytest.raises(UnknownAdapterError, match="nothing"):
        choose_adapter("nothing as faceid", files)


def test_folders_of_the_user_come_first_and_are_searched_once(models: Path, tmp_path: Path) -> None:
    other, further = tmp_path / "mine", tmp_path / "größer, further"
    _write(other / "a.safetensors", ["mixer.a"], OWN)
    _write(further / "b.safetensors", ["mixer.b"], OWN)
    folders = Folders.of(models, str(other), f"{further}\n\n  {other}  \n{tmp_path / 'missing'}")
    assert folders.adapters[:2] == [other, further] and folders.own == other
    assert {"a", "b", "own"} <= {file.name for file in list_adapters(folders)}
    assert len(folders.adapters) == len(set(folders.adapters)) and folders.packs[0] == str(other)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.binary(max_size=200), st.sampled_from([".safetensors", ".bin", ".pt"]))
def test_files_that_are_no_weights_are_passed_over(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"x{hash(content)}{suffix}"
    path.write_bytes(content)
    assert read_header(path).kind in (OTHER, NOTHING)
    path.write_bytes(len(content).to_bytes(8, "little") + content)
    assert read_header(path).kind in (OTHER, NOTHING)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"image_proj": Trap(), "ip_adapter": {}}, tmp_path / "trap.bin")
    header = read_header(tmp_path / "trap.bin")
    assert header.kind == FAMILY and "holds Python objects" in header.problem
    assert not (tmp_path / "sprung").exists()


ODD_NAMES = ["CON", "a:b", "..", "trailing.", "../../x", "ünïcödé 名", 'quo"te', "a/b\\c", "x" * 80, "nul.txt", "~"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_is_harmless(tmp_path: Path, name: str) -> None:
    store = IdentityStore(tmp_path / "deep" / ".identities")
    identity = _identity(name)
    store.save(identity)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 1 and files[0].parent == store.folder and len(files[0].stem) == 32 and files[0].stem.isalnum()
    assert store.load(name).digest == identity.digest and store.digests() == {name: identity.digest}
    store.delete(name)
    assert store.entries() == []


def test_identities_are_listed_replaced_and_named_when_missing(tmp_path: Path) -> None:
    store = IdentityStore(tmp_path)
    assert store.entries() == []
    store.save(_identity("Zoe"))
    store.save(_identity("ann", 1))
    (tmp_path / "other.safetensors").write_bytes(b"x")
    assert [(e.name, e.references, e.alias) for e in store.entries()] == [("ann", 1, "pack"), ("Zoe", 1, "pack")]
    with pytest.raises(SettingsError, match="already"):
        store.save(_identity("ZOE", 2))
    store.save(_identity("ZOE", 2), replace=True)
    assert [e.name for e in store.entries()] == ["ann", "ZOE"] and store.load("zoe").digest == _identity("", 2).digest
    with pytest.raises(CheckpointError, match="ann, ZOE"):
        store.load("Bob")
    for bad in ("", "  ", "None", "a\nb", "x" * 81):
        with pytest.raises(SettingsError):
            store.save(_identity(bad))


def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_command_line_options_join_the_hosts() -> None:
    parser = argparse.ArgumentParser()
    _load("preload").preload(parser)
    args = parser.parse_args(["--facesnap-dir", "D:/faces", "--facesnap-cache", "64"])
    assert (args.facesnap_dir, args.facesnap_cache) == ("D:/faces", 64)
    assert parser.parse_args([]).facesnap_dir is None


def test_the_metadata_is_valid_in_a_folder_of_any_name() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "metadata.ini", encoding="utf-8")
    assert config["Extension"]["Name"] == "facesnap"
    assert not [section for section in config.sections() if section.startswith("callbacks/")]


def test_one_damaged_identity_hides_no_other(tmp_path: Path) -> None:
    store = IdentityStore(tmp_path)
    for name in ("Ann", "Zoe"):
        store.save(_identity(name))
    damaged = next(entry for entry in store.entries() if entry.name == "Ann").path
    damaged.write_bytes(damaged.read_bytes()[:-8])
    assert store.digests().keys() == {"Zoe"}


def test_options_are_registered_and_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    class OptionInfo:
        def __init__(self, default: Any, label: str, component: Any, args: dict, section: Any = None) -> None:
            self.default, self.label, self.args, self.section, self.reload = default, label, args, section, False

        def info(self, text: str) -> OptionInfo:
            self.text = text
            return self

        def needs_reload_ui(self) -> OptionInfo:
            self.reload = True
            return self

    added: dict[str, OptionInfo] = {}
    levels: list[str] = []
    monkeypatch.setattr(log, "setup", levels.append)
    opts = SimpleNamespace(add_option=added.__setitem__, facesnap_log="debug")
    opts.onchange = lambda key, follow: (follow(), setattr(opts, key, "error"), follow())
    shared = SimpleNamespace(OptionInfo=OptionInfo, opts=opts)
    controls = {name: name for name in ("Checkbox", "Slider", "Radio", "Textbox")}
    monkeypatch.setitem(__import__("sys").modules, "gradio", SimpleNamespace(**controls))
    options.register(shared)
    assert added.keys() == {option.key for option in options.OPTIONS} and added["facesnap_people"].reload
    assert all(one.text.endswith(".") and one.section == options.SECTION for one in added.values())
    assert levels == ["debug", "error"]
    assert options.values({}) == {key: one.default for key, one in added.items()}
    assert options.values(SimpleNamespace(facesnap_people=5.0))["facesnap_people"] == 5
    for wrong in ({"facesnap_people": 9}, {"facesnap_on_error": "crash"}, {"facesnap_offload": "yes"}):
        with pytest.raises(SettingsError, match="the setting"):
            options.values(wrong)


def test_the_notice_is_shown_once_and_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "models" / "FaceSnap"
    assert consent.is_needed(folder)
    consent.remember(folder)
    assert not consent.is_needed(folder)
    monkeypatch.setattr(consent, "VERSION", "2")
    assert consent.is_needed(folder)


def test_reloading_leaves_one_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    logger = logging.getLogger("facesnap")
    before = (list(logger.handlers), logger.level, logger.propagate)
    try:
        for level in ("info", "debug"):
            log.setup(level)
        assert len(logger.handlers) == len(before[0]) + 1 and logger.level == logging.DEBUG and not logger.propagate
    finally:
        logger.handlers, logger.propagate = before[0], before[2]
        logger.setLevel(before[1])
