"""The tree is the architecture: who may import whom, what is public, what stays light, what the pages promise."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LEAVES = {"errors", "tolerance", "budget", "result", "progress", "brief"}  # they import nothing of ours
TOP = {
    "__init__",
    "api",
    "options",
    *LEAVES,
}  # the modules that lie at the top of `verifier`; all else is in a layer
# Where pruning meets the verifier from inside: bounds for its certified criteria, training and coverage for its
# studies, problems and verdicts for its benchmark.
_BRIDGES = (
    "oracles",
    "study/wiring",
    "study/making",
    "study/verifying",
    "study/spread",
    "study/choosing",
    "study/pack",
    "study/pack_cli",
)
BRIDGES = tuple(f"pruning/{name}.py" for name in _BRIDGES)
ONNX_READERS = (
    "verifier/graph/onnx_import/",
    "verifier/checker/network.py",
    "verifier/semantic/",
    "verifier/training/",
    "pruning/",
)


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every imported module with its line, also those inside functions, but not those for type checking only."""
    tree = parsed(path)
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module is not None
            yield node.module, node.lineno
            if node.module == "verifier" or node.module.startswith("tests"):  # `from verifier import engine`: a module
                yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def unit(module: str) -> str:
    """`verifier.x.y` -> x, a folder or a module at the top; a public name belongs to the API."""
    parts = module.split(".")
    return "api" if len(parts) == 1 or parts[1] in public_names() else parts[1]


def test_imports_of_the_verifier_point_one_way() -> None:
    """The layers are the folders, and there is an order of them in which imports only point down."""
    uses: dict[str, dict[str, str]] = {}
    for path in sources("verifier"):
        own = dotted(path)
        if own == "verifier":
            continue  # the public door is lazy; its imports are checked by running it
        for name, line in imports(path):
            assert name.split(".")[0] not in ("pruning", "benchmarks", "tests"), f"{path}:{line}: imports {name}"
            if name.startswith("verifier.") and unit(name) != unit(own):
                uses.setdefault(unit(own), {}).setdefault(unit(name), f"{path.relative_to(ROOT)}:{line}: {name}")
    try:
        graphlib.TopologicalSorter(uses).prepare()
    except graphlib.CycleError as error:
        ring = error.args[1][::-1]  # each imports the next
        raise AssertionError("a circle:\n" + "\n".join(uses[a][b] for a, b in pairwise(ring))) from None
    assert not {name: uses[name] for name in LEAVES & uses.keys()}, "leaves import nothing of ours"
    above = {name: found["command"] for name, found in uses.items() if "command" in found}
    assert not above, f"commands are what others are called by: {above}"


def test_the_top_of_the_verifier_stays_small() -> None:
    """A newcomer sees the layers: a new module goes into a folder, not beside them."""
    assert {path.stem for path in (ROOT / "verifier").glob("*.py")} == TOP


def test_vnnlib_stands_alone() -> None:
    allowed = {*sys.stdlib_module_names, "numpy", "vnnlib"}
    wrong = [(str(p), name) for p in sources("vnnlib") for name, _ in imports(p) if name.split(".")[0] not in allowed]
    assert not wrong


def test_the_checker_stands_alone() -> None:
    """Nothing that searches may be part of what checks: it shares the specification parser, and no more."""
    allowed = {*sys.stdlib_module_names, "numpy", "onnx", "vnnlib"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sources("verifier/checker")
        for name, line in imports(path)
        if name.split(".")[0] not in allowed and not (name + ".").startswith("verifier.checker.")
    ]
    assert not wrong, "\n".join(wrong)


def test_pruning_uses_only_the_graph_the_data_sets_and_the_public_door() -> None:
    own = (
        "errors",
        "data",
        "graph",
        "brief",
        "page",
        "progress",
        "perturbation",
        "console.outputs",
        "console.arguments",
        "executors.options",
    )
    allowed = ("verifier", *(f"verifier.{name}" for name in own))
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sources("pruning")
        if path.relative_to(ROOT).as_posix() not in BRIDGES
        for name, line in imports(path)
        if name.startswith("verifier")
        if not (
            name in allowed
            or name.startswith(
                tuple(f"verifier.{part}." for part in ("graph", "data", "files", "page", "perturbation"))
            )
        )
        if name.removeprefix("verifier.") not in public_names()
    ]
    assert not wrong, "\n".join(wrong)


