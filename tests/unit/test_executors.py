"""The seam between those who have tasks and where they run; the same loop over processes and over what may be lost."""

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.unit.fake_workers import FakeWorker, TogetherWorker, jobs
from tests.unit.inline_executor import Inline
from verifier.command.instances import run_list
from verifier.command.ledger import open_results
from verifier.command.worker import Job, JobOutcome, Note
from verifier.errors import ModelError, UnsupportedOperator
from verifier.executors.executor import Began, Done, Emit, LostError, Said, Servant, TaskEvent, run_each
from verifier.executors.processes import Processes


@dataclass
class Adder(Servant[int]):
    """Says n, then what is there twice; 13 cannot be done, and 7 kills the process the first time."""

    folder: Path
    beside: int = 0

    def prepare(self, beside: int) -> None:
        self.beside = beside

    def do(self, task: int, emit: Emit) -> None:
        emit(task)
        if task == 13:
            raise ModelError("thirteen")
        if task == 14:
            raise UnsupportedOperator("n", "Op", 9, "it is fourteen")
        mark = self.folder / str(task)
        if task == 7 and not mark.exists():
            mark.touch()
            os._exit(3)
        emit((2 * task, self.beside, os.getpid()))


def test_processes_perform_tasks_and_say_where_they_are(tmp_path: Path) -> None:
    with Processes(2, Adder(tmp_path)) as executor:
        said = list(run_each(executor, 6, lambda i: i + 1))
    assert sorted(m for m in said if isinstance(m[1], int)) == [(i, i + 1) for i in range(6)]
    ends = dict(m for m in said if not isinstance(m[1], int))
    assert {i: end[:2] for i, end in ends.items()} == {i: (2 * i + 2, 2) for i in range(6)}
    assert len({end[2] for end in ends.values()} - {os.getpid()}) <= 2


@pytest.mark.parametrize(("task", "kind", "text"), [(13, ModelError, "thirteen"), (14, Exception, "fourteen")])
def test_an_exception_of_a_task_is_raised_here(tmp_path: Path, task: int, kind: type[Exception], text: str) -> None:
    with Processes(1, Adder(tmp_path)) as executor, pytest.raises(kind, match=text):
        list(run_each(executor, 1, lambda i: task))


def test_a_process_that_dies_is_the_fault_of_its_task(tmp_path: Path) -> None:
    with Processes(1, Adder(tmp_path)) as executor, pytest.raises(LostError, match="exit code 3"):
        list(run_each(executor, 1, lambda i: 7))


def test_a_lost_task_is_made_anew_once() -> None:
    made: list[int] = []

    def make(i: int) -> int:
        made.append(i)
        return i

    told: list[str] = []
    first = Inline(Adder(Path()), lose=lambda number, event: number == 1 and isinstance(event, Done))
    with first:
        said = [m for m in run_each(first, 3, make, tell=told.append) if isinstance(m[1], int)]
    assert sorted(made) == [0, 1, 1, 2] and sorted(said) == [(0, 0), (1, 1), (1, 1), (2, 2)]
    assert told == ["the node went away: its task is tried again"]
    always = Inline(Adder(Path()), lose=lambda number, event: True)
    with always, pytest.raises(LostError, match="and so did its retry"):
        list(run_each(always, 1, make, tell=told.append))
    assert len(always.given) == 2


def results(path: Path) -> dict[str, str]:
    ledger = open_results(path)
    ledger.close()
    return {row.vnnlib: row.result for row in ledger.rows}


@pytest.mark.parametrize("after", [Began, Said, Done])
def test_jobs_of_a_lost_node_are_run_again_once(tmp_path: Path, after: type[TaskEvent]) -> None:
    lost = Inline(FakeWorker(tmp_path / "log"), lose=lambda number, event: number == 1 and isinstance(event, after))
    outcome = run_list(jobs(*["ok"] * 4), tmp_path / "r.csv", lost)
    assert results(tmp_path / "r.csv") == {f"p{i}.vnnlib": "unsat" for i in range(4)}
    assert len(lost.given) == (4 if after is Done else 5)  # after its answer there is nothing left to run
    assert len(outcome.rows) == 4 and not outcome.errors


def test_a_job_that_takes_two_nodes_with_it_is_an_error(tmp_path: Path) -> None:
    lost = Inline(FakeWorker(tmp_path / "log"), lose=lambda number, event: executor_job(lost, number) == "p1.vnnlib")
    outcome = run_list(jobs(*["ok"] * 3), tmp_path / "r.csv", lost)
    assert results(tmp_path / "r.csv") == {"p0.vnnlib": "unsat", "p1.vnnlib": "error", "p2.vnnlib": "unsat"}
    assert outcome.errors == 1 and len(lost.given) == 4


