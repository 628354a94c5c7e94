"""The `secateur check` command."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence

from verifier.checker.check import check
from verifier.checker.errors import Rejected, Unreadable
from vnnlib import VnnLibError

ACCEPTED, REJECTED, UNREADABLE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Checks a proof; exit code 0: accepted, 1: rejected, 2: a file cannot be used."""
    parser = argparse.ArgumentParser(
        prog="secateur check",
        description="Check a proof that `verify --proof` wrote, by a program of its own.",
        epilog="exit codes: 0 accepted, 1 rejected (stderr says where), 2 a file cannot be read or holds what the "
        "checker does not know; docs/certificates.md says what an acceptance means",
    )
    parser.add_argument("proof", help="the proof file")
    parser.add_argument("model", help="network, as the proof was made for: .onnx or .onnx.gz")
    parser.add_argument("spec", help="specification, VNN-LIB 1.0 or 2.0")
    args = parser.parse_args(argv)
    return run(args.proof, args.model, args.spec)


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
    shares = "".join(
        f"\nbox {q}: certified {math.floor(share * 10**6) / 10**6:.6f}" for q, share in enumerate(found.shares)
    )
    print(f"accepted {found.verdict}{shares}")
    print(
        f"secateur check: {found.leaves} leaves, {found.splits} splits, {found.queries} queries, "
        f"{time.monotonic() - started:.2f} s",
        file=sys.stderr,
    )
    return ACCEPTED


if __name__ == "__main__":
    sys.exit(main())
