import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from verifier.data import aircraft23, airframe, cache, render
from verifier.data.scene import FOCAL, VIEWS
from verifier.errors import OptionsError

GOLDEN = {
    "train 0 []": "d833475667367e45",
    "train 19999 [('grey', False)]": "c9f66670e1262a82",
    "val 7 [('size', 32)]": "a2cce0cd3ae36320",
    "test 12 [('view', 'full')]": "9c3526a058546a34",
    "test 12 [('seed', 5)]": "1b791fd997bab266",
    "hard 3 []": "d5ae55d283f3338b",
    "test 1 [('size', 128)]": "2edc34177d96377b",
}


def digest(split, index, **options):
    data = aircraft23.load(split, 1, start=index, **options)
    levels = np.rint(data.images * 255).astype(np.uint8)
    return hashlib.sha256(levels.tobytes() + data.visibility.astype(np.uint8).tobytes()).hexdigest()[:16]


CASES = [
    ("train", 0, {}),
    ("train", 19_999, {"grey": False}),
    ("val", 7, {"size": 32}),
    ("test", 12, {"view": "full"}),
    ("test", 12, {"seed": 5}),
    ("hard", 3, {}),
    ("test", 1, {"size": 128}),
]


@pytest.mark.parametrize(("split", "index", "options"), CASES)
def test_pictures_are_the_same_everywhere(split, index, options):
    key = f"{split} {index} {sorted(options.items())}"
    assert digest(split, index, **options) == GOLDEN[key]


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(aircraft23, "BLOCK", 10)
    monkeypatch.setattr(aircraft23, "WORTH_STORING", 5)


def test_a_picture_does_not_depend_on_what_else_is_asked_for(small_blocks):
    alone = aircraft23.load("test", 1, start=11, size=16)
    among = aircraft23.load("test", 4, start=9, size=16)
    assert not list(cache.directory().rglob("*.npz"))
    stored = aircraft23.load("test", 14, start=2, size=16, workers=1)  # fills two cache blocks
    assert len(list(cache.directory().rglob("*.npz"))) == 2
    again = aircraft23.load("test", 14, start=2, size=16, workers=1)  # reads them
    for a, b, c, d in zip(alone, among, stored, again, strict=True):
        assert np.array_equal(a[0], b[2])
        assert np.array_equal(b[0], c[7])
        assert np.array_equal(c, d)


def test_shapes_types_and_ranges():
    data = aircraft23.load("train", 3, size=32, grey=False)
    assert data.images.shape == (3, 3, 32, 32)
    assert data.images.dtype == np.float32
    assert data.keypoints.shape == (3, 23, 2)
    assert data.visibility.shape == (3, 23)
    assert 0 <= data.images.min() < data.images.max() <= 1
    levels = data.images * 255
    assert np.abs(levels - np.rint(levels)).max() < 1e-4
    assert aircraft23.load("train", 0).images.shape == (0, 1, 64, 64)


def test_grey_is_the_luminance_of_colour():
    grey = aircraft23.load("val", 2).images
    colour = aircraft23.load("val", 2, grey=False).images
    expected = np.tensordot(np.array([0.299, 0.587, 0.114]), colour, axes=(0, 1))
    assert np.abs(grey[:, 0] - expected).max() < 0.51 / 255


def independent_projection(scene, size):
    """Key points by another route: SciPy rotations, world coordinates, a look-at matrix."""
    turn = Rotation.from_euler("ZYX", [scene.yaw, -scene.pitch, scene.roll])
    world = turn.apply(airframe.keypoints())
    view = render.camera(scene)
    forward = np.array([np.cos(scene.elevation), 0.0, -np.sin(scene.elevation)])
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    eye = -view.distance * forward
    rays = world - eye
    flat = np.stack([rays @ right, rays @ down], 1) / (rays @ forward)[:, None]
    return size * (FOCAL * flat + view.centre)


@pytest.mark.parametrize("view", sorted(VIEWS))
def test_key_points_are_projections_and_fill_the_frame(view):
    for index in range(25):
        scene = aircraft23.scene("test", index, view=view)
        data = aircraft23.load("test", 1, start=index, size=32, view=view)
        expected = independent_projection(scene, 32)
        assert np.abs(data.keypoints[0] - expected).max() < 1e-4
        extent = np.ptp(expected, axis=0).max() / 32
        assert abs(extent - scene.fill) < 0.02
        assert (data.visibility[0] > 0).all()
        assert expected.min() >= 0
        assert expected.max() <= 32


