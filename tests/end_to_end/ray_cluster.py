"""A real Ray cluster of two nodes of one processor each, on this machine; `make test-ray`, not part of `make test`.

Each test starts a cluster of its own, since a node is lost in some. Nodes share the file system here, so that tasks do
not use it is tested by what they see of it.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster as Nodes

from tests.end_to_end import nets
from tests.end_to_end.conftest import ROOT, environment
from tests.end_to_end.pages import Walk
from tests.unit.fake_workers import FakeWorker, jobs
from verifier.command.instances import run_list
from verifier.command.ledger import open_results
from verifier.command.worker import Job, JobOutcome
from verifier.errors import OptionsError
from verifier.executors.cluster import Cluster
from verifier.executors.executor import T

NODE = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    """Nodes that have the package, and put their files into `tmp`."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("RAY_TMPDIR", tempfile.gettempdir())  # paths of its sockets have to be short
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    found = Nodes(initialize_head=True, head_node_args=NODE)
    try:
        found.add_node(**NODE)
        yield found
    finally:
        found.shutdown()
    limit = time.monotonic() + 20
    while list((tmp_path / "tmp").glob("secateur-*")) and time.monotonic() < limit:
        time.sleep(0.1)
    assert not list((tmp_path / "tmp").glob("secateur-*"))  # whatever happened to its process


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """Three networks, one with its weights beside it, with two questions each, and one file that is none."""
    folder = tmp_path / "bench"
    folder.mkdir()
    nets.absolute(folder / "one.onnx")
    nets.absolute(folder / "two.onnx", 2.0)
    import onnx

    model = onnx.load(str(folder / "two.onnx"))
    onnx.save(model, str(folder / "far.onnx"), save_as_external_data=True, location="far.data", size_threshold=0)
    assert (folder / "far.data").exists()
    nets.spec(folder / "high.vnnlib", "(>= Y_0 2.5)")
    nets.spec(folder / "low.vnnlib", "(>= Y_0 1.5)")
    (folder / "none.onnx").write_text("no network")
    pairs = [(net, spec) for net in ("one", "two", "far", "none") for spec in ("high", "low")]
    (folder / "instances.csv").write_text("".join(f"{n}.onnx,{s}.vnnlib,60\n" for n, s in pairs))
    return folder


def run(module: str, folder: Path, *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == code, done.stderr
    return done


def words(path: Path) -> dict[tuple[str, str], str]:
    with path.open(newline="") as stream:
        return {(line[1], line[2]): line[4] for line in csv.reader(stream)}


def same_files(one: Path, other: Path) -> None:
    files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in (one, other)]
    assert files[0] == files[1] and files[0]


def test_a_list_has_the_same_results_as_on_one_machine(nodes: Nodes, tmp_path: Path, bench: Path) -> None:
    """Verdicts, witnesses and proofs to the byte, errors with the names of the list's own files, a report."""
    options = ("--instances", "bench/instances.csv", "--witnesses")
    here = run("verifier.command.verify", tmp_path, *options, "w1", "--results", "r1.csv", "--proof", "p1", code=1)
    more = ("--engine", "ray", "--address", nodes.address, "--report", "out.html", "--memory", "2")
    done = run(
        "verifier.command.verify", tmp_path, *options, "w2", "--results", "r2.csv", "--proof", "p2", *more, code=1
    )
    assert done.stdout == "" and words(tmp_path / "r1.csv") == words(tmp_path / "r2.csv")
    assert set(words(tmp_path / "r2.csv").values()) == {"sat", "unsat", "error"}
    same_files(tmp_path / "w1", tmp_path / "w2")
    same_files(tmp_path / "p1", tmp_path / "p2")
    errors = [
        sorted(line[18:] for line in told.stderr.splitlines() if line.startswith("error")) for told in (here, done)
    ]
    assert errors[0] == errors[1] and str(bench / "none.onnx") in errors[0][-1]
    assert "2 nodes, 2 processors" in (tmp_path / "out.html").read_text()
    plain = ("--instances", "bench/instances.csv", "--results", "r3.csv", "--engine", "ray", "--address", nodes.address)
    run("verifier.command.verify", tmp_path, *plain, code=1)  # without proofs: weights may lie in another file
    assert words(tmp_path / "r3.csv")["far.onnx", "low.vnnlib"] == "sat"
    run("verifier.proof.cli", tmp_path, "p2/two_high.proof", "bench/two.onnx", "bench/high.vnnlib", code=0)


