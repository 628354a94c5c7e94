"""From files to a result: the steps behind `verifier.load` and `verifier.verify`.

Imports are lazy and in the order of their price: a bad specification is reported after numpy, a bad network after onnx,
and only what is left pays for torch.
"""

from __future__ import annotations

import gc
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import vnnlib
from verifier.budget import Budget, memory_limit
from verifier.console import process
from verifier.errors import ModelError, OptionsError, ProblemError, ProofError
from verifier.files.whole import AnyPath
from verifier.options import Options
from verifier.progress import Progress
from verifier.result import Result, Verdict

if TYPE_CHECKING:
    from torch.nn import Module

    from verifier.graph.onnx_import import Model
    from verifier.proof.writer import ProofWriter
    from vnnlib import Spec


Engine = Callable[..., Result]

Networks = Sequence[tuple[str, AnyPath]]
"""The networks of a specification about several, by the names it declares, and the file of each."""


def load(model: AnyPath | Networks | Module | Model, example: Any = None) -> Model:
    """Reads a network: an ONNX file (`.onnx`, `.onnx.gz`) or a `torch.nn.Module`, which is exported to ONNX. Of several
    networks (see `in_order`) each file is read once, and the result is all of them side by side.

    A module needs `example`: one input tensor, or a tuple of them, in the shapes the specification speaks of. A network
    that is loaded already is returned as it is.

    Raises:
        ModelError: the file cannot be used, or the module cannot be exported.
    """
    from verifier.graph.onnx_import import Model, load_model, side_by_side

    if isinstance(model, Model):
        return model
    if isinstance(model, Sequence) and not isinstance(model, str):
        read = {Path(path): load_model(Path(path)) for path in dict.fromkeys(path for _, path in model)}
        return side_by_side([(name, read[Path(path)]) for name, path in model])
    if isinstance(model, str | PathLike):
        return load_model(Path(model))
    return _export(model, example)


def in_order(networks: Networks, spec: Spec) -> Networks | AnyPath:
    """The networks of `spec` as it declares them: one that is `equal-to` another may be left out, and is that one. The
    file alone where it declares one.

    Raises:
        ProblemError: a network has no file, a file has no network, or those of equal networks differ.
    """
    files, declared = dict(networks), [network.name for network in spec.networks]
    if len(declared) == len(networks) == 1:
        return networks[0][1]
    same = {n.name: n.equivalence[1] for n in spec.networks if n.equivalence and n.equivalence[0] == "equal-to"}
    if list(files) == [""]:  # a file without a name is the network that all others equal
        files = {declared[0]: files[""]}
    for name, other in same.items():
        files.setdefault(name, files.get(other, ""))
    if set(declared) != set(files) or not all(files.values()) or len(networks) > len(declared):
        found = ", ".join(name or str(path) for name, path in networks)
        raise ProblemError(
            f"the specification declares the networks {', '.join(declared)}, but found {found};"
            " expected a pair (name, file) for each"
        )
    from verifier.graph.onnx_import.source import read_model

    for name, other in same.items():
        if files[name] != files[other] and read_model(files[name]).data != read_model(files[other]).data:
            raise ProblemError(
                f"network {name} is declared equal-to {other}, but found {files[name]} and {files[other]}, which differ"
            )
    return tuple((name, files[name]) for name in declared)


def verify(
    model: AnyPath | Networks | Module | Model,
    spec: AnyPath | Spec,
    options: Options | None = None,
    *,
    timeout: float | None = None,
    example: Any = None,
    budget: Budget | None = None,
    progress: Callable[[Progress], None] | None = None,
    proof: AnyPath | None = None,
    checkpoint: AnyPath | None = None,
    engine: Engine | None = None,
) -> Result:
    """Decides whether an input of the specification's set makes all its assertions true.

    A specification about several networks needs pairs (name, path) for `model`. `timeout` (seconds) goes before
    `options.timeout`; `budget` goes before both, and its `stop()` ends the run early.
    `progress` is called after every step of the search. `proof` is a file for a proof that `secateur check` accepts
    (`model` and `spec` are files then); it is there after `unsat`, and after `sat` where the witness holds over the
    reals, and is not made otherwise. `checkpoint` is a file for the open boxes of the search (`model` and `spec` are
    files then), from which a later call with the same file goes on; it is removed when the search has come to its end.
    `engine`: see `solve`.

    Raises:
        OptionsError: proof and checkpoint together, or a checkpoint of what has none.
        ProblemError: the checkpoint is damaged or of another problem.
        ProofError: the search for this problem cannot write a proof.
        vnnlib.VnnLibError: the specification cannot be used.
        SecateurError: the network cannot be used, or the two do not fit each other.
    """
    options = options or Options()
    if timeout is not None:
        options = replace(options, timeout=timeout)
    if proof is not None and checkpoint is not None:
        raise OptionsError("a proof cannot be gone on with: found both a proof and a checkpoint, expected one of them")
    budget = budget or Budget.of(options.timeout, memory_limit(options.memory))
    with _without_collector():
        files = model, spec
        spec = read_spec(spec)
        if isinstance(model, str | PathLike) and len(spec.networks) > 1:
            model = (("", model),)
        if isinstance(model, tuple | list):
            model = in_order(model, spec)
        loaded = load(model, example)
    if checkpoint is not None:
        if not isinstance(files[0], str | PathLike) or not isinstance(files[1], str | PathLike):
            raise OptionsError("a checkpoint is about files: expected the paths of model and specification")
        return solve(loaded, spec, options, budget, progress, None, (checkpoint, files[0], files[1]), engine)
    if proof is None:
        return solve(loaded, spec, options, budget, progress, engine=engine)
    return with_proof(
        files, proof, lambda writer: solve(loaded, spec, options, budget, progress, writer, engine=engine)
    )


