"""Short YAML files that people write: options of a run, studies."""

from __future__ import annotations

import os
from pathlib import Path

from verifier.errors import SecateurError

MAX_BYTES = 1 << 20
"""Such a file is a page of text; anything larger is not one."""


def read_yaml(path: str | os.PathLike[str], what: str, error: type[SecateurError]) -> object:
    """The content of `what`, None if it is empty; `error` names the file, and the line where it is no YAML."""
    import yaml  # only needed by the few runs that have such a file

    try:
        with Path(path).open("rb") as stream:
            text = stream.read(MAX_BYTES + 1)
    except OSError as why:
        raise error(f"{path}: cannot read {what}: {why.strerror or why}") from None
    if len(text) > MAX_BYTES:
        raise error(f"{path}: larger than {MAX_BYTES >> 20} MiB; expected a short YAML file")
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as why:
        mark = getattr(why, "problem_mark", None)
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        found = getattr(why, "problem", None) or " ".join(str(why).split())[:300]
        raise error(f"{path}{where}: not YAML: {found}") from None
