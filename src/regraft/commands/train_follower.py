"""What all processes of a training but the first do: wait, and take part in its steps."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.data.scan import scan
from regraft.errors import RegraftWarning
from regraft.features.extractor import Extractor, load_networks
from regraft.runs.run import Run

if TYPE_CHECKING:
    from regraft.backbones.backbone import Backbone
    from regraft.config.train_config import TrainConfig
    from regraft.finetune.processes.group import ProcessGroup


def train_as_follower(
    data: Any, config: TrainConfig, group: ProcessGroup, given: Backbone | None
) -> Run:
    """Take part in the steps of a training that the first process leads.

    Data, settings and ``given`` (the network as an object) are the same as in the first process; so
    is the trained model. Folder and metrics are those that the first process has written.

    Raises
    ------
    RegraftError
        What is wrong; also where the first process has failed.
    """
    from regraft.finetune.processes.exchange import receive_probe  # noqa: PLC0415 - imports torch
    from regraft.finetune.train import follow_network  # noqa: PLC0415

    own = config.replace(device=group.device(config.device))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RegraftWarning)  # the first process reports them
        samples = scan(data, own)
        extractor = Extractor.for_samples(load_networks(own, given), samples, own)  # no store
        probe, dataset = receive_probe(group, samples, extractor.backbone)
        model = follow_network(probe, dataset, extractor, group)
    folder, metrics = json.loads(group.receive("written"))
    return Run(Path(folder), metrics, model)
