"""The same study through its files."""

import verifier
import vnnlib


def by_files(study, **more):
    model = verifier.load(_saved(study, more.pop("folder")))
    return verifier.verify(model, vnnlib.loads(study.spec()), timeout=60, **more)


def _saved(study, folder):
    path = folder / "composite.onnx"
    path.write_bytes(study.model().SerializeToString())
    return path
