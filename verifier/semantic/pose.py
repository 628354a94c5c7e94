"""First-order pose tolerance through key points (PnP), and a check of how good first order is.

With J (2K, 6) the derivative of the projected key points by the pose, a least-squares PnP turns key point errors d
into the pose error (J^T J)^-1 J^T d, so |pose error| <= M |d| with M = |(J^T J)^-1 J^T| (entrywise). The pose is
(rotation vector in radians, translation), both in camera axes: x right, y down, z forward.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from verifier.errors import OptionsError, ProblemError

ALLOCATIONS = ("coupled", "log", "maxmin")
MAX_CONDITION = 1e8


@dataclass(frozen=True, eq=False)
class View:
    """A pinhole view: points (K, 3) of the object in camera axes relative to its own origin, which lies at `position`.

    position (3,): origin of the object in camera axes. focal: pixels. centre (2,): principal point in pixels.
    """

    points: np.ndarray
    position: np.ndarray
    focal: float
    centre: np.ndarray

    def project(self, change: np.ndarray | None = None) -> np.ndarray:
        """Pixels (K, 2) after a small pose change (6,): rotation vector about the object's origin, translation."""
        change = np.zeros(6) if change is None else np.asarray(change, dtype=np.float64)
        moved = self.points @ rotation(change[:3]).T + self.position + change[3:]
        if (moved[:, 2] <= 0).any():
            raise ProblemError("a key point lies behind the camera")
        return self.focal * moved[:, :2] / moved[:, 2:] + self.centre

    def jacobian(self) -> np.ndarray:
        """d pixels / d pose at the present pose: (2K, 6), rows x0, y0, x1, y1, .. in closed form."""
        x, y, z = (self.points + self.position).T
        a, b, c = self.points.T
        f, k = self.focal, len(x)
        by_point = np.zeros((k, 2, 3))
        by_point[:, 0, 0] = by_point[:, 1, 1] = f / z
        by_point[:, 0, 2], by_point[:, 1, 2] = -f * x / z**2, -f * y / z**2
        zero = np.zeros(k)
        # d (R p) / d w = -[p]x at R = 1
        turn = np.stack([zero, c, -b, -c, zero, a, b, -a, zero], axis=1).reshape(k, 3, 3)
        return np.concatenate([by_point @ turn, by_point], axis=2).reshape(2 * k, 6)


def rotation(vector: np.ndarray) -> np.ndarray:
    """Rotation matrix of a rotation vector (Rodrigues)."""
    angle = float(np.linalg.norm(vector))
    x, y, z = vector
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    if angle < 1e-12:
        return np.eye(3) + cross
    return np.eye(3) + np.sin(angle) / angle * cross + (1 - np.cos(angle)) / angle**2 * cross @ cross


def sensitivity(jacobian: np.ndarray) -> np.ndarray:
    """M = |(J^T J)^-1 J^T|, (6, 2K). ProblemError when the key points do not determine the pose."""
    if not np.isfinite(jacobian).all() or len(jacobian) < 6 or np.linalg.cond(jacobian) > MAX_CONDITION:
        raise ProblemError(
            f"{len(jacobian) // 2} key points do not determine the pose (ill-conditioned);"
            " 4 or more in general position are needed"
        )
    return np.abs(np.linalg.pinv(jacobian))


def check_limits(limits: np.ndarray) -> np.ndarray:
    """Six positive pose limits."""
    values = np.asarray(limits, dtype=np.float64)
    if values.shape != (6,) or not np.isfinite(values).all() or (values <= 0).any():
        raise OptionsError("pose limits are six positive numbers: rotation x, y, z (rad), translation x, y, z")
    return values


def allocate(matrix: np.ndarray, limits: np.ndarray, rule: str) -> np.ndarray:
    """Tolerances tau (2K,) with M tau <= limits: `maxmin` the largest equal one, `log` the largest product.

    The `log` rule maximises sum log tau; by duality tau = 1 / (M^T v) for the multipliers v >= 0 that minimise
    v . limits - sum log(M^T v). The result is scaled back until M tau <= limits holds in floating point.
    """
    if rule not in ALLOCATIONS[1:]:
        raise OptionsError(f"unknown allocation '{rule}'; choose one of {', '.join(ALLOCATIONS)}")
    tau = np.full(matrix.shape[1], float((limits / matrix.sum(axis=1)).min()))
    if rule == "log":
        scaled = matrix / limits[:, None]

        def dual(v: np.ndarray) -> tuple[float, np.ndarray]:
            slope = scaled.T @ v + 1e-300
            return float(v.sum() - np.log(slope).sum()), 1.0 - scaled @ (1.0 / slope)

        start = np.full(6, matrix.shape[1] / 6.0)
        found = minimize(dual, start, jac=True, method="L-BFGS-B", bounds=[(1e-9, None)] * 6)
        tau = 1.0 / (scaled.T @ found.x)
    ratio = float((matrix @ tau / limits).max())
    return tau / (ratio * (1.0 + 1e-12))


def solve(view: View, pixels: np.ndarray, steps: int = 30) -> np.ndarray:
    """Exact (non-linear) least-squares PnP near the present pose by Gauss-Newton: the pose change (6,)."""
    change = np.zeros(6)
    for _ in range(steps):
        # Derivative at the moved pose: left-multiplied rotation, so the moved view starts from zero again.
        moved = View(view.points @ rotation(change[:3]).T, view.position + change[3:], view.focal, view.centre)
        step = np.linalg.lstsq(moved.jacobian(), (pixels - moved.project()).ravel(), rcond=None)[0]
        turned = rotation(step[:3]) @ rotation(change[:3])
        change = np.concatenate([rotation_vector(turned), change[3:] + step[3:]])
        if float(np.abs(step).max()) < 1e-12:
            break
    return change


def rotation_vector(matrix: np.ndarray) -> np.ndarray:
    """Rotation vector of a rotation matrix by less than a half turn."""
    sine = 0.5 * np.array([matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]])
    length = float(np.linalg.norm(sine))
    angle = float(np.arctan2(length, 0.5 * (np.trace(matrix) - 1.0)))
    return sine * (angle / length if length > 1e-12 else 1.0)


def worst_ratio(
    view: View, index: np.ndarray, limits: np.ndarray, tau: np.ndarray | None = None, n: int = 200, seed: int = 0
) -> float:
    """Largest |pose error| / limit over n sampled key point errors, with exact PnP; above 1: first order is too kind.

    index: the key points used. With tau (2 len(index),) the errors are corners of the box |d| <= tau; without it they
    lie on the boundary of M |d| <= limits (the coupled tolerance).
    """
    used = View(view.points[index], view.position, view.focal, view.centre)
    matrix = sensitivity(used.jacobian())
    draw = np.random.default_rng(seed)
    clean, worst = used.project(), 0.0
    for _ in range(n):
        sign = draw.choice([-1.0, 1.0], size=2 * len(index))
        if tau is None:
            d = draw.random(len(sign))
            d *= float((limits / (matrix @ d)).min())
        else:
            d = tau
        found = solve(used, clean + (sign * d).reshape(-1, 2))
        worst = max(worst, float((np.abs(found) / limits).max()))
    return worst
