"""Pictures of an image with its predicted and its true key points (Pillow only)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from verifier.errors import OutputError
from verifier.files.whole import Whole
from verifier.semantic.problem import SemanticProblem
from verifier.semantic.properties import Property, predict

SIDE = 512  # the picture is enlarged by a whole factor to about this size
TRUE, PREDICTED, MISS = (60, 220, 60), (255, 70, 60), (255, 210, 40)


def counterexample(problem: SemanticProblem, values: np.ndarray, path: Path, prop: Property) -> None:
    """Write the clean image and the image at `values` side by side, with key points and a caption.

    Green rings: reference; red crosses: prediction; yellow lines join the two. Raises OutputError.
    """
    clean = problem.perturbation.identity
    captions = ["unchanged", ", ".join(f"{n} {v:.4g}" for n, v in zip(problem.perturbation.names, values, strict=True))]
    panels = []
    for at, caption in zip((clean, np.asarray(values)), captions, strict=True):
        output = problem.answer(at)
        broken = float(problem.compiled.excess(output))
        verdict = f"violated by {broken:.3g}" if broken > 0 else f"holds, margin {-broken:.3g}"
        truth, marks = problem.target.keypoints, problem.target.visibility
        if truth is None or marks is None:
            panels.append(panel(problem.picture(at), None, None, [caption, f"class {int(output.argmax())}: {verdict}"]))
        else:
            seen = np.flatnonzero(marks)
            found = predict(problem.network, output, prop)
            lines = [caption, verdict, "green ring: reference, red cross: prediction"]
            panels.append(panel(problem.picture(at), truth[seen], found[seen], lines))
    save(side_by_side(panels), path)


def panel(
    image: np.ndarray, true: np.ndarray | None, found: np.ndarray | None, captions: Sequence[str] = ()
) -> Image.Image:
    """One enlarged picture (C, H, W) with reference and predicted key points (K, 2) in its pixels, captions below."""
    grey = np.clip(np.rint(np.clip(image, 0, 1) * 255), 0, 255).astype(np.uint8)
    data = np.repeat(grey, 3, axis=0) if len(grey) == 1 else grey
    height, width = data.shape[1:]
    up = max(1, SIDE // max(width, height))
    picture = Image.fromarray(np.ascontiguousarray(data.transpose(1, 2, 0)))
    picture = picture.resize((width * up, height * up), Image.Resampling.NEAREST)
    line = 16
    sheet = Image.new("RGB", (picture.width, picture.height + line * len(captions)), (20, 20, 20))
    sheet.paste(picture, (0, 0))
    pen = ImageDraw.Draw(sheet)
    for pair in zip(*(p * up for p in (true, found) if p is not None), strict=True) if true is not None else ():
        _mark(pen, pair, max(3, up // 2))
    for number, text in enumerate(captions):
        pen.text((4, picture.height + line * number + 2), text, fill=(235, 235, 235))
    return sheet


def _mark(pen: ImageDraw.ImageDraw, pair: tuple[np.ndarray, ...], r: int) -> None:
    """A ring at the reference, a cross at the prediction, a line between."""
    (x, y), rest = pair[0], pair[1:]
    for u, v in rest:
        pen.line([x, y, u, v], fill=MISS, width=1)
        pen.line([u - r, v - r, u + r, v + r], fill=PREDICTED, width=2)
        pen.line([u - r, v + r, u + r, v - r], fill=PREDICTED, width=2)
    pen.ellipse([x - r, y - r, x + r, y + r], outline=TRUE, width=2)


def side_by_side(panels: Sequence[Image.Image], gap: int = 6) -> Image.Image:
    """Panels in one row."""
    width = sum(p.width for p in panels) + gap * (len(panels) - 1)
    sheet = Image.new("RGB", (width, max(p.height for p in panels)), (90, 90, 90))
    left = 0
    for p in panels:
        sheet.paste(p, (left, 0))
        left += p.width + gap
    return sheet


def save(picture: Image.Image, path: Path) -> None:
    """Write the picture in the format of its suffix; OutputError when that fails."""
    with Whole(path, "the picture") as stream:
        try:
            picture.save(stream, format=Image.registered_extensions().get(path.suffix.lower(), path.suffix))
        except (KeyError, ValueError) as error:
            raise OutputError(f"{path}: cannot write the picture: no format is called {path.suffix!r}") from error
