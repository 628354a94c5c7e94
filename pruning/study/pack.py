"""A set of verification problems in the competition's form: key point networks under changes of the picture.

Every network is joined with every picture to one ONNX file whose inputs are the parameters; every level of difficulty
is one specification about it, in both versions of VNN-LIB. A level is a rule, not a promise: how wide the rectangle of
parameters is, and how far the tolerance lies from the largest error found on a grid of it. Below that error a violation
is known to exist, so those levels are `sat`; above it nobody knows before a verifier says so.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pruning import api, onnx_io
from pruning.calibration import Calibration, perturbation
from pruning.datasets import load_data
from pruning.net import Net
from pruning.options import PruneOptions, share
from pruning.runs import prune
from verifier.console.arguments import version
from verifier.data import networks
from verifier.data.draws import Draws
from verifier.errors import OptionsError, OutputError, ProblemError
from verifier.files.whole import make_folder, write
from verifier.perturbation import PARAMETERS
from verifier.perturbation.text import LEVELS as RANGES
from verifier.semantic import Coordinates, Perturbation, Range, SemanticProblem, composite, network, prepare, sources
from verifier.semantic.network import ImageNetwork
from verifier.semantic.sources import Example

LIMIT = 100_000_000
"""Bytes that a set may take."""
PICTURES = 1000
"""Pictures of the test split that a seed chooses from."""
MOST_PICTURES = 100
GRID = 17
"""Points along each parameter at which errors are sampled, ends included."""
DIGITS = 3
"""Decimals of ranges and tolerances: coarse, so that the last bit of a runtime's answer does not show in them."""
RECORD = "set.json"
CALIBRATION = 128
"""Training pictures that channels are scored on."""
CALIBRATED = perturbation("medium")


@dataclass(frozen=True)
class Level:
    """One difficulty. width: share of the widest rectangle, drawn from this range; reach: tolerance by the largest
    sampled error, drawn from this range."""

    name: str
    width: tuple[float, float]
    reach: tuple[float, float]
    what: str


WIDEST = {name: (high - low) / 2 for name, (low, high) in RANGES["widest"].items()}
"""How far each parameter goes at most to both sides of the unchanged picture."""

LEVELS = (
    Level("violated", (0.1, 0.7), (0.5, 0.9), "part of the rectangle violates it, often much of it"),
    Level("needle", (0.1, 0.7), (0.98, 0.995), "part of the rectangle violates it, mostly a small one"),
    Level("easy", (0.05, 0.15), (1.5, 2.0), "far above the errors that were found"),
    Level("medium", (0.15, 0.35), (1.1, 1.3), "above the errors that were found"),
    Level("hard", (0.4, 0.7), (1.02, 1.05), "just above the errors that were found, on a wide rectangle"),
    Level("open", (1.0, 1.0), (1.001, 1.005), "at the largest error that was found, on the widest rectangle"),
)


@dataclass(frozen=True)
class PackSettings:
    """What a set is made from. models: files or shipped names; ratios: 0 takes a network as it is, others prune it;
    pictures: how many, the same for every network; timeout: seconds per instance.

    Raises OptionsError or RatioError for numbers out of range.
    """

    models: tuple[str, ...] = ("cnn7_w8",)
    ratios: tuple[float, ...] = (0.0, 0.25, 0.5)
    pictures: int = 4
    timeout: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.models or not self.ratios:
            raise OptionsError("a set needs at least one network and one ratio (0 for the network as it is)")
        for ratio in self.ratios:
            share(ratio)
        if not 1 <= self.pictures <= MOST_PICTURES:
            raise OptionsError(f"found {self.pictures} pictures, expected 1 to {MOST_PICTURES}")
        if not 0 < self.timeout < float("inf"):
            raise OptionsError(f"the time limit is {self.timeout:g} seconds, expected a positive number")
        if not 0 <= self.seed < 2**63:
            raise OptionsError(f"the seed is {self.seed}, expected a number from 0 to 2^63 - 1")


