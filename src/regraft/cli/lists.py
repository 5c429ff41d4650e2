"""Commands that list what there is: recipes, networks, datasets, and the store of features."""

# ruff: noqa: PLC0415 - as in main.py

from cyclopts import App

from regraft.cli.options import OPTIONS, CacheFolder
from regraft.cli.streams import write
from regraft.errors import InputError

recipes_app = App(name="recipes", usage="Usage: regraft recipes [NAME]", sort_key=6)


@recipes_app.default
@recipes_app.command(name="show", show=False)
def recipes(name: str | None = None, /) -> None:
    """List the tutorials' jobs, corrected, that `train --recipe` runs; or show one of them.

    Parameters
    ----------
    name
        Show this recipe, or that of a YAML file: what it does, what its original got wrong, its
        settings and result, and the command that runs it.
    """
    from regraft.cli.output import as_table
    from regraft.config.recipe import explain, list_recipes, read_recipe

    write(as_table(list_recipes()) if name is None else explain(read_recipe(name)))


backbones_app = App(
    name="backbones", usage="Usage: regraft backbones [PATTERN] | show NAME", sort_key=7
)


@backbones_app.default
def backbones(pattern: str = "*", /) -> None:
    """List the networks that a classifier can start from.

    Parameters
    ----------
    pattern
        Part of a name, or a pattern such as `timm/vit_*`.
    """
    from regraft.backbones.describe import list_backbones
    from regraft.cli.output import as_table

    found = list_backbones(pattern)
    if not found:
        raise InputError(f"no backbone matches {pattern}", hint="regraft backbones lists all")
    write(as_table(found))


@backbones_app.command(name="show", usage="Usage: regraft backbones show NAME")
def show_backbone(name: str, /) -> None:
    """Show a network's layers, stages, parameters and preprocessing; downloads nothing.

    Parameters
    ----------
    name
        As in the list: embedded, torchvision/resnet50, timm/vit_base_patch16_224, or A+B.
    """
    from regraft.backbones.describe import describe_backbone

    write(describe_backbone(name))


def datasets() -> None:
    """List the datasets that `train` and `evaluate` take by name."""
    from regraft.cli.output import as_table
    from regraft.data.sources.registry import list_datasets

    write(as_table(list_datasets()))


cache_app = App(
    name="cache",
    usage="Usage: regraft cache [show|clear] [--cache-dir PATH]",
    sort_key=9,
    group_parameters=OPTIONS,
)


@cache_app.default
@cache_app.command(name="show", show=False)
def show_cache(*, cache_dir: CacheFolder = None) -> None:
    """Show where features of earlier runs are kept, or remove them with `clear`."""
    from regraft.cli.output import as_table
    from regraft.features.store.store import open_store

    write(as_table([open_store(cache_dir).info()]))


@cache_app.command(name="clear", usage="Usage: regraft cache clear [--cache-dir PATH]")
def clear_cache(*, cache_dir: CacheFolder = None) -> None:
    """Remove all kept features and free their space."""
    from regraft.features.store.store import clear_store

    info = clear_store(cache_dir)
    write(f"removed {info.rows:,} rows, {info.bytes / 2**20:,.0f} MiB, from {info.folder}")
