"""What a command may do to its own process, and that the library does not."""

from __future__ import annotations

import subprocess
import sys


def _frozen(code: str) -> int:
    program = f"import gc\nfrom verifier import process\nfrom verifier.api import read_spec\n{code}\nprint(gc.get_freeze_count())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_only_a_command_takes_imports_out_of_the_collectors_sight() -> None:
    # Python itself may keep a few hundred objects apart from the start
    assert _frozen("process.forget_imports()") == _frozen("")
    assert _frozen("process.keep_imports(); process.forget_imports()") > _frozen("") + 1000
