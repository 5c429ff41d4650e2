"""The frozen stages, run once for each view of an image: whether that pays, and the views' rows."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import torch

from regraft.backbones.preprocess import normalise
from regraft.errors import DiskFullError
from regraft.features.extract import feature_fingerprint
from regraft.features.keyed import torch_seeded
from regraft.features.rows import fingerprint_of, row_key
from regraft.features.taps import padded
from regraft.finetune.folder import rows_file
from regraft.finetune.rows import Layout, RowFile
from regraft.finetune.state import copied

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import NDArray

    from regraft.backbones.backbone import Preprocess
    from regraft.config import TrainConfig
    from regraft.data.samples import Samples
    from regraft.features.compute import Compute
    from regraft.finetune.cut import AtCut
    from regraft.finetune.network import TrainableNetwork
    from regraft.model import Model
    from regraft.report import Reporter

_RULES = 1  # raised when a row's bits would be others


class FrozenPrefix:
    """What the frozen stages make of the training part's views, each made once and then read.

    Parameters
    ----------
    network : TrainableNetwork
        Cut, on its device.
    model : Model
        What it was made of.
    compute : Compute
        A row is made in a batch of its size, padded: so its bits depend on no other image.
    samples : Samples
        Names the images' contents.
    indices : array of shape (n,), int64
        The training part, ascending.
    layout : Layout
        Of a row.
    file : RowFile
        Where rows lie.
    key : bytes
        What all rows depend on besides the image and its view.
    """

    def __init__(
        self,
        network: TrainableNetwork,
        model: Model,
        compute: Compute,
        samples: Samples,
        indices: NDArray[Any],
        layout: Layout,
        file: RowFile,
        key: bytes,
    ) -> None:
        self._network = network
        self._preprocess = model.backbone.preprocess
        self._compute = compute
        self._hashes = samples.hashes
        self._place = {int(index): place for place, index in enumerate(indices)}
        self._layout = layout
        self._file = file
        self._key = key
        self.path = file.path

    def opened(self) -> AbstractContextManager[None]:
        """Keep the file open for a block of code."""
        return self._file.opened()

    def find(self, index: int, view: int) -> torch.Tensor | None:
        """Return the row of one view, from 1, of one sample; None where it must be made."""
        return self._file.read(*self._where(index, view))

    def complete(self, indices: NDArray[Any], view: int, found: Sequence[torch.Tensor]) -> AtCut:
        """Make and keep the rows that are missing.

        Parameters
        ----------
        indices : array of shape (n,), int64
            Samples.
        view : int
            From 1.
        found : sequence of n tensors, uint8
            Rows (width,), or rendered images (3, S, S) where there are none.

        Returns
        -------
        AtCut
            Of all n, on the processor.
        """
        rows = list(found)
        missing = [position for position, each in enumerate(rows) if each.dim() == 3]
        size = self._compute.batch_size
        for start in range(0, len(missing), size):
            some = missing[start : start + size]
            made = self._run([rows[position] for position in some])
            for position, row in zip(some, made, strict=True):
                self._file.write(*self._where(int(indices[position]), view), row)
                rows[position] = row
        return self._layout.decode(torch.stack(rows))

    def _run(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        batch = padded(images, self._compute.batch_size)
        kept = _front(self._network, batch, self._preprocess, self._compute)
        return self._layout.encode(kept[: len(images)])

    def _where(self, index: int, view: int) -> tuple[int, bytes]:
        place = (view - 1) * len(self._place) + self._place[index]
        return place, row_key(self._hashes[index], view, self._key)


def choose_prefix(
    network: TrainableNetwork,
    model: Model,
    samples: Samples,
    indices: NDArray[Any],
    compute: Compute,
    config: TrainConfig,
    folder: Path,
    reporter: Reporter,
) -> tuple[FrozenPrefix | None, dict[str, Any]]:
    """Decide whether the frozen stages run once for each view, and prepare it.

    Parameters
    ----------
    network : TrainableNetwork
        On its device; it is cut where it can be.
    model : Model
        What it was made of.
    samples : Samples
        Images.
    indices : array of shape (n,), int64
        The training part, ascending.
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
    tuple of FrozenPrefix or None, and dict
        None where the whole network runs in every epoch; and what metrics.json says of it.

    Raises
    ------
    DiskFullError
        Where a number of views was asked for, or rows were begun, and they do not fit.
    """
    views = n_views(config) or config.epochs
    reason = _why_not(network, config, views)
    example = None
    if not reason:
        example, reason = _proved(network, model, compute)
    if example is None:
        return None, without_prefix(reason, network, reporter)
    layout = Layout(example)
    description = {
        "rules": _RULES,
        "features": feature_fingerprint(model.backbone, model.blocks, compute).hex(),
        "frozen": network.n_frozen,
        "augment": config.augment,
        "seed": config.seed,
    }
    key = fingerprint_of(description)
    name = hashlib.sha256(key + b"".join(samples.hashes[index] for index in indices))
    path = rows_file(folder, name.hexdigest()[:16])
    file = RowFile(path, layout.width, views * len(indices))
    try:
        file.refuse_full_disk()
    except DiskFullError as error:
        if config.cached_views != "auto" or path.exists():
            raise
        return None, without_prefix(error.message, network, reporter)
    prefix = FrozenPrefix(network, model, compute, samples, indices, layout, file, key)
    often = "once an image" if views == 1 else f"once for each of {views} views of an image"
    reporter.say(
        f"the first {network.n_frozen} of {network.n_stages} stages are frozen and run {often}, "
        f"not in each of {config.epochs} epochs; what they give takes {file.size:,} bytes in {path}"
    )
    return prefix, {"once": True, "n": network.n_frozen, "views": views, "bytes": file.size}


def n_views(config: TrainConfig) -> int:
    """Return how many views of an image there are, 0 where every epoch draws its own.

    Examples
    --------
    >>> from regraft.config import TrainConfig
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


