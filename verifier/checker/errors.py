"""The two ways in which a check ends without an acceptance."""

from __future__ import annotations


class Unreadable(Exception):
    """A file is damaged, or speaks of something that this checker does not know; nothing was decided."""


class Rejected(Exception):
    """The proof is not one: the message says where it fails and why."""
