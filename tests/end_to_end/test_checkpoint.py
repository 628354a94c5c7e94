"""`verify --checkpoint`: a search that is killed at any moment goes on, and nothing of it is lost or counted twice."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import helper

from tests.end_to_end import nets
from tests.end_to_end.conftest import environment
from verifier import Options, Result, Verdict, verify
from verifier.budget import Budget
from verifier.command.verify import main
from verifier.engine import methods
from verifier.errors import ProblemError
from verifier.options import AttackOptions, SearchOptions
from verifier.progress import Progress
from verifier.search import checkpoint
from verifier.search.bab import Ending
from verifier.search.checkpoint import Checkpoint
from verifier.search.choose import Chooser
from verifier.search.domains import whole
from verifier.search.policy import Tally

SLOW = Options(checkpoint_every=0, attack=AttackOptions(restarts=0), search=SearchOptions(batch=32))
"""Many small steps, and no attack: a counterexample has to be found by the search."""

KILLER = """
import os, random, shutil, signal, sys, time
from pathlib import Path
import verifier
from verifier import engine  # what is imported here is not imported in every child
from verifier.graph import onnx_import
from verifier.options import AttackOptions, Options, SearchOptions
model, spec, file, kills = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
options = Options(checkpoint_every=0, attack=AttackOptions(restarts=0), search=SearchOptions(batch=32))
draw = random.Random(0)

def inode():
    return file.stat().st_ino if file.exists() else 0

for kill in range(kills + 1):
    before, seen = inode(), 0
    child = os.fork()
    if not child:
        result = verifier.verify(model, spec, options, checkpoint=file)
        print(result.verdict.value, result.settings.get("resumed_after_boxes", 0), flush=True)
        os._exit(0)
    while not os.waitpid(child, os.WNOHANG)[0]:
        if kill == kills:
            time.sleep(0.01)
            continue
        now = inode()
        seen, before = seen + (now != before), now
        writing = seen and any(file.parent.glob(".secateur-*"))
        if writing if kill % 2 else seen > 1:
            if not writing:
                time.sleep(draw.random() * 0.05)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            for part in file.parent.glob(".secateur-*"):
                part.unlink()
            if file.exists():
                shutil.copy(file, f"{file}.{kill}")
                print("killed", flush=True)
            break
        time.sleep(0.0005)
    else:
        break
"""


class Net:
    """A random network of two hidden layers and one output, and the largest value that was found in [-1, 1]^n."""

    def __init__(self, folder: Path, inputs: int, width: int, seed: int) -> None:
        draw, nodes, arrays, value, size = np.random.default_rng(seed), [], {}, "x", inputs
        for k in range(2):
            arrays[f"w{k}"] = draw.normal(size=(size, width)) * np.sqrt(2 / size)
            arrays[f"b{k}"] = draw.normal(size=width) * 0.3
            nodes.append(helper.make_node("Gemm", [value, f"w{k}", f"b{k}"], [f"s{k}"]))
            nodes.append(helper.make_node("Relu", [f"s{k}"], [f"h{k}"]))
            value, size = f"h{k}", width
        arrays["wo"] = draw.normal(size=(size, 1)) * np.sqrt(2 / size)
        nodes.append(helper.make_node("MatMul", [value, "wo"], ["y"]))
        self.folder, self.arrays, self.inputs = folder, arrays, inputs
        self.path = nets.save(folder / "net.onnx", nodes, arrays, inputs, 1)
        x = draw.uniform(-1, 1, (2000, inputs))
        for scale in (0.5, 0.2, 0.1, 0.05, 0.02, 0.01) * 5:
            self.best = x[self(x)[0].argmax()].astype(np.float32).astype(np.float64)
            x = np.clip(self.best + draw.normal(size=(300, inputs)) * scale, -1, 1)
            x[0] = self.best
        session = onnxruntime.InferenceSession(self.path.read_bytes())
        self.most = float(session.run(None, {"x": self.best[None].astype(np.float32)})[0][0, 0])

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Outputs (M,) and the arguments of all ReLU neurons (M, N)."""
        arguments = []
        for k in range(2):
            arguments.append(x @ self.arrays[f"w{k}"] + self.arrays[f"b{k}"])
            x = np.maximum(arguments[-1], 0)
        return (x @ self.arrays["wo"])[:, 0], np.concatenate(arguments, 1)

    def spec(self, above: float) -> Path:
        """Whether the output reaches the largest value that was found, and so much more."""
        return nets.spec(self.folder / f"{above}.vnnlib", f"(>= Y_0 {self.most + above:.7f})", n_in=self.inputs)

    def holders(self, file: Path, x: np.ndarray) -> np.ndarray:
        """In how many open boxes of a checkpoint each of the points (M, n) lies."""
        of = checkpoint._read(file).arrays
        count, arguments = np.zeros(len(x), np.int64), self(x)[1]
        for lower, upper, signs in zip(of["lower"], of["upper"], of["signs"], strict=True):
            decided = signs[signs != 0]
            kept = (arguments[:, np.abs(decided) - 1] * np.sign(decided) >= 0).all(1)
            count += (x >= lower).all(1) & (x <= upper).all(1) & kept
        return count


