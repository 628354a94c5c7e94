"""Scene -> picture, key points and visibility (NumPy only)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from verifier.data import airframe, raster
from verifier.data.scene import FOCAL, Scene

HIDDEN_MARGIN = 0.03  # fuselage lengths a surface must lie in front of a key point to hide it
LEVELS = 4095  # colour steps of a sub-sample: integers, so that the box filter is exact


@dataclass(frozen=True, eq=False)
class Picture:
    """image uint8 (size, size, 3) RGB; keypoints float64 (23, 2) pixels (x, y); visibility int (23,).

    Key points use continuous coordinates: (0, 0) is the top left corner of the frame and the centre of pixel
    (column i, row j) is (i + 0.5, j + 0.5). Visibility: 2 seen, 1 hidden behind the aeroplane, 0 outside the frame.
    """

    image: np.ndarray
    keypoints: np.ndarray
    visibility: np.ndarray


@dataclass(frozen=True, eq=False)
class Camera:
    """Pinhole camera: `body` (3, 3) turns body axes into camera axes (right, down, forward)."""

    body: np.ndarray
    world: np.ndarray
    distance: float
    centre: np.ndarray  # (2,) of the principal point, in frame sides

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Body points (P, 3) -> positions (P, 2) in frame sides, and depths (P,) in fuselage lengths."""
        local = points @ self.body.T
        depth = local[:, 2] + self.distance
        return FOCAL * local[:, :2] / depth[:, None] + self.centre, depth


