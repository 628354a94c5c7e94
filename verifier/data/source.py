"""Where pictures and their truth come from: one value for `--data` that every command uses.

A source has a number of pictures (or no limit) and reads any of them at the size that a network takes:
`aircraft23[:SPLIT[:FIRST-LAST]][:VIEW]`, a folder, a list or a single picture, an .npz file, or COCO key points.
"""

from __future__ import annotations

import re
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from verifier.brief import brief
from verifier.data import aircraft23, coco, pictures, truth
from verifier.data.frame import Frame
from verifier.data.options import CROP, CROPS
from verifier.data.scene import Scene
from verifier.errors import OptionsError, ProblemError, SecateurError

RENDERED = re.compile(r"aircraft23(?::([a-z]\w*))?(?::(\d+)(?:-(\d+))?)?(?::([a-z]\w*))?")
MAX_IMAGES = 100_000
MAX_ARRAY_BYTES = 1 << 34
MAX_LIST_BYTES = 1 << 24


@dataclass(frozen=True, eq=False)
class Sample:
    """image float64 (C, H, W) in [0, 1]; keypoints (K, 2) in its pixels and their visibility (K,), or None.

    Visibility: 2 seen, 1 hidden, 0 not there. label: a class or None. scene: of rendered pictures. note: what was done
    to the picture, if anything.
    """

    __repr__ = brief

    image: np.ndarray
    name: str
    keypoints: np.ndarray | None = None
    visibility: np.ndarray | None = None
    label: int | None = None
    scene: Scene | None = None
    note: str = ""


class PictureSource(ABC):
    """Pictures by index. `count` is None where there is no limit."""

    count: int | None

    def read(self, frame: Frame, indices: Sequence[int]) -> list[Sample]:
        """The pictures of these indices at the size of `frame`; ProblemError for one that cannot be read or used."""
        if len(indices) > MAX_IMAGES:
            raise OptionsError(f"{len(indices)} pictures are too many at once; at most {MAX_IMAGES}")
        if self.count is not None and indices and not 0 <= min(indices) <= max(indices) < self.count:
            raise ProblemError(f"picture {max(indices)} was asked for; there are {self.count}, 0 to {self.count - 1}")
        return self._read(frame, indices)

    @abstractmethod
    def note(self, frame: Frame) -> str:
        """How pictures get the network's size, for the user."""

    def paths(self) -> list[Path]:
        """The files that are read."""
        return []

    def _read(self, frame: Frame, indices: Sequence[int]) -> list[Sample]:
        return [self._one(frame, int(i)) for i in indices]

    def _one(self, frame: Frame, index: int) -> Sample:
        raise NotImplementedError


def find(text: str, *, split: str = "test", crop: str = CROP, folder: Path | None = None) -> PictureSource:
    """The source that a text means (see the module); `split` where aircraft23 is named without one.

    folder: where the pictures of a COCO file lie, by default beside it. Raises OptionsError or ProblemError.
    """
    if crop not in CROPS:
        raise OptionsError(f"unknown crop '{crop}'; choose one of {', '.join(CROPS)}")
    if text == "aircraft23" or text.startswith("aircraft23:"):
        return _rendered(text, split)
    path, suffix = Path(text), Path(text).suffix.lower()
    if folder is not None and suffix != ".json":
        raise OptionsError(f"--pictures belongs to a COCO file (.json), found data '{text}'")
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in pictures.SUFFIXES)
        if not files:
            raise ProblemError(f"{path}: no pictures in this folder; expected {', '.join(pictures.SUFFIXES)}")
        return PictureFiles(tuple(files), crop)
    if suffix == ".npz":
        return PictureArrays(path, crop)
    if suffix == ".json":
        return Annotated(path, path.parent if folder is None else folder, crop)
    if suffix == ".txt":
        return PictureFiles(_listed(path), crop)
    if suffix in pictures.SUFFIXES:
        return PictureFiles((path,), crop)
    raise OptionsError(
        f"data '{text}': expected aircraft23, a folder, a picture, a list of pictures (.txt), an .npz file, or a COCO "
        "file (.json)"
    )


