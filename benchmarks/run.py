"""Runs a list of instances, compares the verdicts with the known ones, replays every witness, measures.

    python -m benchmarks.run FOLDER/instances.csv                      `verify --instances`: one process per job
    python -m benchmarks.run FOLDER/instances.csv --separate           one process per instance: time, memory, nodes
    python -m benchmarks.run FOLDER/instances.csv --separate --images  the image families alone
    python -m benchmarks.run FOLDER/instances.csv -- --device cpu      what follows -- goes to verify

A list has the header `benchmark,onnx,vnnlib,timeout_s,expected`, paths relative to `<list's folder>/<benchmark>`, or is
an instances.csv of VNN-COMP (no header, no expected verdicts). One JSON line per instance goes to --out, the table to
stdout, and below it every verdict that contradicts a known one with the independent evidence: the replay of the
witness, or for an `unsat` what `evidence.py` finds. Where that settles it, the label is refuted, and counted apart.
With --resume what --out holds already, of the same instance and time limit, is not run again.
Exit code 1: another verdict contradicts a known one, a witness fails its replay, or an instance ended in an error.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.evidence import against_sat
from benchmarks.replay import check

KNOWN = ("sat", "unsat")
IMAGES = (
    *("mnist_fc", "oval21", "cora", "cifar_biasfield", "vit_2023", "traffic_signs_recognition_2023", "ml4acopf_2024"),
    *("cgan_2023", "lsnc", "yolo_2023", "metaroom_2023", "cctsdb_yolo_2023", "nn4sys_2023", "sri_resnet_a"),
    *("sri_resnet_b", "cifar10_resnet"),
)
"""Families of large networks: images and others that are searched like them."""
COLUMNS = (
    *("benchmark", "instances", "settled", *KNOWN, "unknown", "timeout", "error", "wrong", "bad witness"),
    *("label refuted", "median s", "mean s", "max s", "sum s", "peak MB"),
)


@dataclass(frozen=True)
class Instance:
    benchmark: str
    onnx: str
    vnnlib: str
    timeout: float
    expected: str
    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / self.onnx

    @property
    def spec(self) -> Path:
        return self.folder / self.vnnlib


@dataclass(frozen=True)
class Run:
    """One line of the output. Times in seconds (`user` and `system` CPU time), memory in MB, subproblems (`nodes`) and
    how they were searched (all only with --separate).

    `evidence` says what speaks for a verdict that contradicts the known one, `settled` whether that decides it.
    """

    benchmark: str
    onnx: str
    vnnlib: str
    timeout: float
    expected: str
    verdict: str
    seconds: float
    user: float | None = None
    system: float | None = None
    memory: float | None = None
    nodes: int | None = None
    strategy: str = ""
    message: str = ""
    witness_fault: str = ""
    evidence: str = ""
    settled: bool = False

    @property
    def key(self) -> tuple[str, str, str, float]:
        """What was run, and for how long at most."""
        return self.benchmark, self.onnx, self.vnnlib, self.timeout

    @property
    def contradicts(self) -> bool:
        return self.expected in KNOWN and self.verdict in KNOWN and self.verdict != self.expected

    @property
    def refutes_label(self) -> bool:
        """Code that is not the tool's shows that the verdict is right and the known one is not."""
        return self.contradicts and self.settled

    @property
    def wrong(self) -> bool:
        return self.contradicts and not self.refutes_label


def read_list(path: Path) -> list[Instance]:
    """The instances of either kind of list."""
    with path.open(newline="") as stream:
        rows = [row for row in csv.reader(line.strip() for line in stream) if row]
    if rows and rows[0][:3] == ["benchmark", "onnx", "vnnlib"]:
        names = rows[0]
        entries = [dict(zip(names, row, strict=False)) for row in rows[1:]]
        return [
            Instance(e["benchmark"], e["onnx"], e["vnnlib"], float(e["timeout_s"]), e.get("expected", ""),
                     path.parent / e["benchmark"])
            for e in entries
        ]  # fmt: skip
    name = path.absolute().parent.name
    return [Instance(name, onnx, vnnlib, float(limit), "", path.parent) for onnx, vnnlib, limit in rows]


def sampled(args: argparse.Namespace) -> list[Instance]:
    """The instances that `add_sample`'s arguments name."""
    wanted = [i for i in read_list(args.list) if not args.only or i.benchmark in args.only]
    names = dict.fromkeys(i.benchmark for i in wanted)
    return [i for name in names for i in [x for x in wanted if x.benchmark == name][:: args.step]]