def _rotation(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Body to camera axes and world to camera axes."""
    (cy, sy), (cp, sp), (cr, sr) = ((np.cos(a), np.sin(a)) for a in (scene.yaw, scene.pitch, scene.roll))
    yaw = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1.0]])
    pitch = np.array([[cp, 0, -sp], [0, 1.0, 0], [sp, 0, cp]])  # positive: nose up
    roll = np.array([[1.0, 0, 0], [0, cr, -sr], [0, sr, cr]])
    c, s = np.cos(scene.elevation), np.sin(scene.elevation)
    world = np.array([[0, -1.0, 0], [-s, 0, -c], [c, 0, -s]])  # rows: right, down, forward; looking down on it
    return world @ yaw @ pitch @ roll, world


def camera(scene: Scene) -> Camera:
    """Place the camera so that the box around the key points has the wanted size and position."""
    body, world = _rotation(scene)
    points = airframe.keypoints()
    place = Camera(body, world, 4.0, np.array([0.5, 0.5]))
    for _ in range(6):  # a contraction: the box shrinks almost like 1 / distance
        flat, _ = place.project(points)
        extent = float(np.ptp(flat, axis=0).max())
        place = Camera(body, world, max(place.distance * extent / scene.fill, 1.2), place.centre)
    flat, _ = place.project(points)
    middle = 0.5 * (flat.min(axis=0) + flat.max(axis=0))
    return Camera(body, world, place.distance, place.centre + 0.5 + np.array(scene.shift) - middle)


def render(scene: Scene, size: int) -> Picture:
    """Render a scene at size x size pixels."""
    fine = (3 if size <= 64 else 2) * size
    view = camera(scene)
    body = airframe.mesh()
    flat, depth = view.project(body.vertices)
    faces = body.triangles[:, ::-1]  # outward normals point at the camera: clockwise on a screen with y down
    # Inverse depths in (0, 1): the camera is never nearer than 0.5 lengths to any point of the mesh.
    seen, near = raster.fill(flat[faces] * fine, 0.5 / depth[faces], fine, fine)
    colour = np.rint(_shade(scene, view, body) * LEVELS).astype(np.int64)
    canvas = np.rint(_background(scene, view, fine) * LEVELS).astype(np.int64)
    on = seen >= 0
    canvas[on] = colour[seen[on]]
    step = fine // size
    total = canvas.reshape(size, step, size, step, 3).sum(axis=(1, 3))
    image = (total * 255 + LEVELS * step * step // 2) // (LEVELS * step * step)
    points, far = view.project(airframe.keypoints())
    return Picture(image.astype(np.uint8), points * size, _visibility(points * fine, far, near))


def _visibility(points: np.ndarray, depth: np.ndarray, near: np.ndarray) -> np.ndarray:
    """0 outside, 1 hidden, 2 seen; hidden when all 3 x 3 sub-pixels around it show something clearly nearer."""
    fine = near.shape[0]
    column, row = np.floor(points).astype(np.int64).T
    inside = (column >= 0) & (column < fine) & (row >= 0) & (row < fine)
    result = np.zeros(len(points), dtype=np.int64)
    for k in np.flatnonzero(inside):
        patch = near[max(row[k] - 1, 0) : row[k] + 2, max(column[k] - 1, 0) : column[k] + 2]
        hidden = bool((patch > 0.5 / (depth[k] - HIDDEN_MARGIN)).all())
        result[k] = 1 if hidden else 2
    return result


def _shade(scene: Scene, view: Camera, body: airframe.Mesh) -> np.ndarray:
    """Colour of each triangle (T, 3): Lambert plus a small highlight."""
    corner = body.vertices[body.triangles]
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    normal = normal @ view.body.T
    sun = view.world @ np.array(scene.light)
    lambert = np.maximum(normal @ sun, 0.0)
    half = sun - np.array([0.0, 0.0, 1.0])
    gloss = np.maximum(normal @ (half / np.linalg.norm(half)), 0.0)
    gloss = gloss * gloss
    gloss = gloss * gloss
    gloss = gloss * gloss * gloss  # to the power 12
    colour = scene.paint[body.part]
    start, length, *band = scene.band
    ring = (body.mid > start) & (body.mid < start + length) & (body.part <= airframe.STRIPE)
    colour = np.where(ring[:, None], np.array(band), colour)
    lit = scene.ambient + (1.0 - scene.ambient) * lambert
    return np.clip(colour * lit[:, None] + scene.shine * gloss[:, None], 0.0, 1.0)


def _background(scene: Scene, view: Camera, fine: int) -> np.ndarray:
    """Sky with clouds above the horizon, ground with a runway below: (fine, fine, 3)."""
    axis = (np.arange(fine) + 0.5) / fine
    # Slope of the line of sight: rows below the horizon see the ground.
    below = (axis - view.centre[1]) / FOCAL + np.tan(scene.elevation)
    side = (axis - view.centre[0]) / FOCAL
    height = np.clip(-below / 0.30, 0.0, 1.0)[:, None, None]
    sky = scene.sky[0] * height + scene.sky[1] * (1 - height)
    cloud = np.clip(1.6 * _noise(scene.clouds[0], fine) - 0.6, 0.0, 1.0)[:, :, None]
    sky = sky + (0.95 - sky) * 0.6 * cloud
    away = 1.0 / np.maximum(below, 0.02)[:, None]  # distance on the ground, in camera heights
    ground = scene.ground * (0.75 + 0.5 * _noise(scene.clouds[1], fine))[:, :, None]
    ground = _runway(scene, ground, side[None, :] * away, away)
    fog = np.clip((away - 3.0) / 40.0, 0.0, 0.8)[:, :, None]
    ground = ground * (1 - fog) + scene.sky[1] * fog
    return np.clip(np.where((below > 0)[:, None, None], ground, sky), 0.0, 1.0)


def _runway(scene: Scene, ground: np.ndarray, across: np.ndarray, away: np.ndarray) -> np.ndarray:
    """Paint a runway that runs away from the camera: asphalt, edge lines, dashed centre line."""
    lateral, width, heading, phase = scene.runway
    if width <= 0:
        return ground
    offset = across - lateral * 2.0 - heading * away
    asphalt = np.abs(offset) < width
    dash = np.floor(away * 0.5 + phase * 2.0) % 2 == 0
    line = ((np.abs(offset) < 0.04 * width * 2) & dash) | (asphalt & (np.abs(offset) > 0.9 * width))
    painted = np.where(asphalt[:, :, None], np.array([0.27, 0.27, 0.29]), ground)
    return np.where(line[:, :, None], 0.85, painted)


def _noise(grid: np.ndarray, fine: int) -> np.ndarray:
    """Value noise in [0, 1]: a random grid with smooth interpolation, (fine, fine)."""
    n = grid.shape[0] - 1
    position = (np.arange(fine) + 0.5) / fine * n
    cell = np.minimum(position.astype(np.int64), n - 1)
    t = position - cell
    t = t * t * (3.0 - 2.0 * t)
    weights = np.zeros((fine, n + 1))
    weights[np.arange(fine), cell] = 1.0 - t
    weights[np.arange(fine), cell + 1] += t
    return weights @ grid @ weights.T
