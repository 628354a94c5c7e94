"""Folds the fragments of `changelog/` into `CHANGELOG.md`: `make changelog`, as often as one likes.

A fragment is `<issue>.<kind>.md` or `<issue>.<topic>.<kind>.md`; it becomes an item under its kind in the section of
the version that pyproject.toml names, behind what is there, and its file is deleted.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
KINDS = {"feature": "New", "change": "Changed", "fix": "Fixed", "removal": "Removed"}
NAME = re.compile(rf"(\d+)(?:\.([a-z0-9][a-z0-9-]*))?\.({'|'.join(KINDS)})\.md")
HEAD = "# Changelog\n"


def fragments(folder: Path) -> dict[Path, str]:
    """Every fragment with its kind, in the order of issues.

    Raises:
        ValueError: a file's name does not follow the scheme, or it is empty.
    """
    found: dict[Path, tuple[int, str, str]] = {}
    for path in folder.iterdir():
        if path.name == "README.md":
            continue
        match = NAME.fullmatch(path.name)
        if match is None:
            kinds = ", ".join(KINDS)
            raise ValueError(f"{path}: expected <issue>.<kind>.md or <issue>.<topic>.<kind>.md, kind one of {kinds}")
        if not path.read_text(encoding="utf-8").strip():
            raise ValueError(f"{path}: is empty, expected a sentence or two for the user")
        found[path] = int(match[1]), match[2] or "", match[3]
    return {path: found[path][2] for path in sorted(found, key=lambda path: found[path])}


def fold(changelog: str, version: str, texts: list[tuple[str, str]]) -> str:
    """`changelog` with the texts (kind, text) in the section of `version`, made at the top where it is missing."""
    before, title, rest = changelog.partition(f"\n## {version}\n")
    if not title:
        head, _, older = changelog.partition("\n## ")
        before, rest = head.rstrip("\n") + "\n", f"\n## {older}" if older else ""
    section, _, after = rest.partition("\n## ")
    parts = {name: "" for name in KINDS.values()}
    for piece in re.split(r"^### ", section, flags=re.MULTILINE)[1:]:
        name, _, body = piece.partition("\n")
        parts[name] = body.strip("\n")
    for kind, text in texts:
        lines = text.strip().splitlines()
        item = text.strip() if lines[0].startswith("- ") else "- " + "\n  ".join(lines)
        parts[KINDS[kind]] = "\n".join(filter(None, [parts[KINDS[kind]], item]))
    body = "\n".join(f"\n### {name}\n\n{text}" for name, text in parts.items() if text)
    return f"{before}\n## {version}\n{body}\n" + (f"\n## {after}" if after else "")


def main() -> int:
    """Folds what is there; exit code 2 where a fragment's name is wrong."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    target = ROOT / "CHANGELOG.md"
    try:
        found = fragments(ROOT / "changelog")
    except ValueError as error:
        print(f"changelog: error: {error}", file=sys.stderr)
        return 2
    texts = [(kind, path.read_text(encoding="utf-8")) for path, kind in found.items()]
    target.write_text(fold(target.read_text(encoding="utf-8"), version, texts), encoding="utf-8")
    for path in found:
        path.unlink()
    print(f"{len(found)} fragments folded into {target.name}, version {version}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
