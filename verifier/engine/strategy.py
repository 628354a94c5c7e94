"""Which bounds, which splits and how many boxes at once, chosen from the problem; and why, for whoever asks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import partial
from multiprocessing import current_process, get_all_start_methods

from verifier.bounds.bound import METHODS
from verifier.bounds.sizes import size_on
from verifier.bounds.sweep import Method
from verifier.engine.on_device import OnDevice
from verifier.errors import OptionsError
from verifier.ops.maximum import ReduceMax
from verifier.options import Options
from verifier.search import zonotope
from verifier.search.shallow import form

AFFINE_INPUTS = 32
"""Up to this many free inputs per query, affine forms are carried along (their cost grows with the number)."""

FEW_QUERIES = 4
"""Networks of one hidden layer are searched clause by clause for at most this many queries."""

DEEPEST = 200
"""Most splits of inputs on the way to one box. Every neuron may be split besides: a network of ReLUs is never given up
before all of them are decided."""

HALVINGS = 30
"""Halvings per free input, and as many more, after which a box counts as unsplittable: 10^-9 of the width and less."""

INPUT_ELEMENTS = {"cpu": 4_000_000, "cuda": 64_000_000}
MOST_BOXES = {"cpu": 4096, "cuda": 32_768}
"""Largest value times boxes of a step where inputs are split, and boxes of it at most."""

SPLIT_ELEMENTS = {"cpu": 400_000, "cuda": 32_000_000}
MOST_SPLIT = {"cpu": 512, "cuda": 8192}
"""Neurons times subproblems of a step where neurons are split, and subproblems of it at most: on a CPU a larger step
only makes the caches useless, and on a GPU a smaller one leaves it idle (`benchmarks/README.md`)."""

MANY_QUERIES = 256
"""With more queries than this, bounds come first: most queries are settled by them in one batch."""

INPUT_SPLIT = 20
"""With more free inputs than this, neurons are split instead (where there are ReLUs)."""

FEW_INPUTS = 8
"""Up to so many free inputs, inputs are split whatever the network; in between, networks of nothing but ReLUs have
their neurons split (16 inputs, 64 ReLUs: 501 subproblems where 10^6 boxes were not enough), if there are at most
`FEW_NEURONS`. Of more, a split decides too little (16 inputs, 45 056 ReLUs of cifar_biasfield 27: 3 boxes suffice where
neuron splits leave the worst clause at -11)."""

FEW_NEURONS = 10_000

SOON, SMALL = 5_000, 100
"""Where inputs are split, boxes after which a network of so few neurons, all of them ReLUs, gets its neurons split
instead. (Residual, 7 inputs, 32 ReLUs, threshold 1e-5 below the minimum: 871 subproblems in 2 s where 448 000 boxes
leave 0.5 % open; where 5 000 boxes suffice, inputs are up to ten times quicker.)"""


class Kind(Enum):
    """The searches. `value` is what is split."""

    INPUTS = "inputs"
    ZONOTOPE = "inputs, zonotopes"
    LUMPED = "inputs, lumped noise"
    NEURONS = "neurons"
    ONE_LAYER = "neurons of the one hidden layer"


@dataclass(frozen=True)
class Strategy:
    """What was chosen for a problem: which search, its bounds (`fixed`: no cheaper ones are tried), boxes per step,
    halvings at most, the rules for splits of inputs and of neurons, and the reason. `deterministic`: nothing that is
    measured may change what is searched. `processes` of them search at the same time."""

    kind: Kind
    bounds: Method
    fixed: bool
    batch: int
    max_depth: int
    branching: str
    neuron_rule: str
    reason: str
    deterministic: bool = False
    processes: int = 1

    @property
    def neurons(self) -> bool:
        """Whether neurons are split rather than inputs."""
        return self.kind in (Kind.NEURONS, Kind.ONE_LAYER)

    @property
    def method(self) -> str:
        """The bounds' name in results."""
        return self.bounds.name


def wants_relus(on: OnDevice, method: str) -> bool:
    """Whether maxima are to be written with ReLUs (`passes.maxima_as_relus`) because neurons are, or may come to be,
    split: a split of an argument of a maximum never says which is the largest. (16 inputs, 52 ReLUs, threshold 1e-5
    below the minimum: 25 to 43 633 subproblems; as maxima of ReLUs 38 % was open after 58 000.)"""
    network = on.network
    maxima = set(network.relaxed) - set(network.relus)
    only = bool(maxima) and all(isinstance(network.ops[i], ReduceMax) for i in maxima)
    most = FEW_NEURONS if on.free > FEW_INPUTS else SMALL
    return only and network.neurons <= most and method == "auto" and not zonotope.suits(network, on.table)


def may_group(on: OnDevice, options: Options) -> bool:
    """Whether queries may be searched by what they vary (see `problem.query_groups`): bounds that are asked for by name
    may need a network whose inputs are those that vary."""
    return on.free <= FEW_INPUTS and not _named(options.bounds.method)


def choose(on: OnDevice, options: Options, asked: str = "") -> Strategy:
    """The strategy for a problem, of which "a proof" or "a checkpoint" may be `asked`.

    Raises:
        OptionsError: the options name bounds that do not fit the problem, or a device that is not deterministic.
    """
    if options.deterministic and on.device.type != "cpu":
        raise OptionsError(
            f"deterministic: found device {on.device}, where sums have no fixed order; expected --device cpu"
        )
    return _of(on, options, *_kind(on, options.bounds.method, asked))


