import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from verifier.errors import OptionsError, ProblemError
from verifier.semantic import pose


def view(k=8, seed=0):
    draw = np.random.default_rng(seed)
    return pose.View(draw.uniform(-0.5, 0.5, (k, 3)), np.array([0.1, -0.2, 4.0]), 120.0, np.array([31.0, 33.0]))


def test_jacobian_is_the_derivative():
    v, h = view(), 1e-6
    for i in range(6):
        step = np.zeros(6)
        step[i] = h
        slope = (v.project(step) - v.project(-step)).ravel() / (2 * h)
        assert np.abs(slope - v.jacobian()[:, i]).max() < 1e-5


def test_rotations_agree_with_scipy():
    for seed in range(5):
        vector = np.random.default_rng(seed).normal(size=3) / 2  # less than half a turn
        matrix = pose.rotation(vector)
        assert np.abs(matrix - Rotation.from_rotvec(vector).as_matrix()).max() < 1e-12
        assert np.abs(pose.rotation_vector(matrix) - vector).max() < 1e-9
    assert np.array_equal(pose.rotation(np.zeros(3)), np.eye(3))


def test_solve_finds_the_pose_that_was_projected():
    v = view()
    change = np.array([0.05, -0.08, 0.03, 0.1, -0.05, 0.2])
    assert np.abs(pose.solve(v, v.project(change)) - change).max() < 1e-8


def test_allocations_keep_the_limits_and_maximise_what_they_say():
    matrix = pose.sensitivity(view().jacobian())
    limits = np.array([0.02, 0.03, 0.05, 0.04, 0.04, 0.2])
    draw = np.random.default_rng(0)
    log, even = (pose.allocate(matrix, limits, rule) for rule in ("log", "maxmin"))
    for tau in (log, even):
        assert (matrix @ tau <= limits).all()
        assert (tau > 0).all()
    assert np.ptp(even) == 0
    for _ in range(300):  # feasible rivals
        rival = log * np.exp(0.3 * draw.normal(size=len(log)))
        rival /= (matrix @ rival / limits).max()
        assert np.log(rival).sum() <= np.log(log).sum() + 1e-4
        assert rival.min() <= even.min() * (1 + 1e-9)


def test_first_order_is_good_for_small_limits_and_the_check_sees_large_ones():
    v = view()
    index = np.arange(8)
    matrix = pose.sensitivity(v.jacobian())
    small = matrix @ np.full(16, 0.01)
    tau = pose.allocate(matrix, small, "maxmin")
    assert pose.worst_ratio(v, index, small, tau, n=50) < 1.01
    assert pose.worst_ratio(v, index, small, n=50) < 1.01
    # Take the corner that first order says is worst: exact PnP reaches the limit.
    worst = np.sign(np.linalg.pinv(v.jacobian())[0]) * 0.01
    found = pose.solve(v, v.project() + worst.reshape(-1, 2))
    assert abs(found[0]) == pytest.approx(small[0], rel=0.01)


def test_bad_input():
    with pytest.raises(ProblemError, match="do not determine"):
        pose.sensitivity(view(2).jacobian())
    for limits in (np.ones(5), np.zeros(6), np.full(6, np.nan)):
        with pytest.raises(OptionsError):
            pose.check_limits(limits)
    with pytest.raises(OptionsError, match="allocation"):
        pose.allocate(np.ones((6, 12)), np.ones(6), "fair")
    with pytest.raises(ProblemError, match="behind"):
        pose.View(np.zeros((4, 3)), np.array([0, 0, -1.0]), 1.0, np.zeros(2)).project()
