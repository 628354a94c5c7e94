import pytest


@pytest.fixture(autouse=True)
def private_cache(monkeypatch, tmp_path_factory):
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