def later(on: OnDevice, options: Options, strategy: Strategy, asked: str = "") -> Strategy | None:
    """What goes on with a problem of which `strategy` has found no end in `SOON` boxes; None: the same."""
    network, free = on.network, (options.bounds.method, options.search.branching)
    small = set(network.relaxed) == set(network.relus) and 0 < network.neurons <= SMALL
    if asked or strategy.kind is not Kind.INPUTS or not small or free != ("auto", "auto"):
        return None
    return _of(on, options, Kind.NEURONS, f"no end in {SOON:,} boxes, and few ReLUs")


def _of(on: OnDevice, options: Options, kind: Kind, reason: str) -> Strategy:
    d, method = on.free, options.bounds.method
    affine = d <= AFFINE_INPUTS
    alpha = options.bounds.alpha_steps if method == "alpha" or (method == "auto" and not affine) else 0
    rigorous = options.bounds.rounding == "rigorous"
    bounds = Method(affine=affine, rows=method in ("auto", "crown", "alpha"), alpha_steps=alpha, rigorous=rigorous)
    if kind is Kind.ZONOTOPE or _named(method):
        bounds = Method(kind="zonotope" if kind is Kind.ZONOTOPE else method, rigorous=rigorous)
    neurons = kind in (Kind.NEURONS, Kind.ONE_LAYER)
    for_inputs = {"bounds.method": method, "search.branching": options.search.branching} if neurons else {}
    for_neurons = {"search.neurons": options.search.neurons} if kind is not Kind.NEURONS else {}
    for given, what in ((for_inputs, "inputs"), (for_neurons, "neurons of several layers")):
        for name in [name for name, word in given.items() if word != "auto"]:
            reason += f" ({name} {given[name]} is for splits of {what}, and not used)"
    size = on.network.widest * (d + 2 if affine else 2)
    size_of = partial(size_on, on.device)
    fitting = int(min(size_of(MOST_BOXES), max(8, size_of(INPUT_ELEMENTS) // max(1, size))))
    if kind is Kind.ZONOTOPE:
        fitting = size_of(zonotope.BATCH)
    if neurons:
        fitting = int(min(size_of(MOST_SPLIT), max(4, size_of(SPLIT_ELEMENTS) // max(1, on.network.neurons))))
    own = options.search.max_depth
    deepest = own or (DEEPEST + on.network.neurons if neurons else DEEPEST)
    return Strategy(
        kind,
        bounds,
        method != "auto" or not affine,
        options.search.batch or fitting,
        deepest if neurons else min(deepest, HALVINGS * (d + 1)),
        options.search.branching,
        options.search.neurons,
        reason,
        options.deterministic,
        _processes(on, options),
    )


def _processes(on: OnDevice, options: Options) -> int:
    """As many as were asked for, where the system copies processes, and what is where may depend on the clock. (The
    processes of a list make none themselves.)"""
    copied = on.device.type == "cpu" and "fork" in get_all_start_methods() and not current_process().daemon
    return options.search.processes or 1 if copied and not options.deterministic else 1


def _named(method: str) -> bool:
    """Whether `bounds.method` names bounds of a kind of their own, not CROWN's."""
    return method in METHODS and method != "crown"


def _vary(count: int) -> str:
    return "1 input varies" if count == 1 else f"{count} inputs vary"


def _kind(on: OnDevice, method: str, asked: str) -> tuple[Kind, str]:
    network, d = on.network, on.free
    if method == "lumped" and not zonotope.lumps(network, on.table):
        raise OptionsError(
            f"bounds.method lumped: found {network.n} varying inputs,"
            f" rows over {'inputs too' if on.table.mixed is not None else 'outputs only'};"
            f" expected at most {zonotope.MOST_LUMPED} inputs and rows over outputs only"
        )
    if _named(method):
        return Kind.LUMPED if method == "lumped" else Kind.INPUTS, f"bounds.method {method} was asked for"
    if method == "auto" and zonotope.suits(network, on.table):
        return Kind.ZONOTOPE, f"{_vary(network.n)} and the network is convolutional"
    plain = set(network.relaxed) == set(network.relus)
    few = FEW_INPUTS if plain and network.neurons <= FEW_NEURONS else INPUT_SPLIT
    inputs = f"{_vary(d)}, more than {few}" + (" (all that bends is a ReLU)" if plain else "")
    if d <= few:
        return Kind.INPUTS, f"{_vary(d)}, at most {few}"
    if not network.relaxed or (asked == "a proof" and not network.relus):
        return Kind.INPUTS, f"{inputs}, but the network has {'no ReLU' if network.relaxed else 'nothing'} to split"
    if not form.suits(network):
        return Kind.NEURONS, inputs
    if asked == "a checkpoint":
        return Kind.NEURONS, f"{inputs}; one hidden layer, but {asked} is asked for"
    if on.queries > FEW_QUERIES:
        return Kind.NEURONS, f"{inputs}; one hidden layer, but {on.queries} boxes to search, more than {FEW_QUERIES}"
    return Kind.ONE_LAYER, f"{inputs}; the network has one hidden layer"
