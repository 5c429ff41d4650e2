"""Names, docstrings and sizes: what a reader can rely on."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import regraft

SOURCE = Path(__file__).parent.parent / "src" / "regraft"

#: Longer than a reader should have to hold, each with its reason.
LONG = {
    "config/train_config.py": "declares all settings on one page, each once",
    "standalone/decode.py": "copied into folders where no file can import from a package",
}
LONGEST = 420  # "about 400 lines"


def modules():
    return sorted(SOURCE.rglob("*.py"))


def name_of(path):
    return path.relative_to(SOURCE).as_posix()


def public_functions(path):
    """Yield the public functions of a module and the public methods of its public classes."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                    yield f"{node.name}.{inner.name}", inner


def overridden(node):
    return any(
        isinstance(decorator, ast.Name) and decorator.id in {"overload", "override"}
        for decorator in node.decorator_list
    )


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_public_functions_say_what_they_do(path):
    without = []
    for name, node in public_functions(path):
        sentence = (ast.get_docstring(node) or "").split("\n")[0]
        if not (overridden(node) or sentence.endswith((".", ":"))):
            without.append(name)
    assert not without


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_parameters_sections_name_real_parameters(path):
    wrong = []
    for name, node in public_functions(path):
        documented = parameters_section(ast.get_docstring(node) or "")
        arguments = node.args
        real = {
            argument.arg
            for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
        }
        real |= {extra.arg for extra in (arguments.vararg, arguments.kwarg) if extra is not None}
        wrong += [f"{name}: {entry}" for entry in documented if entry not in real]
    assert not wrong


def parameters_section(docstring):
    """Return the names in the Parameters section of a numpydoc docstring."""
    lines = docstring.split("\n")
    if "Parameters" not in lines:
        return []
    found = []
    lines = lines[lines.index("Parameters") + 2 :]
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if set(below) == {"-"}:  # the next section's heading
            break
        if line and not line.startswith(" "):
            found += [entry.strip().lstrip("*\\") for entry in line.split(":")[0].split(",")]
    return found


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_modules_are_short(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST or name_of(path) in LONG


@pytest.mark.parametrize("name", [name for name in regraft.__all__ if name != "__version__"])
def test_public_names_load_when_they_are_used(name):
    value = getattr(regraft, name)
    assert value.__module__.startswith("regraft.")
    assert getattr(importlib.import_module(value.__module__), name) is value
    assert value.__doc__


def test_dir_lists_public_names_and_unknown_ones_are_reported():
    for module in (regraft, importlib.import_module("regraft.classifier")):
        public = [name for name in dir(module) if not name.startswith("__")]
        assert public == sorted({*module.__all__} - {"__version__"})
    assert dir(regraft) == sorted(regraft.__all__)
    with pytest.raises(AttributeError, match="module 'regraft' has no attribute 'trian'"):
        regraft.trian  # noqa: B018


def test_import_alone_imports_no_library():
    code = "import sys, regraft; print({'numpy', 'torch', 'cyclopts'} & {*sys.modules})"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"
