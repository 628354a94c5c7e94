"""Fragments follow one scheme, and fold into the changelog as often as one likes."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.tools.changelog import fold, fragments

ROOT = Path(__file__).parents[2]


def test_the_fragments_follow_the_scheme() -> None:
    fragments(ROOT / "changelog")


@pytest.mark.parametrize("name", ["coverage.md", "3.md", "3.news.md", "3.Big.feature.md", "x.fix.md", "3.a.b.fix.md"])
def test_other_names_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("text")
    with pytest.raises(ValueError, match=r"expected <issue>\.<kind>\.md"):
        fragments(tmp_path)


def test_an_empty_fragment_is_refused(tmp_path: Path) -> None:
    (tmp_path / "3.fix.md").write_text("\n")
    with pytest.raises(ValueError, match="empty"):
        fragments(tmp_path)


def test_fragments_come_in_the_order_of_issues(tmp_path: Path) -> None:
    for name in ("10.fix.md", "9.speed.change.md", "9.a-b.feature.md", "README.md"):
        (tmp_path / name).write_text("text")
    assert [(path.name, kind) for path, kind in fragments(tmp_path).items()] == [
        ("9.a-b.feature.md", "feature"), ("9.speed.change.md", "change"), ("10.fix.md", "fix"),
    ]  # fmt: skip


def test_folding_again_adds_to_the_section_and_leaves_older_ones_alone() -> None:
    first = fold("# Changelog\n\nWords.\n", "0.1.0", [("fix", "One\ntwo."), ("feature", "- A.\n- B.")])
    assert first == "# Changelog\n\nWords.\n\n## 0.1.0\n\n### New\n\n- A.\n- B.\n\n### Fixed\n\n- One\n  two.\n"
    again = fold(first, "0.1.0", [("fix", "Three."), ("removal", "Four.")])
    assert again == first + "- Three.\n\n### Removed\n\n- Four.\n"
    later = fold(again, "0.2.0", [("change", "Five.")])
    assert later == again.replace("## 0.1.0", "## 0.2.0\n\n### Changed\n\n- Five.\n\n## 0.1.0")
    assert fold(later, "0.1.0", [("removal", "Six.")]) == later + "- Six.\n"
    assert fold(later, "0.2.0", []) == later
