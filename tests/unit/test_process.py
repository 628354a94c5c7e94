"""What a command may do to its own process, and that the library does not."""

from __future__ import annotations

import subprocess
import sys
import time

import onnx
from onnx import TensorProto, helper


def _frozen(code: str) -> int:
    imports = "import gc\nfrom verifier import api\nfrom verifier.console import process"
    program = f"{imports}\n{code}\nprint(gc.get_freeze_count())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_only_a_command_takes_imports_out_of_the_collectors_sight() -> None:
    # Python itself may keep a few hundred objects apart from the start
    assert _frozen("process.forget_imports()") == _frozen("")
    assert _frozen("process.keep_imports(); process.forget_imports()") > _frozen("") + 1000


def test_the_seconds_of_a_command_count_from_the_start_of_its_process() -> None:
    code = (
        "import time; time.sleep(0.5)\nfrom verifier.console import process\nprint(time.monotonic() - process.began())"
    )
    before = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.49 <= float(done.stdout) <= time.monotonic() - before + 0.02  # ticks of a hundredth of a second


def test_a_command_counts_its_imports(tmp_path) -> None:
    """A limit that the interpreter alone has used up."""
    files = str(tmp_path / "a.onnx"), str(tmp_path / "a.vnnlib")
    code = (
        "import sys, time; time.sleep(0.3)\nfrom verifier.command import verify\n"
        f"sys.argv[1:] = ['--timeout', '0.2', *{files!r}]\nverify.run()"
    )
    ends = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", *([end] for end in ends))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), files[0])
    box = "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (>= X_0 0))(assert (<= X_0 1))"
    (tmp_path / "a.vnnlib").write_text(f"{box}(assert (<= Y_0 -1))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "timeout\n", done.stderr
