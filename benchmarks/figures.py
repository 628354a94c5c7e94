"""The figures that the verifier has to reach, measured from outside; the machine has to be quiet.

    python -m benchmarks.figures VNNCOMP                    everything
    python -m benchmarks.figures VNNCOMP startup safenlp    a part: startup, safenlp, acas, acas-separate, ray

`ray` needs the extra of that name and two processors, and is measured only where it is asked for.

VNNCOMP is a folder with an instances.csv (see `run.py`). Prints a row per figure: what was measured, what is asked for.
Exit code 1: a verdict contradicts a known one, or an instance ended in an error. A missed figure is no error.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.run import KNOWN, Instance, Run, contradictions, read_list, run_alone, run_together, with_evidence
from benchmarks.startup import medians


@dataclass(frozen=True)
class Figure:
    """`value` is to be at most `limit`."""

    name: str
    value: float
    limit: float
    unit: str

    def row(self) -> str:
        met = "yes" if self.value <= self.limit else "NO"
        return f"| {self.name} | {self.value:.2f} {self.unit} | {self.limit:g} {self.unit} | {met} |"


Measured = tuple[list[Figure], list[Run]]


def startup(instances: list[Instance]) -> Measured:
    """Whole processes in turns with `import torch`."""
    figures = []
    for instance in instances:
        found = medians(instance.model, instance.spec, rounds=5)
        torch, tool = found["python -c 'import torch'"], found["verify model spec"]
        name = Path(instance.vnnlib).name.split(".")[0]
        figures.append(Figure(f"start-up on {name}, times `import torch`", tool[0] / torch[0], 1.5, "x"))
        figures.append(Figure(f"peak memory on {name}", tool[1], 500, "MB"))
    return figures, []


def together(name: str, limit: float) -> Callable[[list[Instance]], Measured]:
    """A whole list through one process, start-up included."""

    def measure(instances: list[Instance]) -> Measured:
        started = time.monotonic()
        runs = list(run_together(instances, ["--quiet"], float("inf"), 1))
        total = time.monotonic() - started
        figures = [Figure(f"{name}, {len(runs)} instances in one process", total, limit, "s"), _open(name, runs)]
        return figures, _judged(runs, instances)

    return measure


def separately(name: str, limits: tuple[float, float, float]) -> Callable[[list[Instance]], Measured]:
    """A process per instance: median, mean and worst wall time."""

    def measure(instances: list[Instance]) -> Measured:
        runs = [run_alone(instance, ["--quiet"], float("inf")) for instance in instances]
        seconds = [run.seconds for run in runs]
        values = statistics.median(seconds), statistics.mean(seconds), max(seconds)
        figures = [
            Figure(f"{name}, a process each, {word}", value, limit, "s")
            for word, value, limit in zip(("median", "mean", "worst"), values, limits, strict=True)
        ]
        return [*figures, _open(name, runs)], _judged(runs, instances)

    return measure


def on_nodes(instances: list[Instance]) -> Measured:
    """The list on a Ray cluster of two nodes of one processor each, by the time on one such node; verdicts compared
    with those of this machine without Ray. The clusters are started before the clock."""
    from ray.cluster_utils import Cluster  # the extra `ray`

    node = {"num_cpus": 1, "object_store_memory": 200 << 20, "include_dashboard": False}
    seconds, runs = {}, list(run_together(instances, ["--quiet"], float("inf"), 1))
    differ = 0
    for count in (1, 2):
        cluster = Cluster(initialize_head=True, head_node_args=node)
        for _ in range(count - 1):
            cluster.add_node(**node)
        started = time.monotonic()
        options = ["--quiet", "--engine", "ray", "--address", cluster.address]
        found = list(run_together(instances, options, float("inf"), None))
        seconds[count] = time.monotonic() - started
        cluster.shutdown()
        differ += sum(one.verdict != other.verdict for one, other in zip(runs, found, strict=True))
    print(f"one node {seconds[1]:.1f} s, two nodes {seconds[2]:.1f} s", file=sys.stderr)
    name = f"ACAS Xu, {len(runs)} instances on two nodes"
    figures = [
        Figure(f"{name}, times one node", seconds[2] / seconds[1], 0.6, "x"),
        Figure(f"{name}, verdicts that differ", differ, 0, ""),
    ]
    return figures, _judged(runs, instances)


def _open(name: str, runs: list[Run]) -> Figure:
    return Figure(f"{name}, not settled", sum(run.verdict not in KNOWN for run in runs), 0, "")


def _judged(runs: list[Run], instances: list[Instance]) -> list[Run]:
    return [with_evidence(run, instance) for run, instance in zip(runs, instances, strict=True)]


PARTS: dict[str, tuple[str, Callable[[list[Instance]], Measured]]] = {
    "startup": ("test", startup),
    "safenlp": ("safenlp", together("safenlp", 15)),
    "acas": ("acasxu_2023", together("ACAS Xu", 120)),
    "acas-separate": ("acasxu_2023", separately("ACAS Xu", (2.2, 2.5, 15))),
    "ray": ("acasxu_2023", on_nodes),
}
ASKED_FOR = ("ray",)
"""Parts that need more than the rest."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="VNNCOMP")
    parser.add_argument("parts", nargs="*", metavar="PART", default=[])
    parser.add_argument("--first", type=int, metavar="N", help="at most N instances of each list, for a trial")
    args = parser.parse_args()
    if unknown := [part for part in args.parts if part not in PARTS]:
        parser.error(f"found {', '.join(unknown)}, expected some of {', '.join(PARTS)}")
    everything, runs = read_list(args.folder / "instances.csv"), []
    print("| figure | measured | asked for | met |\n| --- | --- | --- | --- |", flush=True)
    for part in args.parts or [part for part in PARTS if part not in ASKED_FOR]:
        benchmark, measure = PARTS[part]
        figures, more = measure([i for i in everything if i.benchmark == benchmark][: args.first])
        runs += more
        print("\n".join(figure.row() for figure in figures), flush=True)
    if runs:
        print(f"\n{contradictions(runs)}")
    bad = [run for run in runs if run.wrong or run.witness_fault or run.verdict.startswith("error")]
    for run in bad:
        print(f"- {run.verdict}: {run.onnx} {run.vnnlib} {run.message} {run.witness_fault}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
