import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.fake_workers import BrokenWorker, FakeWorker, TogetherWorker, jobs
from verifier.command import instances
from verifier.command.instances import file_names, run_list
from verifier.command.ledger import open_results
from verifier.command.worker import Job, JobOutcome, Note
from verifier.errors import OutputError
from verifier.executors.processes import Processes


def results(path: Path) -> dict[str, str]:
    ledger = open_results(path)
    ledger.close()
    return {row.vnnlib: row.result for row in ledger.rows}


def test_a_list_ends_whatever_its_instances_do(tmp_path: Path) -> None:
    names = ("ok", "crash", "sat", "raise", "exit", "refuse", "ok")
    log = tmp_path / "log"
    outcome = run_list(jobs(*names), tmp_path / "r.csv", Processes(2, FakeWorker(log)), witnesses=tmp_path / "w")
    words = ["unsat", "error", "sat", "error", "error", "error", "unsat"]
    assert results(tmp_path / "r.csv") == {f"p{i}.vnnlib": word for i, word in enumerate(words)}
    assert outcome.errors == 4 and not outcome.stopped and outcome.skipped == 0
    assert (tmp_path / "w" / "sat_p2.counterexample").read_text() == "((X_0 1.0)\n (Y_0 2.0))\n"
    assert "cat" in outcome.table() and "7 instances" in outcome.table()
    # two processes at first, and one for each that died (a last one is not replaced)
    assert 2 <= Counter(log.read_text().split())["process"] <= 4


def test_one_process_serves_many_instances(tmp_path: Path) -> None:
    run_list(jobs(*["ok"] * 6), tmp_path / "r.csv", Processes(1, FakeWorker(tmp_path / "log")))
    assert (tmp_path / "log").read_text().split() == ["process", *(f"p{i}.vnnlib" for i in range(6))]


