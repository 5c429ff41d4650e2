"""The frozen stages, run once for each view of an image: whether that pays, and the views' rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from regraft.core.keyed_random import torch_seeded
from regraft.errors import DiskFullError, RunError
from regraft.features.extract import feature_fingerprint
from regraft.features.store.rows import fingerprint_of, row_key
from regraft.features.taps import padded, read_features
from regraft.finetune.frozen.cut_network import Activations
from regraft.finetune.frozen.cut_reader import CutReader
from regraft.finetune.frozen.row_file import Layout, RowFile, refuse_full_disk
from regraft.finetune.paths import rows_file
from regraft.finetune.precision import autocast, on_device
from regraft.finetune.state import copied

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import NDArray

    from regraft.config.train_config import TrainConfig
    from regraft.core.reporter import Reporter
    from regraft.data.samples import Parts, Samples
    from regraft.features.compute import Compute
    from regraft.finetune.network import TrainableNetwork
    from regraft.model import Model

Front: TypeAlias = Callable[[torch.Tensor], Activations]

_RULES = 1  # raised when a row's bits would be others


class FrozenPrefix:
    """What the frozen stages make of some images' views, each made once and then read.

    Parameters
    ----------
    network : TrainableNetwork
        Cut, on its device.
    front : callable
        Maps a batch of images (n, 3, S, S), uint8, to what it is at the cut.
    example : Activations
        What it gives.
    compute : Compute
        A row is made in a batch of its size, padded: so its bits depend on no other image.
    hashes : mapping of int to bytes
        Samples and their contents.
    views : int
        Of each image.
    folder : Path
        Of the file.
    description : mapping of str to JSON value
        What all rows depend on besides the image and its view.

    Attributes
    ----------
    front : callable
        May be replaced by one that gives the same.
    file : RowFile
        Where rows lie.
    """

    def __init__(
        self,
        network: TrainableNetwork,
        front: Front,
        example: Activations,
        compute: Compute,
        hashes: Mapping[int, bytes],
        views: int,
        folder: Path,
        description: Mapping[str, Any],
    ) -> None:
        self.network = network
        self.front = front
        self._size = compute.batch_size
        self._hashes = dict(hashes)
        self._place = {index: place for place, index in enumerate(hashes)}
        self._layout = Layout(example)
        self._key = fingerprint_of(description)
        name = hashlib.sha256(self._key + b"".join(hashes.values())).hexdigest()[:16]
        self.file = RowFile(rows_file(folder, name), self._layout.width, views * len(hashes))

    def opened(self) -> AbstractContextManager[None]:
        """Keep the file open for a block of code."""
        return self.file.opened()

    def find(self, index: int, view: int) -> torch.Tensor | None:
        """Return the row of one view, from 0, of one sample; None where it must be made."""
        return self.file.read(*self._where(index, view))

    def complete(
        self, indices: Sequence[int] | NDArray[np.int64], view: int, found: Sequence[torch.Tensor]
    ) -> Activations:
        """Make and keep the rows that are missing.

        Parameters
        ----------
        indices : sequence of n int
            Samples.
        view : int
            From 0.
        found : sequence of n tensors, uint8
            Rows (width,), or rendered images (3, S, S) where there are none.

        Returns
        -------
        Activations
            Of all n, on the processor.
        """
        rows = list(found)
        missing = [position for position, each in enumerate(rows) if each.dim() == 3]
        for start in range(0, len(missing), self._size):
            some = missing[start : start + self._size]
            batch = padded([rows[position] for position in some], self._size)
            made = self._layout.encode(self.front(batch)[: len(some)])
            for position, row in zip(some, made, strict=True):
                self.file.write(*self._where(int(indices[position]), view), row)
                rows[position] = row
        return self._layout.decode(torch.stack(rows))

    def padded(self, indices: Sequence[int], view: int, size: int) -> Activations:
        """Return ``size`` rows: those of some samples, which have been made, and zeros.

        Raises
        ------
        RunError
            Where one cannot be read any more.
        """
        rows = torch.zeros(size, self._layout.width, dtype=torch.uint8)
        for target, index in zip(rows, indices, strict=False):
            row = self.find(index, view)
            if row is None:
                raise RunError(f"{self.file.path} does not keep what is written to it")
            target.copy_(row)
        return self._layout.decode(rows)

    def _where(self, index: int, view: int) -> tuple[int, bytes]:
        return view * len(self._place) + self._place[index], row_key(
            self._hashes[index], view, self._key
        )


def choose_prefix(
    network: TrainableNetwork,
    model: Model,
    samples: Samples,
    parts: Parts,
    compute: Compute,
    config: TrainConfig,
    folder: Path,
    reporter: Reporter,
) -> tuple[tuple[FrozenPrefix, FrozenPrefix] | tuple[None, None], dict[str, Any]]:
    """Decide whether the frozen stages run once for each view, and prepare it.

    Parameters
    ----------
    network : TrainableNetwork
        On its device; it is cut where it can be.
    model : Model
        What it was made of.
    samples : Samples
        Images.
    parts : Parts
        ``train`` and ``val``.
    compute : Compute
        Device, precision, batch size.
    config : TrainConfig
        ``cached_views``, ``augment``, ``mixup``, ``cutmix``, ``epochs``, ``seed``.
    folder : Path
        Of the run's checkpoints.
    reporter : Reporter
        Told what was chosen and why, where there is a frozen stage.

    Returns
    -------
    tuple of two FrozenPrefix or two None, and dict
        For training and validation; None where the whole network runs in every epoch. And what
        metrics.json says of it.

    Raises
    ------
    DiskFullError
        Where a number of views was asked for, or rows were begun, and they do not fit.
    """
    views = n_views(config) or config.epochs
    reason = _why_not(network, config, views)
    examples = None
    if not reason:
        examples, reason = _proved(network, model, compute)
    if examples is None:
        return (None, None), without_prefix(reason, network, reporter)
    description = {
        "rules": _RULES,
        "features": feature_fingerprint(model.backbone, model.blocks, compute).hex(),
        "frozen": network.n_frozen,
    }
    drawn = {**description, "augment": config.augment, "seed": config.seed}
    train, val = (
        {index: samples.hashes[index] for index in part.tolist()}
        for part in (parts.train, parts.val)
    )
    front = _front_of(network, model, compute)
    training = FrozenPrefix(network, front, examples[0], compute, train, views, folder, drawn)
    folded = {**description, "folded": True}
    validation = FrozenPrefix(network, front, examples[1], compute, val, 1, folder, folded)
    size = training.file.size + validation.file.size
    try:
        refuse_full_disk(training.file, validation.file)
    except DiskFullError as error:
        if config.cached_views != "auto" or training.file.path.exists():
            raise
        return (None, None), without_prefix(error.message, network, reporter)
    often = "once an image" if views == 1 else f"once for each of {views} views of an image"
    reporter.say(
        f"the first {network.n_frozen} of {network.n_stages} stages are frozen and run {often}, "
        f"not in each of {config.epochs} epochs; what they give takes {size:,} bytes in {folder}"
    )
    record = {"once": True, "n": network.n_frozen, "views": views, "bytes": size}
    return (training, validation), record


def n_views(config: TrainConfig) -> int:
    """Return how many views of an image there are, 0 where every epoch draws its own.

    Examples
    --------
    >>> from regraft.config.train_config import TrainConfig
    >>> n_views(TrainConfig(augment="light")), n_views(TrainConfig(augment="none"))
    (0, 1)
    >>> n_views(TrainConfig(augment="light", cached_views=4, epochs=3))
    3
    """
    if config.augment == "none":
        return 1
    return 0 if config.cached_views == "auto" else min(int(config.cached_views), config.epochs)


def _why_not(network: TrainableNetwork, config: TrainConfig, views: int) -> str:
    """Return a reason against, that needs no look at the network's way; "" where there is none."""
    if network.n_frozen == 0:
        return "no stage in front of the trained ones is frozen"
    if config.cached_views == "0":
        return "--cached-views 0"
    if config.mixup or config.cutmix:
        return "mixup and CutMix blend images before they enter it"
    if not n_views(config):
        return (
            f"each one draws its own views (--augment {config.augment}); --cached-views K would "
            "use those of the first K epochs again"
        )
    return "no view is used twice" if views >= config.epochs else ""


