"""Fuzzing: random files through every reader, random problems through the verifier, for a given time.

    python -m benchmarks.fuzz [--seconds S] [--seed N] [--only NAME ..] [--out DIR]
    python -m benchmarks.fuzz --only NAME --again FOLDER

NAME is one of the targets of `targets.py`, or `problems`. The time is shared out evenly. A failure is a folder in DIR
that says what was expected and what was got, and that `--again` runs again; the exit code is 1 if there was one.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

from benchmarks.fuzz import run

TARGETS = ("specification", "witness", "results", "ledger", "proof", "packed", "model", "problems", "planar", "grouped",
           "operators")  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=TARGETS, default=TARGETS)
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"))
    parser.add_argument("--again", type=Path, help="a folder that a failure was written to")
    parser.add_argument("--work", choices=TARGETS, help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        run.worker(args.work, args.seed, args.first, args.seconds, args.out)
        return 0
    if args.again:
        return again(args.only[0], args.again)
    failed = 0
    for target in args.only:
        start = time.monotonic()
        tally = run.watch(target, args.seed, args.seconds / len(args.only), args.out)
        failed += len(tally.failures)
        words, used = apart(tally.words)
        print(f"{target}: {tally.cases} inputs in {time.monotonic() - start:.0f} s: {counted(words)}", flush=True)
        if used:
            print(f"  used: {counted(used)}", flush=True)
        for folder in tally.failures:
            print(f"  FAILED {folder}: {(folder / 'README').read_text().strip().splitlines()[-3]}", flush=True)
    return int(failed > 0)


def apart(words: Counter[str]) -> tuple[Counter[str], Counter[str]]:
    """What became of the inputs, and how often each mechanism was used (see `mechanisms`)."""
    what, used = Counter[str](), Counter[str]()
    for word, n in words.items():
        before, _, behind = word.partition("; ")
        what[before] += n
        used.update(dict.fromkeys(filter(None, behind.split(", ")), n))
    return what, used


def counted(words: Counter[str]) -> str:
    """The most frequent first."""
    return ", ".join(f"{n} {word}" for word, n in words.most_common())


def again(target: str, folder: Path) -> int:
    """Runs the input of a failure; its exception is what one wants to see."""
    from benchmarks.fuzz.targets import TARGETS as RUN

    for name in ("smallest", "input"):
        if (folder / name).exists():
            print(f"{name}: {RUN[target]((folder / name).read_bytes())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
