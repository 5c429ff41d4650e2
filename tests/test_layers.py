"""The arrows of the house: who may import whom, read from the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "regraft"

#: Rooms and lone modules, each with its height: imports go down or stay inside a room.
HEIGHTS = {
    name: height
    for height, names in enumerate(
        [
            ("errors", "glyphs"),
            ("config", "report", "files", "process", "background"),
            ("settings",),
            ("config_file",),
            ("recipe",),
            ("data",),
            ("backbones",),
            ("features",),
            ("heads",),
            ("evaluation", "plots", "scout"),
            ("plot_pairs", "plot_runs"),
            ("near_duplicates",),
            ("model",),
            ("bundle",),
            ("finetune",),
            ("probe", "runs", "summary", "predictions"),
            ("crossing",),
            ("artefacts", "claims", "logs", "steps"),
            ("following",),
            ("pipeline", "deployment", "classifier", "show", "comparison", "rate_finder"),
            ("demo", "side_by_side"),
            ("console", "progress", "cli_help", "cli_options", "doctor"),
            ("cli_compare",),
            ("cli",),
            ("__main__",),
        ]
    )
    for name in names
}

#: Modules that may import only these rooms, and none of the libraries that are slow to import.
SLOW = {"torch", "torchvision", "timm", "sklearn", "scipy"}
NARROW = {
    "plots": {"plots", "glyphs", "errors", "files"},
    "console": {"background", "errors"},
    "predictions": {"errors", "files"},
    "progress": {"errors", "report"},
    "cli_help": {"errors"},
    "recipe": {"config", "config_file", "errors"},
    "config_file": {"config", "errors", "files", "settings"},
}


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def imports(path: Path, *, top_level: bool = False) -> Iterator[str]:
    """Yield the dotted names that a module imports; those for type checkers alone are left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))

    def walk(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                yield from walk(child)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif not (top_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            for child in ast.iter_child_nodes(node):
                yield from walk(child)

    yield from walk(tree)


def room(name: str) -> str:
    """Return the room of a dotted name within regraft, or nothing for the package itself."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in HEIGHTS else ""


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def test_every_module_has_its_place():
    placed = {*HEIGHTS, "__init__"}
    assert {room_of(path) for path in modules()} <= placed


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_go_down(path):
    here = room_of(path)
    if here == "__init__":
        pytest.skip("loads names on first use")
    wrong = [
        name
        for name in imports(path)
        if name.split(".")[0] == "regraft"
        and room(name) not in {"", here}
        and HEIGHTS[room(name)] >= HEIGHTS[here]
    ]
    assert not wrong


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_torchvision_only_through_the_shim(path):
    if name_of(path) == "backbones/vision.py":
        assert "torch" in {name.split(".")[0] for name in imports(path)}
    else:
        assert "torchvision" not in {name.split(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", sorted((SOURCE / "data").glob("*.py")), ids=name_of)
def test_data_imports_nothing_slow_before_it_is_needed(path):
    assert not {name.split(".")[0] for name in imports(path, top_level=True)} & SLOW


@pytest.mark.parametrize("name", NARROW)
def test_some_modules_know_little(name):
    found = list(imports(SOURCE / f"{name}.py"))
    assert not {other.split(".")[0] for other in found} & SLOW
    assert {room(other) for other in found if other.startswith("regraft.")} <= NARROW[name]


def test_the_checker_sees_what_it_must(tmp_path):
    module = tmp_path / "module.py"
    module.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import timm\n"
        "try:\n    import torch.nn\nexcept ImportError:\n    pass\n"
        "def f():\n    from scipy import stats\n",
        encoding="utf-8",
    )
    assert list(imports(module)) == ["typing.TYPE_CHECKING", "torch.nn", "scipy.stats"]
    assert "scipy.stats" not in list(imports(module, top_level=True))
