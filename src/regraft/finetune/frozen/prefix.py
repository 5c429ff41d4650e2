"""Frozen stages that run once for each view of an image: whether they can, and their outputs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
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
from regraft.finetune.frozen.row_file import Layout, RowFile, require_free_space
from regraft.finetune.paths import rows_file
from regraft.finetune.precision import autocast, on_device
from regraft.finetune.state import copied

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import NDArray

    from regraft.core.reporter import Reporter
    from regraft.features.compute import Compute
    from regraft.finetune.network import TrainableNetwork

#: Maps images (n, 3, S, S), uint8, to their activations at the cut.
Front: TypeAlias = Callable[[torch.Tensor], Activations]
#: Samples with the hashes of their contents.
Hashes: TypeAlias = "Mapping[int, bytes]"

_RULES = 1  # raised when the bits of a row would change


@dataclass(frozen=True)
class ViewSettings:
    """Which augmented views of an image the epochs see."""

    augment: str
    cached_views: str  # "auto", or epochs that draw their own views, which later ones use again
    epochs: int
    seed: int
    blended: bool  # by mixup or CutMix

    @property
    def n_views(self) -> int:
        """Views of an image; 0 where every epoch draws its own.

        >>> ViewSettings("none", "auto", 10, 0, False).n_views
        1
        >>> [ViewSettings("light", views, 3, 0, False).n_views for views in ("auto", "2", "4")]
        [0, 2, 3]
        """
        if self.augment == "none":
            return 1
        return 0 if self.cached_views == "auto" else min(int(self.cached_views), self.epochs)


class ViewRows:
    """Rows in a file by sample and view; each depends on its image, its view and a description."""

    def __init__(
        self,
        example: Activations,  # as all rows are
        hashes: Hashes,
        n_views: int,  # of each sample
        folder: Path,
        description: Mapping[str, Any],  # JSON-ready: what all rows depend on
    ) -> None:
        self.layout = Layout(example)
        self._hashes = dict(hashes)
        self._positions = {index: position for position, index in enumerate(hashes)}
        self._key = fingerprint_of(description)
        name = hashlib.sha256(self._key + b"".join(hashes.values())).hexdigest()[:16]
        self.file = RowFile(rows_file(folder, name), self.layout.width, n_views * len(hashes))

    def read(self, index: int, view: int) -> torch.Tensor | None:
        """Return the row (width,) of a view, from 0; None where there is none."""
        return self.file.read(*self._number_and_key(index, view))

    def write(self, index: int, view: int, row: torch.Tensor) -> None:
        """Keep a row."""
        self.file.write(*self._number_and_key(index, view), row)

    def _number_and_key(self, index: int, view: int) -> tuple[int, bytes]:
        number = view * len(self._positions) + self._positions[index]
        return number, row_key(self._hashes[index], view, self._key)


class FrozenPrefix:
    """The outputs of the frozen stages, computed once for each view and then read from a file."""

    def __init__(
        self,
        network: TrainableNetwork,  # cut, on its device
        compute: Compute,
        rows: ViewRows,
    ) -> None:
        self.network = network
        self.file = rows.file
        self._compute = compute
        self._rows = rows

    def opened(self) -> AbstractContextManager[None]:
        """Keep the file open for a block of code."""
        return self.file.opened()

    def find(self, index: int, view: int) -> torch.Tensor | None:
        """Return the row of one view, from 0, of one sample; None where it must be computed."""
        return self._rows.read(index, view)

    def complete(
        self,
        indices: Sequence[int] | NDArray[np.int64],
        view: int,
        found: Sequence[torch.Tensor],
        front: Front | None = None,
    ) -> Activations:
        """Compute and keep missing rows; return the activations of all n samples, on the processor.

        ``found`` has for each sample its row (width,), or its rendered image (3, S, S) where there
        is no row; both uint8. ``front`` computes the rows: that of a training step by default, or
        that of a network for validation.
        """
        front = front or _training_front(self.network, self._compute)
        size = self._compute.batch_size  # padded batches: no row depends on other images
        rows = list(found)
        missing = [position for position, each in enumerate(rows) if each.dim() == 3]
        for start in range(0, len(missing), size):
            some = missing[start : start + size]
            batch = padded([rows[position] for position in some], size)
            made = self._rows.layout.encode(front(batch)[: len(some)])
            for position, row in zip(some, made, strict=True):
                self._rows.write(int(indices[position]), view, row)
                rows[position] = row
        return self._rows.layout.decode(torch.stack(rows))

    def padded(self, indices: Sequence[int], view: int, size: int) -> Activations:
        """Return the activations of samples whose rows are there, and zeros up to ``size``."""
        layout = self._rows.layout
        rows = torch.zeros(size, layout.width, dtype=torch.uint8)
        for target, index in zip(rows, indices, strict=False):
            row = self.find(index, view)
            if row is None:
                raise RunError(f"{self.file.path} does not keep what is written to it")
            target.copy_(row)
        return layout.decode(rows)


@dataclass(frozen=True)
class Prefixes:
    """The frozen prefixes of training and validation, or neither; a record for metrics.json."""

    training: FrozenPrefix | None
    validation: FrozenPrefix | None
    record: dict[str, Any]


def cut_if_possible(
    network: TrainableNetwork,  # on its device; changed only if it can be cut
    hashes: tuple[Hashes, Hashes],  # of the training part and of the validation part
    compute: Compute,
    views: ViewSettings,
    folder: Path,  # of the run's checkpoints
    reporter: Reporter,
) -> Prefixes:
    """Cut the network if its frozen stages can run once for each view; prepare files, report it.

    Raises DiskFullError where the files do not fit on the disk, though the setting asks for a
    number of views, or a file was begun.
    """
    reason = _reason_against(network, views)
    examples = None
    if not reason:
        examples, reason = _cut_and_compare(network, compute)
    if examples is None:
        return without_prefixes(reason, network, reporter)
    rows = _view_rows(network, compute, views, folder, hashes, examples)
    try:
        require_free_space(*(each.file for each in rows))
    except DiskFullError as error:
        if views.cached_views != "auto" or rows[0].file.path.exists():
            raise
        return without_prefixes(error.message, network, reporter)
    training, validation = (FrozenPrefix(network, compute, each) for each in rows)
    record = {
        "once": True, "n": network.n_frozen, "views": views.n_views,
        "bytes": sum(each.file.size for each in rows),
    }  # fmt: skip
    reporter.say(_line(record, network, views, folder))
    return Prefixes(training, validation, record)


def without_prefixes(reason: str, network: TrainableNetwork, reporter: Reporter) -> Prefixes:
    """Undo a cut, report why the frozen stages run in every epoch, and return no prefix."""
    network.undo_cut()
    if network.n_frozen:
        reporter.say(f"the frozen stages run in every epoch: {reason}")
    return Prefixes(None, None, {"once": False, "n": network.n_frozen, "reason": reason})


def _line(
    record: Mapping[str, Any], network: TrainableNetwork, views: ViewSettings, folder: Path
) -> str:
    n, n_frozen, n_stages = record["views"], network.n_frozen, network.n_stages
    one = f"the first of {n_stages} stages is frozen and runs"
    more = f"the first {n_frozen} of {n_stages} stages are frozen and run"
    often = "once an image" if n == 1 else f"once for each of {n} views of an image"
    return (
        f"{one if n_frozen == 1 else more} {often}, not in each of {views.epochs} epochs; their "
        f"outputs take {record['bytes']:,} bytes in {folder}"
    )


def _reason_against(network: TrainableNetwork, views: ViewSettings) -> str:
    """Return why the frozen stages must run in every epoch, by the settings alone; or ""."""
    if network.n_frozen == 0:
        return "no stage in front of the trained ones is frozen"
    if views.cached_views == "0":
        return "`cached_views=0`"
    if views.blended:
        return "mixup and CutMix blend images before they enter it"
    if not views.n_views:
        return (
            f"each one draws its own views (`augment={views.augment!r}`); `cached_views=K` would "
            "use those of the first K epochs again"
        )
    return "no view is used twice" if views.n_views >= views.epochs else ""


def _view_rows(
    network: TrainableNetwork,
    compute: Compute,
    views: ViewSettings,
    folder: Path,
    hashes: tuple[Hashes, Hashes],
    examples: tuple[Activations, Activations],
) -> tuple[ViewRows, ViewRows]:
    """Return the rows of training and of validation."""
    model = network.model
    common = {
        "rules": _RULES,
        "features": feature_fingerprint(model.backbone, model.blocks, compute).hex(),
        "frozen": network.n_frozen,
    }
    augmented = {**common, "augment": views.augment, "seed": views.seed}
    folded = {**common, "folded": True}
    return (
        ViewRows(examples[0], hashes[0], views.n_views, folder, augmented),
        ViewRows(examples[1], hashes[1], 1, folder, folded),
    )


def _cut_and_compare(
    network: TrainableNetwork, compute: Compute
) -> tuple[tuple[Activations, Activations] | None, str]:
    """Cut the network and compare front and back with the whole, to the bit, on two noise images.

    Return the activations at the cut in training and in validation; or None, and why it is not cut.
    """
    model = network.model
    side, name = model.backbone.preprocess.image_size, model.backbone.name
    noise = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=noise)
    buffers = copied(dict(network.named_buffers()))
    try:
        network.cut()
        kept, same = _compare_in_training(network, images, compute)
        folded, same_folded = _compare_in_validation(network, images, compute)
    except Exception as error:  # noqa: BLE001 - foreign code: whatever fails, it is not cut
        return None, f"{name} cannot be cut at one place ({type(error).__name__})"
    finally:
        for buffer, tensor in network.named_buffers():
            tensor.copy_(buffers[buffer])
    if not (same and same_folded):
        return None, f"{name} gives something else when it is cut"
    return (kept, folded), ""


def _compare_in_training(
    network: TrainableNetwork, images: torch.Tensor, compute: Compute
) -> tuple[Activations, bool]:
    kept = _training_front(network, compute)(images)
    preprocess = network.model.backbone.preprocess
    whole = _logits(network, on_device(images, preprocess, compute), compute)
    cut = _logits(network, _stored_and_read(kept).to(compute.device), compute)
    return kept, cut.device == whole.device and torch.equal(whole, cut)


def _compare_in_validation(
    network: TrainableNetwork, images: torch.Tensor, compute: Compute
) -> tuple[Activations, bool]:
    reader = CutReader(network.model, compute, network)
    folded = reader.front(images)
    whole, cut = read_features(reader, images), reader.features(_stored_and_read(folded))
    return folded, np.array_equal(whole, cut)


def _stored_and_read(kept: Activations) -> Activations:
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


def _training_front(network: TrainableNetwork, compute: Compute) -> Front:
    """Return the front as a training step runs it."""

    def front(images: torch.Tensor) -> Activations:
        with autocast(compute):
            return network.front(on_device(images, network.model.backbone.preprocess, compute))

    return front
