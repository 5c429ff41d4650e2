"""Recipes: the tutorials' jobs, corrected; each is a YAML file of settings and some text.

A recipe is a configuration file that also has entries of plain text: the data, what is done, what
the original got wrong, and results, if they were measured. The recipes in ``recipes/`` have names;
a file of your own is read in the same way.
"""

from __future__ import annotations

import dataclasses
import textwrap
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from regraft.config.train_config import TrainConfig
from regraft.config.yaml_file import parse, read_text, to_yaml
from regraft.core.text import did_you_mean
from regraft.errors import ConfigError, InputError

_FOLDER = files("regraft") / "recipes"
_SUFFIXES = (".yaml", ".yml")
_WIDTH = 96  # columns of text


@dataclass(frozen=True)
class Recipe:
    """A job to repeat."""

    name: str  # as in the list, or the path of the file
    config: TrainConfig
    title: str = ""  # what is done, in a line
    data: str = ""  # as for ``regraft train``; empty if the user has to bring it
    about: str = ""  # what is done, in a paragraph
    wrong: str = ""  # what the original got wrong; empty if nothing is known
    original: str = ""  # the original's figure
    expected: str = ""  # the figure to expect with these weights; empty if it was not measured
    measured: str = ""  # where that was measured

    def needed_data(self) -> str:
        """Return the data of the recipe; InputError if it names none."""
        if not self.data:
            raise InputError(
                f"the recipe {self.name} needs DATA: it names none",
                hint=f"regraft train DATA --recipe {self.name}",
            )
        return self.data


#: Entries of a recipe that are text and not settings.
TEXTS = tuple(each.name for each in dataclasses.fields(Recipe)[2:])


@dataclass(frozen=True)
class RecipeRow:
    """A line of the list of recipes; the names of the fields are its heading."""

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


def list_recipes() -> list[RecipeRow]:
    """Return a line for each recipe that comes with regraft."""
    return [
        RecipeRow(name, each.data or "yours", each.config.model, each.config.strategy, each.title)
        for name, each in ((name, read_recipe(name)) for name in recipe_names())
    ]


def read_recipe(name: str) -> Recipe:
    """Return a recipe by its name, or from the path of a ``.yaml`` or ``.yml`` file.

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
        hint = "regraft recipes lists all; the name of a file of your own ends in .yaml"
        raise ConfigError(
            f"there is no recipe {name}", hint=did_you_mean(name, recipe_names()) or hint
        )
    config, texts = parse(text, name, TrainConfig(), TEXTS)
    return Recipe(name, config, **texts)


def explain(recipe: Recipe) -> str:
    """Return a recipe as text: what it does, its settings, its figures, and the command."""
    defaults = set(to_yaml(TrainConfig()).splitlines())
    settings = [f"  {line}" for line in to_yaml(recipe.config).splitlines() if line not in defaults]
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
    """Return text in lines under a heading; empty if there is no text."""
    return textwrap.fill(heading + text, _WIDTH, break_on_hyphens=False) if text else ""
