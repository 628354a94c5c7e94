"""From a study to its networks, and to the order in which they are verified."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pruning.study.spec import MATCHED, Arm, Study


@dataclass(frozen=True)
class NetworkJob:
    """One network of a study.

    kind: `train` (new weights), `tune` (the parent trained on), `prune` (the parent cut and trained on) or `scratch`
    (new weights in the shape of `like`). parent, like: names of other jobs, which come earlier in the plan. criterion:
    what its channels are ranked by; shared: its allocation over the layers, empty for the study's; certified: whether
    it is fine-tuned with a loss on bounds; concentrated: whether the channels of the next cut are pulled to constants.
    shown: whether it is verified (the dense parent may only be a means).
    """

    name: str
    kind: str
    arm: str
    seed: int
    ratio: float | None = None
    draw: int = 0
    parent: str | None = None
    like: str | None = None
    shown: bool = True
    criterion: str = ""
    shared: str = ""
    certified: bool = False
    concentrated: bool = False


def jobs(spec: Study) -> list[NetworkJob]:
    """Every network, in an order in which each comes after those it is made from."""
    arms = sorted(spec.arms, key=lambda arm: arm.kind in MATCHED)  # stable: the matched ones go last
    result = []
    for seed in spec.seeds:
        shown = any(arm.name == "dense" for arm in arms)
        result.append(NetworkJob(_name("dense", seed), "train", "dense", seed, shown=shown))
        for arm in arms:
            result.extend(_jobs_of(spec, arm, seed))
    return result


def _jobs_of(spec: Study, arm: Arm, seed: int) -> Iterator[NetworkJob]:
    dense = _name("dense", seed)
    if arm.name == "dense":
        return
    if arm.kind == "dense":
        yield NetworkJob(_name(arm.name, seed), "tune", arm.name, seed, parent=dense, certified=arm.certified)
        return
    for ratio in spec.ratios_of(arm):
        like = _name(spec.match, seed, ratio) if arm.kind in MATCHED else None
        for draw in range(arm.draws):
            name = _name(
                arm.name, seed, ratio, draw or None
            )  # no suffix for the first: an arm may get more draws later
            job = NetworkJob(name, "scratch", arm.name, seed, ratio, draw, like=like, certified=arm.certified)
            if arm.kind != "small-scratch":
                job = replace(job, kind="prune", parent=dense, criterion=arm.kind, shared=arm.shared,
                              concentrated=arm.concentrated)  # fmt: skip
            yield job


def _name(arm: str, seed: int, ratio: float | None = None, draw: int | None = None) -> str:
    parts = [re.sub(r"[^A-Za-z0-9+._-]", "_", arm)]
    parts += [] if ratio is None else [f"r{ratio:g}"]
    parts += [f"s{seed}"]
    parts += [] if draw is None else [f"d{draw}"]
    return "-".join(parts)


def schedule(names: Sequence[str], images: Sequence[int], seed: int = 0) -> Iterator[tuple[str, int]]:
    """(network, image) pairs: image after image, the networks of each in a shuffled order of its own.

    So whatever drifts on the machine during hours is shared by all networks. The order of an image depends only on
    `seed`, the image and the set of names: a study that is continued, or that grows by images, keeps it.
    """
    ordered = sorted(names)
    for image in images:
        order = np.random.default_rng([seed, image]).permutation(len(ordered))
        for index in order:
            yield ordered[index], image
