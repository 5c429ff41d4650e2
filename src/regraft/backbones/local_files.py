"""Networks and weights in files of the user: which they are, and whether they are there.

It imports no torch: a missing file is an error before anything slow begins.
"""

from __future__ import annotations

from pathlib import Path

from regraft.backbones.sums import SAVED_FOLDER, split_sum
from regraft.errors import BackboneError, WeightsError

_FILE_SUFFIXES = {".safetensors", ".pth", ".pt", ".bin", ".ckpt"}


def weights_file(weights: str) -> Path | None:
    """Return the file that the setting names; None for a label such as "default".

    Examples
    --------
    >>> weights_file("own.pth"), weights_file("IMAGENET1K_V2")
    (PosixPath('own.pth'), None)
    """
    return Path(weights) if Path(weights).suffix.lower() in _FILE_SUFFIXES else None


def refuse_missing_files(model: str, weights: str) -> None:
    """Raise BackboneError or WeightsError if a file that the settings name is not there."""
    file = weights_file(weights)
    if file is not None and not file.is_file():
        raise WeightsError(
            f"cannot read the weights {file}: there is no such file",
            hint="`weights=FILE` takes a .safetensors or .pth file; `model='embedded'` needs none",
        )
    for name in split_sum(model):
        if not name.startswith(SAVED_FOLDER):
            continue
        folder = Path(name.removeprefix(SAVED_FOLDER))
        if not (folder / "config.json").is_file():
            raise BackboneError(
                f"{name}: there is no file {folder / 'config.json'}",
                hint="give the folder that timm's save_for_hf wrote: config.json and "
                "model.safetensors",
            )