class PackFiles:
    """The files of a set by path, in memory; refused as soon as they are more than `LIMIT` bytes together."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.content: dict[str, bytes] = {}
        self.bytes, self.limit = 0, limit

    def add(self, path: str, content: str | bytes) -> None:
        """Takes a file. Raises OutputError where the set grows too large."""
        data = content.encode() if isinstance(content, str) else content
        self.bytes += len(data)
        if self.bytes > self.limit:
            raise OutputError(
                f"the set takes more than {self.limit / 1e6:g} MB ({path} does not fit any more, nothing was written); "
                "take fewer pictures, fewer ratios or smaller networks"
            )
        self.content[path] = data

    @property
    def digest(self) -> str:
        """SHA-256 of all names and contents."""
        found = hashlib.sha256()
        for name in sorted(self.content):
            found.update(f"{name}\0{hashlib.sha256(self.content[name]).hexdigest()}\n".encode())
        return found.hexdigest()

    def write(self, folder: Path) -> None:
        """Writes all files, the record first, so that a set that was not finished can be told and made again.

        Raises OutputError for a folder that holds something else, or a set made from other settings.
        """
        _check_free(folder, self.content[RECORD])
        for path in (RECORD, *(path for path in self.content if path != RECORD)):
            make_folder((folder / path).parent)
            write(folder / path, self.content[path])


def build(settings: PackSettings, limit: int = LIMIT) -> PackFiles:
    """The whole set, the same bytes for the same settings and networks.

    Raises ModelError, OptionsError, ProblemError or PruneError for networks that it cannot be made from, OutputError
    beyond `limit` bytes.
    """
    files, entries = PackFiles(limit), _networks(settings)
    chosen = _pictures(settings)
    record = {
        "networks": [f"networks/{name}.onnx" for name in entries],
        "pictures": settings.pictures,
        "timeout": settings.timeout,
        "levels": [level.name for level in LEVELS],
        "seed": settings.seed,
    }
    files.add(RECORD, json.dumps(record, indent=1) + "\n")
    files.add("README.md", _readme(settings, list(entries)))
    files.add("generate_properties.py", _filled("generate_properties.py.txt"))
    for name, data in entries.items():
        files.add(f"networks/{name}.onnx", data)
    lists: dict[int, list[str]] = {1: [], 2: []}
    for name, data in entries.items():
        net = network.load(data)
        for number, index in enumerate(chosen):
            (example,) = sources.rendered(net, "test", index, index + 1)
            _problems(files, lists, settings, f"{name}_{number:02d}", net, example, number)
    files.add("instances.csv", "".join(lists[1]))
    files.add("instances_2.0.csv", "".join(lists[2]))
    return files


def _networks(settings: PackSettings) -> dict[str, bytes]:
    """The networks as they are and pruned, by name. Seeds change the questions, not the networks."""
    found: dict[str, bytes] = {}
    for model in settings.models:
        path = networks.find(model)
        net, data = api.load(path), None
        for ratio in settings.ratios:
            name = f"{path.name.removesuffix('.gz').removesuffix('.onnx')}{f'_pruned{ratio:g}' if ratio else ''}"
            if name in found:
                raise OptionsError(f"two networks would be called '{name}'; rename a file, or give each ratio once")
            if not ratio:
                found[name] = network.load(path).proto.SerializeToString(deterministic=True)
                continue
            data = data or load_data("aircraft23", net, CALIBRATED, CALIBRATION)
            found[name] = _pruned(net, data, ratio)
    return found


def _pruned(net: Net, data: Calibration, ratio: float) -> bytes:
    return onnx_io.to_bytes(prune(net, data, PruneOptions(ratio=ratio)).net, check=True)


def _pictures(settings: PackSettings) -> list[int]:
    """Indices in the test split, all different."""
    order = np.argsort(Draws(settings.seed, 0).unit(PICTURES), kind="stable")
    return [int(index) for index in order[: settings.pictures]]


def _problems(
    files: PackFiles, lists: Mapping[int, list[str]], settings: PackSettings, name: str, net: ImageNetwork,
    example: Example, number: int,
) -> None:  # fmt: skip
    """One composite network and its specifications; ranges are those of the picture, whatever the network."""
    model = f"onnx/{name}.onnx"
    for place, level in enumerate(LEVELS):
        draws = Draws(settings.seed, 1, number, place)
        box, reach = rectangle(level, draws), draws.uniform(*level.reach)
        probe = prepare(net, example.image, example.target, box, Coordinates(float(net.width)))
        if not place:
            at = " and ".join(f"{name} X_{i}" for i, name in enumerate(box.names))
            note = f"{example.name}: the picture at {at}, then the network"
            joined = composite.with_parameters(net, probe.input_map, len(box.ranges), probe.clip, None, note)
            files.add(model, joined.SerializeToString(deterministic=True))
        tolerance = max(1, math.floor(reach * largest_error(probe) * 10**DIGITS)) / 10**DIGITS
        problem = prepare(net, example.image, example.target, box, Coordinates(tolerance))
        for version_, rows in lists.items():
            spec = f"vnnlib/{version_}.0/{name}_{level.name}.vnnlib"
            files.add(spec, problem.spec(version_))
            rows.append(f"{_listed(model, version_)},{spec},{settings.timeout:g}\n")


def rectangle(level: Level, draws: Draws) -> Perturbation:
    """Ranges around the unchanged picture, of a width that the level allows."""
    ranges = []
    for name, most in WIDEST.items():
        half = round(most * draws.uniform(*level.width), DIGITS)
        ranges.append(Range(name, *(round(PARAMETERS[name].identity + side * half, DIGITS) for side in (-1, 1))))
    return Perturbation(tuple(ranges))


def largest_error(problem: SemanticProblem) -> float:
    """Most pixels by which a coordinate of a visible key point is off, on a grid of the rectangle.

    problem: its property is `Coordinates` with the picture's width as tolerance; the error is the excess over that.
    """
    axes = [np.linspace(low, high, GRID) for low, high in problem.perturbation.box]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))
    worst = max(problem.excess(point) for point in points) + problem.network.width
    if not np.isfinite(worst):
        raise ProblemError("the network answers no finite key points on this rectangle; it cannot be part of a set")
    return float(worst)


def _listed(model: str, version_: int) -> str:
    """The network's field of a list: a path, or with VNN-LIB 2.0 the (name, path) pairs, quoted for CSV."""
    return model if version_ == 1 else f"\"[('N', '{model}')]\""


