"""One made-up result."""

from __future__ import annotations

from dataclasses import replace

from pruning.study.row import StudyRow


def make(**changes) -> StudyRow:
    base = StudyRow(
        name="usn-r0.5-s0", network="ab" * 32, arm="usn", criterion="usn", ratio=0.5, seed=0, draw=0, data="synthetic",
        image=3, tau=0.03, rectangle="medium", timeout=60.0, verdict="open", certified=0.5, refuted=0.25, open=0.25,
        sampled=None, seconds=1.25, boxes=17, unstable=20.5, unstable_ratio=0.1, clean_error=0.01, parameters=100,
        macs=1000, nonlinear=64, versions="made up", machine="made up",
    )  # fmt: skip
    return replace(base, **changes)