INPUTS, NEURONS = (5, 30, 2), (12, 20, 3)
"""Networks whose inputs, and whose neurons, are split: a search of about a second."""


@pytest.mark.parametrize(
    ("shape", "above", "verdict"), [(INPUTS, 0.05, "unsat"), (INPUTS, -1e-4, "sat"), (NEURONS, 0.05, "unsat")]
)
def test_killed_at_any_moment(tmp_path: Path, shape: tuple[int, int, int], above: float, verdict: str) -> None:
    """A search killed again and again, also in the middle of writing, ends with the verdict of one that was not."""
    net = Net(tmp_path, *shape)
    spec, file, kills = net.spec(above), tmp_path / "c.npz", 5
    run = subprocess.run(
        [sys.executable, "-c", KILLER, net.path, spec, file, str(kills)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    *killed, last = run.stdout.split("\n")[:-1]
    assert last.split()[0] == verdict and int(last.split()[1]) > 0, run.stdout + run.stderr
    assert len(killed) >= 2 and not file.exists()
    points, boxes, settled = np.random.default_rng(1).uniform(-1, 1, (500, shape[0])), 0, 0.0
    for saved in sorted(tmp_path.glob("c.npz.*")):
        found = checkpoint._read(saved)
        tally, open_ = found.about["tally"], float(found.arrays["share"].sum())
        assert tally["settled"] + open_ == pytest.approx(1, abs=1e-9) and tally["stuck"] == 0
        assert tally["boxes"] >= boxes and tally["settled"] >= settled  # nothing is done twice
        boxes, settled = tally["boxes"], tally["settled"]
        assert net.holders(saved, points).max() <= 1  # no part of the set is there twice
        if verdict == "sat":  # nothing that is needed is lost
            assert net.holders(saved, net.best[None]).min() >= 1


def stopped(net: Net, spec: Path, file: Path, after: int, options: Options = SLOW) -> Result:
    """A run that is stopped after so many boxes."""
    budget = Budget()

    def look(progress: Progress) -> None:
        if progress.boxes >= after:
            budget.stop("enough")

    return verify(net.path, spec, options, budget=budget, progress=look, checkpoint=file)


@pytest.fixture
def net(tmp_path: Path) -> Net:
    return Net(tmp_path, *INPUTS)


@pytest.fixture
def saved(net: Net, tmp_path: Path) -> Path:
    file = tmp_path / "c.npz"
    result = stopped(net, net.spec(0.05), file, 300)
    assert result.verdict is Verdict.UNKNOWN and result.reason == "enough"
    return file


def test_another_problem_is_refused(net: Net, saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, what differs is named, and the file is left alone."""
    before, other = saved.read_bytes(), Net(saved.parent, 5, 30, 4)
    spec = net.spec(0.05)
    assert main([str(other.path), str(spec), "--checkpoint", str(saved)]) == 2
    assert "model sha256" in (err := capsys.readouterr().err) and "specification" not in err
    Net(saved.parent, *INPUTS)
    assert main([str(net.path), str(net.spec(0.06)), "--checkpoint", str(saved)]) == 2
    assert "specification sha256" in (err := capsys.readouterr().err) and "model" not in err
    options = saved.parent / "o.yaml"
    options.write_text("search: {max_depth: 7}\n")
    assert main([str(net.path), str(spec), "--checkpoint", str(saved), "--options", str(options)]) == 2
    assert "search.max_depth: found None, expected 7" in capsys.readouterr().err
    assert saved.read_bytes() == before
    assert main([str(net.path), str(spec), "--checkpoint", str(saved), "--json", str(saved.parent / "r.json")]) == 0
    assert capsys.readouterr().out == "unsat\n" and not saved.exists()
    settings = json.loads((saved.parent / "r.json").read_text())["settings"]
    assert settings["resumed_after_boxes"] >= 300 and settings["deterministic"] is False


@pytest.mark.parametrize(
    "more", [["--proof", "p"], ["--coverage"], ["--instances", "l.csv", "--results", "r.csv"]], ids=lambda m: m[0]
)
def test_what_has_no_checkpoint_says_so(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    files = [] if more[0] == "--instances" else ["net.onnx", "s.vnnlib"]
    with pytest.raises(SystemExit) as left:
        main([*files, "--checkpoint", "c.npz", *more])
    assert left.value.code == 2 and "--checkpoint" in capsys.readouterr().err


def test_random_points_have_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, spec = nets.one_hot(tmp_path / "n.onnx"), nets.spec(tmp_path / "s.vnnlib", "(>= Y_0 2)", n_out=2)
    assert main([str(net), str(spec), "--checkpoint", str(tmp_path / "c.npz")]) == 2
    assert "checkpoint" in capsys.readouterr().err and not (tmp_path / "c.npz").exists()


def test_damage_is_refused(saved: Path) -> None:
    """Any byte changed, the end missing, another file: refused, or the very same content."""
    good, data, draw = checkpoint._read(saved), saved.read_bytes(), np.random.default_rng(0)
    refused = 0
    for at in [*draw.integers(len(data), size=150).tolist(), *range(0, 400, 7), *range(len(data) - 600, len(data), 9)]:
        saved.write_bytes(data[:at] + bytes([data[at] ^ int(draw.integers(1, 256))]) + data[at + 1 :])
        try:
            found = checkpoint._read(saved)
        except ProblemError as error:
            refused += str(error).startswith(f"{saved}: ")
        else:
            assert found.about == good.about
            assert all(np.array_equal(found.arrays[k], v) for k, v in good.arrays.items())
    assert refused > 100
    for content in (b"", data[: len(data) // 2], data[:-1], b"sat\n"):
        saved.write_bytes(content)
        with pytest.raises(ProblemError, match="not a checkpoint"):
            checkpoint._read(saved)


def test_a_dropped_box_is_noticed(net: Net, saved: Path) -> None:
    found = checkpoint._read(saved)
    text = np.frombuffer(json.dumps(found.about).encode(), np.uint8)
    with saved.open("wb") as stream:
        np.savez(stream, about=text, **{k: v[1:] for k, v in found.arrays.items()})  # type: ignore[arg-type]
    with pytest.raises(ProblemError, match="add up to 0"):
        verify(net.path, net.spec(0.05), SLOW, checkpoint=saved)


def test_stuck_boxes_are_remembered(tmp_path: Path) -> None:
    """A search that could not settle a box never ends as `unsat` because it was gone on with."""
    file, boxes = tmp_path / "c.npz", whole(*(torch.tensor([[v]], dtype=torch.float64) for v in (0.0, 1.0)))
    half = boxes.split(torch.tensor([0]), torch.tensor([0.5], dtype=torch.float64)).select(slice(0, 1))
    before = Tally(boxes=9, steps=3, settled=0.25, stuck=2, stuck_share=0.25, stuck_since=5, deepest=4)
    first = Checkpoint(file, {"a": 1}, 10)
    first.start("inputs", boxes, 1, 0)
    first.ended(Ending(None, 0.5, before, half))
    assert first.close(False) == "" and file.exists()
    rest, tally = Checkpoint(file, {"a": 1}, 10).start("inputs", boxes, 1, 0)
    assert tally == before and torch.equal(rest.lower, half.lower) and torch.equal(rest.upper, half.upper)
    with pytest.raises(ProblemError, match="a: found 1, expected 2"):
        Checkpoint(file, {"a": 2}, 10)
    with pytest.raises(ProblemError, match="strategy"):
        Checkpoint(file, {"a": 1}, 10).start("neurons", boxes, 1, 0)


def test_a_tie_survives_a_stop(tmp_path: Path) -> None:
    """At 4 splits most boxes are stuck: the answer is `unknown` in one go and in many."""
    net = Net(tmp_path, *INPUTS)
    shallow = Options(attack=SLOW.attack, checkpoint_every=0, search=SearchOptions(batch=4, max_depth=4))
    file, result, runs = tmp_path / "c.npz", None, 0
    while result is None or (file.exists() and runs < 30):
        result, runs = stopped(net, net.spec(0.05), file, 0, shallow), runs + 1
    assert runs > 2 and result.verdict is Verdict.UNKNOWN and "a tie" in result.reason


def test_a_disk_that_refuses_does_not_cost_the_answer(net: Net, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, saves = saved.read_bytes(), []

    def full(stream: IO[bytes], **arrays: Any) -> None:
        saves.append(stream.write(b"PK half of it"))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.np, "savez", full)
    result = stopped(net, net.spec(0.05), saved, 600)
    assert "No space left on device" in result.reason and str(saved) in result.reason and saves
    assert saved.read_bytes() == before and not list(saved.parent.glob(".secateur-*"))
    assert verify(net.path, net.spec(0.05), SLOW, checkpoint=saved).verdict is Verdict.UNSAT
    assert not saved.exists()


def test_a_folder_that_is_not_there_is_told_before_the_search(net: Net, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(net.path), str(net.spec(0.05)), "--checkpoint", str(net.folder / "no" / "c.npz")]) == 2
    assert "cannot write the checkpoint" in capsys.readouterr().err


def test_it_is_written_now_and_then_also_when_the_clock_jumps(tmp_path: Path) -> None:
    boxes, now = whole(*(torch.tensor([[v]], dtype=torch.float64) for v in (0.0, 1.0))), [100.0]
    kept, asked = Checkpoint(tmp_path / "c.npz", {}, 10, lambda: now[0]), []
    kept.start("inputs", boxes, 1, 0)
    for time, written in ((105.0, 0), (111.0, 1), (112.0, 1), (50.0, 2), (55.0, 2), (61.0, 3)):
        now[0] = time
        kept.step(Tally(), lambda: asked.append(1) or boxes)  # type: ignore[func-returns-value]
        assert len(asked) == written


def seen(net: Net, options: Options, clock: Any, memory: int | None, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every batch of boxes of a search on a machine with such a clock and so much memory."""
    batches, bound = [], methods.bound_boxes

    def record(setting: Any, batch: Any, *more: Any) -> Any:
        batches.append(batch.lower.numpy().tobytes() + batch.upper.numpy().tobytes())
        return bound(setting, batch, *more)

    with monkeypatch.context() as patch:
        patch.setattr(methods, "bound_boxes", record)
        patch.setattr(methods, "Chooser", partial(Chooser, clock=clock))
        result = verify(net.path, net.spec(0.05), options, budget=Budget(memory_bytes=memory))
    assert result.verdict is Verdict.UNSAT
    return batches


def test_deterministic_measures_nothing(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same boxes in the same batches whatever the clock says and the memory allows; otherwise they differ."""
    ticks = iter(range(10**9))
    slow, fast = lambda: 1000.0 ** (next(ticks) % 4), lambda: 0.0  # of two measurements the second takes 10^6 times
    calm = Options(deterministic=True, attack=SLOW.attack)
    runs = [seen(net, calm, clock, memory, monkeypatch) for clock, memory in ((slow, None), (fast, 50_000_000))]
    assert runs[0] == runs[1] and len(runs[0]) > 10
    loose = Options(attack=SLOW.attack)
    assert seen(net, loose, slow, None, monkeypatch) != seen(net, loose, fast, None, monkeypatch)
