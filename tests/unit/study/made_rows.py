"""Made-up results."""

from __future__ import annotations

from tests.unit.study.made_row import make

FEW = 300  # replicates: enough for these checks


def rows(arm, ratio, certified, seconds=1.0, error=0.01, seeds=(0,), draws=(0,), limit=60.0):
    """One row per seed, draw and entry of certified[(seed, draw)] or certified (a list over images)."""
    made = []
    for seed in seeds:
        for draw in draws:
            areas = certified[seed, draw] if isinstance(certified, dict) else certified
            for image, area in enumerate(areas):
                verdict = "certified" if area == 1 else "open"
                name = f"{arm}-{ratio}-{seed}-{draw}"
                parts = {"certified": area, "refuted": 0.0, "open": 1 - area, "verdict": verdict, "timeout": limit}
                own = {"seconds": seconds, "clean_error": error, "name": name, "seed": seed, "draw": draw}
                made.append(make(arm=arm, ratio=ratio, image=image, **parts, **own))
    return made
