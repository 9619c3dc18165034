"""ADetailer's face pass: whose face it is, and that the pass is theirs alone."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from facesnap.attach import Conditioning, ControlConditioning, Tile
from facesnap.errors import CheckpointError
from facesnap.hosts.base import NOTE, Parts
from facesnap.hosts.face_pass import join, owners
from facesnap.hosts.tiles import crop_of, inside, pass_piece
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


def painted(world, people: list[Conditioning], box, passes: str = "both", **more: Any) -> torch.Tensor:
    """A picture with these people, then ADetailer's pass over a face of it."""
    outer = processing(world)
    if people:
        world.host.enlist(outer, prepare(*people), passes)
    else:
        world.host.release(outer)
    sampled(outer)
    inner = face_pass(world, box, **more)
    world.host.adopt(inner)
    return sampled(inner)


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
    box = (0.7, 0.2, 0.9, 0.6)
    both = painted(world, two, box)
    right, left = (painted(world, [replace(one, region=None)], box) for one in reversed(two))
    bare = painted(world, [], box)
    assert torch.equal(both, right)
    assert (both - left).abs().max() > 1e-2 and (both - bare).abs().max() > 1e-2
    assert torch.equal(painted(world, two, box, "second"), both)  # passes of a hires generation mean nothing to it
    assert torch.equal(painted(world, two[1:], (0.1, 0.2, 0.3, 0.6)), bare)  # another face stays as it is


def test_a_picture_without_people_lends_none(world, two) -> None:
    """Whatever the picture before it had, and although that still lives."""
    before = processing(world)
    world.host.enlist(before, prepare(*two))
    sampled(before)
    outer = processing(world)
    world.host.release(outer)
    sampled(outer)
    inner = face_pass(world)
    assert world.host.adopt(inner) is None
    assert torch.equal(sampled(inner), painted(world, [], (0.7, 0.2, 0.9, 0.6)))


def control(face: tuple[float, float, float, float], region: torch.Tensor | None = None) -> ControlConditioning:
    return ControlConditioning(None, (), None, face=face, region=region)  # type: ignore[arg-type] # places only


def test_landmarks_tell_where_people_without_a_region_are(person) -> None:
    faces = [(0.1, 0.2, 0.3, 0.6), (0.7, 0.2, 0.9, 0.6)]
    controls = [control(face) for face in faces]
    everywhere, placed = replace(person), replace(person)
    parts = Parts([person, placed], controls)
    for face in faces:
        found = owners(parts, grey(mask(face)))
        assert [one.face for one in found.controls] == [face] and len(found.people) == 1
    assert owners(parts, grey(mask((0.4, 0.2, 0.6, 0.6)))).count == 0
    # the second person alone has landmarks; the first is everywhere
    parts = Parts([everywhere, placed], controls[:1], owners=[1])
    assert len(owners(parts, grey(mask(faces[0]))).people) == 2
    assert len(owners(parts, grey(mask(faces[1]))).people) == 1
    # a region counts more than landmarks
    parts = Parts([replace(person, region=RIGHT)], controls[:1])
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
    box = (0.1, 0.25, 0.35, 0.75)
    outer = processing(world, mask_for_overlay=mask((0.5, 0, 1, 1)), paste_to=(32, 0, 32, 32), inpaint_full_res=True)
    world.host.enlist(outer, prepare(*two))
    sampled(outer)
    inner = face_pass(world, box)
    recorder = Recorder(world, inner)
    world.host.adopt(inner)
    made = sampled(inner)
    recorder.drop()
    assert crop_of(outer) == (0.5, 0.0, 0.5, 1.0)
    (tile,) = set(recorder.tiles)
    assert tile == pass_piece(inner, (8, 8), crop_of(outer)) != pass_piece(inner, (8, 8))
    assert isinstance(tile, Tile) and tile.left / tile.frame[1] == pytest.approx(0.5 + 0.1 / 2, abs=0.02)
    assert torch.equal(made, painted(world, [replace(two[1], region=None)], box))


@pytest.mark.parametrize("again", (False, True))
def test_what_fails_in_the_face_pass_is_told_on_the_picture(world, two, again: bool) -> None:
    """The hosts swallow what is raised there. ADetailer's own call of `process` with a copy takes nothing back."""
    outer = processing(world)
    world.host.enlist(outer, prepare(*two))
    sampled(outer)
    inner = face_pass(world)
    world.host.adopt(inner)
    world.standin.load(world.unets[2])  # a checkpoint of ADetailer's own
    with pytest.raises(CheckpointError):
        sampled(inner)
    if again:
        world.host.own(other := copy.copy(outer))
        other.extra_generation_params.clear()
    assert "face pass was left out" in outer.extra_generation_params[NOTE] and outer.comments
    assert NOTE not in inner.extra_generation_params and not world.host.running


def test_our_script_joins_adetailers_list_once() -> None:
    opts = SimpleNamespace(data={"ad_script_names": "dynamic_prompting, wildcards"})
    for _ in range(2):
        join(opts, "facesnap_script")
    assert opts.data == {"ad_script_names": "dynamic_prompting, wildcards,facesnap_script"}
    without = SimpleNamespace(data={})
    join(without, "facesnap_script")
    assert without.data == {}
