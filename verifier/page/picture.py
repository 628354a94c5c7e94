"""Arrays as pictures inside a page."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image


def png(values: np.ndarray, low: float, high: float) -> str:
    """The data address of a PNG of `values` (1 or 3, H, W), grey or red, green, blue; `low` is black, `high` full."""
    scaled = np.clip((values - low) / (high - low if high > low else 1.0), 0.0, 1.0)
    levels = np.moveaxis(np.round(255 * scaled).astype(np.uint8), 0, 2)
    stream = io.BytesIO()
    Image.fromarray(levels[:, :, 0] if levels.shape[2] == 1 else levels).save(stream, format="PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