@pytest.mark.parametrize(("then", "processes"), [("all", 1), ("raise", 1), ("crash", 2), ("hang", 2)])
def test_jobs_of_one_network_are_searched_together(
    then: str, processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is settled before something goes wrong has its line; the others are tried again one by one."""
    monkeypatch.setattr(instances, "KILL_AFTER", 0.3)
    todo, log = jobs(*["ok"] * 4, "other", "ok", timeout=0.5 if then == "hang" else 60), tmp_path / "log"
    outcome = run_list(
        todo, tmp_path / "r.csv", Processes(1, TogetherWorker(log, then=then)), most=4, witnesses=tmp_path / "w"
    )
    assert results(tmp_path / "r.csv") == {"p0.vnnlib": "sat", **{f"p{i}.vnnlib": "unsat" for i in range(1, 6)}}
    assert outcome.errors == 0 and (tmp_path / "w" / "ok_p0.counterexample").exists()
    told = log.read_text().splitlines()
    alone = ["p4.vnnlib", "p5.vnnlib"] if then == "all" else [f"p{i}.vnnlib" for i in range(1, 6)]
    assert [line for line in told if line.endswith("vnnlib")] == alone
    assert told.count("together 4") == 1 and told.count("process") == processes


def test_every_process_has_work_before_jobs_are_searched_together(tmp_path: Path) -> None:
    run_list(jobs(*["ok"] * 4), tmp_path / "r.csv", Processes(4, TogetherWorker(tmp_path / "log", then="all")), most=4)
    assert "together" not in (tmp_path / "log").read_text()


def test_a_worker_that_does_not_answer_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instances, "KILL_AFTER", 0.3)
    started = time.monotonic()
    run_list(jobs("hang", "ok", timeout=0.2), tmp_path / "r.csv", Processes(1, FakeWorker(tmp_path / "log")))
    assert results(tmp_path / "r.csv") == {"p0.vnnlib": "timeout", "p1.vnnlib": "unsat"}
    assert time.monotonic() - started < 30


def test_workers_that_cannot_start_give_errors_and_no_endless_loop(tmp_path: Path) -> None:
    outcome = run_list(jobs("ok", "ok"), tmp_path / "r.csv", Processes(2, BrokenWorker()))
    assert set(results(tmp_path / "r.csv").values()) == {"error"} and outcome.errors == 2
    assert all(row.seconds < 300 for row in outcome.rows)  # of the process, not of the machine's clock


def test_a_second_run_does_only_what_is_missing(tmp_path: Path) -> None:
    log, out = tmp_path / "log", tmp_path / "r.csv"
    todo = [*jobs("ok", "ok", "ok"), jobs("ok")[0]]  # the first stands in the list twice
    run_list(todo[:2], out, Processes(1, FakeWorker(log)))
    outcome = run_list(todo, out, Processes(1, FakeWorker(log)))
    assert outcome.skipped == 2 and len(outcome.rows) == 2
    assert Counter(log.read_text().split()) == Counter({"process": 2, "p0.vnnlib": 2, "p1.vnnlib": 1, "p2.vnnlib": 1})
    again = run_list(todo, out, Processes(1, FakeWorker(log)))
    assert again.skipped == 4 and not again.rows


def test_the_witness_folder_must_be_possible(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="witnesses"):
        run_list(
            jobs("ok"), tmp_path / "r.csv", Processes(1, FakeWorker(tmp_path / "log")), witnesses=tmp_path / "file"
        )


def test_witnesses_of_files_with_one_name_in_several_folders_do_not_overwrite_each_other() -> None:
    pairs = [("onnx/n.onnx.gz", "a/s.vnnlib"), ("onnx/n.onnx.gz", "./b/s.vnnlib.gz"), ("onnx/n.onnx.gz", "t.vnnlib")]
    names = file_names(
        [Job("cat", onnx, spec, Path(onnx), Path(spec), 1.0) for onnx, spec in [*pairs, pairs[0]]], "counterexample"
    )
    assert names == {
        pairs[0]: "onnx_n_a_s.counterexample",
        pairs[1]: "onnx_n_b_s.counterexample",
        pairs[2]: "n_t.counterexample",
    }


def test_lines_about_files_that_were_changed_since_are_refused(tmp_path: Path) -> None:
    """A line holds only names: the `unsat` of yesterday's network is none of today's."""
    (task,) = jobs("ok")
    (tmp_path / "net.onnx").write_bytes(b"one")
    job, results = replace(task, model=tmp_path / "net.onnx"), tmp_path / "r.csv"
    run_list([job], results, Processes(1, FakeWorker(tmp_path / "log")))
    assert run_list([job], results, Processes(1, FakeWorker(tmp_path / "log"))).skipped == 1
    later = results.stat().st_mtime + 5
    os.utime(tmp_path / "net.onnx", (later, later))
    before = results.read_bytes()
    with pytest.raises(OutputError, match="net.onnx, which was changed since"):
        run_list([job], results, Processes(1, FakeWorker(tmp_path / "log")))
    assert results.read_bytes() == before
    os.utime(results, (later, later))
    assert run_list([job], results, Processes(1, FakeWorker(tmp_path / "log"))).skipped == 1


def test_what_is_missing_here_is_missing_on_another_machine(tmp_path: Path) -> None:
    """There a file of the same name may be another network's."""
    job = Job("cat", "net.onnx", "s.vnnlib", tmp_path / "net.onnx", tmp_path / "s.vnnlib", 1.0)
    worker, there = FakeWorker(tmp_path / "log"), tmp_path / "there"
    (moved,) = worker.moved([job], {job.spec: there / "s.vnnlib"}, there)
    assert moved.spec == there / "s.vnnlib" and moved.model != job.model and not Path(str(moved.model)).exists()
    said = worker.back((0, JobOutcome("error", 0.0, Note(f"{moved.model}: no such file"))), [job], [moved])
    assert isinstance(said, tuple) and said[1].note.message == f"{job.model}: no such file"


def test_no_two_instances_share_a_file() -> None:
    """Neither where the parts differ and their sum does not, nor where only `..` tells folders apart."""
    pairs = [
        *(("a_b.onnx", "c.vnnlib"), ("a.onnx", "b_c.vnnlib")),
        *(("../x/n.onnx", "s.vnnlib"), ("x/n.onnx", "s.vnnlib"), ("x_n.onnx", "s.vnnlib")),
    ]
    names = file_names([Job("cat", onnx, spec, Path(onnx), Path(spec), 1.0) for onnx, spec in pairs], "proof")
    assert len(set(names.values())) == len(pairs)
    assert all(name.endswith(".proof") and "/" not in name for name in names.values())


SCRIPT = """
import sys
from pathlib import Path
from tests.unit.fake_workers import FakeWorker, jobs
from verifier.command.instances import run_list
from verifier.executors.processes import Processes
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    outcome = run_list(jobs(*["ok"] * 12), folder / "r.csv", Processes(2, FakeWorker(folder / "log", 0.15)))
    sys.exit(130 if outcome.stopped else 0)
"""


def start(folder: Path) -> subprocess.Popen[bytes]:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (os.getcwd(), *sys.path)))}
    return subprocess.Popen([sys.executable, str(script), str(folder)], env=environment)


def wait_for_lines(path: Path, count: int) -> None:
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"{path} has no {count} lines after a minute")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_list_goes_on_where_it_ended(tmp_path: Path, number: signal.Signals) -> None:
    first = start(tmp_path)
    wait_for_lines(tmp_path / "r.csv", 3)
    first.send_signal(number)
    code = first.wait(timeout=30)
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    before = (tmp_path / "r.csv").read_bytes()
    assert before.count(b"\n") < 12
    assert start(tmp_path).wait(timeout=60) == 0
    after = (tmp_path / "r.csv").read_bytes()
    assert after.startswith(before)
    assert len(results(tmp_path / "r.csv")) == after.count(b"\n") == 12
    runs = Counter((tmp_path / "log").read_text().split())
    assert sum(runs[f"p{i}.vnnlib"] for i in range(12)) <= 12 + 2  # only what was running is run again


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")
def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    first = start(tmp_path)
    wait_for_lines(tmp_path / "r.csv", 1)
    workers = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert workers and alive(workers[0])
    first.kill()
    first.wait()
    limit = time.monotonic() + 20
    while any(alive(pid) for pid in workers) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in workers)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
