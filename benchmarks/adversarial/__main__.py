"""Adversarial problems by every method and precision: never a wrong verdict, and how many are settled.

    python -m benchmarks.adversarial [--seconds S] [--quick] [--methods M ..] [--dtypes D ..] [--device cpu|cuda]

The exit code is 1 if a verdict is wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import replace

from benchmarks.adversarial.cases import LONG, QUICK, cases, in_version_2
from benchmarks.adversarial.judge import Outcome, run
from verifier.options import BoundOptions, Options

METHODS = ("auto", "forward", "crown", "alpha", "lumped")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="time limit of a case")
    parser.add_argument("--quick", action="store_true", help="only what the tests run")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--dtypes", nargs="+", choices=("float64", "float32"), default=("float64", "float32"))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    args = parser.parse_args()
    chosen = QUICK if args.quick else (*QUICK, *LONG)
    wrong: list[str] = []
    print(f"{'method':8} {'dtype':8} {'model':8} {'cases':>5} {'settled':>7} {'open':>5} {'wrong':>5}  open cases")
    for method in args.methods:
        for dtype in args.dtypes:
            options = Options(device=args.device, dtype=dtype, timeout=args.seconds, bounds=BoundOptions(method=method))
            found: dict[str, list[Outcome]] = {}
            for kind, case in cases(chosen):
                found.setdefault(kind.__name__, []).append(run(case, options))
                if method == "auto" and case.truth != "refused":
                    found[kind.__name__].append(run(replace(case, spec=in_version_2(case.spec)), options))
            for kind_name, outcomes in found.items():
                faults = [one for one in outcomes if one.wrong]
                wrong += [
                    f"{method} {dtype} {kind_name} {one.case.name}: {one.verdict}, {one.reason}" for one in faults
                ]
                left = Counter(one.case.name.split(" ")[0] for one in outcomes if not one.settled and not one.wrong)
                settled = sum(one.settled for one in outcomes)
                names = ", ".join(f"{name} {count}" for name, count in left.items())
                print(
                    f"{method:8} {dtype:8} {kind_name:8} {len(outcomes):5} {settled:7} {sum(left.values()):5}"
                    f" {len(faults):5}  {names}",
                    flush=True,
                )
    print("\n".join(wrong))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
