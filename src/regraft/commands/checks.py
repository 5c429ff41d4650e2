"""What is wrong with a training's settings, found before minutes of work."""

# ruff: noqa: PLC0415 - imports torch

from __future__ import annotations

from typing import TYPE_CHECKING

from regraft.core.machine import memory_limit
from regraft.finetune.paths import refuse_existing

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from regraft.backbones.backbone import Backbone


def check_first(config: Any, checkpoints: Path) -> None:
    """Refuse, before the images are read, checkpoints of another run, and a device that is missing.

    Only the search for a GPU needs torch, whose import otherwise runs during the scan.
    """
    if config.strategy != "probe" and not (config.resume or config.overwrite):
        refuse_existing(checkpoints)
    if config.device not in {"auto", "cpu"}:
        from regraft.features.compute import choose_compute

        choose_compute(config.device, config.precision, config.batch_size)


def check_names(backbone: Backbone, config: Any) -> None:
    """Refuse taps and stages that the network does not have, and memory that is no number."""
    from regraft.features.taps import select_blocks
    from regraft.finetune.network import trained_stages

    memory_limit(config.memory)
    select_blocks(backbone, config.taps, config.grids)
    trained_stages(backbone, config.unfreeze)