def with_proof(files: tuple[object, object], proof: AnyPath, run: Callable[[ProofWriter], Result]) -> Result:
    """A run that writes its proof down; whatever happens, the file is complete or not there."""
    if not all(isinstance(f, str | PathLike) for f in files):
        raise ProofError("a proof is about files: expected the paths of one model and of a specification")
    from verifier.proof.writer import ProofWriter

    writer = ProofWriter(proof, *files)  # type: ignore[arg-type]
    try:
        result = run(writer)
        if result.verdict is Verdict.UNSAT:
            writer.finish()
        elif result.witness is not None and (why := writer.witness(result.witness.x)):
            return replace(result, reason=f"{result.reason}; no proof: {why}")
    finally:
        writer.discard()
    return result


def read_spec(spec: AnyPath | Spec) -> Spec:
    """The specification of a file; one that is parsed already is returned as it is."""
    return vnnlib.load(spec) if isinstance(spec, str | PathLike) else spec


def solve(
    model: Model,
    spec: Spec,
    options: Options,
    budget: Budget,
    progress: Callable[[Progress], None] | None = None,
    proof: ProofWriter | None = None,
    checkpoint: tuple[AnyPath, AnyPath, AnyPath] | None = None,
    engine: Engine | None = None,
) -> Result:
    """Runs the engine on a loaded network and a parsed specification.

    `engine` is called as `verifier.engine.solve`, which it is by default: (network, normal form, options, budget,
    progress, proof) -> Result. Another one serves tests of what is around it.

    Raises:
        ProblemError: the two do not fit each other; found out before torch is imported.
    """
    from verifier.problem.assemble import check_fit

    with _without_collector():
        form = vnnlib.normalise(spec)
        if proof is None:  # a proof is about the bounds of the file
            form = vnnlib.with_implied_bounds(form)
        check_fit(model, form)
        if budget.expired():
            return out_of_time(budget, "before the search began")
        if engine is None:
            from verifier import engine as own  # brings torch

            engine = own.solve
    result = engine(model, form, options, budget, progress, proof, checkpoint)
    # what was asked for, under what was chosen
    return replace(result, settings={**options.to_mapping(), **result.settings})


def out_of_time(budget: Budget, when: str) -> Result:
    """The result of a run whose budget was used up `when`, or that was stopped then."""
    if budget.stopped:
        return Result(Verdict.UNKNOWN, f"{budget.stopped} {when}")
    return Result(Verdict.TIMEOUT, f"the time limit was reached {when}")


@contextmanager
def _without_collector() -> Iterator[None]:
    """Imports create objects by the hundred thousand and free none; collecting in between is 10 % of start-up."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        process.forget_imports()
        if enabled:
            gc.enable()


def _export(module: Module, example: Any) -> Model:
    """A torch module as a loaded network, through an ONNX file that exists only meanwhile."""
    import torch

    if not isinstance(module, torch.nn.Module):
        raise ModelError(f"found a {type(module).__name__}, expected the path of an ONNX file or a torch.nn.Module")
    if example is None:
        raise ModelError("a torch.nn.Module needs `example`: an input tensor in the shape the specification speaks of")
    inputs: Sequence[Any] = example if isinstance(example, tuple) else (example,)
    was_training = module.training
    with tempfile.TemporaryDirectory(prefix="secateur-") as folder:
        path = Path(folder) / "module.onnx"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # advice to the module's author
                # not the default exporter, which needs onnxscript beside torch
                torch.onnx.export(module.eval(), tuple(inputs), str(path), opset_version=17, dynamo=False)
        except Exception as error:  # the exporter raises anything; translated at the boundary
            first = (str(error).strip().splitlines() or [""])[0]
            raise ModelError(f"torch could not export {type(module).__name__} to ONNX: {first}") from error
        finally:
            module.train(was_training)
        return replace(load(path), path=f"<{type(module).__name__}>")