def executor_job(executor: Inline, number: int) -> str:
    return executor.given[number][0].vnnlib


def test_a_group_that_is_lost_keeps_what_it_had_and_has_one_retry(tmp_path: Path) -> None:
    """Three of four were being searched together: each is run once more, alone."""
    lost = Inline(
        TogetherWorker(tmp_path / "log", then="all"),
        1,
        lambda number, event: number == 0 and isinstance(event, Said) and event.message[0] == 1,
    )
    outcome = run_list(jobs(*["ok"] * 4), tmp_path / "r.csv", lost, most=4)
    assert [len(group) for group in lost.given] == [4, 1, 1, 1] and outcome.errors == 0
    assert results(tmp_path / "r.csv") == {"p0.vnnlib": "sat", **{f"p{i}.vnnlib": "unsat" for i in (1, 2, 3)}}


def test_jobs_travel_with_their_files_and_come_back_under_their_names(tmp_path: Path) -> None:
    worker = FakeWorker(tmp_path / "log")
    job = Job("cat", "n.onnx", "p.vnnlib", Path("/there/n.onnx"), Path("/there/p.vnnlib"), 1.0, Path("/out/n.proof"))
    assert set(worker.files([job])) == {job.model, job.spec}
    places = {path: tmp_path / path.name for path in worker.files([job])}
    (moved,) = worker.moved([job], places, tmp_path)
    assert (moved.model, moved.spec, moved.timeout) == (tmp_path / "n.onnx", tmp_path / "p.vnnlib", 1.0)
    assert moved.proof is not None and moved.proof.parent == tmp_path
    moved.proof.write_bytes(b"steps")
    message = 0, JobOutcome("error", 0.1, Note(f"{moved.model}: not an ONNX model"))
    assert worker.back(message, [job], [moved]) == (
        0, JobOutcome("error", 0.1, Note("/there/n.onnx: not an ONNX model"), proof=b"steps"),
    )  # fmt: skip
    assert worker.back(0, [job], [moved]) == 0


def test_a_proof_that_came_with_an_answer_is_written_before_its_line(tmp_path: Path) -> None:
    class Proving(FakeWorker):
        def solve(self, job: Job) -> JobOutcome:
            return replace(super().solve(job), proof=b"steps")

    run_list(jobs("ok"), tmp_path / "r.csv", Inline(Proving(tmp_path / "log")), proofs=tmp_path / "proofs")
    assert [path.read_bytes() for path in (tmp_path / "proofs").iterdir()] == [b"steps"]


COMMANDS = {
    "verify": ("verifier.command.verify", "--instances", "l.csv", "--results", "r.csv"),
    "compare": ("pruning.study.cli", "cnn7_w8", "--data", "aircraft23", "--images", "1", "--out", "out"),
    "coverage": (
        "verifier.semantic.coverage", "cnn7_w8", "--data", "aircraft23", "--images", "1", "--contrast", "1,1.1",
        "--tolerance", "3",
    ),
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_without_ray_the_error_says_what_to_install(command: str, tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise ImportError('No module named ray')\n")
    (tmp_path / "l.csv").write_text("n.onnx,p.vnnlib,1\n")
    name, *arguments = COMMANDS[command]
    code = f"import sys; from {name} import main; sys.exit(main({[*arguments, '--engine', 'ray']!r}))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.getcwd(), *filter(None, sys.path)])}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "pip install 'secateur[ray]'" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("command", "options", "text"),
    [
        ("verify", ["--engine", "ray", "--jobs", "2"], "--jobs is about processes of this machine"),
        ("verify", ["--address", "auto"], "add --engine ray"),
        ("verify", ["--engine", "rya"], "did you mean ray?"),
        ("coverage", ["--engine", "ray", "--device", "auto"], "--device cpu is all it takes"),
        ("compare", ["--address", "auto"], "add --engine ray"),
    ],
)
def test_what_a_cluster_cannot_take_is_refused(
    command: str, options: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from importlib import import_module

    monkeypatch.chdir(tmp_path)
    (tmp_path / "l.csv").write_text("n.onnx,p.vnnlib,1\n")
    name, *arguments = COMMANDS[command]
    try:
        code = import_module(name).main([*arguments, *options])
    except SystemExit as leaving:
        code = leaving.code
    assert code == 2 and text in capsys.readouterr().err
