"""Errors of a study; each is one printable line, and the command line exits with code 2.

SecateurError (verifier.errors)
|-- StudyFileError    the study file: unreadable, an unknown key, an impossible value
`-- ResultsError      a results file: unreadable, torn in the middle, of another study or of another kind
"""

from __future__ import annotations

from verifier.errors import SecateurError


class StudyFileError(SecateurError):
    """The study file, or a choice made on the command line, cannot be used."""


class ResultsError(SecateurError):
    """A results file cannot be read, or does not belong to this study."""