def results(path: Path) -> dict[str, str]:
    ledger = open_results(path)
    ledger.close()
    return {row.vnnlib: row.result for row in ledger.rows}


class Seeing(FakeWorker):
    """Answers where it was run and what it saw of its files."""

    def solve(self, job: Job) -> JobOutcome:
        assert job.model is not None
        assert job.model.parents[1].name.startswith("secateur-")
        time.sleep(0.5)  # the folder stays while its process does
        seen = f"{os.environ.get('OMP_NUM_THREADS')} {job.model.read_text()} {job.spec.read_text()} {job.model}"
        return JobOutcome("unsat", 0.1, witness=seen)


def test_a_task_needs_no_file_of_the_machine_that_gave_it(nodes: Nodes, tmp_path: Path) -> None:
    todo = []
    for i in range(4):
        (tmp_path / f"{i}.onnx").write_text(f"network {i}")
        (tmp_path / f"{i}.vnnlib").write_text(f"question {i}")
        names = f"{i}.onnx", f"{i}.vnnlib"
        todo.append(Job("cat", *names, tmp_path / names[0], tmp_path / names[1], 9.0))
    cluster = Cluster(Seeing(tmp_path / "log"), nodes.address)
    run_list(todo, tmp_path / "r.csv", cluster, witnesses=tmp_path / "w")
    for i in range(4):
        threads, text = (tmp_path / "w" / f"{i}_{i}.counterexample").read_text().split(" ", 1)
        assert threads == "1" and text.startswith(f"network {i} question {i} ")
        assert not text.endswith(f"{tmp_path / str(i)}.onnx") and not Path(text.split()[-1]).exists()


def when(path: Path, lines: int, then: Callable[[], object]) -> threading.Thread:
    """Does something once a file has so many lines."""

    def wait() -> None:
        limit = time.monotonic() + 60
        while time.monotonic() < limit and not (path.exists() and path.read_bytes().count(b"\n") >= lines):
            time.sleep(0.05)
        then()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


class Counting(Cluster[T]):
    """Counts the tasks that it is given."""

    given = 0

    def give(self, task: T) -> int:
        self.given += 1
        return super().give(task)


def test_a_node_that_is_lost_costs_its_tasks_one_retry(nodes: Nodes, tmp_path: Path) -> None:
    """Killed in the middle of a list; every instance is settled, and once."""
    out, log = tmp_path / "r.csv", tmp_path / "log"
    second = next(node for node in nodes.worker_nodes)
    both_run = tmp_path / "pids"
    killer = when(both_run, 2, lambda: (time.sleep(0.3), nodes.remove_node(second, allow_graceful=False)))
    cluster = Counting(FakeWorker(log, 1.0), nodes.address)
    outcome = run_list(jobs(*["ok"] * 12), out, cluster)
    killer.join()
    assert results(out) == {f"p{i}.vnnlib": "unsat" for i in range(12)} and len(outcome.rows) == 12
    begun = Counter(line for line in log.read_text().split() if line.endswith("vnnlib"))
    assert cluster.given > 12 and len(begun) == 12 and max(begun.values()) <= 2


