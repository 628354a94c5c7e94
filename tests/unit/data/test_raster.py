import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from verifier.data import raster


def slow(corners, inverse_depth, width, height):
    """Every pixel centre against every triangle, with cross products in the snapped coordinates."""
    seen, near = np.full((height, width), -1), np.zeros((height, width))
    points = np.rint(corners * raster.SUBPIXEL)
    depths = np.rint(inverse_depth * raster.DEPTH_STEPS)
    for row in range(height):
        for column in range(width):
            c = (np.array([column, row]) + 0.5) * raster.SUBPIXEL
            for t, (a, b, d) in enumerate(points):
                area = np.cross(np.append(b - a, 0), np.append(d - a, 0))[2]
                w = [np.cross(np.append(v - u, 0), np.append(c - u, 0))[2] for u, v in ((b, d), (d, a), (a, b))]
                if area > 0 and min(w) >= 0:
                    value = float(np.dot(w, depths[t]) / area) / raster.DEPTH_STEPS
                    if value >= near[row, column]:
                        seen[row, column], near[row, column] = t, value
    return seen, near


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_agrees_with_the_slow_way(seed, triangles):
    draw = np.random.default_rng(seed)
    corners = draw.uniform(-3, 10, (triangles, 3, 2))
    depth = draw.uniform(0.1, 0.9, (triangles, 3))
    seen, near = raster.fill(corners, depth, 8, 7)
    expected, value = slow(corners, depth, 8, 7)
    assert np.array_equal(seen, expected)
    assert np.allclose(near, value, atol=1e-12)


def test_neighbouring_triangles_leave_no_gap():
    a, b, c, d = [0.3, 0.2], [7.7, 0.4], [7.6, 7.9], [0.1, 7.8]
    corners = np.array([[a, b, c], [a, c, d]])
    seen, _ = raster.fill(corners, np.full((2, 3), 0.5), 8, 8)
    assert (seen[1:7, 1:7] >= 0).all()


def test_back_faces_and_far_triangles_are_not_drawn():
    corners = np.array([[[0.0, 0], [0, 8], [8, 0]], [[100.0, 100], [110, 100], [100, 110]]])
    seen, near = raster.fill(corners, np.full((2, 3), 0.5), 8, 8)
    assert (seen == -1).all()
    assert (near == 0).all()
