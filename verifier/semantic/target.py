"""What the network should say: key points with visibility, or a class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from verifier.brief import brief
from verifier.errors import OptionsError, ProblemError


@dataclass(frozen=True, eq=False)
class Target:
    """keypoints float64 (K, 2): (x, y) in pixels of the network's input image, (0, 0) its top left corner.

    visibility int (K,): 2 seen, 1 hidden, 0 not in the picture. label: class index, for classifiers.
    """

    __repr__ = brief

    keypoints: np.ndarray | None = None
    visibility: np.ndarray | None = None
    label: int | None = None

    def __post_init__(self) -> None:
        if self.keypoints is None:
            return
        points = np.asarray(self.keypoints, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != 2 or len(points) == 0 or not np.isfinite(points).all():
            raise ProblemError(f"key points must be finite (x, y) pairs, found an array of shape {list(points.shape)}")
        seen = np.full(len(points), 2) if self.visibility is None else np.asarray(self.visibility, dtype=np.int64)
        if seen.shape != (len(points),) or not np.isin(seen, (0, 1, 2)).all():
            raise ProblemError(f"visibility needs one of 0, 1, 2 for each of the {len(points)} key points")
        object.__setattr__(self, "keypoints", points)
        object.__setattr__(self, "visibility", seen)

    def chosen(self, hidden: bool = False) -> np.ndarray:
        """Indices of the key points a property speaks about: the seen ones, with `hidden` also the hidden ones.

        Raises ProblemError when there are none.
        """
        if self.keypoints is None or self.visibility is None:
            raise ProblemError("this property needs key points, and the target has none")
        index = np.flatnonzero(self.visibility >= (1 if hidden else 2))
        if len(index) == 0:
            more = "" if hidden else "; hidden ones can be included (--include-hidden)"
            raise ProblemError(f"no key point is visible, so there is nothing to verify{more}")
        return index

    def check_frame(self, width: int, height: int) -> None:
        """ProblemError if a key point that is said to be in the picture (visibility 1 or 2) lies outside it."""
        if self.keypoints is None or self.visibility is None:
            return
        for k in np.flatnonzero(self.visibility):
            x, y = self.keypoints[k]
            if not (0 <= x <= width and 0 <= y <= height):
                raise ProblemError(
                    f"key point {k} at ({x:g}, {y:g}) lies outside the {width}x{height} image but is marked as being "
                    "in it; set its visibility to 0 or correct it"
                )


def check_label(label: int | None, classes: int) -> int:
    """The class index, if it is one."""
    if label is None:
        raise OptionsError("a class label is needed (--label), or --reference self")
    if not 0 <= label < classes:
        raise OptionsError(f"class {label} does not exist: the network has classes 0 to {classes - 1}")
    return label