def public_names() -> set[str]:
    import verifier

    return set(verifier.__all__)


def test_few_files_read_onnx() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for package in ("verifier", "pruning")
        for path in sources(package)
        if not path.relative_to(ROOT).as_posix().startswith(ONNX_READERS)
        for name, line in imports(path)
        if name.split(".")[0] == "onnx"
    ]
    assert not wrong, wrong


@pytest.mark.parametrize(
    ("text", "homes"),
    [
        ("os.replace(", {"verifier/files/whole.py"}),
        ("mkstemp(", {"verifier/files/whole.py"}),
        ("fcntl", {"verifier/files/ledger.py"}),
        ("InferenceSession(", {"verifier/graph/onnx_import/session.py"}),
        ("ParseFromString(read", {"verifier/graph/onnx_import/source.py"}),
        ("make_model(", {"verifier/graph/onnx_import/build.py"}),
    ],
)
def test_each_way_to_a_file_is_written_down_once(text: str, homes: set[str]) -> None:
    """One atomic write, one ledger, one maker of sessions, one reader and one composer of ONNX models."""
    found = {
        path.relative_to(ROOT).as_posix()
        for package in ("verifier", "pruning", "vnnlib")
        for path in sources(package)
        if text in path.read_text(encoding="utf-8")
    }
    assert found == homes


def test_public_names_are_these_and_all_exist() -> None:
    import verifier

    assert set(verifier.__all__) == {
        *("load", "verify", "Options", "Result", "Verdict", "Witness", "Budget", "Progress"),
        *("SecateurError", "ModelError", "UnsupportedOperator", "ProblemError", "OptionsError", "OutputError"),
        "UnsoundError",
    }
    for name in verifier.__all__:
        assert getattr(verifier, name).__module__.startswith("verifier.")
    assert set(verifier.__all__) <= set(dir(verifier))
    with pytest.raises(AttributeError):
        verifier.no_such_name  # noqa: B018