def files_read(text: str | None, folder: Path | None = None) -> list[Path]:
    """The files behind `--data`; none where it cannot be used, which its reader will say."""
    if text is None:
        return []
    try:
        return find(text, folder=folder).paths()
    except SecateurError:
        return [Path(text)]


def _rendered(text: str, split: str) -> Rendered:
    match = RENDERED.fullmatch(text)
    if match is None or (match[2] and not match[1]):
        raise OptionsError(
            f"'{text}' is not of the form aircraft23:SPLIT, aircraft23:SPLIT:INDEX or aircraft23:SPLIT:FIRST-LAST"
        )
    named, view = match[1] or split, match[4] or "quarter"
    for kind, value, known in (("split", named, aircraft23.SPLITS), ("view", view, aircraft23.VIEWS)):
        if value not in known:
            raise OptionsError(f"aircraft23 has no {kind} '{value}'; choose one of {', '.join(known)}")
    first = int(match[2] or 0)
    last = int(match[3] or first) if match[2] else aircraft23.LIMIT - 1
    if last < first:
        raise OptionsError(f"the index range {first}-{last} is empty")
    return Rendered(named, view, first, last - first + 1 if match[2] else None)


@dataclass(frozen=True)
class Rendered(PictureSource):
    """`aircraft23`, from picture `first` on."""

    split: str
    view: str = "quarter"
    first: int = 0
    count: int | None = None

    def note(self, frame: Frame) -> str:
        """Rendered at the network's size."""
        return f"pictures: aircraft23, {self.split}, rendered at {frame.width}x{frame.height} pixels"

    def _read(self, frame: Frame, indices: Sequence[int]) -> list[Sample]:
        if frame.width != frame.height:
            raise OptionsError(f"aircraft23 pictures are square, the network takes {frame.width}x{frame.height}")
        found: list[Sample] = []
        while len(found) < len(indices):  # runs of neighbours are rendered together
            start = indices[len(found)]
            run = 1
            while len(found) + run < len(indices) and indices[len(found) + run] == start + run:
                run += 1
            at = self.first + start
            grey = frame.channels == 1
            data = aircraft23.load(self.split, run, size=frame.width, grey=grey, start=at, view=self.view)
            for i, (image, points, seen) in enumerate(zip(*data, strict=True), at):
                scene = aircraft23.scene(self.split, i, view=self.view)
                name = f"{self.split}{i:05d}"
                found.append(Sample(image.astype(np.float64), name, points.astype(np.float64), seen, scene=scene))
        return found


@dataclass(frozen=True)
class PictureFiles(PictureSource):
    """Picture files; NAME.json beside a picture holds its truth."""

    files: tuple[Path, ...]
    crop: str = CROP

    @property
    def count(self) -> int:  # type: ignore[override]
        """Number of files."""
        return len(self.files)

    def note(self, frame: Frame) -> str:
        """As they are, or resized; and where the truth comes from."""
        beside = sum(file.with_suffix(".json").is_file() for file in self.files)
        return _note(frame, self.crop) + (f"; truth of {beside} in the .json file beside it" if beside else "")

    def paths(self) -> list[Path]:
        """The pictures, and what is known about them."""
        return [path for file in self.files for path in (file, file.with_suffix(".json"))]

    def _one(self, frame: Frame, index: int) -> Sample:
        file = self.files[index]
        beside = file.with_suffix(".json")
        known = truth.read(beside) if beside.is_file() else truth.Truth()
        image = pictures.read(file, frame.channels)
        return _fitted(image, file.stem, known, frame, self.crop, str(file))


