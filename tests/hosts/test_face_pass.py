"""ADetailer's face pass: whose face it is, and that the pass is theirs alone."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from facesnap.attach import Conditioning, Structure, Tile
from facesnap.errors import CheckpointError, NoFaceError
from facesnap.hosts.face_pass import owners, takes_part
from facesnap.hosts.tiles import crop_of, inside, pass_piece
from facesnap.hosts.webui import NOTE, Parts
from tests.hosts.test_webui import Recorder, prepare, processing, sampled

LEFT, RIGHT = torch.zeros(2, 8, 16)
LEFT[:, :8], RIGHT[:, 8:] = 1.0, 1.0


def mask(box: tuple[float, float, float, float], size: tuple[int, int] = (64, 32)) -> Image.Image:
    """A picture (width, height) that is white inside a box of fractions."""
    width, height = size
    grey = np.zeros((height, width), np.uint8)
    left, top, right, bottom = box
    grey[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = 255
    return Image.fromarray(grey)


def face_pass(world, box=(0.7, 0.2, 0.9, 0.6), **more: Any):
    """As ADetailer makes it, after the host has found the crop."""
    whole = mask(box)
    left, top, right, bottom = whole.getbbox()
    crop = (left, top, right - left, bottom - top)
    inpainting = {"mask_for_overlay": whole, "paste_to": crop, "inpaint_full_res": True}
    return processing(world, _ad_inner=True, **inpainting | more)


def grey(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(picture, np.float32) / 255)


@pytest.fixture()
def two(person) -> list[Conditioning]:
    assert person.uncond is not None
    other = replace(person, cond=person.uncond, uncond=person.cond)
    return [replace(person, region=LEFT), replace(other, region=RIGHT)]


def test_the_face_is_painted_with_its_own_person_alone(world, two) -> None:
    made = []
    for people in (two, [replace(two[1], region=None)], [replace(two[0], region=None)], []):
        p = face_pass(world)
        if people:
            world.host.enlist(p, prepare(*people), "second")  # a hires setting: nothing to a face pass
        made.append(sampled(p))
    assert torch.equal(made[0], made[1])
    assert (made[0] - made[2]).abs().max() > 1e-2 and (made[0] - made[3]).abs().max() > 1e-2


def test_another_face_in_the_picture_stays_as_it_is(world, two) -> None:
    bare = sampled(face_pass(world))
    p = face_pass(world, (0.1, 0.2, 0.3, 0.6))
    world.host.enlist(p, prepare(two[1]))
    recorder = Recorder(world, p)
    assert torch.equal(sampled(p), bare)
    recorder.drop()
    assert not any(recorder.rows) and not p.extra_generation_params


def structure(face: tuple[float, float, float, float], region: torch.Tensor | None = None) -> Structure:
    return Structure(None, (), None, face=face, region=region)  # type: ignore[arg-type] # places only


def test_landmarks_tell_where_people_without_a_region_are(person) -> None:
    faces = [(0.1, 0.2, 0.3, 0.6), (0.7, 0.2, 0.9, 0.6)]
    structures = [structure(face) for face in faces]
    everywhere, placed = replace(person), replace(person)
    parts = Parts([person, placed], structures)
    for n, face in enumerate(faces):
        found = owners(parts, grey(mask(face)))
        assert found.structures == [replace(structures[n])] or found.structures[0].face == face
        assert len(found.people) == len(found.structures) == 1
    assert owners(parts, grey(mask((0.4, 0.2, 0.6, 0.6)))).count == 0
    # the second person alone has landmarks; the first is everywhere
    parts = Parts([everywhere, placed], structures[:1], owners=[1])
    assert len(owners(parts, grey(mask(faces[0]))).people) == 2
    assert [len(one) for one in (owners(parts, grey(mask(faces[1]))).people,)] == [1]
    # a region counts more than landmarks
    parts = Parts([replace(person, region=RIGHT)], structures[:1])
    assert owners(parts, grey(mask(faces[1]))).count == 1 and owners(parts, grey(mask(faces[0]))).count == 0


@given(
    st.floats(0.05, 0.45), st.floats(0.05, 0.45), st.floats(0.1, 0.5), st.floats(0.1, 0.5), st.booleans(), st.booleans()
)
def test_the_crop_of_an_only_masked_picture_is_where_it_is(x: float, y: float, w: float, h: float, a, b) -> None:
    """A face inside a crop of the whole picture: found there as if the whole had been seen."""
    piece = (x, y, w, h)
    face = (0.1 + 0.5 * a, 0.1 + 0.5 * b, 0.4 + 0.5 * a, 0.4 + 0.5 * b)  # of the crop
    left, top, width, height = inside((face[0], face[1], 0.3, 0.3), piece)
    assert x <= left and left + width <= x + w + 1e-9 and y <= top and top + height <= y + h + 1e-9
    here = grey(mask((left, top, left + width, top + height), (400, 400)))
    elsewhere = torch.zeros(400, 400)
    elsewhere[: max(int(y * 400) - 2, 0)] = 1.0
    people = [Conditioning({}, region=here), Conditioning({}, region=elsewhere)]
    found = owners(Parts(people), grey(mask(face, (200, 200))), piece)
    assert len(found.people) == 1 and found.people[0].region is None
    assert not owners(Parts(people[1:]), grey(mask(face, (200, 200))), piece).people


def test_a_face_pass_over_an_only_masked_picture(world, two) -> None:
    """The outer picture is the right half of the whole: a face at its left is the right person's."""
    outer = processing(world, mask_for_overlay=mask((0.5, 0, 1, 1)), paste_to=(32, 0, 32, 32), inpaint_full_res=True)
    world.host.enlist(outer, prepare(*two))
    sampled(outer)
    inner = face_pass(world, (0.1, 0.25, 0.35, 0.75))
    recorder = Recorder(world, inner)
    world.host.enlist(inner, prepare(*two))
    made = sampled(inner)
    recorder.drop()
    assert crop_of(outer) == (0.5, 0.0, 0.5, 1.0)
    (tile,) = set(recorder.tiles)
    assert tile == pass_piece(inner, (8, 8), crop_of(outer)) != pass_piece(inner, (8, 8))
    assert isinstance(tile, Tile) and tile.left / tile.frame[1] == pytest.approx(0.5 + 0.1 / 2, abs=0.02)
    alone = face_pass(world, (0.1, 0.25, 0.35, 0.75))
    world.host.enlist(alone, prepare(replace(two[1], region=None)))
    assert torch.equal(made, sampled(alone))


