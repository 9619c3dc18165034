"""An adapter whose file leaves its family open: people say it in the list, the API and an infotext."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient

from facesnap.settings import infotext
from facesnap.webui.generation.controls import from_flat, to_flat
from facesnap.webui.generation.xyz import AXES
from tests.families.test_families import ldm_of, widths_of
from tests.networks import CONTEXT
from tests.public_files import public_state, write

if TYPE_CHECKING:
    from tests.webui.standin.server import Server

NAMES = ["face as instantid", "face as portrait-unnorm"]


@pytest.fixture(scope="module")
def adapter(server: Server, face_pack: Path) -> Path:
    """A resampler over a vector, under a name that says nothing, and packs with the recognisers of both families."""
    for pack in ("buffalo_l", "antelopev2"):
        shutil.copytree(face_pack, server.folders.own / pack)
    state = public_state("instantid", widths_of(ldm_of("sd15")), CONTEXT["sd15"])
    path = write(state, server.folders.own, "instantid", "sd15")
    return path.rename(path.with_name("face.bin"))


def generate(server: Server, **settings: Any) -> Any:
    with TestClient(server.app) as host:
        body = {"alwayson_scripts": {"FaceSnap": {"args": [settings]}}}
        return host.post("/sdapi/v1/txt2img", json=body)


def test_the_list_has_one_entry_for_each_family(client: TestClient, adapter: Path) -> None:
    found = {one["name"]: one for one in client.get("/facesnap/v1/models").json()["adapters"]}
    assert [name for name in found if name.startswith("face")] == NAMES
    assert [found[name]["family"] for name in NAMES] == ["instantid", "portrait-unnorm"]
    for name in NAMES:  # the entry of the dropdown
        title = found[name]["title"]
        settings = from_flat([True, title])
        assert settings.adapter == name and from_flat(to_flat(settings)).adapter == name
        assert AXES["adapter"].read(name) == name


def test_a_generation_takes_the_family_that_is_said(server: Server, adapter: Path, photo: str) -> None:
    refused = generate(server, references=[photo], adapter="face")
    assert refused.status_code == 422 and all(f"'{name}'" in refused.text for name in NAMES)
    for name in NAMES:
        made = generate(server, references=[photo], adapter=name)
        assert made.status_code == 200, made.text
        texts = made.json()["info"]["extra_generation_params"]
        assert texts["FaceSnap adapter"].startswith(f"{name} [")
        assert infotext.read(texts).settings.adapter == name
        assert server.loader.latest.family.key == name.rpartition(" ")[2]
    assert generate(server, references=[photo], adapter="face as nothing").status_code == 422
    made = generate(server, references=[photo]).json()["info"]["extra_generation_params"]
    assert made["FaceSnap adapter"].startswith("untrained")  # nothing chooses a family by itself


def test_nothing_is_guessed_where_only_open_files_are_there(
    server: Server, adapter: Path, photo: str, tmp_path: Path
) -> None:
    own = server.folders.own / "untrained.safetensors"
    own.rename(tmp_path / own.name)
    try:
        assert "no adapter for SD1.5" in generate(server, references=[photo]).text
    finally:
        (tmp_path / own.name).rename(own)
