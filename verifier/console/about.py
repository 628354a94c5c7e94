"""What `secateur --version` says: enough to reproduce a figure, or to report a fault."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from verifier.console.arguments import version


def about() -> str:
    """Version, commit where it is known, Python, PyTorch, the device that `auto` takes, ONNX Runtime."""
    import torch  # more than a second: only where it is asked for

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    found = commit()
    lines = [
        f"secateur {version()}" + (f" (commit {found})" if found else ""),
        f"Python {platform.python_version()}, torch {torch.__version__}, onnxruntime {metadata.version('onnxruntime')}",
        f"device: {device}, {torch.get_num_threads()} threads",
    ]
    return "\n".join(lines)


def facts() -> list[tuple[str, str]]:
    """Version, Python and machine by name, without the second that torch takes to import."""
    found = commit()
    parts = [metadata.version(name) for name in ("torch", "onnxruntime")]
    return [
        ("Secateur", version() + (f" ({found})" if found else "")),
        ("Python", platform.python_version()),
        ("torch, ONNX Runtime", ", ".join(parts)),
        ("Machine", f"{platform.machine()}, {os.cpu_count()} cores"),
    ]


def commit() -> str | None:
    """The commit that runs: of the source tree that this file lies in, with `+` where files of it have been changed; of
    an installation from a repository; None where neither is known."""
    root = Path(__file__).parents[2]
    if (root / ".git").exists():
        try:
            found = _git(root, "rev-parse", "--short=12", "HEAD")
            return found + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
        except (OSError, subprocess.SubprocessError):  # no git, or not its repository
            return None
    try:
        text = metadata.distribution("secateur").read_text("direct_url.json")
        found = json.loads(text or "{}").get("vcs_info", {}).get("commit_id")
    except (metadata.PackageNotFoundError, ValueError):
        return None
    return str(found)[:12] if found else None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True, timeout=5)
    return done.stdout.strip()
