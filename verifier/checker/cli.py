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


def main(files: Sequence[str]) -> int:
    """Checks a proof, model and specification, and says so; exit code 0: accepted, 1: rejected, 2: a file cannot be
    used."""
    started = time.monotonic()
    try:
        if len(files) != 3:
            raise Unreadable(USAGE)
        found = check(*files)
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
    counts = f"{found.leaves} leaves, {found.splits} splits, {found.queries} queries"
    print(f"secateur check: {counts}, {time.monotonic() - started:.2f} s", file=sys.stderr)
    return ACCEPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
