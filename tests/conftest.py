"""What every test shares: a feature cache of its own, so that no test reads or writes the user's."""

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "graft-cache"))
