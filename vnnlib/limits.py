"""Bounds on what an untrusted file may make this package do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Upper limits; exceeding one raises `VnnLibError` or `VnnLibUnsupported`, never exhausts memory.

    max_bytes: size of the text after decompression. max_cases: disjuncts of the expanded formula.
    max_literals: comparisons, counted with repetition, in the expanded formula. max_variables: elements of all
    tensors together. max_box_values: cases times inputs. max_work: elementary steps when arithmetic is multiplied out.
    max_number: characters of one number. max_errors: semantic errors collected before giving up.
    """

    max_bytes: int = 512 << 20
    max_cases: int = 1_000_000
    max_literals: int = 20_000_000
    max_variables: int = 1 << 25
    max_box_values: int = 1 << 27
    max_work: int = 20_000_000
    max_number: int = 4000
    max_errors: int = 50
