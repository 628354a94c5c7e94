"""No command writes over a file that it reads, under whatever name, and a bad call leaves no folder behind."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from verifier.command.umbrella import main
from verifier.console.outputs import keep_inputs
from verifier.errors import OutputError


def network(path: Path, external: bool = False) -> None:
    """1 x 8 x 8 grey image -> Conv 8 -> ReLU -> Gemm to one key point."""
    rng = np.random.default_rng(1)
    weights = {"w": rng.normal(size=(8, 1, 3, 3)), "v": rng.normal(size=(2, 512)) / 20, "c": np.full(2, 4.0)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], pads=[1, 1, 1, 1]), helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]), helper.make_node("Gemm", ["f", "v", "c"], ["y"], transB=1),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save_model(model, path, save_as_external_data=external, location=f"{path.name}.data", size_threshold=0)


def two_inputs(path: Path) -> None:
    """y = ReLU(X_0 + X_1)."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])],
        [numpy_helper.from_array(np.ones((2, 1), np.float32), "w")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)


SPEC = "".join(f"(declare-const {n} Real)" for n in ("X_0", "X_1", "Y_0")) + (
    "(assert (>= X_0 0))(assert (<= X_0 1))(assert (>= X_1 0))(assert (<= X_1 1))(assert (>= Y_0 9))"
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one of everything that commands read; it is the working directory."""
    monkeypatch.chdir(tmp_path)
    network(tmp_path / "net.onnx")
    network(tmp_path / "split.onnx", external=True)
    two_inputs(tmp_path / "two.onnx")
    (tmp_path / "two.vnnlib").write_text(SPEC)
    (tmp_path / "list.csv").write_text("two.onnx,two.vnnlib,10\n")
    (tmp_path / "options.yaml").write_text("seed: 1\n")
    (tmp_path / "000.json").write_text(json.dumps({"keypoints": [[4.0, 4.0]]}))
    (tmp_path / "pictures").mkdir()
    for name in ("000.png", "pictures/a.png", "pictures/scores_0.png"):
        Image.fromarray(np.full((8, 8), 128, np.uint8)).save(tmp_path / name)
    np.savez(tmp_path / "data.npz", images=np.full((4, 1, 8, 8), 0.5, np.float32))
    rows = "cat,two.onnx,two.vnnlib,0,unsat,1\n"
    (tmp_path / "a.csv").write_text(rows)
    (tmp_path / "b.csv").write_text(rows)
    coco = {
        "images": [{"id": 1, "file_name": "pictures/a.png", "width": 8, "height": 8}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "bbox": [0, 0, 8, 8],
                "keypoints": [4, 4, 2],
                "num_keypoints": 1,
                "category_id": 1,
                "area": 64,
                "iscrowd": 0,
            }
        ],
        "categories": [{"id": 1, "name": "spot", "keypoints": ["spot"], "skeleton": []}],
    }
    (tmp_path / "study.json").write_text(json.dumps(coco))
    (tmp_path / "links").mkdir()
    return tmp_path


def fingerprints(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


PRUNE = "prune net.onnx --criterion l1 --fold zero -o"
SPEC_CALL = "spec net.onnx --image 000.png --keypoints 000.json --brightness=-0.1,0.1 --tolerance 3"
COMPARE = "compare --results a=a.csv b=b.csv"
CALLS = [
    f"{PRUNE} net.onnx",
    f"{PRUNE} ./links/../net.onnx",
    f"{PRUNE} links/soft.onnx",
    f"{PRUNE} links/hard.onnx",
    "prune split.onnx --criterion l1 --fold zero -o split.onnx.data",
    "prune net.onnx --criterion l1 --fold zero --sweep 0.25,0.5 -o links/swept.onnx",
    "prune net.onnx --criterion l2 --data data.npz -o data.npz",
    "prune net.onnx --criterion l2 --data study.json -o study.onnx",  # its record is study.json
    "prune net.onnx --criterion l2 --data pictures -o small.onnx --report pictures",
    f"{SPEC_CALL} --out 000",
    f"{SPEC_CALL} --out net",
    f"{SPEC_CALL} --out new --draw 000.png",
    f"{SPEC_CALL} --out new --draw links/picture.png",
    "spec net.onnx --image . --keypoints study.json --annotation 1 --brightness=-0.1,0.1 --tolerance 3"
    " --out new --draw pictures/a.png",
    "verify two.onnx two.vnnlib --results two.vnnlib",
    "verify two.onnx two.vnnlib --json two.onnx",
    "verify two.onnx two.vnnlib --options options.yaml --json links/../options.yaml",
    "verify --instances list.csv --results list.csv",
    "verify --instances list.csv --results two.vnnlib",
    "verify two.onnx two.vnnlib --coverage links/two.json",
    "coverage two.onnx two.vnnlib --npz links/two.npz",
    "coverage two.onnx two.vnnlib --json two.vnnlib",
    "coverage two.onnx two.vnnlib --picture links/two.png",
    f"{COMPARE} --json a.csv",
    f"{COMPARE} --cactus links/b.svg",
    "compare net.onnx --data study.json --images 1 --out .",
]  # fmt: skip
OTHERWISE_WRONG = [
    "prune net.onnx --criterion l1 --fold zero -o small.json",
    f"{SPEC_CALL} --out new --draw new.png --at 1,2,3",  # refused before anything is written
    "compare net.onnx --data aircraft23 --images 1 --rectangle bad",
    "compare net.onnx --data nothing --images 1",
    "compare net.onnx --data study.json --images 1 --rectangle contrast=1.2:0.8 --out new",
    "compare two.onnx --data study.json --images 1 --out new",
    "compare none.onnx --data study.json --images 1 --out new",
    "verify --instances list.csv --results pictures --witnesses new",
    "verify --instances none.csv --results r.csv --witnesses new",
    "verify two.onnx two.vnnlib --coverage new/deeper/still",
    "prune net.onnx --criterion nonsense --report new -o small.onnx",
    "train --out new/net --level nonsense",
    "train --out new/net --images 0",
]  # fmt: skip
LINKS = {
    "soft.onnx": "net.onnx", "swept_0.5.onnx": "net.onnx", "two.npz": "two.onnx", "two.json": "two.vnnlib",
    "two.png": "two.onnx", "picture.png": "000.png", "b.svg": "b.csv",
}  # fmt: skip


@pytest.mark.parametrize("call", [*CALLS, *OTHERWISE_WRONG])
def test_a_refused_call_changes_nothing(place: Path, capsys: pytest.CaptureFixture[str], call: str) -> None:
    for name, target in LINKS.items():
        (place / "links" / name).symlink_to(place / target)
    os.link(place / "net.onnx", place / "links" / "hard.onnx")
    before = fingerprints(place)
    try:
        code = main(call.split())
    except SystemExit as stopped:  # argparse
        code = int(str(stopped.code))
    assert code == 2
    assert fingerprints(place) == before
    error = capsys.readouterr().err.strip()
    assert ("write elsewhere" in error) == (call not in OTHERWISE_WRONG), error


def test_after_a_bad_rectangle_the_right_call_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The default folder: what a refused call leaves there must not refuse the next one."""
    call = "compare net.onnx --data study.json --images 1 --timeout 20 --no-report --rectangle"
    assert main(f"{call} bad".split()) == 2
    assert not (place / "out").exists()
    assert main(f"{call} small".split()) == 0
    assert (place / "out/compare/results.jsonl").exists()
    capsys.readouterr()


@pytest.mark.parametrize(
    "call",
    [
        f"{PRUNE} small.onnx",
        f"{SPEC_CALL} --out new",
        "verify two.onnx two.vnnlib --results r.txt --json r.json",
        "coverage two.onnx two.vnnlib --npz c.npz --checkpoint c.npz",
        "prune net.onnx --criterion l2 --data pictures -o pictures/small.onnx",
    ],
)
def test_outputs_of_an_earlier_run_may_be_replaced(place: Path, capsys: pytest.CaptureFixture[str], call: str) -> None:
    for _ in range(2):
        assert main(call.split()) == 0, capsys.readouterr().err
    capsys.readouterr()


def test_the_check_itself(place: Path) -> None:
    def never() -> Callable[[], None]:
        raise AssertionError("inputs are only looked at where an output exists")
        yield

    keep_inputs([place / "new.txt", None, "/dev/null"], never())
    keep_inputs(["a.csv"], ["b.csv", None, "missing", "/dev/null"])
    keep_inputs(["/dev/null"], ["/dev/null"])
    for output in ("a.csv", place / "a.csv", "links/../a.csv"):
        with pytest.raises(OutputError, match="would be overwritten"):
            keep_inputs(["new.txt", output], ["b.csv", "a.csv"])
