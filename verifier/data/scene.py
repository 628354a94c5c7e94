"""What one picture of `aircraft23` shows: pose, camera, light, paint and background, drawn at random or mirrored."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from verifier.data.airframe import PARTS
from verifier.data.draws import Draws

VIEWS = {"quarter": (115.0, 245.0), "full": (0.0, 360.0)}
"""Range of the yaw angle in degrees; 180 looks at the nose, 0 at the tail."""

FOCAL = 1.9  # focal length in frame widths (a field of view of 29.5 degrees)
CLOUD_GRID = 9


@dataclass(frozen=True, eq=False)
class Scene:
    """Angles in radians, `fill` and `shift` as shares of the frame side, colours as RGB in [0, 1].

    fill: longer side of the box around the key points. shift (x, y): offset of that box's centre from the frame's.
    light: unit vector towards the sun in world axes. paint (9, 3): colour per part of the mesh. band (start, length,
    r, g, b): a painted ring around the fuselage. clouds (2, 9, 9): value noise for sky and ground.
    runway (lateral offset, half width, heading, phase), half width 0 for none.
    """

    yaw: float
    pitch: float
    roll: float
    elevation: float
    fill: float
    shift: tuple[float, float]
    light: tuple[float, float, float]
    ambient: float
    shine: float
    paint: np.ndarray
    band: tuple[float, float, float, float, float]
    sky: np.ndarray  # (2, 3): zenith and horizon
    ground: np.ndarray  # (3,)
    clouds: np.ndarray
    runway: tuple[float, float, float, float]

    def mirrored(self) -> Scene:
        """The scene seen in a mirror: its picture is the left-right flip of this one's."""
        light = (self.light[0], -self.light[1], self.light[2])
        offset, width, heading, phase = self.runway
        return replace(
            self,
            yaw=-self.yaw,
            roll=-self.roll,
            shift=(-self.shift[0], self.shift[1]),
            light=light,
            clouds=self.clouds[:, :, ::-1],
            runway=(-offset, width, -heading, phase),
        )


def sample(draws: Draws, view: str, hard: bool = False) -> Scene:
    """Draw a scene. `hard` widens the pose and lets the aeroplane leave the frame (the out-of-range split)."""
    low, high = VIEWS[view]
    tilt = 35.0 if hard else 20.0
    yaw, pitch, roll = (np.deg2rad(draws.uniform(a, b)) for a, b in ((low, high), (-tilt, tilt), (-tilt, tilt)))
    elevation = np.deg2rad(draws.uniform(4.0, 22.0))
    fill = draws.uniform(0.85, 1.15) if hard else draws.uniform(0.60, 0.85)
    room = 0.15 if hard else 0.5 * (0.95 - fill)
    shift = (draws.uniform(-room, room), draws.uniform(-room, room))
    azimuth, height = draws.uniform(0.0, 2 * np.pi), np.deg2rad(draws.uniform(20.0, 75.0))
    light = (np.cos(azimuth) * np.cos(height), np.sin(azimuth) * np.cos(height), np.sin(height))
    return Scene(
        yaw=float(yaw),
        pitch=float(pitch),
        roll=float(roll),
        elevation=float(elevation),
        fill=fill,
        shift=shift,
        light=(float(light[0]), float(light[1]), float(light[2])),
        ambient=draws.uniform(0.2, 0.5),
        shine=draws.uniform(0.0, 0.35),
        paint=_paint(draws),
        band=_band(draws),
        sky=_sky(draws),
        ground=_ground(draws),
        clouds=draws.unit(2, CLOUD_GRID, CLOUD_GRID),
        runway=_runway(draws),
    )


def _colour(draws: Draws, low: float, high: float, spread: float) -> np.ndarray:
    """A colour of brightness in [low, high] whose channels differ by at most `spread`."""
    return np.clip(draws.uniform(low, high) + spread * (draws.unit(3) - 0.5), 0.0, 1.0)


def _paint(draws: Draws) -> np.ndarray:
    body = _colour(draws, 0.72, 1.0, 0.12)
    accent = _colour(draws, 0.1, 0.65, 0.7)
    wing = _colour(draws, 0.55, 0.85, 0.06)
    paint = np.zeros((PARTS, 3))
    stripe = accent if draws.chance(0.6) else body
    fin = accent if draws.chance(0.7) else body
    engine = accent if draws.chance(0.3) else _colour(draws, 0.5, 0.9, 0.06)
    dark = np.array([0.06, 0.06, 0.08])
    for part, colour in enumerate((body, stripe, dark + 0.05, wing, wing, fin, engine, dark, body)):
        paint[part] = colour
    return paint


def _band(draws: Draws) -> tuple[float, float, float, float, float]:
    start, length = draws.uniform(-0.35, 0.3), draws.uniform(0.02, 0.15)
    colour = _colour(draws, 0.1, 0.8, 0.7)
    present = draws.chance(0.5)
    return (start, length if present else 0.0, float(colour[0]), float(colour[1]), float(colour[2]))


def _sky(draws: Draws) -> np.ndarray:
    top = np.array([0.25, 0.45, 0.75]) * draws.uniform(0.5, 1.25)
    haze = np.array([0.75, 0.8, 0.88]) * draws.uniform(0.6, 1.1)
    return np.clip(np.stack([top, haze]), 0.0, 1.0)


def _ground(draws: Draws) -> np.ndarray:
    kinds = np.array([[0.30, 0.36, 0.22], [0.45, 0.42, 0.34], [0.38, 0.39, 0.40], [0.22, 0.30, 0.36]])
    return kinds[draws.below(4)] * draws.uniform(0.6, 1.25)


def _runway(draws: Draws) -> tuple[float, float, float, float]:
    width = draws.uniform(0.25, 0.6)
    lateral, heading, phase = draws.uniform(-0.8, 0.8), draws.uniform(-0.5, 0.5), draws.uniform(0.0, 1.0)
    return (lateral, width if draws.chance(0.65) else 0.0, heading, phase)
