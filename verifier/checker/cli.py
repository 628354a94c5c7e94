"""The checker's own door, `python -m verifier.checker.cli`, and what `secateur check` prints."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence

from verifier.checker.check import check
from verifier.checker.errors import Rejected, Unreadable
from vnnlib import VnnLibError

ACCEPTED, REJECTED, UNREADABLE = 0, 1, 2
USAGE = "usage: python -m verifier.checker.cli PROOF MODEL SPEC (exit code 0: accepted, 1: rejected, 2: unreadable)"


def main(argv: Sequence[str] | None = None) -> int:
    """Checks a proof; exit code 0: accepted, 1: rejected, 2: a file cannot be used."""
    files = sys.argv[1:] if argv is None else argv
    if len(files) == 3:
        return run(*files)
    print(USAGE, file=sys.stderr)
    return UNREADABLE


def run(proof: str, model: str, spec: str) -> int:
    """Checks and says so; the exit code."""
    started = time.monotonic()
    try:
        found = check(proof, model, spec)
    except Rejected as error:
        print("rejected")
        print(f"secateur check: {error}", file=sys.stderr)
        return REJECTED
    except (Unreadable, VnnLibError) as error:
        print(f"secateur check: error: {' '.join(str(error).split())}", file=sys.stderr)
        return UNREADABLE
    print(f"accepted {found.verdict}")
    for q, share in enumerate(found.shares):
        print(f"box {q}: certified {math.floor(share * 10**6) / 10**6:.6f}")
    seconds = time.monotonic() - started
    print(
        f"secateur check: {found.leaves} leaves, {found.splits} splits, {found.queries} queries, {seconds:.2f} s",
        file=sys.stderr,
    )
    return ACCEPTED


if __name__ == "__main__":
    sys.exit(main())
