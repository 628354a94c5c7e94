"""Semantic perturbations: what a few parameters do to an image, said once for all of it.

table.py          a row per parameter: its step, its limits, its constants
steps.py          the steps that fill it, with those of `gamma.py`, `fog.py` and `blur.py`
perturbation.py   ranges of some parameters with their constants: the one type that problems, searches, training and
                  pruning share; from a text, and to one
polynomial.py     the image as a polynomial in the parameters
enclosure.py      the image over a cell of parameters: an affine form with every rounding in its radius
options.py        the options of the command lines
"""

from verifier.perturbation import blur, fog, gamma, steps
from verifier.perturbation.table import PARAMETERS, parameter

__all__ = ["PARAMETERS", "blur", "fog", "gamma", "parameter", "steps"]