def test_seen_key_points_lie_on_the_drawn_aeroplane():
    """The picture differs from the same scene with another paint near every key point that is marked as seen."""
    from dataclasses import replace

    near = total = 0
    for index in range(12):
        scene = aircraft23.scene("val", index)
        picture = render.render(scene, 64)
        painted = render.render(replace(scene, paint=1.0 - scene.paint, ambient=1.0, band=(0, 0, 0, 0, 0)), 64)
        changed = (picture.image != painted.image).any(axis=2)
        for (x, y), seen in zip(picture.keypoints, picture.visibility, strict=True):
            if seen == 2:
                row, column = int(y), int(x)
                patch = changed[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
                near += bool(patch.any())
                total += 1
    assert total > 100
    assert near / total > 0.97


def test_hidden_points_are_hidden_by_the_fuselage():
    """Seen exactly from the left, the right wing root lies behind the fuselage; the nose is always in view."""
    from dataclasses import replace

    scene = replace(
        aircraft23.scene("test", 0), yaw=np.pi / 2, pitch=0.0, roll=0.0, elevation=0.0
    )  # nose to the left of the picture, so the camera sees its left side
    picture = render.render(scene, 64)
    seen = dict(zip(airframe.KEYPOINTS, picture.visibility, strict=True))
    nearer = "left" if picture.keypoints[0, 0] < picture.keypoints[2, 0] else "right"
    other = "right" if nearer == "left" else "left"
    assert seen["nose"] == 2
    assert seen[f"engine_intake_{nearer}"] == 2
    assert seen[f"wing_root_te_{other}"] == 1
    assert seen[f"tailplane_root_{other}"] == 1


def test_mirror_image():
    assert [airframe.MIRROR[k] for k in airframe.MIRROR] == list(range(23))
    for index in range(6):
        scene = aircraft23.scene("train", index)
        plain, other = render.render(scene, 64), render.render(scene.mirrored(), 64)
        order = list(airframe.MIRROR)
        flipped = other.keypoints[order] * [-1, 1] + [64, 0]
        assert np.abs(flipped - plain.keypoints).max() < 1e-9
        gap = np.abs(other.image[:, ::-1].astype(int) - plain.image)
        assert (gap > 24).mean() < 0.01  # facets are not symmetric to the last sub-pixel
        assert gap.mean() < 1.0
        assert (other.visibility[order] == plain.visibility).mean() > 0.9


def test_the_hard_split_leaves_the_frame():
    seen = aircraft23.load("hard", 20, size=16).visibility
    assert (seen == 0).any()
    assert (seen == 2).any()


def test_damaged_cache_is_rendered_again(small_blocks):
    first = aircraft23.load("train", 10, size=16, workers=1)
    (path,) = cache.directory().rglob("*.npz")
    content = path.read_bytes()
    for damage in (b"", b"not a zip file", content[:2000], content.replace(b"keypoints", b"keypointz")):
        path.write_bytes(damage)
        again = aircraft23.load("train", 10, size=16, workers=1)
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
        assert path.read_bytes() != damage


def test_workers_give_the_same_pictures(small_blocks):
    one = aircraft23.load("val", 4, size=16, start=8, workers=1)
    two = aircraft23.load("val", 4, size=16, start=8, workers=2)
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


RENDERING = """
import os, time
from verifier.data import aircraft23

def rendering(*_):
    os.write(1, b"%d\\n" % os.getpid())  # one call: print makes two where streams are unbuffered, and lines mix
    time.sleep(60)

aircraft23._block = rendering  # the workers are forks
aircraft23.load("train", 3 * aircraft23.BLOCK, size=16, workers=3)
"""


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="the workers are forks of a changed module"
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_a_parent_that_is_ended_while_it_renders(number):
    with subprocess.Popen([sys.executable, "-c", RENDERING], stdout=subprocess.PIPE, text=True) as parent:
        workers = []
        try:
            workers += [int(parent.stdout.readline()) for _ in range(3)]
            assert parent.pid not in workers and len(set(workers)) == 3
            parent.send_signal(number)
            parent.communicate(timeout=20)  # the pipe ends with the last who holds it
        except subprocess.TimeoutExpired:
            for worker in workers:
                os.kill(worker, signal.SIGKILL)
            pytest.fail("workers outlive their parent")
        finally:
            parent.kill()
    assert parent.returncode == -number


@pytest.mark.parametrize(
    "options",
    [
        {"split": "nope"},
        {"size": 65},
        {"n": -1},
        {"start": -1},
        {"start": 999_999, "n": 2},
        {"seed": -1},
        {"view": "x"},
    ],
)
def test_bad_requests(options):
    with pytest.raises(OptionsError):
        aircraft23.load(**{"split": "test", "n": 1, **options})


def test_rendering_needs_no_torch():
    load = "from verifier.data import aircraft23; aircraft23.load('test', 1, size=16)"
    code = f"import sys; {load}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
