"""Compares branching rules: verdict, subproblems and seconds of one core for every instance and rule.

    python -m benchmarks.branching LIST.csv [LIST.csv ..] --cap 60 [--match img4168 4909] [--rules auto loss 16:10]

A LIST is as in `benchmarks.run`; without `--match` the `TEN` are compared. A rule is a word of `search.neurons` or of
`search.branching`, or how many of the best score a subproblem looks ahead at, after a colon the iterates of a climb.
The clock is the processor's, on one thread: other processes cost the comparison nothing.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

import verifier
from benchmarks.run import Instance, read_list
from verifier.budget import Budget
from verifier.options import BRANCHING_RULES, NEURON_RULES, Options, SearchOptions
from verifier.search import neurons

RULES = tuple(NEURON_RULES)

TEN = (
    "img3478", "img8194", "img4168", "prop_36_", "idx_4836", "base_kw-img2578", "base_kw-img8095",
    "256x2 prop_11_0.05", "256x4 prop_11_0.03", "mnist-set mnist-img0",
)  # fmt: skip
"""Instances whose neurons are split, of six families, that end within a minute."""


def settle(instance: Instance, rule: str, cap: float) -> str:
    """One cell of the table."""
    before, search = (neurons.CANDIDATES, neurons.STEPS), SearchOptions()
    if rule in NEURON_RULES:
        search = SearchOptions(neurons=rule)
    elif rule in BRANCHING_RULES:
        search = SearchOptions(branching=rule)
    else:
        candidates, _, steps = rule.partition(":")
        neurons.CANDIDATES, neurons.STEPS = int(candidates), int(steps or before[1])
    start = time.process_time()
    try:
        limit = min(cap, instance.timeout)
        budget = Budget.of(limit, clock=time.process_time)
        result = verifier.verify(instance.model, instance.spec, Options(timeout=limit, search=search), budget=budget)
    finally:
        neurons.CANDIDATES, neurons.STEPS = before
    if instance.expected in ("sat", "unsat") and result.verdict.value in ("sat", "unsat"):
        assert result.verdict.value == instance.expected, (instance, result)
    rest = f", {result.open_fraction:.2%} open" if result.open_fraction else ""
    return f"{result.verdict.value}, {result.counters.get('boxes', 0)}, {time.process_time() - start:.1f}{rest}"


def main() -> None:
    """The table, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lists", nargs="+", type=Path, metavar="LIST")
    parser.add_argument("--match", nargs="*", default=TEN, metavar="TEXT", help="instances with one of these in a name")
    parser.add_argument("--rules", nargs="*", default=RULES, metavar="WORD or K[:STEPS]")
    parser.add_argument("--cap", type=float, default=60.0, metavar="S", help="limit of processor time")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| instance | " + " | ".join(args.rules) + " |", "|" + " --- |" * (1 + len(args.rules)), sep="\n")
    for instance in [one for path in args.lists for one in read_list(path)]:
        name = f"{instance.benchmark} {Path(instance.onnx).name.split('.')[0]} {Path(instance.vnnlib).name}"
        if not any(text in name for text in args.match):
            continue
        cells = [settle(instance, rule, args.cap) for rule in args.rules]
        print("| " + " | ".join([name, *cells]) + " |", flush=True)


if __name__ == "__main__":
    main()
