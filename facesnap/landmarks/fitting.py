"""Regularised fit of the face basis to detected points: identity, expression and pose.

For pictures r = 1..R of one person, with shape S(a, b_r) = S0 + A a + B b_r, the fit minimises
    sum_r sum_i w_ri |u_ri - s_r R_r S_i(a, b_r) - t_r|^2 / (s_r sigma_r)^2 + la |a|^2 + lb sum_r |b_r|^2.
Each round linearises the poses and solves for a, all b_r and the pose steps at once; b_r and the pose steps
are eliminated first (Schur complement), so the cost grows linearly with R.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from facesnap.errors import LandmarkError
from facesnap.landmarks.basis import Basis
from facesnap.landmarks.checks import FIVE_POINTS_ONLY, check_result, check_visible, doubts_about
from facesnap.landmarks.pose import View, angles, closed_form_pose, exponential, rotation
from facesnap.landmarks.scheme import POINT_COUNT, checked, five_point_weights

ROUNDS = 8
CONTOUR = slice(0, 17)
# A visible outline slides on the jaw when the head turns: beyond this yaw (degrees) it weighs less.
CONTOUR_YAW, CONTOUR_WEIGHT = 25.0, 0.3
DEPTH_WEIGHT = 0.25  # the depth of 3D detectors is about twice as uncertain as x and y
_T_DEGREES = 6.0  # Student-t degrees of freedom: points far off lose their pull
_TOLERANCE = 3e-4  # of a round's pose step: radians, log scale, basis units


@dataclass(frozen=True, eq=False)
class Observation:
    """The points of one face in one picture.

    Attributes:
        points: (72, 2) or (72, 3) in pixels of the picture, in the scheme's order, NaN where hidden; or (5,
            2), the detector's five points, to which only a pose is fitted. The third coordinate grows away
            from the viewer.
        size: (width, height) of the picture in pixels.
        sigma: standard deviation of the detector's error, a fraction of the outer-eye distance.
        weights: (72,) or (5,), 0..1; None weighs every point alike.
        outline: True if the contour is the outline visible in the picture (2D detectors) and not the jaw
            itself.
    """

    points: np.ndarray
    size: tuple[int, int]
    sigma: float = 0.02
    weights: np.ndarray | None = None
    outline: bool = True


@dataclass(frozen=True, eq=False)
class Fit:
    """A person's shape from one or more pictures, with the expression and pose in each.

    Attributes:
        a: (K,) identity, in standard deviations.
        views: one for each picture, in the order given.
        residual: (72, 3) basis units, what the basis cannot express of this person, averaged over the
            pictures.
        residual_gain: rho = tau^2 / (tau^2 + sigma^2), how much of the residual is the person and not noise;
            0..0.8.
        pose_only: True if only five points were seen: the shape is the mean face's.
        doubts: why the fit deserves little confidence; empty if it does not.
    """

    a: np.ndarray
    views: tuple[View, ...]
    residual: np.ndarray
    residual_gain: float
    pose_only: bool = False
    doubts: tuple[str, ...] = ()

    @property
    def confident(self) -> bool:
        return not self.doubts


def fit(
    basis: Basis,
    observations: Observation | Sequence[Observation],
    *,
    identity_weight: float = 1.0,
    expression_weight: float = 1.0,
    rounds: int = ROUNDS,
) -> Fit:
    """Fit one person to one or several pictures.

    Args:
        basis: the face basis.
        observations: one for each picture; all of the same person.
        identity_weight, expression_weight: la and lb, above 0; 1 takes the basis' deviations at their
            word.
        rounds: at most this many Gauss-Newton rounds.

    Raises:
        LandmarkError: too few visible points, points on a line or in one place, a mirrored or no face.
    """
    given = [observations] if isinstance(observations, Observation) else list(observations)
    if not given:
        raise LandmarkError(
            "There is nothing to fit.",
            expected="the points of at least one picture.",
            remedy="Give a reference.",
        )
    if not (min(identity_weight, expression_weight) > 0 and rounds > 0):
        raise LandmarkError(
            f"The priors weigh {identity_weight} and {expression_weight}, for {rounds} rounds.",
            expected="weights above 0 and at least one round.",
            remedy="Leave them out.",
        )
    solvers = [_Picture(basis, observation) for observation in given]
    shaped = [solver for solver in solvers if not solver.pose_only]
    a = np.zeros(len(basis.identity))
    for solver in solvers:
        solver.start()
    for _ in range(rounds):
        previous = a
        if shaped:
            a = _solve_identity(shaped, len(a), identity_weight, expression_weight)
        moved = [solver.update(a) for solver in solvers]
        if max(moved) < _TOLERANCE and np.abs(a - previous).max() < 30 * _TOLERANCE:
            break
    views = tuple(solver.view() for solver in solvers)
    for view in views:
        check_result(view.scale, view.rotation, view.error, a)
    residual, gain = _shared_residual(basis, solvers)
    doubts = [] if shaped else [FIVE_POINTS_ONLY]
    for solver, view in zip(solvers, views, strict=True):
        doubts += doubts_about(solver.points, solver.visible, view, a)
    return Fit(a, views, residual, gain, pose_only=not shaped, doubts=tuple(dict.fromkeys(doubts)))


def _solve_identity(pictures: list[_Picture], modes: int, la: float, lb: float) -> np.ndarray:
    """One joint step: a from the Schur complement, then b_r and the pose step of every picture."""
    left, right = la * np.eye(modes), np.zeros(modes)
    eliminated = []
    for picture in pictures:
        naa, nax, nxx, ga, gx = picture.normal_equations(lb)
        solved = np.linalg.solve(nxx, np.column_stack([nax.T, gx]))  # (X, K + 1)
        left += naa - nax @ solved[:, :-1]
        right += ga - nax @ solved[:, -1]
        eliminated.append(solved)
    a = np.linalg.solve(left, right)
    for picture, solved in zip(pictures, eliminated, strict=True):
        picture.step = solved[:, -1] - solved[:, :-1] @ a
    return a


class _Picture:
    """The changing state of one picture during the fit."""

    def __init__(self, basis: Basis, observation: Observation) -> None:
        count = 5 if np.shape(observation.points)[:1] == (5,) else POINT_COUNT
        points = checked(observation.points, count, what="A set of landmarks", dims=(2,) if count == 5 else (2, 3))
        self.observation = observation
        self.pose_only = count == 5
        weights = self._point_weights(count)
        self.visible = np.isfinite(points).all(1) & (weights > 0)  # (P,)
        check_visible(points, self.visible, observation.size, observation.sigma, self.pose_only)
        self.points, self.weights = points[self.visible], weights[self.visible]
        self.dims = points.shape[1]
        rows = five_point_weights() if self.pose_only else None
        self.mean = (basis.mean if rows is None else rows @ basis.mean)[self.visible]
        modes = np.concatenate([basis.identity, basis.expression])[:, self.visible] if rows is None else np.zeros(0)
        self.modes = np.ascontiguousarray(modes.T)  # (3, P, K + M)
        self.identity_modes = len(basis.identity)
        self.b = np.zeros(len(basis.expression))
        self.step = np.zeros(0)
        self.shape = self.mean
        self.robust = np.ones(len(self.points))

    def _point_weights(self, count: int) -> np.ndarray:
        given = self.observation.weights
        weights = np.ones(count) if given is None else np.asarray(given, dtype=np.float64)
        if weights.shape != (count,) or not ((weights >= 0) & (weights <= 1)).all():
            raise LandmarkError(
                f"The weights have the shape {weights.shape} or leave the range 0 to 1.",
                expected=f"{count} numbers of 0 to 1.",
                remedy="Leave the weights out to weigh every point alike.",
            )
        return weights

    def start(self) -> None:
        """First pose: closed form; if that looks odd or there are few points, also from the upright face."""
        candidates = [closed_form_pose(self.mean, self.points, np.maximum(self.weights, 1e-6))]
        if not self.pose_only and candidates[0][1][2, 2] > 0.5:
            self.scale, self.rotation, self.translation = candidates[0]
            return
        flat = (self.mean - self.mean.mean(0))[:, :2] @ (1, 1j)
        turn = np.vdot(flat, (self.points - self.points.mean(0))[:, :2] @ (1, 1j))
        candidates.append(self._upright(rotation(0, 0, float(np.rad2deg(np.angle(turn))))))
        best = np.inf
        for scale, matrix, translation in candidates:
            if matrix[2, 2] <= 0.05 or scale <= 0:
                continue
            self.scale, self.rotation, self.translation = scale, matrix, translation
            for _ in range(3):
                self._pose_step()
            cost = float((self.weights[:, None] * self._errors() ** 2).sum()) / self.scale**2
            if cost < best:
                best, state = cost, (self.scale, self.rotation, self.translation)
        if not np.isfinite(best):
            raise LandmarkError(
                "The points show no face from the front.",
                expected="points in the scheme's order, not mirrored.",
                remedy="Use a picture that shows the face, and check the order of the points.",
            )
        self.scale, self.rotation, self.translation = state

    def _upright(self, matrix: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Best scale and translation for a given rotation."""
        turned = self.mean @ matrix[: self.dims].T
        x, u = turned - turned.mean(0), self.points - self.points.mean(0)
        scale = float((x * u).sum() / (x * x).sum())
        return scale, matrix, self.points.mean(0) - scale * turned.mean(0)

    def _errors(self) -> np.ndarray:
        """(P, D) pixels left over."""
        return self.points - self.scale * self.shape @ self.rotation[: self.dims].T - self.translation

    def _root_weights(self) -> np.ndarray:
        """(D, P) square roots of the weights of the residuals in pixels."""
        weights = self.weights * self.robust
        if self.observation.outline and not self.pose_only and abs(angles(self.rotation)[0]) > CONTOUR_YAW:
            contour = np.flatnonzero(self.visible) < CONTOUR.stop
            weights = np.where(contour, CONTOUR_WEIGHT * weights, weights)
        axes = np.array([1.0, 1.0, DEPTH_WEIGHT][: self.dims])
        return np.sqrt(axes[:, None] * weights) / (self.scale * self.observation.sigma)

    def _pose_columns(self) -> np.ndarray:
        """(D, P, D + 4): change of the projection with log scale, rotation vector and translation."""
        x, y, z = turned = self.scale * self.rotation @ self.shape.T  # (3, P)
        columns = np.zeros((self.dims, turned.shape[1], self.dims + 4))
        columns[0, :, 2], columns[0, :, 3] = z, -y  # unit spin about an axis times the turned point
        columns[1, :, 1], columns[1, :, 3] = -z, x
        if self.dims == 3:
            columns[2, :, 1], columns[2, :, 2] = y, -x
        for axis in range(self.dims):
            columns[axis, :, 0] = turned[axis]
            columns[axis, :, 4 + axis] = 1
        return columns

    def _pose_step(self) -> float:
        """Gauss-Newton step of the pose alone, with the shape held; returns how far it moved."""
        root = self._root_weights()
        jacobian = (self._pose_columns() * root[..., None]).reshape(root.size, -1)  # (D P, D + 4)
        gram = jacobian.T @ jacobian
        damping = 1e-9 * np.trace(gram) * np.eye(len(gram))
        return self._move(np.linalg.solve(gram + damping, jacobian.T @ (self._errors().T * root).ravel()))

    def _move(self, step: np.ndarray) -> float:
        """Apply (log scale, rotation vector, translation); returns the largest change, in face units."""
        turn = np.clip(step[1:4], -0.5, 0.5)
        zoom = float(np.clip(step[0], -0.5, 0.5))
        self.rotation = exponential(turn) @ self.rotation
        self.translation = self.translation + step[4:]
        moved = max(abs(zoom), float(np.abs(turn).max()), float(np.abs(step[4:]).max()) / self.scale)
        self.scale *= float(np.exp(zoom))
        return moved

    def normal_equations(self, lb: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """N_aa, N_ax, N_xx, g_a, g_x for a and x = (b, pose step), with lb on b."""
        root = self._root_weights()
        count = root.size
        turn = self.scale * self.rotation[: self.dims]
        modes = turn @ self.modes.reshape(3, -1)  # (D, P (K + M))
        design = np.concatenate([modes.reshape(count, -1), self._pose_columns().reshape(count, -1)], axis=1)
        design *= root.reshape(count, 1)  # (D P, K + M + D + 4)
        # The modes enter whole, the pose as a step from its current value.
        rest = self.points.T - turn @ self.mean.T - self.translation[:, None]
        gram = design.T @ design
        right = design.T @ (rest * root).ravel()
        k, m = self.identity_modes, len(self.b)
        nxx = gram[k:, k:]
        pose = np.trace(nxx[m:, m:])
        nxx[np.diag_indices(len(nxx))] += np.r_[np.full(m, lb), np.full(len(nxx) - m, 1e-9 * pose)]
        return gram[:k, :k], gram[:k, k:], nxx, right[:k], right[k:]

    def update(self, a: np.ndarray) -> float:
        """Take over this round's shape and pose step; returns how far the pose moved."""
        if self.pose_only:
            return self._pose_step()
        self.b = self.step[: len(self.b)]
        self.shape = self.mean + (self.modes @ np.concatenate([a, self.b])).T
        moved = self._move(self.step[len(self.b) :])
        normal = self._errors() / (self.scale * self.observation.sigma)
        self.robust = (_T_DEGREES + self.dims) / (_T_DEGREES + (normal**2).sum(1))
        self.robust = np.minimum(self.robust, 1.0)
        return moved

    def view(self) -> View:
        left = self._errors() / self.scale
        weights = np.broadcast_to(self.weights[:, None], left.shape)
        error = float(np.sqrt((weights * left**2).sum() / max(weights.sum(), 1e-9)))
        return View(self.b, self.scale, self.rotation, self.translation[:2], self.observation.size, error)

    def lifted_residual(self) -> tuple[np.ndarray, np.ndarray]:
        """Residual, lifted to the face's frame by the pseudo-inverse of s R (72, 3); weights (72,)."""
        residual, weights = np.zeros((POINT_COUNT, 3)), np.zeros(POINT_COUNT)
        root = self._root_weights()[0] * self.scale * self.observation.sigma
        residual[self.visible] = self._errors()[:, :2] @ self.rotation[:2] / self.scale
        weights[self.visible] = root**2
        return residual, weights


def _shared_residual(basis: Basis, pictures: list[_Picture]) -> tuple[np.ndarray, float]:
    """The residual that the pictures share, and rho = tau^2 / (tau^2 + sigma^2).

    tau^2 is the residual's variance beyond what the noise explains, and at least what the basis leaves out.
    """
    usable = [picture for picture in pictures if not picture.pose_only]
    if not usable:
        return np.zeros((POINT_COUNT, 3)), 0.0
    lifted = [picture.lifted_residual() for picture in usable]
    values, weights = np.stack([v for v, _ in lifted]), np.stack([w for _, w in lifted])
    total = weights.sum(0)  # (72,)
    residual = (weights[..., None] * values).sum(0) / np.maximum(total, 1e-9)[:, None]  # (72, 3)
    noise = float(np.mean([picture.observation.sigma**2 for picture in usable])) / len(usable)
    seen = total > 0
    variance = float((residual[seen] ** 2).sum() / (2 * seen.sum()))
    tau = max(variance - noise, basis.identity_residual**2)
    return residual, min(tau / (tau + noise), 0.8)