def without_prefix(reason: str, network: TrainableNetwork, reporter: Reporter) -> dict[str, Any]:
    """Tell why the frozen stages run in every epoch; return what metrics.json says of it."""
    if network.n_frozen:
        reporter.say(f"the frozen stages run in every epoch: {reason}")
    return {"once": False, "n": network.n_frozen, "reason": reason}


def _proved(
    network: TrainableNetwork, model: Model, compute: Compute
) -> tuple[tuple[Activations, Activations] | None, str]:
    """Cut the network and compare both halves with the whole, to the bit, on two images of noise.

    Returns what is at the cut in training and in validation, or None and why it cannot be used.
    """
    side, name = model.backbone.preprocess.image_size, model.backbone.name
    noise = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=noise)
    buffers = copied(dict(network.named_buffers()))
    try:
        network.cut()
        kept = _front_of(network, model, compute)(images)
        whole = _logits(network, on_device(images, model.backbone.preprocess, compute), compute)
        halves = _logits(network, _restored(kept).to(compute.device), compute)
        same = halves.device == whole.device and torch.equal(whole, halves)
        reader = CutReader(model, compute, network)
        folded = reader.front(images)
        read, again = read_features(reader, images), reader.features(_restored(folded))
        same = same and np.array_equal(read, again)
    except Exception as error:  # noqa: BLE001 - foreign code: whatever fails, it is not cut
        return None, f"{name} cannot be cut at one place ({type(error).__name__})"
    finally:
        for buffer, tensor in network.named_buffers():
            tensor.copy_(buffers[buffer])
    if not same:
        return None, f"{name} gives something else when it is cut"
    return (kept, folded), ""


def _restored(kept: Activations) -> Activations:
    layout = Layout(kept)
    return layout.decode(layout.encode(kept))


@torch.no_grad()
def _logits(
    network: TrainableNetwork, inputs: torch.Tensor | Activations, compute: Compute
) -> torch.Tensor:
    device = torch.device(compute.device)
    with torch_seeded(device, "proof"), autocast(compute):  # dropout draws the same twice
        logits: torch.Tensor = network(inputs)
    return logits


def _front_of(network: TrainableNetwork, model: Model, compute: Compute) -> Front:
    """Return how a training step runs images (n, 3, S, S), uint8, as far as the cut."""

    def front(images: torch.Tensor) -> Activations:
        with autocast(compute):
            return network.front(on_device(images, model.backbone.preprocess, compute))

    return front