@pytest.mark.parametrize("where", ("before", "while sampling"))
def test_what_fails_in_the_face_pass_is_told_on_the_picture(world, two, where: str) -> None:
    outer = processing(world)
    world.host.enlist(outer, prepare(*two))
    sampled(outer)
    inner = face_pass(world)
    if where == "before":
        world.host.refuse(inner, NoFaceError("no face in it", expected="a face", remedy="another photo"))
    else:
        world.host.enlist(inner, prepare(*two, fits="sdxl"))
    with pytest.raises((NoFaceError, CheckpointError)):
        sampled(inner)
    assert "face pass was left out" in outer.extra_generation_params[NOTE] and outer.comments
    assert NOTE not in inner.extra_generation_params and not world.host._running


def test_our_script_joins_adetailers_list_once() -> None:
    whole, inner = SimpleNamespace(), SimpleNamespace(_ad_inner=True)
    opts = SimpleNamespace(facesnap_adetailer=True, data={"ad_script_names": "dynamic_prompting, wildcards"})
    for _ in range(2):
        assert takes_part(whole, opts, "facesnap_script") and takes_part(inner, opts, "facesnap_script")
    assert opts.data == {"ad_script_names": "dynamic_prompting, wildcards,facesnap_script"}
    opts.facesnap_adetailer = False
    assert takes_part(whole, opts, "facesnap_script") and not takes_part(inner, opts, "facesnap_script")
    without = SimpleNamespace(facesnap_adetailer=True, data={})
    assert takes_part(whole, without, "facesnap_script") and without.data == {}