def _check_free(folder: Path, record: bytes) -> None:
    """OutputError unless the folder is new, empty, or the same set for whatever seed."""
    try:
        inside = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
        there = (folder / RECORD).read_bytes() if RECORD in inside else b""
    except OSError as error:
        raise OutputError(f"{folder}: cannot be read: {error.strerror or error}") from None
    if inside and _without_seed(there) != _without_seed(record):
        what = "a set made from other settings" if there else f"other files ({', '.join(inside[:3])})"
        raise OutputError(f"{folder}: this folder holds {what}; choose a new folder")


def _without_seed(record: bytes) -> object:
    try:
        found = json.loads(record)
    except ValueError:
        return None
    return {key: value for key, value in found.items() if key != "seed"} if isinstance(found, dict) else None


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder and below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _readme(settings: PackSettings, names: list[str]) -> str:
    rows = [
        f"| `{level.name}` | {_percent(level.width)} | {_percent(level.reach)} | {level.what} |" for level in LEVELS
    ]
    count = len(names) * settings.pictures * len(LEVELS)
    widest = ", ".join(f"{name} {PARAMETERS[name].identity:g} ± {most:g}" for name, most in WIDEST.items())
    return _filled(
        "benchmark_readme.md", names=", ".join(f"`{name}`" for name in names), pictures=settings.pictures, count=count,
        seed=settings.seed, rows="\n".join(rows), widest=widest, timeout=f"{settings.timeout:g}",
        megabytes=LIMIT // 10**6,
    )  # fmt: skip


def _filled(name: str, **values: object) -> str:
    text = (Path(__file__).with_name("templates") / name).read_text(encoding="utf-8")
    return text.format(version=version(), **values)


def _percent(share: tuple[float, float]) -> str:
    low, high = (f"{100 * value:g} %" for value in share)
    return low if low == high else f"{low} to {high}"
