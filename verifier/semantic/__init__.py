"""The semantic front-end: an image, a network and ranges of parameters -> a standard problem.

build(...)    one image -> (ONNX file, VNN-LIB text) that any VNN-COMP tool can run
prepare(...)  the same, kept as a `SemanticProblem` that can be evaluated, drawn and put into a batch
batch(...)    many problems of one network -> one network and arrays per image, without files
"""

from verifier.perturbation.perturbation import Perturbation, Range
from verifier.semantic.batch import Batch, Query, batch
from verifier.semantic.problem import Pair, SemanticProblem, build, prepare
from verifier.semantic.properties import Coordinates, ErrorBudget, Head, Heatmap, Label, Pose
from verifier.semantic.target import Target

__all__ = [
    "Batch",
    "Coordinates",
    "ErrorBudget",
    "Head",
    "Heatmap",
    "Label",
    "Pair",
    "Perturbation",
    "Pose",
    "Query",
    "Range",
    "SemanticProblem",
    "Target",
    "batch",
    "build",
    "prepare",
]