def test_crashes_and_hangs_have_their_words(nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from verifier.command import instances

    monkeypatch.setattr(instances, "KILL_AFTER", 1.0)
    log = tmp_path / "log"
    todo = [*jobs("ok", "crash", "refuse", "raise"), jobs(*["ok"] * 4, "hang", timeout=0.5)[4]]
    run_list(todo, tmp_path / "r.csv", Cluster(FakeWorker(log), nodes.address))
    found = ["unsat", "error", "error", "error", "timeout"]
    assert results(tmp_path / "r.csv") == {f"p{i}.vnnlib": word for i, word in enumerate(found)}
    runs = log.read_text().split()
    assert runs.count("p1.vnnlib") == 2 and runs.count("p4.vnnlib") == 1  # a lost worker is tried again, a hang is not


SCRIPT = """
import sys
from pathlib import Path
from tests.unit.fake_workers import FakeWorker, jobs
from verifier.command.instances import run_list
from verifier.executors.cluster import Cluster
from verifier.executors.executor import T
folder = Path(sys.argv[1])
outcome = run_list(jobs(*["ok"] * 10), folder / "r.csv", Cluster(FakeWorker(folder / "log", 0.3), sys.argv[2]))
sys.exit(130 if outcome.stopped else 0)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_list_that_was_stopped_goes_on(nodes: Nodes, tmp_path: Path, number: signal.Signals) -> None:
    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path), nodes.address], env=environment())

    first = start()
    when(tmp_path / "r.csv", 3, lambda: first.send_signal(number)).join()
    assert first.wait(timeout=60) == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    before = (tmp_path / "r.csv").read_bytes()
    assert 3 <= before.count(b"\n") < 10
    assert start().wait(timeout=90) == 0
    after = (tmp_path / "r.csv").read_bytes()
    assert after.startswith(before) and after.count(b"\n") == len(results(tmp_path / "r.csv")) == 10


STUDY = ("--contrast", "0.9,1.1", "--brightness=-0.05,0.05", "--tolerance", "5")


def test_coverage_of_many_images_is_the_same(nodes: Nodes, tmp_path: Path) -> None:
    """Areas, cells counted and rectangles; a second run has nothing left to do."""
    command = ("cnn7_w8", "--data", "aircraft23", "--images", "0:5", *STUDY, "--json")
    cluster = ("--engine", "ray", "--address", nodes.address, "--checkpoint", "c.npz")
    run("verifier.semantic.coverage", tmp_path, *command, "1.json")
    done = run("verifier.semantic.coverage", tmp_path, *command, "2.json", *cluster)
    again = run("verifier.semantic.coverage", tmp_path, *command, "3.json", *cluster)
    one, two, three = (without_seconds(json.loads((tmp_path / f"{i}.json").read_text())) for i in (1, 2, 3))
    assert one == two == three
    assert done.stdout == again.stdout and len(done.stdout.splitlines()) == 6


def without_seconds(value: object) -> object:
    if isinstance(value, dict):
        return {key: without_seconds(inner) for key, inner in value.items() if key != "seconds"}
    return [without_seconds(inner) for inner in value] if isinstance(value, list) else value


def test_a_comparison_is_the_same(nodes: Nodes, tmp_path: Path) -> None:
    run("pruning.cli", tmp_path, "cnn7_w8", "-o", "small.onnx", "--ratio", "0.5", "--criterion", "l2")
    what = ("--data", "aircraft23", "--images", "2", "--rectangle", "small", "--tau", "10%", "--timeout", "60")
    command = ("cnn7_w8", "small.onnx", *what, "--no-report", "--out")
    run("pruning.study.cli", tmp_path, *command, "here")
    run("pruning.study.cli", tmp_path, *command, "there", "--engine", "ray", "--address", nodes.address)
    found = [
        {
            (row["name"], row["image"]): row | {"seconds": 0.0, "trace": None}
            for row in map(json.loads, path.read_text().splitlines())
        }
        for path in (tmp_path / "here/results.jsonl", tmp_path / "there/results.jsonl")
    ]
    assert found[0] == found[1] and len(found[0]) == 4


def test_the_page_about_clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own cluster, by `ray start`; results as on one machine."""
    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.setenv(name, "/tmp")
    folder = Walk(tmp_path, {}, frozenset({"ray"})).to("docs/howto/clusters.md").folder
    assert words(folder / "results.csv") == words(folder / "far.csv")
    assert (folder / "far/results.jsonl").read_text().count("certified")


def test_a_cluster_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match="a Ray client has no streams"):
        Cluster(FakeWorker(tmp_path / "log"), "ray://127.0.0.1:10001")
    with pytest.raises(OptionsError, match="--address auto cannot be reached"), Cluster(FakeWorker(tmp_path), "auto"):
        pass
