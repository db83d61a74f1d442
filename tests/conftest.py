"""What every test shares: a feature cache of its own, so that no test reads or writes the user's."""

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "graft-cache"))


@pytest.fixture
def quick_studies(monkeypatch):
    """Studies of tiny networks: the from-scratch control need not last ten seconds."""
    from graft.study import times

    monkeypatch.setattr(times, "_LEAST_SCRATCH", 0.3)
    monkeypatch.setattr(times, "_PAGE", 0.5)