def modules_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after `statement`."""
    code = f"import sys\n{statement}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import verifier", {"torch", "onnx", "onnxruntime", "numpy", "yaml", "scipy"}),
        (
            "import verifier.command.verify, verifier.command.umbrella",
            {"torch", "onnx", "onnxruntime", "numpy", "yaml", "rich"},
        ),
        ("import verifier.graph, verifier.graph.ir", {"torch", "onnx", "onnxruntime"}),
        ("import verifier.graph.onnx_import", {"torch", "matplotlib", "scipy"}),
        (
            "import verifier.api, verifier.command.report, verifier.command.instances",
            {"torch", "onnx", "onnxruntime", "rich"},
        ),
        ("import verifier.checker.cli", {"torch", "onnxruntime", "scipy", "yaml"}),
        ("import vnnlib", {"torch", "onnx", "onnxruntime", "scipy", "verifier"}),
        ("import pruning", {"torch", "onnx", "numpy"}),
        ("import pruning.command", {"torch", "matplotlib", "scipy", "jinja2", "onnx2torch"}),
        ("import pruning.cli, pruning.study.cli", {"torch", "numpy", "onnx", "matplotlib", "rich", "yaml"}),
        ("import pruning.study.command", {"torch", "matplotlib", "scipy", "jinja2"}),
        ("import verifier.engine", {"matplotlib", "rich", "onnx2torch", "torchvision", "jinja2", "PIL"}),
    ],
)
def test_light_imports_stay_light(statement: str, forbidden: set[str]) -> None:
    assert not modules_after(statement) & forbidden


MOST_HIDDEN = 55


def test_imports_hidden_in_functions_are_doors() -> None:
    """A module says at its top what it uses; inside functions stands only what a command should not pay for at once."""
    hidden = set()
    for path in (path for package in ("verifier", "pruning", "vnnlib") for path in sources(package)):
        for function in ast.walk(parsed(path)):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                inner = (node for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom))
                hidden |= {f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}" for node in inner}
    assert len(hidden) <= MOST_HIDDEN, "\n".join(sorted(hidden))


# The checker shares nothing with what it checks, so it has classes of its own for the operators, by their names.
_CHECKED = {"verifier/ops", "verifier/checker"}
SAME_NAME = {name: _CHECKED for name in ("Relu", "Sigmoid")}


def test_a_public_name_of_a_type_means_one_thing() -> None:
    """No class, nor a name for a type, is defined in two modules: a reader who meets `Limits` knows which."""
    homes: dict[str, list[Path]] = {}
    for path in (path for package in ("verifier", "pruning", "vnnlib") for path in sources(package)):
        for node in parsed(path).body:
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(path)
            elif isinstance(node, ast.Assign) and not ast.unparse(node.value).startswith("TypeVar"):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
                for name in (name for name in names if name[0].isupper() and not name.isupper()):
                    homes.setdefault(name, []).append(path)
    twice = {name: found for name, found in homes.items() if len(found) > 1 and not name.startswith("_")}
    parts = {name: {path.parent.relative_to(ROOT).as_posix() for path in found} for name, found in twice.items()}
    assert parts == SAME_NAME


def test_tests_do_not_import_tests_nor_benchmarks_tests() -> None:
    """What several tests share lies in a module of its own; nothing puts a fake module in the place of a real one."""
    wrong = []
    for path in (*sources("tests"), *sources("benchmarks")):
        where = path.relative_to(ROOT).as_posix()
        for name, line in imports(path):
            names_a_test = any(part.startswith("test_") for part in name.split("."))
            if names_a_test or (where.startswith("benchmarks/") and name.split(".")[0] == "tests"):
                wrong.append(f"{where}:{line}: imports {name}")
        for node in ast.walk(parsed(path)):
            stores = isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store)
            if stores and ast.unparse(node.value) == "sys.modules":  # type: ignore[attr-defined]
                wrong.append(f"{where}:{node.lineno}: patches sys.modules")  # type: ignore[attr-defined]
    assert not wrong, "\n".join(wrong)


def test_vnnlib_is_ours() -> None:
    """A package of the same name is on PyPI; what is imported has to be the one of this tree."""
    import vnnlib

    assert vnnlib.__file__ is not None
    assert Path(vnnlib.__file__).is_relative_to(ROOT)


def test_operator_tables_are_current() -> None:
    from docs.tools.operators import splice, tables

    page = (ROOT / "docs/reference/operators.md").read_text(encoding="utf-8")
    assert page == splice(page, tables()), "out of date: run `make operators`"


def test_files_named_in_readme_guide_and_documentation_exist() -> None:
    import re

    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        folders = "verifier|vnnlib|pruning|benchmarks|vnncomp_scripts|tests|docs|examples"
        named = re.findall(rf"`((?:{folders})/[\w./-]*)`", page.read_text(encoding="utf-8"))
        assert not [name for name in named if not (ROOT / name).exists()], page


def test_every_listed_command_can_be_called() -> None:
    from importlib import import_module

    from verifier.command.umbrella import COMMANDS, available

    assert "verify" in available()
    assert all(callable(import_module(COMMANDS[name][0]).main) for name in available())


def test_the_documentation_explains_every_option_with_its_default() -> None:
    import re
    from dataclasses import fields, is_dataclass

    from verifier.options import Options

    def flat(value: object, prefix: str = "") -> dict[str, object]:
        found: dict[str, object] = {}
        for item in fields(value):  # type: ignore[arg-type]
            inner = getattr(value, item.name)
            found |= flat(inner, f"{item.name}.") if is_dataclass(inner) else {prefix + item.name: inner}
        return found

    page = (ROOT / "docs/reference/options.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| `?([^`|]*?)`? \|", page, flags=re.MULTILINE))
    defaults = flat(Options())
    assert defaults.keys() <= rows.keys()
    for name, value in defaults.items():
        assert value is None or rows[name] == str(value), name