@dataclass(frozen=True)
class PictureArrays(PictureSource):
    """An .npz file: images (n, ..), and keypoints (n, K, 2), (n, K, 3) or (n, 2 K), visibility (n, K), labels (n,).

    Floating-point labels are targets in the network's own units (`targets`), which only training can use.
    """

    path: Path
    crop: str = CROP
    count: int | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", len(self.arrays["images"]))

    def note(self, frame: Frame) -> str:
        """As they are, or resized."""
        return _note(frame, self.crop)

    def paths(self) -> list[Path]:
        """The file."""
        return [self.path]

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays, checked against each other."""
        held = {}
        try:
            with zipfile.ZipFile(self.path) as archive:  # sizes before anything is unpacked
                for item in archive.infolist():
                    if item.file_size > MAX_ARRAY_BYTES:
                        raise ProblemError(
                            f"{self.path}: '{item.filename}' would unpack to {item.file_size} bytes; too large"
                        )
            with np.load(self.path, allow_pickle=False) as stored:
                for name in ("images", "labels", "keypoints", "visibility"):
                    if name in stored:
                        held[name] = stored[name]
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ProblemError(f"{self.path}: not a readable .npz file ({error})") from error
        if "images" not in held:
            raise ProblemError(f"{self.path}: no array 'images'; expected images (n, C, H, W) and keypoints or labels")
        for name, value in held.items():
            if value.dtype.kind not in ("biuf" if name == "images" else "iuf") or value.ndim < 1:
                raise ProblemError(
                    f"{self.path}: '{name}' has type {value.dtype}, shape {value.shape}; expected numbers"
                )
            if len(value) != len(held["images"]):
                raise ProblemError(f"{self.path}: {len(held['images'])} images but {len(value)} {name}")
        if held["images"].ndim < 2 or not len(held["images"]):
            raise ProblemError(f"{self.path}: images have shape {held['images'].shape}; expected (n, ...) with n > 0")
        return held

    @cached_property
    def points(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Key points (n, K, 2) in pixels of the stored images, and visibility (n, K)."""
        value = self.arrays.get("keypoints")
        if value is None:
            return None
        value = value.astype(np.float64)
        if value.ndim == 2 and value.shape[1] % 2 == 0:
            value = value.reshape(len(value), -1, 2)
        if value.ndim != 3 or value.shape[2] not in (2, 3):
            raise ProblemError(f"{self.path}: keypoints have shape {value.shape}; expected (n, K, 2) or (n, K, 3)")
        seen = self.arrays.get("visibility", value[:, :, 2] if value.shape[2] == 3 else np.full(value.shape[:2], 2))
        if seen.shape != value.shape[:2]:
            raise ProblemError(f"{self.path}: visibility has shape {seen.shape}; expected {value.shape[:2]}")
        return value[:, :, :2], seen

    @cached_property
    def classes(self) -> np.ndarray | None:
        """Labels of an integer type, (n,)."""
        value = self.arrays.get("labels")
        if value is None or value.dtype.kind == "f":
            return None
        if value.size != len(value):
            raise ProblemError(f"{self.path}: labels have shape {value.shape}; expected one class per image")
        return value.reshape(-1).astype(np.int64)

    @cached_property
    def targets(self) -> np.ndarray | None:
        """Labels of a floating type: what the network should answer, in its own units."""
        value = self.arrays.get("labels")
        return value.astype(np.float32) if value is not None and value.dtype.kind == "f" else None

    def _one(self, frame: Frame, index: int) -> Sample:
        where = f"{self.path}: image {index}"
        image = pictures.scaled(self.arrays["images"][index], where)
        if image.ndim == 1 and image.size == np.prod(frame.size):
            image = image.reshape(frame.size)
        image = pictures.recoloured(pictures.planes(image, where), frame.channels, where)
        label = None if self.classes is None else int(self.classes[index])
        known = truth.Truth(label=label)
        if self.points is not None:
            known = truth.Truth(self.points[0][index], self.points[1][index], label)
        return _fitted(image, f"{self.path.stem}{index:05d}", known, frame, self.crop, where)


