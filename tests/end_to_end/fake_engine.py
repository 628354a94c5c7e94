"""The real command around an engine that behaves as told: `fake_engine.py BEHAVIOUR argument ..`.

Needed for what a good engine never does: ignore its budget, crash, contradict itself.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from verifier.budget import Budget
from verifier.command import verify as cli
from verifier.errors import UnsoundError
from verifier.progress import Progress
from verifier.result import Result, Verdict


def solve(
    model: object,
    form: object,
    options: object,
    budget: Budget,
    progress: object,
    proof: object = None,
    checkpoint: object = None,
) -> Result:
    """Says that it has begun, by a file in the current folder, then behaves."""
    Path("begun").touch()
    match BEHAVIOUR:
        case "obedient":
            while not budget.expired():
                time.sleep(0.01)
                if progress is not None:
                    progress(Progress(7, 3, 1.0, -0.5, 0.25, budget.remaining()))  # type: ignore[operator]
            verdict = Verdict.UNKNOWN if budget.stopped else Verdict.TIMEOUT
            return Result(verdict, budget.stopped or "time is up", counters={"boxes": 7}, open_fraction=0.75)
        case "deaf":
            time.sleep(3600)
        case "crash":
            raise RuntimeError("boom\nbang")
        case "contradiction":
            raise UnsoundError("two bounds disagree")
    return Result(Verdict.UNSAT, "proven", counters={"boxes": 7}, settings={"device": "cpu"})


BEHAVIOUR = sys.argv[1]

if __name__ == "__main__":
    del sys.argv[1]
    cli.run(solve)
