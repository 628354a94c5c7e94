"""The same problem through its files."""

import verifier
import vnnlib


def by_files(problem, **more):
    model = verifier.load(_saved(problem, more.pop("folder")))
    return verifier.verify(model, vnnlib.loads(problem.spec()), timeout=60, **more)


def _saved(problem, folder):
    path = folder / "composite.onnx"
    path.write_bytes(problem.model().SerializeToString())
    return path
