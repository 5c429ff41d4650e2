"""Networks that timm saved: ``local-dir:FOLDER`` or ``hf-hub:OWNER/NAME``.

Such a model is two files, as timm's ``save_for_hf`` and ``push_to_hf_hub`` write them: config.json,
which names one of timm's architectures and its preprocessing, and a file of weights.
"""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.backbones.downloads import fetch_hub, fetch_hub_file
from regraft.backbones.sums import SAVED_FOLDER
from regraft.backbones.timm_models import FAMILY, POOLS, WEIGHT_FILES, record_from
from regraft.backbones.weights import read_weights
from regraft.core.files import read_bounded
from regraft.errors import BackboneError, InputError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from regraft.backbones.backbone import Scalar
    from regraft.backbones.family import Record, StateDict

_FOLDER, _HUB = SAVED_FOLDER, "hf-hub:"
_MAX_CONFIG_BYTES = 2**20
#: Arguments that are left out of the record.
_IGNORED = {
    # They change the classifier, which is removed, or training, and the network only evaluates.
    *("num_classes", "drop_rate", "drop_path_rate", "attn_drop_rate", "proj_drop_rate"),
    "img_size",  # the size comes from pretrained_cfg or from the user's setting
    "in_chans",  # always 3: ``record_from`` raises BackboneError if pretrained_cfg has another
}


def is_saved(name: str) -> bool:
    """Whether a name means a model saved by timm."""
    return name.startswith((_FOLDER, _HUB))


def saved_record(name: str, weights: str) -> Record:
    """Read the record of a model saved by timm from its config.json.

    The record has the architecture's name in timm: a bundle rebuilds the network from timm alone.
    """
    if weights not in {"default", "none"}:
        raise WeightsError(f"{name} has no weights named {weights}", hint="use default or none")
    if name.startswith(_FOLDER):
        folder = Path(name.removeprefix(_FOLDER))
        config = _read_config(folder / "config.json", name)
        fetch: Callable[[], StateDict] = partial(_read_weights_in, folder)
        label = f"local-dir {folder.resolve().name}"  # not the path: results may be published
    else:
        repository = name.removeprefix(_HUB)
        config = _read_config(fetch_hub_file(repository, ["config.json"]), name)
        fetch = partial(fetch_hub, repository, WEIGHT_FILES)
        label = name
    record = _record_in(config, name)
    return dataclasses.replace(record, weights=label, fetch=fetch if weights == "default" else None)


def _read_config(file: Path, name: str) -> dict[str, Any]:
    try:
        config = json.loads(read_bounded(file, _MAX_CONFIG_BYTES))
    except InputError as error:
        raise BackboneError(
            f"{name}: {error.message}",
            hint="give the folder that timm's save_for_hf wrote: config.json and model.safetensors",
        ) from error
    except (ValueError, RecursionError) as error:
        raise BackboneError(f"{name}: config.json is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise BackboneError(f"{name}: config.json holds no object")
    return config


def _record_in(config: Mapping[str, Any], name: str) -> Record:
    """Check what config.json says and turn it into a record without weights."""
    architecture = config.get("architecture")
    if not isinstance(architecture, str) or architecture not in FAMILY.names():
        raise BackboneError(f"{name} names an architecture that timm does not have: {architecture}")
    pretrained_cfg = config.get("pretrained_cfg", config)
    if not isinstance(pretrained_cfg, dict):
        raise BackboneError(f"{name}: pretrained_cfg in config.json is not an object")
    arguments = _arguments_in(config, name)
    try:
        return record_from(architecture, pretrained_cfg, arguments)
    except (TypeError, ValueError) as error:
        raise BackboneError(
            f"{name}: pretrained_cfg in config.json is malformed: {error}"
        ) from error


def _arguments_in(config: Mapping[str, Any], name: str) -> dict[str, Scalar]:
    """Return the arguments that change the network; ``timm_models`` checks them when it builds."""
    given = config.get("model_args") or {}
    if not isinstance(given, dict):
        raise BackboneError(f"{name}: model_args in config.json is not an object")
    arguments: dict[str, Scalar] = {
        key: value for key, value in given.items() if key not in _IGNORED
    }
    pool = config.get("global_pool")
    if isinstance(pool, str) and pool in POOLS - {""}:
        arguments.setdefault("global_pool", pool)
    return arguments


def _read_weights_in(folder: Path) -> StateDict:
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return read_weights(folder / name)
    raise WeightsError(f"{folder} holds none of {', '.join(WEIGHT_FILES)}")
