"""Options: small frozen values, checked when they are built, from keywords or from a YAML file.

A new option is one line here (see `verifier.files.checked`). The command line, the YAML reader and the error messages
follow from it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

from verifier.errors import OptionsError
from verifier.files.checked import Checked, at_least, one_of, registered, show
from verifier.files.settings import read_yaml

BOUND_METHODS = ["auto", "forward", "crown", "alpha", "lumped"]
"""Words for `bounds.method`, known before PyTorch is; `verifier.bounds.bound.bound_method` adds to them."""

BRANCHING_RULES = ["auto", "smear", "widest"]
"""Words for `search.branching`; `verifier.search.branch.branching_rule` adds to them."""

NEURON_RULES = ["auto", "loss", "intercept", "width"]
"""Words for `search.neurons`; `verifier.search.neuron_rules.neuron_rule` adds to them."""


@dataclass(frozen=True)
class SearchOptions(Checked, prefix="option search."):
    """Branch and bound. `batch`: boxes per step (None: from the problem and the free memory). `max_depth`: splits on
    the way to a box (None: from the problem). `branching`: the rule by which inputs are split, `neurons` the one by
    which neurons are. `processes`: how many search at the same time (None: one for each core in the command `verify`,
    one in Python)."""

    batch: int | None = at_least(1, None)
    max_depth: int | None = at_least(1, None)
    branching: str = registered("auto", BRANCHING_RULES)
    neurons: str = registered("auto", NEURON_RULES)
    processes: int | None = at_least(1, None)


@dataclass(frozen=True)
class BoundOptions(Checked, prefix="option bounds."):
    """Bounds. `method` "auto" chooses from the problem; `alpha_steps` are gradient steps of alpha-CROWN. With
    `rounding` "ignored" an `unsat` is no statement over the reals."""

    method: str = registered("auto", BOUND_METHODS)
    alpha_steps: int = at_least(0, 20)
    rounding: str = one_of("rigorous", "ignored")


@dataclass(frozen=True)
class AttackOptions(Checked, prefix="option attack."):
    """Search for counterexamples. `restarts` 0 switches it off."""

    restarts: int = at_least(0, 32)
    steps: int = at_least(1, 40)


@dataclass(frozen=True)
class Options(Checked):
    """All options of a run. `timeout` is in seconds, None for no limit; `memory` in GB (10^9 bytes), None for a share
    of what is free. `deterministic`: nothing that is measured (time, memory) changes what is searched.
    `checkpoint_every`: seconds between two checkpoints, where these are written."""

    device: str = one_of("auto", "cpu", "cuda")
    dtype: str = one_of("auto", "float32", "float64")
    seed: int = at_least(0, 0)
    timeout: float | None = at_least(0, None, strict=True)
    memory: float | None = at_least(0, None, strict=True)
    deterministic: bool = False
    checkpoint_every: float = at_least(0, 10.0)
    search: SearchOptions = field(default_factory=SearchOptions)
    bounds: BoundOptions = field(default_factory=BoundOptions)
    attack: AttackOptions = field(default_factory=AttackOptions)

    @classmethod
    def from_yaml(cls, path: str | PathLike[str]) -> Options:
        """Reads options from a YAML file; an empty file gives the defaults.

        Raises:
            OptionsError: the file cannot be read, is not YAML, or holds an unknown or impossible option.
        """
        data = read_yaml(path, "the options file", OptionsError)
        data = {} if data is None else data
        if not isinstance(data, Mapping):
            raise OptionsError(f"{path}: found {show(data)}, expected lines 'option: value'")
        try:
            return cls.from_mapping(data)
        except OptionsError as error:
            raise OptionsError(f"{path}: {error}") from None


ROUNDING_IGNORED = "rounding was ignored (bounds.rounding), so this is no statement over the reals"
"""What every result of such a run says."""


def refuse_unused(options: Options, used: Collection[str], what: str) -> None:
    """What cannot be honoured is not ignored.

    Raises:
        OptionsError: an option that `what` does not use (its name is not in `used`) is not at its default.
    """
    given, default = dotted(options.to_mapping()), dotted(Options().to_mapping())
    for name, value in given.items():
        if name not in used and value != default[name]:
            raise OptionsError(
                f"option {name}: found {show(value)}, but {what} does not use it; leave it at {default[name]}"
            )


def dotted(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Nested options by dotted names."""
    found: dict[str, object] = {}
    for name, value in mapping.items():
        found.update(dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value})
    return found
