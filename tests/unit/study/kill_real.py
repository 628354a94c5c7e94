"""`kill -9` on a real study: real training, pruning and verification, killed at ten random moments, then resumed.

Not collected by `make test` (a minute or more); `make study-kill` runs it. Everything but the times has to equal what a
run left alone writes: the networks byte for byte, the rows field for field, the coverage maps array for array.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

IMAGES, NETWORKS, KILLS = 12, 4, 10
STUDY = f"""
name: killed
data: aircraft23
network: {{width: 4, size: 16, images: 400, batch: 20, calibration: 24}}
images: {IMAGES}
tau: 0.2
rectangle: medium
timeout: 600
seeds: [0]
ratios: [0.5]
budget: {{train: 6, finetune: 2}}
arms: [dense, dense+ft, usn, random-matched]
"""


def started(study: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pruning.study.cli", "--study", str(study), "--out", str(out), "--no-report"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "results.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def networks(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "networks" / "networks.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def progress(folder: Path) -> tuple[int, int]:
    """Whole lines in the list of networks and in the results."""
    files = (folder / "networks" / "networks.jsonl", folder / "results.jsonl")
    made, answered = (file.read_bytes().count(b"\n") if file.exists() else 0 for file in files)
    return made, answered


@pytest.mark.timeout(1800)
def test_a_real_study_killed_ten_times_ends_like_one_left_alone(tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(STUDY)
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    began = time.monotonic()
    assert started(study, calm).wait(600) == 0
    length = time.monotonic() - began
    assert len(rows(calm)) == NETWORKS * IMAGES
    moments, seen = random.Random(11), []
    for kill in range(KILLS):
        # Any moment from the start of the program on; every other kill waits for something new first, or a run that
        # needs seconds to start would get nowhere.
        before, process = progress(killed), started(study, killed)
        while kill % 2 and progress(killed) == before and process.poll() is None:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, length / 8))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "the study ended before it was killed; give it more images"
        seen.append(progress(killed))
    assert len(set(seen)) >= 4 and seen[-1][1] < NETWORKS * IMAGES
    assert started(study, killed).wait(600) == 0
    assert networks(killed) == networks(calm)
    assert rows(killed) == rows(calm)
    for file in sorted((calm / "details").rglob("*.npz")):
        with np.load(file) as one, np.load(killed / file.relative_to(calm)) as other:
            assert one.files == other.files and all(np.array_equal(one[k], other[k]) for k in one.files)
