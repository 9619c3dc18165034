"""The data that the pose canvas draws with: everything of `recombine` but the numbers that the canvas changes.

For a person, the picture's size (W, H) and a pose, the browser computes what facesnap.landmarks.recombination does:

    U = s R [shape + offset] + t                in pixels, R = R_roll R_pitch R_yaw, its first two rows
    offset = gain times the sum of amount * presets[name] where an expression is given, else times the driver's
    t = (x W, y H), s = size min(W, H) / height where they are given; height is the person's with "keep framing", the
        mean face's with "true size"
    else the driver's: z = min(W / w, H / h), t = z t_d + ((W, H) - z (w, h)) / 2, s = z s_d ratio; ratio is that of
        the two heads with "keep framing" and 1 with "true size"; without a driver the middle, and size 0.5

Coordinates are rounded to 1e-5 outer-eye distances, a hundredth of a pixel on the largest face of a 1024 px picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from facesnap.errors import FaceSnapError
from facesnap.faces.identity import Identity
from facesnap.landmarks.basis import Basis
from facesnap.landmarks.fitting import Fit
from facesnap.landmarks.recombination import head_extent, nearest_mix
from facesnap.landmarks.render import DOT_RADIUS
from facesnap.landmarks.scheme import IBUG68, PART_COLOURS, PARTS
from facesnap.pipeline.shape import Shapes
from facesnap.settings.model import POSE, Person, Pose
from facesnap.webui.generation.controls import BOX_NUMBERS
from facesnap.webui.generation.pictures import decode

Scene = dict[str, Any]
DECIMALS = 5
# Lines through the points, by iBUG-68 indices: a closed one ends where it begins.
_LINES = {"jaw": range(17), "bridge": range(27, 31), "nostrils": range(31, 36),
          "outer lips": (*range(48, 60), 48), "inner lips": (*range(60, 68), 60)}  # fmt: skip


def scene(
    people: Iterable[tuple[int, Person]],
    identity_of: Callable[[Person, int], Identity],
    shapes: Shapes,
    init: Any = None,
) -> Scene:
    """The scene of some people, as plain JSON data.

    Args:
        people: (number from 1, settings); a person whose landmarks cannot be had has an "error" in their place.
        identity_of: gives a person's identity, with landmarks, which `shapes` fits.
        init: the picture that img2img starts from, None in txt2img.
    """
    basis = shapes.basis
    kinds: dict[str, Any] = {name: POSE[field].kind for name, field in BOX_NUMBERS.items()}  # all are Numbers
    return {
        "presets": {name: _flat(offset) for name, offset in basis.presets.items() if offset.any()},
        "mirrored": {name: _other_side(name, basis.presets) for name in basis.presets},
        "mean_height": _height(basis.mean),
        "ranges": {name: [kinds[name].low, kinds[name].high] for name in BOX_NUMBERS},
        "lines": lines(),
        "parts": [[part.start, part.stop, list(PART_COLOURS[name])] for name, part in PARTS.items()],
        "dot_radius": DOT_RADIUS,
        "people": [_person(number, person, identity_of, shapes, init) for number, person in people],
    }


def lines() -> list[list[int]]:
    """Lines through the 72 points, for people to see a face in them; closed ones end where they begin."""
    place = {ibug: index for index, ibug in enumerate(IBUG68)}
    found = [[place[ibug] for ibug in line] for line in _LINES.values()]
    for name in ("brow_left", "brow_right"):
        found.append(list(range(PARTS[name].start, PARTS[name].stop)))
    for name in ("eye_left", "eye_right"):
        found.append([*range(PARTS[name].start, PARTS[name].stop), PARTS[name].start])
    return found


def _person(
    number: int, person: Person, identity_of: Callable[[Person, int], Identity], shapes: Shapes, init: Any
) -> Scene:
    try:
        identity = identity_of(person, number)
        source, own = shapes.fits(identity, Pose())
    except FaceSnapError as error:
        return {"number": number, "error": str(error)}
    neutral = shapes.basis.shape(source.a)  # (72, 3)
    drivers = {"reference": _driver(shapes.basis, source, own or source)}
    if person.pose.image is not None:
        name = f"the pose picture of person {number}"
        drivers["picture"] = _picture(shapes, identity, source, person.pose.image, name)
    if init is not None:
        drivers["init"] = _picture(shapes, identity, source, init, "the init image")
    return {
        "number": number,
        "name": identity.name,
        "shape": _flat(neutral + source.residual_gain * source.residual),
        "height": _height(neutral),
        "drivers": drivers,
        "doubts": list(source.doubts),
    }


def _picture(shapes: Shapes, identity: Identity, source: Fit, picture: Any, name: str) -> Scene:
    """A driver picture's pose, or why there is none."""
    try:
        _, driver = shapes.fits(identity, Pose("picture", decode(picture, name)))
    except FaceSnapError as error:
        return {"error": str(error)}
    assert driver is not None
    return _driver(shapes.basis, source, driver)


def _driver(basis: Basis, source: Fit, driver: Fit) -> Scene:
    """The pose and expression of a driver's first view."""
    view = driver.views[0]
    offset = basis.expression_offset(view.b)  # (72, 3)
    return {
        "angles": list(view.angles),
        "scale": view.scale,
        "translation": view.translation.tolist(),
        "size": list(view.size),
        "ratio": head_extent(basis.shape(driver.a)) / head_extent(basis.shape(source.a)),
        "offset": _flat(offset),
        "mix": nearest_mix(offset, basis.presets),
        "doubts": list(driver.doubts),
    }


def _height(shape: np.ndarray) -> float:
    """Brows to chin of a neutral face."""
    return float(np.ptp(shape[:, 1]))


def _flat(array: np.ndarray) -> list[float]:
    """(72, 3) -> 216 numbers, point by point."""
    return [round(float(value), DECIMALS) + 0.0 for value in array.ravel()]


def _other_side(name: str, presets: Mapping[str, Any]) -> str:
    """The preset that is this one in a mirror."""
    for side, other in (("_left", "_right"), ("_right", "_left")):
        if name.endswith(side) and name.removesuffix(side) + other in presets:
            return name.removesuffix(side) + other
    return name
