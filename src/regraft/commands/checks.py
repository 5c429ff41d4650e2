"""What is wrong with a training's settings, found before minutes of work."""

# ruff: noqa: PLC0415 - imports torch

from __future__ import annotations

from typing import TYPE_CHECKING

from regraft.backbones.local_files import refuse_missing_files
from regraft.backbones.sums import check_sum
from regraft.decision.costs import read_text_of
from regraft.finetune.paths import refuse_existing
from regraft.splits.split_csv import read_split

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from regraft.backbones.backbone import Backbone


def check_first(config: Any, checkpoints: Path | None = None) -> None:
    """Refuse, before the images are read, files and devices that are not there.

    Checkpoints of another run are refused, too. Only the search for a GPU needs torch, whose import
    otherwise runs during the scan.
    """
    if checkpoints and config.strategy != "probe" and not (config.resume or config.overwrite):
        refuse_existing(checkpoints)
    check_sum(config.model, config.weights, config.strategy)
    refuse_missing_files(config.model, config.weights)
    if config.split is not None:
        read_split(config.split)
    if config.costs is not None:
        read_text_of(config.costs)  # what it says needs the classes
    if config.device not in {"auto", "cpu"}:
        from regraft.features.compute import choose_compute

        choose_compute(config.device, config.precision, config.batch_size)


def load_checked(config: Any, given: Backbone | None = None) -> tuple[Backbone, ...]:
    """Load the networks; refuse taps and stages that they do not have.

    Any other mistake in a name, in weights or an image size is found here too. ``given`` is the
    only network if a user has given it as an object.
    """
    from regraft.features.extractor import load_networks
    from regraft.features.taps import select_blocks
    from regraft.finetune.network import trained_stages

    networks = load_networks(config, given)
    select_blocks(networks, config.taps, config.grids)
    trained_stages(networks[0], config.unfreeze)
    return networks
