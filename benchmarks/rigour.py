"""What allowing for every rounding costs: each instance searched with `bounds.rounding` rigorous and ignored, in turns.

    python -m benchmarks.rigour FOLDER/instances.csv --only acasxu_2023 mnist_fc --step 8 --cap 30

Both searches run in this process, on one thread and with `deterministic` (so that no measured time decides what is
searched), `--rounds` times, the order changing from round to round; of each the least CPU seconds count, limits are CPU
seconds, too. What both have (the attack, for instance) is part of them. A row per benchmark goes to stdout: how many
instances both settled, sums, their ratio, the median of the ratios, the ratio of the boxes, and verdicts that differ.
Exit code 1: one of these is lost, or contradicts the other.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass

import torch

from benchmarks.run import KNOWN, Instance, add_sample, sampled
from verifier import Options, Result, verify
from verifier.budget import Budget, memory_limit
from verifier.options import BoundOptions

WORDS = ("rigorous", "ignored")
COLUMNS = ("benchmark", "instances", "both settled", "rigorous s", "ignored s", "ratio", "median", "boxes", "lost")


@dataclass(frozen=True)
class Pair:
    """One instance: verdicts, least CPU seconds and boxes, rigorous and ignored."""

    benchmark: str
    verdicts: tuple[str, str]
    seconds: tuple[float, float]
    boxes: tuple[float, float]

    @property
    def lost(self) -> bool:
        """Whether rigorous mode has no answer where the other has, or another one."""
        return self.verdicts[1] in KNOWN and self.verdicts[0] != self.verdicts[1]


def measure(instance: Instance, cap: float, rounds: int) -> Pair:
    """One instance, in turns."""
    seconds = {word: float("inf") for word in WORDS}
    results: dict[str, Result] = {}
    for turn in range(rounds):
        for word in WORDS if turn % 2 == 0 else WORDS[::-1]:
            options = Options(deterministic=True, bounds=BoundOptions(rounding=word))
            budget = Budget.of(min(instance.timeout, cap), memory_limit(None), time.process_time)
            started = time.process_time()
            results[word] = verify(instance.model, instance.spec, options, budget=budget)
            seconds[word] = min(seconds[word], time.process_time() - started)
    one, other = (results[word] for word in WORDS)
    return Pair(
        instance.benchmark,
        (one.verdict.value, other.verdict.value),
        (seconds[WORDS[0]], seconds[WORDS[1]]),
        (one.counters.get("boxes", 0), other.counters.get("boxes", 0)),
    )


def table(pairs: list[Pair]) -> str:
    """One row per benchmark, in Markdown."""
    rows = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    for name in dict.fromkeys(pair.benchmark for pair in pairs):
        own = [pair for pair in pairs if pair.benchmark == name]
        both = [pair for pair in own if set(pair.verdicts) <= set(KNOWN)]
        sums = [sum(pair.seconds[k] for pair in both) for k in (0, 1)]
        boxes = [sum(pair.boxes[k] for pair in both) for k in (0, 1)]
        cells = [name, len(own), len(both), *(f"{s:.1f}" for s in sums)]
        cells += [f"{sums[0] / sums[1]:.2f}" if both else ""]
        cells += [f"{statistics.median(p.seconds[0] / p.seconds[1] for p in both):.2f}" if both else ""]
        cells += [f"{boxes[0] / boxes[1]:.3f}" if both and boxes[1] else "", sum(pair.lost for pair in own)]
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sample(parser, 30.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--budget", type=float, default=float("inf"), help="CPU seconds after which nothing new begins")
    args = parser.parse_args()
    torch.set_num_threads(1)
    wanted = sampled(args)
    pairs: list[Pair] = []
    for name in dict.fromkeys(i.benchmark for i in wanted):  # what a first search pays once is nobody's cost
        first = next(i for i in wanted if i.benchmark == name)
        verify(first.model, first.spec, timeout=20)
    for instance in wanted:
        if time.process_time() > args.budget:
            break
        pairs.append(measure(instance, args.cap, args.rounds))
        print(instance.onnx, instance.vnnlib, pairs[-1], file=sys.stderr, flush=True)
    print(table(pairs))
    return int(any(pair.lost for pair in pairs))


if __name__ == "__main__":
    sys.exit(main())
