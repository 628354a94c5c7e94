"""Check the parser against a directory of specification files with an `index.csv` of what each must give.

Usage: VNNLIB_CASES=DIRECTORY python benchmarks/check_vnnlib_cases.py
Columns of the index: file, version, valid, expected. For valid files `expected` holds inputs, outputs, disjuncts, live,
regions and flags; for invalid ones `error=line:column`. Exit code 1 if any file disagrees.
"""

from __future__ import annotations

import csv
import os
import re
import sys
from pathlib import Path

import numpy as np

import vnnlib
from vnnlib import reading
from vnnlib.dnf import expand
from vnnlib.normalise import _case_key


def facts(path: Path) -> dict[str, str]:
    """Return what the index says about a valid file, as computed by the general path."""
    data = bytearray(path.read_bytes())
    spec = reading._parse(data, str(path), True, vnnlib.Limits(), general=True)
    result = expand(spec)
    live = result.alternatives
    found = {
        "inputs": spec.size("input"),
        "outputs": spec.size("output"),
        "disjuncts": result.disjuncts,
        "live": len(live),
        "regions": len({_case_key(c, result.base) for c in live}),
    }
    text = {k: str(v) for k, v in found.items()}
    rows = list(result.atoms.rows)
    n = spec.size("input")
    if any(min(row[0]) < n <= max(row[0]) for row in rows):
        text["mixed_xy"] = "yes"
    if any("nonlinear" in o.why for c in live for o in c.opaque + result.base.opaque):
        text["nonlinear"] = text["mixed_xy"] = "yes"
    bounded = {key for key in result.base.bounds}
    for c in live:
        keys = bounded | set(c.bounds)
        if any((i, side) not in keys for i in range(n) for side in (False, True)):
            text["unbounded_inputs"] = "yes"
    return text


def check_valid(path: Path, expected: str) -> str:
    """Return "" or the difference; also compare fast and general path."""
    want = dict(part.split("=") for part in expected.split(";"))
    have = facts(path)
    if have != want:
        return f"expected {want}, got {have}"
    spec = vnnlib.load(path, strict=True)
    general = reading._parse(bytearray(path.read_bytes()), str(path), True, vnnlib.Limits(), general=True)
    if spec.form is not None:
        if not spec.form.same_as(vnnlib.normalise(general)):
            return "fast and general path differ"
        print(f"fast  {path.name}")
    return ""


def check_invalid(path: Path, expected: str) -> str:
    """Return "" or the difference."""
    places = re.findall(r"\b(\d+):(\d+)", expected)
    try:
        vnnlib.load(path, strict=True)
    except vnnlib.VnnLibError as error:
        print(f"error {error}")
        here = (str(error.line), str(error.column))
        eof = f"{places[-1][0]}:{places[-1][1]}" in error.message
        return "" if here in places or eof else f"expected one of {places}, got {here}"
    return "accepted"


def main() -> int:
    """Run over the index."""
    root = Path(os.environ["VNNLIB_CASES"])
    bad = 0
    with (root / "index.csv").open(newline="") as handle:
        for row in csv.DictReader(handle):
            check = check_valid if row["valid"] == "yes" else check_invalid
            problem = check(root / row["file"], row["expected"])
            if problem:
                bad += 1
                print(f"WRONG {row['file']}: {problem}")
    print(f"{bad} files disagree")
    return bool(bad)


if __name__ == "__main__":
    np.seterr(all="raise")
    sys.exit(main())
