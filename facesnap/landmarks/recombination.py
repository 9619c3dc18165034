"""Recombination: the source's shape in a driver's expression and pose (paper, figure 2 b)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from facesnap.errors import LandmarkError
from facesnap.landmarks.basis import Basis
from facesnap.landmarks.fitting import Fit
from facesnap.landmarks.pose import View, angles, rotation
from facesnap.settings.expressions import Expression, parse_expression
from facesnap.settings.words import FRAMINGS

GAIN_RANGE = (0.0, 1.5)
_ROUNDS, _LEAST_AMOUNT = 300, 0.05  # of `nearest_mix`
_DEFAULT_SIZE, _DEFAULT_POSITION = 0.5, (0.5, 0.5)
# option -> (lowest, highest); beyond them the 72 points no longer show a face
RANGES = {"yaw": (-90.0, 90.0), "pitch": (-60.0, 60.0), "roll": (-180.0, 180.0), "size": (0.02, 2.0)}


@dataclass(frozen=True)
class PoseSpec:
    """A pose and expression by numbers. None takes the driver's value, or without a driver the default.

    Attributes:
        yaw: degrees, -90..90, positive turns the face to the picture's right; default 0.
        pitch: degrees, -60..60, positive looks up; default 0.
        roll: degrees, -180..180, positive tilts the top of the head to the picture's right; default 0.
        position: (x, y) fractions of the picture where the centre of the frontal face lies, each of which may be
            None; default the middle.
        size: height of the neutral frontal face, brows to chin, as a fraction of the picture's shorter side,
            0.02..2; default 0.5.
        expression: presets with strengths, as text ("smile:0.8+wink_left:1") or a mapping; left and right
            are the person's own; default neutral.
    """

    yaw: float | None = None
    pitch: float | None = None
    roll: float | None = None
    position: tuple[float | None, float | None] | None = None
    size: float | None = None
    expression: Expression | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and low <= value <= high):
                raise _out_of_range(name, value, f"{low:g} to {high:g}")
        given = [value for value in self.position or () if value is not None]
        if self.position is not None and not (
            len(self.position) == 2 and np.isfinite(given).all() and max(map(abs, given), default=0) <= 4
        ):
            raise _out_of_range("position", self.position, "two fractions of the picture")

    @property
    def empty(self) -> bool:
        return self == PoseSpec()


def recombine(
    basis: Basis,
    source: Fit,
    driver: Fit | PoseSpec,
    *,
    size: tuple[int, int],
    override: PoseSpec | None = None,
    expression_gain: float = 1.0,
    residual_gain: float | None = None,
    framing: str = "keep framing",
) -> np.ndarray:
    """U = s' R_d [S(a_src, g b_drv) + rho e_src] + t_d: the source's face, the driver's pose.

    Args:
        basis: the basis that the fits were made with.
        source: the person.
        driver: a fit (its first view gives expression and pose; `source` itself keeps the source's own), or a
            pose by numbers.
        size: (width, height) of the picture to draw. A driver picture of other proportions is fitted inside
            it.
        override: values that replace the driver's, sliders over a driver picture.
        expression_gain: g, 0 (neutral) to 1.5.
        residual_gain: rho, 0..1; None takes the fit's own estimate.
        framing: "keep framing" gives the source's head the size of the driver's in the picture (s' = s_d
            |S(a_d, 0)| / |S(a_s, 0)|); "true size" keeps the camera (s' = s_d), so that a larger head becomes
            larger.

    Returns:
        (72, 2) float64, fractions of the picture.

    Raises:
        LandmarkError: a value out of its range, or a fit of another basis.
    """
    _check(basis, source, driver, size, expression_gain, residual_gain, framing)
    rho = source.residual_gain if residual_gain is None else residual_gain
    own = basis.shape(source.a)  # (72, 3), neutral
    if isinstance(driver, Fit):
        spec = override or PoseSpec()
        pose = _pose_of_driver(basis, own, driver, size, framing)
        offset = basis.expression_offset(driver.views[0].b)
    else:
        spec = driver if override is None else _merge(driver, override)
        pose = View(np.zeros(0), 1.0, np.eye(3), np.array(_DEFAULT_POSITION) * size, size, 0.0)
        spec = replace(spec, size=_DEFAULT_SIZE if spec.size is None else spec.size)
        offset = np.zeros_like(own)
    if spec.expression is not None:
        offset = expression_offset(basis, spec.expression)
    pose = _apply(spec, pose, own if framing == "keep framing" else basis.mean, size)
    shape = own + expression_gain * offset + rho * source.residual
    return pose.project(shape) / size


def expression_offset(basis: Basis, expression: Expression) -> np.ndarray:
    """The mixed presets as an offset of the neutral face, (72, 3)."""
    offset = np.zeros_like(basis.mean)
    for name, strength in parse_expression(expression, basis.presets).items():
        offset += strength * basis.presets[name]
    return offset


def nearest_mix(offset: np.ndarray, presets: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The mix of presets, each 0..1 in steps of 0.01, whose offset is nearest to `offset` (72, 3).

    Coordinate descent on |sum m_p P_p - offset|^2: the problem is convex, and has as many unknowns as presets. Amounts
    below 0.05 are left out.
    """
    names = [name for name, preset in presets.items() if preset.any()]
    modes = np.stack([presets[name].ravel() for name in names])  # (P, 216)
    gram, target = modes @ modes.T, modes @ offset.ravel()
    mix = np.zeros(len(names))
    for _ in range(_ROUNDS):
        for n in range(len(names)):
            mix[n] = np.clip(mix[n] + (target[n] - gram[n] @ mix) / gram[n, n], 0, 1)
    return {name: round(float(m), 2) for name, m in zip(names, mix, strict=True) if m >= _LEAST_AMOUNT}


def _pose_of_driver(basis: Basis, own: np.ndarray, driver: Fit, size: tuple[int, int], framing: str) -> View:
    """The driver's pose on a picture of `size`, its own picture fitted inside and centred."""
    view = driver.views[0]
    zoom = min(size[0] / view.size[0], size[1] / view.size[1])
    margin = (np.array(size) - zoom * np.array(view.size)) / 2
    scale = view.scale * zoom
    if framing == "keep framing":
        scale *= head_extent(basis.shape(driver.a)) / head_extent(own)
    return replace(view, scale=scale, translation=view.translation * zoom + margin, size=size)


def _apply(spec: PoseSpec, pose: View, measured: np.ndarray, size: tuple[int, int]) -> View:
    """Replace what the sliders give; `measured` is the neutral face that `spec.size` speaks of."""
    given = (spec.yaw, spec.pitch, spec.roll)
    turned = [old if new is None else new for old, new in zip(angles(pose.rotation), given, strict=True)]
    scale = pose.scale
    if spec.size is not None:
        scale = spec.size * min(size) / float(np.ptp(measured[:, 1]))
    x, y = _over(spec.position, (pose.translation / size).tolist())
    matrix = pose.rotation if given == (None, None, None) else rotation(*turned)
    return replace(pose, scale=scale, rotation=matrix, translation=np.array((x, y)) * size)


def _merge(spec: PoseSpec, override: PoseSpec) -> PoseSpec:
    given = {name: value for name, value in vars(override).items() if value is not None}
    if spec.position is not None and override.position is not None:
        given["position"] = _over(override.position, spec.position)
    return replace(spec, **given)


def _over(position: tuple[float | None, float | None] | None, below: Sequence[float | None]) -> tuple:
    """The entries of `position`; where one is None, that of `below`."""
    return tuple(old if new is None else new for new, old in zip(position or (None, None), below, strict=True))


def head_extent(shape: np.ndarray) -> float:
    """|S|, the Frobenius norm of a face (72, 3) about its centre: the size that "keep framing" keeps."""
    return float(np.linalg.norm(shape - shape.mean(0)))


def _check(
    basis: Basis,
    source: Fit,
    driver: Fit | PoseSpec,
    size: tuple[int, int],
    gain: float,
    rho: float | None,
    framing: str,
) -> None:
    low, high = GAIN_RANGE
    if not low <= gain <= high:
        raise _out_of_range("expression gain", gain, f"{low:g} to {high:g}")
    if rho is not None and not 0 <= rho <= 1:
        raise _out_of_range("residual gain", rho, "0 to 1")
    if framing not in FRAMINGS:
        raise _out_of_range("framing", framing, " or ".join(map(repr, FRAMINGS)))
    if min(size) < 1:
        raise _out_of_range("picture size", size, "a width and height of at least 1")
    for person in (source, *([driver] if isinstance(driver, Fit) else [])):
        if person.a.shape != (len(basis.identity),) or person.views[0].b.shape != (len(basis.expression),):
            raise LandmarkError(
                "A fit was made with another face basis.",
                expected=f"{len(basis.identity)} identity, {len(basis.expression)} expression coefficients.",
                remedy="Fit source and driver with the same basis.",
            )


def _out_of_range(name: str, value: object, expected: str) -> LandmarkError:
    return LandmarkError(f"The {name} is {value!r}.", expected=f"{expected}.", remedy="Choose a value in the range.")
