"""What graft.torchvision_ops promises: torchvision imports beside any PyTorch, and the user is told what was done."""

import importlib.util
import subprocess
import sys
import types
import warnings

import pytest

from graft import torchvision_ops


def test_timm_imports_after_ensure_in_a_fresh_process():
    # Not importorskip: it would import timm here, before ensure.
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    code = "from graft import torchvision_ops as ops; ops.ensure(); ops.ensure(); import timm, torchvision.transforms; print('fine')"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "fine", done.stderr


def test_nothing_happens_where_torchvision_is_imported_already(monkeypatch):
    imported = _Failing("must not be imported again")
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setattr("importlib.import_module", imported)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torchvision_ops.ensure()
    assert imported.calls == 0


def test_nothing_happens_without_torchvision(monkeypatch):
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    imported = _Failing("there is nothing to import")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("importlib.import_module", imported)
    torchvision_ops.ensure()
    assert imported.calls == 0


class _Failing:
    """Stands in for importlib.import_module: torchvision fails with a message the first time it is imported."""

    def __init__(self, message):
        self.message, self.calls = message, 0

    def __call__(self, name):
        self.calls += 1
        if self.calls == 1:
            raise RuntimeError(self.message)


@pytest.fixture
def _absent(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.28.0+cu130")


def test_missing_operators_are_declared_with_a_warning_that_names_both_versions(monkeypatch, _absent):
    import torch

    declared = []

    class Library:
        def __init__(self, namespace, kind):
            assert (namespace, kind) == ("torchvision", "DEF")

        def define(self, schema):
            declared.append(schema)

    monkeypatch.setattr(torch.library, "Library", Library)
    monkeypatch.setattr("importlib.import_module", _Failing("operator torchvision::nms does not exist"))
    with pytest.warns(
        UserWarning, match=rf"0\.28\.0\+cu130 was built for another PyTorch than the installed {torch.__version__.partition('+')[0]}"
    ):
        torchvision_ops.ensure()
    assert [schema.partition("(")[0] for schema in declared] == ["nms", "qnms"]


def test_another_failure_of_torchvision_is_not_hidden(monkeypatch, _absent):
    monkeypatch.setattr("importlib.import_module", _Failing("disk on fire"))
    with pytest.raises(RuntimeError, match="disk on fire"):
        torchvision_ops.ensure()
