"""The options that name pictures and say what a network's inputs and outputs mean: the same in every command.

Nothing heavy is imported here, so that `--help` stays quick.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from verifier.console.arguments import numbers
from verifier.errors import OptionsError

CROPS = ("box", "none", "whole")
CROP = "box"
DATA = """\
--data is one of
  aircraft23[:SPLIT[:FIRST-LAST]][:VIEW]   rendered pictures; SPLIT is train, val, test or hard
  FOLDER, LIST.txt, PICTURE                pictures (PNG, JPEG, NPY, ..), or a list of them, one a line; NAME.json
                                           beside a picture: {"keypoints": [[x, y, v], ..]} or {"label": class}
  FILE.npz                                 images (n, C, H, W); keypoints (n, K, 2 or 3) in pixels, or labels (n,)
  COCO.json                                objects with key points; pictures lie in its folder, or in --pictures
Pixels are read as [0, 1], by their depth; floating-point values have to lie there. Pictures have to be of the
network's size, but for --crop: box (the default) cuts out a COCO object's box x 1.25 as a square and resizes it, and
takes pictures without a box as they are; none takes every picture as it is; whole resizes the whole picture.
Key points are (x, y) in pixels of the picture, (0, 0) being its top left corner.
"""
IMAGES = "which of the data: N (the first N), A:B (A to B - 1) or A,B,C"


def add_data(group: argparse._ArgumentGroup, *names: str) -> None:
    """--data (and other names for it), --pictures, --crop."""
    group.add_argument("--data", *names, dest="data", metavar="SOURCE", help="see the end of this help")
    group.add_argument("--pictures", type=Path, metavar="DIR", help="folder of the pictures of a COCO file")
    group.add_argument(
        "--crop", choices=CROPS, default=CROP, help=f"how pictures get the network's size (default: {CROP})"
    )


def add_network(group: argparse._ArgumentGroup) -> None:
    """How pictures enter the network, and what its outputs mean in pixels."""
    group.add_argument("--layout", choices=("auto", "nchw", "nhwc", "flat"), default="auto", help="order of the input")
    group.add_argument("--channels", type=int, choices=(1, 3), help="for networks with a flat input")
    group.add_argument(
        "--mean", type=numbers, help="normalisation (x - mean) / std of pixels in [0, 1] in front of the network"
    )
    group.add_argument("--std", type=numbers)
    group.add_argument("--output-scale", type=float, metavar="S", help="pixel = scale * output + shift (default: 1)")
    group.add_argument("--output-shift", type=float, metavar="S", help="(default: 0)")


def chosen(text: str | None, count: int | None, default: int | None = None) -> list[int]:
    """The indices that --images means in a source of `count` pictures (None: unlimited); all of them without it.

    default: how many of the first are taken without it, where there are so many. OptionsError for an index that does
    not exist or a text of another form.
    """
    if text is None:
        if default is None and count is None:
            raise OptionsError("--images is missing: which pictures, N (the first N), A:B (A to B - 1) or A,B,C")
        return list(range(min(n for n in (count, default) if n is not None)))
    try:
        if ":" in text:
            first, last = (int(part) for part in text.split(":"))
            found = list(range(first, last))
        elif "," in text:
            found = [int(part) for part in text.split(",")]
        else:
            first, last = 0, int(text)
            found = list(range(last))
    except ValueError:
        raise OptionsError(f"--images: found '{text}', expected N (the first N), A:B (A to B - 1) or A,B,C") from None
    if not found or min(found) < 0 or len(set(found)) < len(found):
        raise OptionsError(f"--images {text}: the range is empty, negative, or names a picture twice")
    if count is not None and max(found) >= count:
        raise OptionsError(f"--images {text}: there are {count} pictures, 0 to {count - 1}")
    return found
