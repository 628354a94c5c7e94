"""Gamma correction of the picture: x <- x^gamma, for every pixel x in [0, 1].

Not polynomial in the parameter: x^gamma = exp(gamma ln x) is one number per pixel. It comes first, so that x is fixed
and the power is a smooth function of gamma alone; `enclosure.py` has its planes, `composite.py` the nodes of the
written network (exp of a linear layer). A black pixel has ln x = `polynomial.BLACK`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from verifier.perturbation.table import parameter

if TYPE_CHECKING:
    from verifier.perturbation.polynomial import Given, Polynomial

LIMITS = (0.05, 20.0)
WHY = "a black pixel has to stay black"


@parameter("gamma", 1.0, "exponent", stage=0, limits=LIMITS, why=WHY, pointwise=True)
def _gamma(value: Polynomial, index: int, given: Given) -> Polynomial:
    return given.power(index)
