"""Recipes: the tutorials' jobs, corrected, each a YAML file of settings with words beside them.

A recipe is a configuration file with some entries of plain text: the data, what is done, what the
original got wrong, and results, which stand there only where they were measured. Those in
``recipes/`` have names; a file of your own is read in the same way.
"""

from __future__ import annotations

import difflib
import textwrap
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from regraft.config.train_config import TrainConfig
from regraft.config.yaml_file import parse, read_text, to_yaml
from regraft.errors import ConfigError, InputError

#: Entries that are no settings.
WORDS = ("title", "data", "about", "wrong", "original", "expected", "measured")

_FOLDER = files("regraft") / "recipes"
_SUFFIXES = (".yaml", ".yml")
_WIDTH = 96  # columns of text


@dataclass(frozen=True)
class Recipe:
    """A job to repeat.

    Attributes
    ----------
    name : str
        As in the list, or the file.
    config : TrainConfig
        Every setting; the defaults where the file says nothing.
    title, about : str
        What is done, in a line and in a paragraph.
    data : str
        What ``regraft train`` takes; empty where the user has to bring it.
    wrong, original : str
        What the original got wrong, and its own figure; empty where none is known.
    expected, measured : str
        What to expect of these settings with these weights, and where that was measured; empty
        where it was not.
    """

    name: str
    config: TrainConfig
    title: str = ""
    data: str = ""
    about: str = ""
    wrong: str = ""
    original: str = ""
    expected: str = ""
    measured: str = ""

    def needed_data(self) -> str:
        """Return the recipe's data.

        Raises
        ------
        InputError
            Where it names none.
        """
        if not self.data:
            raise InputError(
                f"the recipe {self.name} needs DATA: it names none",
                hint=f"regraft train DATA --recipe {self.name}",
            )
        return self.data


@dataclass(frozen=True)
class Listed:
    """A line of the list of recipes."""

    recipe: str
    data: str
    model: str
    strategy: str
    what: str


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with regraft, sorted.

    Examples
    --------
    >>> recipe_names()[:2]
    ['cifar10-resnet18', 'cifar10-vgg16']
    """
    found = [each.name for each in _FOLDER.iterdir() if each.name.endswith(".yaml")]
    return sorted(name.removesuffix(".yaml") for name in found)


def list_recipes() -> list[Listed]:
    """Return a line for each recipe that comes with regraft."""
    return [
        Listed(name, it.data or "yours", it.config.model, it.config.strategy, it.title)
        for name, it in ((name, read_recipe(name)) for name in recipe_names())
    ]


def read_recipe(name: str) -> Recipe:
    """Read a recipe.

    Parameters
    ----------
    name : str
        One of ``recipe_names()``, or the path of a ``.yaml`` or ``.yml`` file.

    Returns
    -------
    Recipe

    Raises
    ------
    ConfigError
        No recipe has that name, or the file cannot be used; the message names file and line.

    Examples
    --------
    >>> read_recipe("mnist-resnet50").config.unfreeze
    'layer4'
    """
    if name.endswith(_SUFFIXES):
        text = read_text(Path(name))
    elif name in recipe_names():
        text = (_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    else:
        near = difflib.get_close_matches(name, recipe_names(), n=3)
        hint = "regraft recipes lists all; the name of a file of your own ends in .yaml"
        if near:
            hint = f"did you mean {' or '.join(near)}?"
        raise ConfigError(f"there is no recipe {name}", hint=hint)
    config, words = parse(text, name, TrainConfig(), WORDS)
    return Recipe(name, config, **words)


def explain(recipe: Recipe) -> str:
    """Return a recipe in words, for a person.

    Parameters
    ----------
    recipe : Recipe
        As read.

    Returns
    -------
    str
        What it does, what the original got wrong, the settings that differ from the defaults,
        figures, and what to type.
    """
    usual = set(to_yaml(TrainConfig()).splitlines())
    settings = [f"  {line}" for line in to_yaml(recipe.config).splitlines() if line not in usual]
    expected = recipe.expected or "not measured"
    if recipe.measured:
        expected += f" ({recipe.measured})"
    paragraphs = [
        f"{recipe.name}: {recipe.title}" if recipe.title else recipe.name,
        _paragraph("", recipe.about),
        _paragraph("What the original got wrong: ", recipe.wrong),
        _paragraph("The original's figure: ", recipe.original),
        _paragraph("To expect: ", expected),
        "\n".join(["Settings that differ from the defaults:", *(settings or ["  none"])]),
        f"Run it: regraft train {'' if recipe.data else 'DATA '}--recipe {recipe.name}",
    ]
    return "\n\n".join(filter(None, paragraphs))


def _paragraph(heading: str, text: str) -> str:
    """Return text in lines under a heading; nothing where there is none."""
    return textwrap.fill(heading + text, _WIDTH, break_on_hyphens=False) if text else ""