@dataclass(frozen=True)
class Annotated(PictureSource):
    """Objects of a COCO key point file."""

    path: Path
    folder: Path
    crop: str = CROP
    identity: int | None = None
    """The only annotation that counts, where one is chosen."""

    @cached_property
    def annotations(self) -> tuple[coco.Annotation, ...]:
        """Those with key points."""
        found = coco.read(self.path)
        if self.identity is not None:
            found = tuple(a for a in found if a.identity == self.identity)
            if not found:
                raise OptionsError(f"{self.path}: no annotation {self.identity} with key points (crowds are left out)")
        if not found:
            raise ProblemError(f"{self.path}: no annotation has key points")
        return found

    @property
    def count(self) -> int:  # type: ignore[override]
        """Number of annotations."""
        return len(self.annotations)

    def note(self, frame: Frame) -> str:
        """Cut out, as they are, or resized."""
        if self.crop != "box":
            return _note(frame, self.crop)
        return (
            f"pictures: each annotation's box x {coco.GROW:g} is cut out as a square and resized to "
            f"{frame.width}x{frame.height} pixels (--crop box)"
        )

    def paths(self) -> list[Path]:
        """The annotations and their pictures."""
        return [self.path, *(self.folder / a.file for a in self.annotations)]

    def _one(self, frame: Frame, index: int) -> Sample:
        annotation = self.annotations[index]
        name = f"annotation{annotation.identity}"
        if self.crop != "box":
            image = coco.picture(annotation, self.folder, frame.channels)
            known = truth.Truth(annotation.keypoints, annotation.visibility)
            return _fitted(
                image,
                name,
                known,
                frame,
                self.crop,
                str(self.folder / annotation.file),
                "; --crop box cuts out the object",
            )
        if frame.width != frame.height:
            raise OptionsError(
                f"--crop box cuts out squares, the network takes {frame.width}x{frame.height}; --crop whole resizes "
                "the whole picture"
            )
        cut = coco.crop(annotation, self.folder, frame.width, frame.channels)
        note = (
            f"{annotation.file}: the square of {cut.side:g} pixels at ({cut.left:g}, {cut.top:g}), resized to "
            f"{frame.width}x{frame.height} (--crop box)"
        )
        return Sample(cut.image, name, cut.keypoints, cut.visibility, note=note)


def _note(frame: Frame, crop: str) -> str:
    if crop == "whole":
        return f"pictures: whole, resized to {frame.width}x{frame.height} pixels (--crop whole)"
    return f"pictures: as they are, {frame.width}x{frame.height} pixels" + (" (--crop none)" if crop == "none" else "")


def _fitted(
    image: np.ndarray, name: str, known: truth.Truth, frame: Frame, crop: str, where: str, hint: str = ""
) -> Sample:
    """The picture at the network's size, and its key points in the same pixels."""
    height, width = image.shape[1:]
    points, note = known.keypoints, ""
    if (height, width) != (frame.height, frame.width):
        if crop != "whole":
            raise ProblemError(
                f"{where}: the picture has {width}x{height} pixels, the network takes {frame.width}x{frame.height}; "
                f"--crop whole resizes the whole picture{hint}"
            )
        image = pictures.resized(image, frame.width, frame.height)
        note = f"{name}: resized from {width}x{height} to {frame.width}x{frame.height} (--crop whole)"
        if points is not None:
            points = points * (frame.width / width, frame.height / height)
    seen = known.visibility
    if points is not None and seen is None:
        seen = np.full(len(points), 2)
    return Sample(image, name, points, seen, known.label, note=note)


def _listed(path: Path) -> tuple[Path, ...]:
    try:
        if path.stat().st_size > MAX_LIST_BYTES:
            raise ProblemError(f"{path}: larger than {MAX_LIST_BYTES >> 20} MiB")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ProblemError(f"cannot read the list {path}: {error}") from error
    files = tuple(path.parent / line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not files:
        raise ProblemError(f"{path}: the list is empty; expected one picture a line")
    return files