def _proved(network: TrainableNetwork, model: Model, compute: Compute) -> tuple[AtCut | None, str]:
    """Cut the network and compare both halves with the whole, to the bit, on two images of noise.

    Returns what was found at the cut, or None and why it cannot be used.
    """
    preprocess = model.backbone.preprocess
    side = preprocess.image_size
    noise = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=noise)
    buffers = copied(dict(network.named_buffers()))
    try:
        stage = network.cut()
        kept = _front(network, images, preprocess, compute)
        layout = Layout(kept)
        again = layout.decode(layout.encode(kept)).to(compute.device)
        whole, halves = (
            _logits(network, inputs, compute)
            for inputs in (_on_device(images, preprocess, compute), again)
        )
        same = halves.device == whole.device and torch.equal(whole, halves)
    except Exception as error:  # noqa: BLE001 - foreign code: whatever fails, it is not cut
        return None, f"{model.backbone.name} cannot be cut at one place ({type(error).__name__})"
    finally:
        for name, buffer in network.named_buffers():
            buffer.copy_(buffers[name])
    if not same:
        return None, f"{model.backbone.name} gives something else when it is cut behind {stage}"
    return kept, ""


@torch.no_grad()
def _logits(
    network: TrainableNetwork, inputs: torch.Tensor | AtCut, compute: Compute
) -> torch.Tensor:
    device = torch.device(compute.device)
    with torch_seeded(device, "proof"), autocast(compute):  # dropout draws the same twice
        logits: torch.Tensor = network(inputs)
    return logits


def _front(
    network: TrainableNetwork, images: torch.Tensor, preprocess: Preprocess, compute: Compute
) -> AtCut:
    """Run images (n, 3, S, S), uint8, as far as the cut, as a training step would."""
    with autocast(compute):
        return network.front(_on_device(images, preprocess, compute))


def autocast(compute: Compute) -> torch.autocast:
    """Return the precision of a training's forward pass."""
    kind = torch.device(compute.device).type
    return torch.autocast(kind, torch.bfloat16, enabled=compute.precision == "bfloat16")


def _on_device(images: torch.Tensor, preprocess: Preprocess, compute: Compute) -> torch.Tensor:
    images = images.contiguous(memory_format=torch.channels_last)
    return normalise(images.to(compute.device), preprocess)