def add_sample(parser: argparse.ArgumentParser, cap: float) -> None:
    """A list, which of its benchmarks, and how many of their instances; `cap` are seconds for a search."""
    parser.add_argument("list", type=Path)
    parser.add_argument("--only", nargs="+", metavar="BENCHMARK")
    parser.add_argument("--step", type=int, default=1, help="every step-th instance of each benchmark")
    parser.add_argument("--cap", type=float, default=cap, help="seconds for a search")


def run_alone(instance: Instance, options: list[str], cap: float) -> Run:
    """One process: `verify model spec`, measured from outside."""
    timeout = min(instance.timeout, cap)
    with tempfile.TemporaryDirectory() as folder:
        result, record = Path(folder) / "result.txt", Path(folder) / "result.json"
        command = [sys.executable, "-m", "verifier.command.verify", str(instance.model), str(instance.spec),
                   "--timeout", f"{timeout:g}", "--results", str(result),
                   "--json", str(record), *options]  # fmt: skip
        with open(Path(folder) / "stderr", "w+") as errors:
            started = time.monotonic()
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
            _, status, used = os.wait4(process.pid, 0)
            seconds = time.monotonic() - started
            errors.seek(0)
            message = errors.read().strip()[-300:]
        text = result.read_text() if result.exists() else ""
        details = json.loads(record.read_text()) if record.exists() else {}
    settings = details.get("settings", {})
    strategy = ", ".join(f"{name} {settings[name]}" for name in ("split", "method", "batch") if name in settings)
    code = os.waitstatus_to_exitcode(status)
    verdict, _, witness = text.partition("\n")
    verdict = verdict if code == 0 and verdict else f"error_exit_code_{code}"
    return Run(instance.benchmark, instance.onnx, instance.vnnlib, timeout, instance.expected, verdict,
               round(seconds, 3), round(used.ru_utime, 3), round(used.ru_stime, 3), round(used.ru_maxrss / 1024, 1),
               details.get("counters", {}).get("boxes"), strategy, message,
               _fault(instance, verdict, witness))  # fmt: skip


def run_together(instances: list[Instance], options: list[str], cap: float, jobs: int | None) -> Iterator[Run]:
    """One list of one benchmark through `verify --instances`; the seconds are those of its results file. `jobs` None:
    the options say where it runs."""
    with tempfile.TemporaryDirectory() as name:
        # the list runner takes the folder of the list as the category, and pairs lines by their names
        folder = Path(name) / instances[0].benchmark
        folder.mkdir()
        numbered = {(str(i.model.absolute()), str(i.spec.absolute())): i for i in instances}
        with open(folder / "instances.csv", "w", newline="") as stream:
            csv.writer(stream).writerows([*key, min(i.timeout, cap)] for key, i in numbered.items())
        command = [sys.executable, "-m", "verifier.command.verify", "--instances", str(folder / "instances.csv"),
                   "--results", str(folder / "results.csv"), "--witnesses", str(folder / "witnesses"),
                   *([] if jobs is None else ["--jobs", str(jobs)]), *options]  # fmt: skip
        subprocess.run(command, stdout=subprocess.DEVNULL)
        with open(folder / "results.csv", newline="") as stream:
            rows = {(row[1], row[2]): (row[4], float(row[5])) for row in csv.reader(stream)}
        for instance in instances:
            key = str(instance.model.absolute()), str(instance.spec.absolute())
            verdict, seconds = rows.get(key, ("error_no_result", 0.0))
            text = _witness(folder / "witnesses", *key)
            yield Run(instance.benchmark, instance.onnx, instance.vnnlib, min(instance.timeout, cap), instance.expected,
                      verdict, seconds, witness_fault=_fault(instance, verdict, text))  # fmt: skip


def _witness(folder: Path, onnx: str, vnnlib: str) -> str:
    """The text of a counterexample file; its name has the folders in it where the names alone are ambiguous."""
    paths = [Path(name.removesuffix(".gz")) for name in (onnx, vnnlib)]
    short = "_".join(path.stem for path in paths)
    full = "_".join("_".join([*path.parent.parts[1:], path.stem]) for path in paths)
    for name in (full, short):
        found = folder / f"{name}.counterexample"
        if found.exists():
            return found.read_text()
    return ""


