"""The `secateur check` command: the command line of the checker in the manner of all other commands.

The checker, which has to be trusted, knows nothing of this file: `python -m verifier.checker.cli` is its own door.
"""

from __future__ import annotations

from collections.abc import Sequence

from verifier.checker import cli
from verifier.console.arguments import CommandParser

EPILOG = """exit codes: 0 accepted, 1 rejected (stderr says where), 2 a file cannot be read or holds what the checker
does not know; docs/certificates.md says what an acceptance means
"""


def parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(
        "secateur check", "Check a proof that `verify --proof` wrote, by a program of its own.", EPILOG
    )
    parser.add_argument("proof", help="the proof file")
    parser.add_argument("model", help="network, as the proof was made for: .onnx or .onnx.gz")
    parser.add_argument("spec", help="specification, VNN-LIB 1.0 or 2.0")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Checks a proof; exit code 0: accepted, 1: rejected, 2: a file cannot be used."""
    args = parser().parse_args(argv)
    return cli.main([args.proof, args.model, args.spec])
