"""The aeroplane of `aircraft23`: a triangle mesh built from a few parameters, and its 23 key points.

Body axes, in fuselage lengths: x forward (tail -0.5, nose 0.5), y to the left wing, z up.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

KEYPOINTS: tuple[str, ...] = (
    "nose",
    "cockpit",
    "tail_cone",
    "belly",
    "wing_root_le_left",
    "wing_root_le_right",
    "wing_root_te_left",
    "wing_root_te_right",
    "wing_tip_le_left",
    "wing_tip_le_right",
    "wing_tip_te_left",
    "wing_tip_te_right",
    "engine_intake_left",
    "engine_intake_right",
    "engine_exhaust_left",
    "engine_exhaust_right",
    "tailplane_root_left",
    "tailplane_root_right",
    "tailplane_tip_left",
    "tailplane_tip_right",
    "fin_base",
    "fin_top_le",
    "fin_top_te",
)
"""Names of the 23 key points, in output order."""

MIRROR: tuple[int, ...] = tuple(
    KEYPOINTS.index(
        name.replace("_left", "_RIGHT").replace("_right", "_LEFT").replace("_RIGHT", "_right").replace("_LEFT", "_left")
    )
    for name in KEYPOINTS
)
"""`MIRROR[k]` is the key point that takes the place of k in a left-right mirrored image."""

SEGMENTS = 14  # facets around the fuselage
NACELLE_SEGMENTS = 10

# What a triangle belongs to; the livery gives each part a colour.
FUSELAGE, STRIPE, COCKPIT, WING, TAILPLANE, FIN, NACELLE, DARK, NOSE = range(9)
PARTS = 9


@dataclass(frozen=True)
class Lifting:
    """A wing-like surface: leading-edge point and chord at root and tip, maximal thickness relative to the chord."""

    root: tuple[float, float, float]
    root_chord: float
    tip: tuple[float, float, float]
    tip_chord: float
    thickness: float = 0.12


# Dimensions of a twin-engined airliner, a little stouter than real ones, in fuselage lengths.
RADIUS = 0.065
MAIN = Lifting((0.13, 0.045, -0.035), 0.25, (-0.13, 0.50, 0.015), 0.085)
TAIL = Lifting((-0.345, 0.02, 0.035), 0.125, (-0.445, 0.20, 0.06), 0.06)
RUDDER = Lifting((-0.29, 0.0, 0.045), 0.17, (-0.44, 0.0, 0.225), 0.075)
ENGINE = (0.095, 0.165, -0.075)  # centre of its length
ENGINE_LENGTH, ENGINE_RADIUS = 0.15, 0.036


@dataclass(frozen=True, eq=False)
class Mesh:
    """vertices (V, 3), triangles (T, 3) of vertex indices with outward normals, part (T,), mid (T,) = body x."""

    vertices: np.ndarray
    triangles: np.ndarray
    part: np.ndarray
    mid: np.ndarray


def _fuselage_profile() -> np.ndarray:
    """Rows (x, radius, z of the ring's centre): blunt nose, cylinder, tail cone swept upwards."""
    rows = [
        (0.500, 0.02, -0.15), (0.488, 0.35, -0.15), (0.465, 0.62, -0.10), (0.435, 0.83, -0.05), (0.395, 0.97, 0.0),
        (0.340, 1.00, 0.0), (0.260, 1.00, 0.0), (0.170, 1.00, 0.0), (0.080, 1.00, 0.0), (-0.010, 1.00, 0.0),
        (-0.100, 1.00, 0.0), (-0.180, 0.97, 0.03), (-0.260, 0.84, 0.16), (-0.340, 0.63, 0.34), (-0.420, 0.40, 0.50),
        (-0.500, 0.12, 0.62),
    ]  # fmt: skip
    return np.array([(x, r * RADIUS, z * RADIUS) for x, r, z in rows])


def _lathe(profile: np.ndarray, segments: int, centre: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and triangles of a body of revolution along x; profile rows (x, radius, z), x falling. Capped."""
    angle = 2 * np.pi * np.arange(segments) / segments
    ring = np.stack([np.zeros(segments), np.cos(angle), np.sin(angle)], axis=1)
    offset = np.array([0.0, centre[0], centre[1]])
    rings = [ring * r + np.array([x, 0.0, z]) + offset for x, r, z in profile]
    caps = [np.array([[x, 0.0, z]]) + offset for x, _, z in (profile[0], profile[-1])]
    vertices = np.concatenate(rings + caps)
    here = np.arange(segments)
    there = (here + 1) % segments
    faces = []
    for i in range(len(profile) - 1):
        a, b = i * segments, (i + 1) * segments
        faces += [np.stack([a + here, a + there, b + here], 1), np.stack([a + there, b + there, b + here], 1)]
    last, front = (len(profile) - 1) * segments, len(profile) * segments
    faces.append(np.stack([np.full(segments, front), there, here], 1))
    faces.append(np.stack([np.full(segments, front + 1), last + here, last + there], 1))
    return vertices, np.concatenate(faces)


def _surface(surface: Lifting, strips: int, across: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """A lifting surface as a closed skin with a four-sided section; `across` is the direction of its thickness."""
    t = np.linspace(0.0, 1.0, strips + 1)[:, None]
    lead = np.array(surface.root) * (1 - t) + np.array(surface.tip) * t
    chord = surface.root_chord * (1 - t) + surface.tip_chord * t
    back, up = np.array([-1.0, 0.0, 0.0]), np.array(across)
    half = 0.5 * surface.thickness * chord
    section = [
        lead,
        lead + 0.35 * chord * back + half * up,
        lead + chord * back,
        lead + 0.35 * chord * back - half * up,
    ]
    vertices = np.stack(section, axis=1).reshape(-1, 3)
    faces = []
    for i in range(strips):
        a, b = 4 * i, 4 * (i + 1)
        for k in range(4):
            m = (k + 1) % 4
            faces += [(a + k, b + k, a + m), (b + k, b + m, a + m)]
    end = 4 * strips
    faces += [(end, end + 2, end + 1), (end, end + 3, end + 2)]
    return vertices, np.array(faces)


def _mirrored(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same part on the other side; the order of the corners is reversed to keep normals outward."""
    return vertices * np.array([1.0, -1.0, 1.0]), faces[:, ::-1]


def _outward(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Turn the faces of a closed part outward: a positive signed volume (divergence theorem)."""
    a, b, c = (vertices[faces[:, k]] - vertices.mean(axis=0) for k in range(3))
    volume = np.einsum("ij,ij->", a, np.cross(b, c))
    return faces if volume >= 0 else faces[:, ::-1]


def _fuselage_parts(middle: np.ndarray) -> np.ndarray:
    """Part of each fuselage triangle from its centre (T, 3): cockpit windows, nose cap, window stripe, the rest."""
    part = np.full(len(middle), FUSELAGE)
    x, y, z = middle.T
    part[(np.abs(z - 0.2 * RADIUS) < 0.3 * RADIUS) & (x < 0.40)] = STRIPE
    part[(x > 0.40) & (x < 0.462) & (z > 0.25 * RADIUS) & (np.abs(y) < 0.9 * RADIUS)] = COCKPIT
    part[x > 0.462] = NOSE
    return part


@cache
def mesh() -> Mesh:
    """The triangle mesh of the airframe (about 700 triangles)."""
    pieces: list[tuple[np.ndarray, np.ndarray, int]] = []
    fuselage = _lathe(_fuselage_profile(), SEGMENTS, (0.0, 0.0))
    pieces.append((*fuselage, FUSELAGE))
    x, y, z = ENGINE
    shape = [(0.5, 0.93), (0.42, 1.0), (0.1, 1.0), (-0.25, 0.85), (-0.5, 0.55)]
    profile = np.array([(x + s * ENGINE_LENGTH, k * ENGINE_RADIUS, 0.0) for s, k in shape])
    engine = _lathe(profile, NACELLE_SEGMENTS, (y, z))
    for whole in (engine, _mirrored(*engine)):
        pieces.append((*whole, NACELLE))
    for surface, strips, part in ((MAIN, 6, WING), (TAIL, 3, TAILPLANE)):
        left = _surface(surface, strips, (0.0, 0.0, 1.0))
        pieces += [(*left, part), (*_mirrored(*left), part)]
    pieces.append((*_surface(RUDDER, 4, (0.0, 1.0, 0.0)), FIN))

    vertices, triangles, parts, count = [], [], [], 0
    for corner, faces, part in pieces:
        faces = _outward(corner, faces)
        middle = corner[faces].mean(axis=1)
        kind = _fuselage_parts(middle) if part == FUSELAGE else np.full(len(faces), part)
        if part == NACELLE:  # the caps: intake and exhaust look dark
            flat = np.ptp(corner[faces][:, :, 0], axis=1) < 1e-12
            kind[flat] = DARK
        vertices.append(corner)
        triangles.append(faces + count)
        parts.append(kind)
        count += len(corner)
    points, index = np.concatenate(vertices), np.concatenate(triangles)
    return Mesh(points, index, np.concatenate(parts), points[index][:, :, 0].mean(axis=1))


@cache
def keypoints() -> np.ndarray:
    """Positions of the 23 key points in body axes, float64 (23, 3)."""
    profile = _fuselage_profile()

    def both(point: tuple[float, float, float]) -> list[tuple[float, float, float]]:
        return [point, (point[0], -point[1], point[2])]

    def trailing(point: tuple[float, float, float], chord: float) -> tuple[float, float, float]:
        return (point[0] - chord, point[1], point[2])

    wing, tail, fin, (x, y, z) = MAIN, TAIL, RUDDER, ENGINE
    half = 0.5 * ENGINE_LENGTH
    # Root points lie where the surface leaves the fuselage, so that they can be seen.
    at_skin = 0.92 * RADIUS
    share = (at_skin - wing.root[1]) / (wing.tip[1] - wing.root[1])
    root = tuple(float(a + share * (b - a)) for a, b in zip(wing.root, wing.tip, strict=True))
    root_chord = wing.root_chord + share * (wing.tip_chord - wing.root_chord)
    points = [
        (float(profile[0][0]), 0.0, float(profile[0][2])),
        (0.43, 0.0, 0.75 * RADIUS),
        (float(profile[-1][0]), 0.0, float(profile[-1][2])),
        (0.0, 0.0, -RADIUS),
        *both((root[0], root[1], root[2])),
        *both(trailing((root[0], root[1], root[2]), root_chord)),
        *both(wing.tip),
        *both(trailing(wing.tip, wing.tip_chord)),
        *both((x + half, y, z)),
        *both((x - half, y, z)),
        *both((tail.root[0], 0.04, tail.root[2])),
        *both(tail.tip),
        (fin.root[0], 0.0, fin.root[2] + 0.012),
        fin.tip,
        trailing(fin.tip, fin.tip_chord),
    ]
    return np.array(points)
