"""--engine and --address: where the tasks of a command run."""

from __future__ import annotations

import argparse
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from verifier.errors import OptionsError

if TYPE_CHECKING:
    from verifier.executors.executor import Executor, Servant, T

ENGINES = ("local", "ray")


def add_engine(group: argparse._ArgumentGroup, local: str) -> None:
    """The two options; `local` says what happens without them."""
    group.add_argument("--engine", choices=ENGINES, default="local", help=f"{local} (default), or a Ray cluster")
    group.add_argument(
        "--address", metavar="ADDR", help="of --engine ray: auto, HOST:PORT (default: RAY_ADDRESS, else a cluster here)"
    )


def wanted(args: argparse.Namespace) -> bool:
    """Whether a cluster is asked for.

    Raises:
        OptionsError: an address without one.
    """
    if args.address is not None and args.engine != "ray":
        raise OptionsError("--address is that of a cluster: add --engine ray")
    return bool(args.engine == "ray")


def can_run(args: argparse.Namespace) -> None:
    """For doors, after the options are checked and before any work.

    Raises:
        OptionsError: a cluster is asked for, and Ray is not installed.
    """
    if wanted(args):
        _ray()


def cluster(args: argparse.Namespace, servant: Servant[T], device: str, memory: float | None) -> Executor[T]:
    """The cluster that is asked for; `device` cuda takes a GPU for each task, `memory` (GB) is what each may take.

    Raises:
        OptionsError: Ray is not installed, or the address is of a kind that cannot be used.
    """
    each = None if memory is None else memory * 1e9
    return _ray().Cluster(servant, args.address, gpu=device == "cuda", memory=each)  # type: ignore[no-any-return]


def _ray() -> ModuleType:
    return import_module("verifier.executors.cluster")
