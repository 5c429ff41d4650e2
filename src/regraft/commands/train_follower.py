"""What all processes of a training but the first do: wait, share its steps, return as it does."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.commands.steps import compute_of, load_backbone, suited
from regraft.core.reporter import Reporter
from regraft.data.scan import scan
from regraft.errors import RegraftWarning
from regraft.finetune.processes.exchange import receive_probe
from regraft.finetune.train import Job, finetune

if TYPE_CHECKING:
    from regraft.config.train_config import TrainConfig
    from regraft.finetune.processes.group import ProcessGroup
    from regraft.model import Model


def follow(
    data: Any, config: TrainConfig, group: ProcessGroup
) -> tuple[Path, dict[str, Any], Model]:
    """Share the steps of a training that the first process leads.

    Parameters
    ----------
    data : str, Path or tuple of arrays
        The same as the first one's.
    config : TrainConfig
        The same as the first one's.
    group : ProcessGroup
        Of this process.

    Returns
    -------
    tuple of Path, dict and Model
        Run folder and metrics as the first process has written them, and the trained model.

    Raises
    ------
    RegraftError
        What is wrong; also where the first process has failed.
    """
    silent = Reporter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RegraftWarning)  # the first process tells them
        samples = scan(data, config, silent)
        backbone, config = suited(load_backbone(config), samples, config, silent)
        probe, parts = receive_probe(group, samples, backbone, config.max_pixels)
        compute = compute_of(backbone, config.replace(device=group.device(config.device)))
        nowhere = Path(os.devnull)  # of checkpoints: the first process has them
        model, _ = finetune(Job(probe, samples, parts, compute, config, group=group), nowhere)
    told = json.loads(group.receive("written"))
    return Path(told["folder"]), told["metrics"], model
