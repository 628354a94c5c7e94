"""A result: nothing impossible gets in, nothing gets lost on the way through the file."""

from __future__ import annotations

import json

import pytest

from pruning.study import row
from tests.unit.study.made_row import make
from verifier.errors import UnsoundError


@pytest.mark.parametrize("changes", [{}, {"ratio": None}, {"sampled": 0.9}, {"name": "é ü"}, {"seconds": 1e-12},
                                     {"trace": ((0.5, 0.25), (1.25, 0.5))}])  # fmt: skip
def test_round_trip(changes):
    held = make(**changes)
    assert row.decode(json.loads(json.dumps(row.encode(held)))) == held


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"verdict": "unsat"}, "verdict"),
        ({"certified": 0.9}, "add up"),
        ({"certified": -0.5, "open": 1.25}, "shares of 1"),
        ({"seconds": -1.0}, "seconds is negative"),
        ({"boxes": -1}, "boxes is negative"),
        ({"seconds": float("inf")}, "finite"),
        ({"tau": float("nan")}, "finite"),
        ({"boxes": 1.5}, "boxes is 1.5"),
        ({"boxes": True}, "boxes is True"),
        ({"image": "3"}, "image is '3'"),
        ({"name": None}, "name is None"),
        ({"trace": ((2.0, 0.1), (1.0, 0.5))}, "trace falls"),
        ({"trace": ((0.5, 0.6), (1.0, 0.5))}, "trace falls"),
        ({"trace": ((0.5, 0.4),)}, "trace ends with a share of 0.4, certified are 0.5"),
        ({"trace": ((0.5, float("nan")),)}, "finite"),
        ({"trace": (0.5, 0.5)}, "pairs of seconds and share"),
        ({"trace": "often"}, "pairs of seconds and share"),
        ({"trace": ((0.5, 0.5),) * 1001}, "at most 1000 pairs"),
    ],
)
def test_impossible_values_are_named(changes, word):
    with pytest.raises(ValueError, match=word):
        row.decode(row.encode(make(**changes)))


def test_rows_from_before_there_was_a_choice_of_clocks_count_wall_time():
    value = row.encode(make())
    assert value.pop("clock") == "wall"
    assert row.decode(value) == make() and row.decode({**value, "clock": "processor"}).clock == "processor"


def test_what_was_certified_by_a_time_is_read_off_the_trace():
    held = make(seconds=9.0, timeout=10.0, trace=((0.5, 0.25), (2.0, 0.375), (9.0, 0.5)))
    wanted = {0.4: 0.0, 0.5: 0.25, 1.9: 0.25, 2.0: 0.375, 8.9: 0.375, 9.0: 0.5, 10.0: 0.5, 60.0: 0.5}
    assert {limit: held.certified_by(limit) for limit in wanted} == wanted
    assert make().certified_by(1.0) is None and make().certified_by(1.25) == 0.5  # it ended by then


def test_missing_and_unknown_fields_are_named():
    value = row.encode(make())
    del value["tau"]
    with pytest.raises(ValueError, match="tau"):
        row.decode({**value, "other": 1})


@pytest.mark.parametrize(
    "changes",
    [
        {"verdict": "certified", "certified": 0.99, "refuted": 0.01, "open": 0.0},
        {"verdict": "certified", "certified": 0.9, "refuted": 0.0, "open": 0.1},
        {"verdict": "certified", "certified": 1.0, "refuted": 0.0, "open": 0.0, "sampled": 0.9999},
    ],
)
def test_a_certificate_that_contradicts_itself_stops_everything(changes):
    with pytest.raises(UnsoundError):
        row.check(make(**changes))


def test_certified_needs_every_sample_within():
    row.check(make(verdict="certified", certified=1.0, refuted=0.0, open=0.0, sampled=1.0))
