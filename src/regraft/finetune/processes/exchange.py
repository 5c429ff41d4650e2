"""The messages of the first process to the others: probe and parts, and the state of a training."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch

from regraft.data.dataset import Dataset
from regraft.data.samples import Parts
from regraft.errors import DataError
from regraft.features.taps import Block
from regraft.finetune.checkpoint import Saved
from regraft.heads.modules import LinearHead
from regraft.model import Model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from regraft.backbones.backbone import Backbone
    from regraft.data.samples import Samples
    from regraft.finetune.processes.group import ProcessGroup
    from regraft.finetune.state import State

_RECORD = "record"  # the tensor that holds JSON


def send_probe(group: ProcessGroup, probe: Model, dataset: Dataset) -> None:
    """Send the other processes the start of a training: the probe, and the two parts it needs."""
    if group.size == 1:
        return
    train, val = dataset.train, dataset.val
    tensors = {f"head/{name}": tensor for name, tensor in probe.head.state_dict().items()}
    tensors |= {"train": torch.from_numpy(train), "val": torch.from_numpy(val)}
    record = {
        "blocks": [str(block) for block in probe.blocks],
        "temperature": probe.temperature,
        "weights": probe.backbone.weights_sha256,
        "images": hash_of(dataset.samples, np.concatenate([train, val])),
    }
    group.send("probe", _packed(tensors, record))


def receive_probe(
    group: ProcessGroup, samples: Samples, backbone: Backbone
) -> tuple[Model, Dataset]:
    """Return the probe and the dataset that the first process has sent; its test part is empty.

    ``samples`` and ``backbone`` are those of this process. Raises DataError where they differ from
    the first one's.
    """
    tensors, record = _unpacked(group.receive("probe"))
    train, val = tensors.pop("train").numpy(), tensors.pop("val").numpy()
    inside = max(train.max(initial=0), val.max(initial=0)) < len(samples)
    if not inside or record["images"] != hash_of(samples, np.concatenate([train, val])):
        raise DataError("the images are not those that the first process sees")
    if record["weights"] != backbone.weights_sha256:
        raise DataError("the network's weights are not those that the first process has")
    head = LinearHead.from_tensors({name.partition("/")[2]: t for name, t in tensors.items()})
    blocks = tuple(Block.parse(text) for text in record["blocks"])
    temperature, most = record["temperature"], samples.max_pixels
    probe = Model(backbone, blocks, head, temperature, samples.classes, most)
    return probe, Dataset(samples, Parts(train, val, np.empty(0, np.int64), {}))


def sync_state(state: State, group: ProcessGroup) -> None:
    """Copy the state of the first process, which may have resumed, to all others."""
    if group.size == 1:
        return
    if group.first:
        group.send("state", _packed(state.tensors(), dataclasses.asdict(state.progress)))
    else:
        tensors, progress = _unpacked(group.receive("state"))
        state.restore(Saved(tensors, {"progress": progress}))


def hash_of(samples: Samples, indices: NDArray[np.int64]) -> str:
    """Return a short hash of some samples' contents and labels, in this order."""
    digest = hashlib.sha256()
    for index in indices:
        digest.update(samples.hashes[index] + int(samples.labels[index]).to_bytes(4, "little"))
    return digest.hexdigest()[:16]


def _packed(tensors: Mapping[str, torch.Tensor], record: Mapping[str, Any]) -> bytes:
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = np.frombuffer(json.dumps(dict(record)).encode(), np.uint8).copy()
    return safetensors.torch.save({**whole, _RECORD: torch.from_numpy(text)})


def _unpacked(data: bytes) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    tensors = safetensors.torch.load(data)
    record: dict[str, Any] = json.loads(tensors.pop(_RECORD).numpy().tobytes())
    return tensors, record
