"""The house keeps its floors: a room imports lower floors only, and heavy libraries stand at the top of heavy rooms only."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "graft"

# Lowest first. A room is a file or a folder of graft/. Rooms on one floor never import each other.
FLOORS = (
    ("errors",),
    ("optional", "device"),
    ("registry", "records", "outputs", "items", "files", "interrupt", "budget", "memory", "processes", "torchvision_ops"),
    ("data", "backbones", "evaluate", "recipes", "explain", "audit", "monitor", "scatter"),
    (
        "features", "strategies", "inlays", "losses", "heads", "baselines", "transferability", "shift", "validators", "testtime", "fewshot",
        "fuse",
    ),
    ("pretext",),
    ("train", "auto"),
    ("transfer", "report"),
    ("runs",),
    ("study", "adapt", "pretraining"),
    ("export", "serve"),
)  # fmt: skip
# The doors stand outside the floors: they may open any room, each only when it is touched.
DOORS = ("__init__", "__main__", "cli")

HEAVY = {
    "torch", "timm", "transformers", "torchvision", "sentence_transformers", "datasets", "pandas", "pyarrow", "scipy", "sklearn", "skimage",
    "matplotlib", "jinja2", "peft", "accelerate", "tensorboard",
}  # fmt: skip
TORCH = {"torch", "timm", "transformers", "torchvision", "sentence_transformers"}
# What a room may import at the top of its files; torch's circle is the dearest and the most confined.
TORCH_ROOMS = {"backbones", "features", "train", "transfer", "study", "inlays", "losses", "testtime", "pretext", "adapt", "pretraining"}
HEAVY_ROOMS = TORCH_ROOMS | {
    "data", "evaluate", "heads", "baselines", "transferability", "shift", "validators", "report", "explain", "audit", "monitor", "scatter",
}  # fmt: skip


def files():
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def floor_of(room):
    return next((number for number, rooms in enumerate(FLOORS) if room in rooms), None)


def imported(tree, path):
    """Dotted names of everything a tree imports, wherever in the file; relative imports made absolute."""
    here = ("graft", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: len(here) + 1 - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def rooms_imported(path):
    """Rooms of graft that a file imports, its own left out."""
    rooms = {name.split(".")[1] for name in imported(ast.parse(path.read_text("utf-8")), path) if name.startswith("graft.")}
    known = {room_of(file) for file in files()}
    return (rooms & known) - {room_of(path)}


def heavy_at_the_top(path):
    """Heavy libraries imported when the file is: outside functions, and not for the type checker alone."""
    tree = ast.parse(path.read_text("utf-8"))
    tree.body = [node for node in tree.body if not _is_for_the_type_checker(node)]

    class Bare(ast.NodeTransformer):
        def visit_FunctionDef(self, node):
            return None

        visit_AsyncFunctionDef = visit_FunctionDef
        visit_Lambda = visit_FunctionDef

    return {name.split(".")[0] for name in imported(Bare().visit(tree), path)} & HEAVY


def _is_for_the_type_checker(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_file_belongs_to_a_floor_and_imports_only_lower_ones(path):
    room = room_of(path)
    if room in DOORS:
        return
    floor = floor_of(room)
    assert floor is not None, f"{path.name}: room {room!r} stands on no floor; add it to FLOORS in {Path(__file__).name}"
    for other in rooms_imported(path):
        assert other not in DOORS, f"{path}: a room imports the door {other!r}"
        assert floor_of(other) < floor, (
            f"{path}: {room!r} (floor {floor}) imports {other!r} (floor {floor_of(other)}), expected a lower floor"
        )


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_libraries_are_imported_at_the_top_of_heavy_rooms_only(path):
    room = room_of(path)
    allowed = HEAVY if room in TORCH_ROOMS else HEAVY - TORCH if room in HEAVY_ROOMS else set()
    assert heavy_at_the_top(path) <= allowed


def test_no_file_is_longer_than_five_hundred_lines():
    assert {str(path): n for path in files() if (n := len(path.read_text("utf-8").splitlines())) > 500} == {}


def test_every_file_says_what_lives_there():
    assert [str(path) for path in files() if not ast.get_docstring(ast.parse(path.read_text("utf-8")))] == []


def test_imports_inside_functions_and_relative_ones_are_seen(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "study.py").touch()
    (tmp_path / "errors.py").touch()
    path = tmp_path / "data" / "load.py"
    path.write_text("from .. import errors\ndef f():\n    from graft import study\n    import torch\n")
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    assert rooms_imported(path) == {"errors", "study"}
    assert heavy_at_the_top(path) == set()
