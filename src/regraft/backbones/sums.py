"""Several networks by one setting: ``A+B``. It imports no torch."""

from __future__ import annotations

from pathlib import Path

from regraft.core.text import counted
from regraft.errors import BackboneError, ConfigError

#: A model that timm saved into a folder: config.json and a file of weights.
SAVED_FOLDER = "local-dir:"
#: Networks that are read side by side.
MOST_NETWORKS = 4


def split_sum(model: str) -> list[str]:
    """Return the names in a setting: one, or several with + between them.

    No name of a network has a plus. A path after ``local-dir:`` may have one: it is read as far as
    a folder is there.

    Examples
    --------
    >>> split_sum("embedded+timm/resnet18"), split_sum("local-dir:no/such+embedded")
    (['embedded', 'timm/resnet18'], ['local-dir:no/such', 'embedded'])
    """
    pieces, names = model.split("+"), []
    while pieces:
        count = 1
        if pieces[0].startswith(SAVED_FOLDER):
            there = [n for n in range(1, len(pieces) + 1) if _is_saved_there("+".join(pieces[:n]))]
            count = max(there, default=1)
        names.append("+".join(pieces[:count]))
        del pieces[:count]
    return names


def _is_saved_there(name: str) -> bool:
    return Path(name.removeprefix(SAVED_FOLDER), "config.json").is_file()


def check_sum(model: str, weights: str, strategy: str) -> None:
    """Refuse a sum that cannot be read, or that would be trained.

    Raises
    ------
    BackboneError, ConfigError
        The message says which part is wrong.
    """
    names = split_sum(model)
    if len(names) == 1:
        return
    if "" in names:
        raise BackboneError(
            f"model is {model}: there is no name before or after a +",
            hint="regraft backbones lists all names",
        )
    if len(set(names)) < len(names):
        raise BackboneError(
            f"model is {model}: a network is named twice", hint="each can be read once"
        )
    if len(names) > MOST_NETWORKS:
        raise BackboneError(
            f"model is {model}: these are {counted(len(names), 'network')}; at most "
            f"{MOST_NETWORKS} are read side by side"
        )
    if strategy != "probe":
        raise ConfigError(
            f"model is {model} and strategy is {strategy}: only one network can be trained",
            hint=f"`model='{names[0]}'`: only a probe reads several",
        )
    if weights not in {"default", "none"}:
        raise ConfigError(
            f"model is {model} and weights is {weights}: weights of several networks are default "
            "or none",
            hint="`model='local-dir:FOLDER+...'` takes networks that timm saved, with their own "
            "weights",
        )