def read_runs(path: Path) -> dict[tuple[str, str, str, float], Run]:
    """The runs of an earlier --out, by what was run; a last line that was cut off is left out."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            run = Run(**json.loads(line))
        except json.JSONDecodeError:
            continue
        found[run.key] = run
    return found


def with_evidence(run: Run, instance: Instance) -> Run:
    """The run, with what speaks for its verdict where that contradicts the known one."""
    if not run.contradicts:
        return run
    if run.verdict == "sat":
        text = run.witness_fault or "the witness passes the independent replay in ONNX Runtime"
        return replace(run, evidence=text, settled=not run.witness_fault)
    try:
        found = against_sat(instance.model, instance.spec)
    except Exception as error:  # evidence that cannot be had is none
        return replace(run, evidence=f"none: {type(error).__name__}: {error}")
    return replace(run, evidence=found.text, settled=found.no_violation is True)


def contradictions(runs: list[Run]) -> str:
    """A line for every verdict that contradicts a known one, or one that says there is none."""
    known = sum(run.expected in KNOWN and run.verdict in KNOWN for run in runs)
    lines = [
        f"- {run.benchmark} {run.onnx} {run.vnnlib}: found {run.verdict}, known as {run.expected}: "
        f"{'label refuted' if run.refutes_label else 'NOT EXPLAINED'}: {run.evidence}"
        for run in runs
        if run.contradicts
    ]
    return "\n".join([f"{len(lines)} of {known} verdicts contradict a known one.", *lines])


def _fault(instance: Instance, verdict: str, witness: str) -> str:
    if verdict != "sat":
        return ""
    if not witness.strip():
        return "no witness"
    try:
        return check(instance.model, instance.spec, witness)
    except Exception as error:  # a witness that cannot be checked has failed the check
        return f"replay failed: {type(error).__name__}: {error}"


def table(runs: list[Run]) -> str:
    """Markdown: counts and times by benchmark."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    for benchmark in [*dict.fromkeys(run.benchmark for run in runs), "all"]:
        part = [run for run in runs if benchmark in (run.benchmark, "all")]
        count = {word: sum(run.verdict == word for run in part) for word in (*KNOWN, "unknown", "timeout")}
        seconds = [run.seconds for run in part]
        memory = [run.memory for run in part if run.memory is not None]
        cells = [benchmark, len(part), count["sat"] + count["unsat"], *count.values(), len(part) - sum(count.values()),
                 sum(run.wrong for run in part), sum(bool(run.witness_fault) for run in part),
                 sum(run.refutes_label for run in part),
                 f"{statistics.median(seconds):.2f}", f"{statistics.mean(seconds):.2f}", f"{max(seconds):.2f}",
                 f"{sum(seconds):.1f}", f"{max(memory):.0f}" if memory else "-"]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _line(run: Run) -> str:
    mark = "  WRONG" if run.wrong else "  refutes the label" if run.refutes_label else ""
    if run.witness_fault:
        mark += f"  BAD WITNESS: {run.witness_fault}"
    return f"{run.verdict:8} {run.seconds:8.2f} s  {run.benchmark} {run.onnx} {run.vnnlib}{mark}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", type=Path)
    parser.add_argument("--only", nargs="*", metavar="NAME", help="benchmarks to run")
    parser.add_argument("--images", action="store_true", help="the families of large networks (see IMAGES)")
    parser.add_argument("--resume", action="store_true", help="keep the runs that --out holds already")
    parser.add_argument("--first", type=int, metavar="N", help="at most N instances of each benchmark")
    parser.add_argument("--cap", type=float, default=float("inf"), metavar="S", help="limit every time limit")
    parser.add_argument("--separate", action="store_true", help="one process per instance")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side; not with --separate")
    parser.add_argument("--out", type=Path, default=Path("out/runs.jsonl"))
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    args, options = parser.parse_args(arguments[:split]), arguments[split + 1 :]
    groups: dict[str, list[Instance]] = {}
    for instance in read_list(args.list):
        wanted = IMAGES if args.images else args.only
        if wanted is None or instance.benchmark in wanted:
            groups.setdefault(instance.benchmark, []).append(instance)
    if not groups:
        parser.error(f"no instances of {args.only} in {args.list}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    known = read_runs(args.out) if args.resume else {}
    runs: list[Run] = []
    with args.out.open("w") as out:

        def keep(run: Run) -> None:
            runs.append(run)
            print(json.dumps(asdict(run)), file=out, flush=True)
            print(_line(run), file=sys.stderr)

        for run in known.values():
            print(json.dumps(asdict(run)), file=out, flush=True)
        for group in groups.values():
            chosen = group[: args.first]
            keys = [(i.benchmark, i.onnx, i.vnnlib, min(i.timeout, args.cap)) for i in chosen]
            runs += [known[key] for key in keys if key in known]
            todo = [i for i, key in zip(chosen, keys, strict=True) if key not in known]
            if not todo:
                continue
            found = (
                (run_alone(instance, options, args.cap) for instance in todo)
                if args.separate
                else run_together(todo, options, args.cap, args.jobs)
            )
            for instance, bare in zip(todo, found, strict=True):
                keep(with_evidence(bare, instance))
    print(table(runs), contradictions(runs), sep="\n\n")
    bad = [run for run in runs if run.wrong or run.witness_fault or run.verdict.startswith("error")]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
