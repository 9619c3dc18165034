"""Files that were written before are read as before, and the same ones are written."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.frozen import doors, filefacts, inputs
from tests.frozen.filefacts import command
from tests.frozen.store import (
    CHECKPOINTS,
    IDENTITIES,
    PREPARED,
    differences,
    frozen_header,
    header_of,
    load,
    thaw,
    thaw_folder,
)

NEAR = 2e-4  # another machine's arithmetic


@pytest.mark.parametrize("name", ["checkpoints", "identities", "prepared", "training"])
def test_files_are_read_as_before(name: str, tmp_path: Path) -> None:
    found = differences(filefacts.FACTS[name](tmp_path), load(name), near=NEAR)
    assert not found, "\n".join(found[:20])


def test_public_files_are_told_and_converted_as_before(tmp_path: Path) -> None:
    """Also the names and shapes of every tensor of the converted files."""
    found = differences(filefacts.public(tmp_path), load("public"), near=NEAR)
    assert not found, "\n".join(found[:20])
    for family in inputs.PUBLIC:
        if not family.startswith("faceid-plus"):
            header = header_of(tmp_path / f"{family}.safetensors")
            assert header == frozen_header(f"converted/{family}.safetensors"), family


def test_a_checkpoint_is_written_to_the_same_bytes(tmp_path: Path) -> None:
    """Reading and writing a file of FaceSnap's own gives the file."""
    file = CHECKPOINTS / "small.safetensors"
    name = json.loads(header_of(file)["metadata"]["facesnap"])["name"]
    command("convert", str(file), "--name", name, "--out", str(tmp_path / "again.safetensors"))
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()


@pytest.mark.parametrize("name", [file.stem for file in sorted(IDENTITIES.glob("*.safetensors"))])
def test_an_identity_is_written_as_before(name: str, tmp_path: Path) -> None:
    file = IDENTITIES / f"{name}.safetensors"
    who = doors.Identity.load(file)
    who.save(tmp_path / "again.safetensors")
    assert header_of(tmp_path / "again.safetensors") == header_of(file)
    assert doors.Identity.load(tmp_path / "again.safetensors").digest == who.digest
    assert dataclasses.replace(who, name="other").digest == who.digest


def test_an_identity_is_made_as_before(tmp_path: Path, face_pack: Path, components: Path) -> None:
    inputs.photos(tmp_path, components / "photos" / "obama.jpg")
    pack = shutil.copytree(face_pack, tmp_path / "buffalo_l")
    encoder = thaw("encoder.safetensors", tmp_path / "encoder.safetensors")
    options = ["--encoder", str(encoder), "--levels", "-2", "1", "--name", "Zoë 名", "--pack", str(pack)]
    photos = [str(tmp_path / f"{name}.png") for name in ("astronaut", "closer")]
    command("identity", "make", *photos, *options, "--out", str(tmp_path / "made.safetensors"))
    made, before = (
        doors.Identity.load(file) for file in (tmp_path / "made.safetensors", IDENTITIES / "two-photos.safetensors")
    )
    assert (
        header_of(tmp_path / "made.safetensors")["tensors"]
        == header_of(IDENTITIES / "two-photos.safetensors")["tensors"]
    )
    for key in ("embeddings", "weights", "scores"):
        assert np.allclose(getattr(made, key), getattr(before, key), atol=2e-3), key
    assert (made.recogniser, made.encoder, made.alias) == (before.recogniser, before.encoder, before.alias)
    for level, states in before.hidden.items():
        assert (made.hidden[level].float() - states.float()).abs().max() < 0.05
    assert np.abs(made.landmarks.points - before.landmarks.points).max() < 0.1  # pixels


def test_commands_about_faces_print_what_they_did(tmp_path: Path, face_pack: Path, components: Path) -> None:
    found = differences(filefacts.outputs(tmp_path, face_pack, components), load("outputs"), near=5e-3)
    assert not found, "\n".join(found[:20])


def test_photos_are_prepared_as_before(tmp_path: Path, face_pack: Path) -> None:
    from skimage import data

    photo = tmp_path / "people" / "Eileen" / "a.png"
    photo.parent.mkdir(parents=True)
    Image.fromarray(data.astronaut()[40:240, 130:330]).save(photo)
    photo.with_suffix(".txt").write_text("an astronaut\n", encoding="utf-8")
    base = thaw_folder("sd15", tmp_path / "sd15")
    encoder = thaw("encoder.safetensors", tmp_path / "encoder.safetensors")
    command("prepare", str(tmp_path / "people"), str(tmp_path / "out"), "--base", str(base), "--encoder", str(encoder),
            "--size", "128", "--variants", "2", "--pack", str(face_pack), "--workers", "1", "--device", "cpu",
            "--levels", "-2", "1")  # fmt: skip
    now, before = doors.Shards(tmp_path / "out"), doors.Shards(PREPARED)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {file.name for file in PREPARED.iterdir()}
    assert (now.rows, now.people, now.head) == (before.rows, before.people, before.head)
    tensors = (header_of(folder / "shard-00000.safetensors")["tensors"] for folder in (tmp_path / "out", PREPARED))
    names = [name.removeprefix("0.") for name in next(tensors)]
    assert [f"0.{name}" for name in names] == list(next(tensors))
    for name in names:
        ours, theirs = now.tensor(0, name).double(), before.tensor(0, name).double()
        tolerance = 2 if name == "crop" else 0.02 * max(1.0, float(theirs.abs().max()))
        assert (ours - theirs).abs().max() <= tolerance, name
