"""Who may import whom, read from the source: the table of the house."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "regraft"

#: Each room with the rooms that it may import; all may import ``errors`` and themselves.
MAY_IMPORT = {
    "core": "",
    "task": "",
    "config": "core",
    "plots": "core",
    "images": "core",
    "evaluation": "core task",
    "decision": "core evaluation",
    "heads": "core config task",
    "backbones": "core images",
    "data": "core config images",
    "splits": "core config data task",
    "features": "core config images data backbones",
    "model": "features backbones task",
    "probe": "core config data splits features backbones heads evaluation model decision",
    "finetune": "core config images data backbones features heads model",
    "standalone": "",
    "bundle": "core config images data backbones features heads model decision task standalone",
    "exports": "core config images data splits backbones features heads model bundle decision "
    "evaluation runs standalone",
    "check": "core images data splits features probe",
    "runs": "task core config images data splits probe bundle check decision evaluation plots",
    "race": "core config data splits backbones features heads evaluation probe runs",
    "commands": "task core config images data splits backbones features heads evaluation plots "
    "model probe finetune bundle check decision runs race exports",
    "estimator": "task core config images data splits backbones features heads evaluation model "
    "probe bundle decision runs",
    "classifier": "estimator",
    "cli": "commands config core backbones data images features runs",
    "__main__": "cli",
}

#: Rooms whose types alone may be named, under TYPE_CHECKING.
TYPES_ONLY = {"runs": "features heads model finetune"}

#: Modules that name the whole configuration.
KNOW_ALL = {
    "__init__.py",
    "cli/options.py",
    "commands/compare_trainings.py",
    "commands/find_rate.py",
    "commands/train.py",
    "commands/train_follower.py",
    "config/recipe.py",
    "config/settings.py",
    "config/train_config.py",
    "config/yaml_file.py",
    "data/scan.py",
    "estimator.py",
    "features/extractor.py",
    "finetune/train.py",
    "probe/decisions.py",
    "probe/fit.py",
    "runs/logs/registry.py",
    "runs/result.py",
    "splits/split.py",
}

#: Slow to import: kept out of what runs before it is needed.
SLOW = {"torch", "torchvision", "timm", "sklearn", "scipy", "matplotlib"}

#: Modules that are imported before a training has scanned its data.
FIRST = (
    "commands.train", "data.scan", "splits.split", "runs.reserve", "runs.logs.registry",
)  # fmt: skip

_NAME = re.compile(r"regraft\.([a-z_]+)(\.[a-z_]+)*")


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield each dotted name that a module imports, and whether only its types are used.

    A string that is the name of one of our modules counts as an import: ``import_module`` takes it.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))

    def walk(node: ast.AST, *, types: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from walk(child, types=True)
            for child in node.orelse:
                yield from walk(child, types=types)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, types) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module}.{alias.name}", types) for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found = _NAME.fullmatch(node.value)
            if found and found[1] in MAY_IMPORT:  # "regraft.lock" is the name of a file
                yield node.value, types
        else:
            for child in ast.iter_child_nodes(node):
                yield from walk(child, types=types)

    yield from walk(tree, types=False)


def rooms_of_imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield the rooms that a module reaches; the package itself counts as all of them."""
    for name, types in imports(path):
        first, _, rest = name.partition(".")
        if first == "regraft":
            room = rest.partition(".")[0]
            yield room if room in {*MAY_IMPORT, "errors"} else "regraft", types


def not_permitted(path: Path) -> list[str]:
    here = room_of(path)
    allowed = {here, "errors", *MAY_IMPORT[here].split()}
    types_only = {*TYPES_ONLY.get(here, "").split()}
    return sorted(
        {
            room
            for room, types in rooms_of_imports(path)
            if room not in allowed and not (types and room in types_only)
        }
    )


def test_every_module_has_its_room():
    assert {room_of(path) for path in modules()} == {*MAY_IMPORT, "errors", "__init__"}


def test_the_map_for_contributors_names_every_room():
    page = (SOURCE.parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    lines = page.partition("```text\n")[2].partition("```")[0].splitlines()
    assert len(lines) <= 15
    named = set(re.findall(r"\b([a-z_]+)(?:/|\.py)", "\n".join(lines)))
    inner = {"frozen", "processes", "sources", "store"}
    assert named - inner == {*MAY_IMPORT, "errors"} - {"classifier", "__main__"}
    folders = {path.name for path in SOURCE.rglob("*") if path.is_dir()}
    files = {path.stem for path in SOURCE.glob("*.py")}
    assert named <= folders | files


def test_few_modules_know_the_whole_configuration():
    """All others take values, so that a new setting is followed at a glance."""
    assert {name_of(path) for path in modules() if names_the_configuration(path)} == KNOW_ALL
    assert len(KNOW_ALL) <= 19


def test_no_two_classes_have_one_name():
    homes: dict[str, list[str]] = {}
    for path in modules():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(name_of(path))
    assert not {name: paths for name, paths in homes.items() if len(paths) > 1}


def names_the_configuration(path: Path) -> bool:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return any(
        (isinstance(node, ast.Name) and node.id == "TrainConfig")
        or (isinstance(node, ast.alias) and node.name == "TrainConfig")
        or (isinstance(node, ast.ClassDef) and node.name == "TrainConfig")
        for node in nodes
    )


def test_the_table_has_no_cycle():
    left = {room: {*allowed.split()} - {"errors"} for room, allowed in MAY_IMPORT.items()}
    while left:
        free = {room for room, allowed in left.items() if not allowed & set(left)}
        assert free, f"a cycle among {sorted(left)}"
        left = {room: allowed for room, allowed in left.items() if room not in free}


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_room_imports_what_its_row_permits(path):
    if room_of(path) == "__init__":
        return  # loads the public names when they are first used
    if room_of(path) == "errors":
        assert not list(rooms_of_imports(path))
        return
    assert not not_permitted(path)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_torchvision_only_through_the_shim(path):
    if name_of(path) != "core/torchvision_shim.py":
        assert "torchvision" not in {name.split(".")[0] for name, _ in imports(path)}


def test_what_runs_first_imports_nothing_slow():
    names = ", ".join(f"regraft.{name}" for name in FIRST)
    code = f"import sys\nimport {names}\nprint(sorted({SLOW} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_checker_sees_what_it_must(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    module = tmp_path / "plots" / "module.py"
    module.parent.mkdir()
    module.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from regraft.model import Model\n"
        "try:\n    import torch.nn\nexcept ImportError:\n    pass\n"
        "def f():\n    from regraft.data import scan\n"
        "    importlib.import_module('regraft.heads.fit')\n"
        "    print('regraft is a word')\n"
        "from regraft import __version__\n",
        encoding="utf-8",
    )
    assert ("torch.nn", False) in set(imports(module))
    assert not_permitted(module) == ["data", "heads", "model", "regraft"]
