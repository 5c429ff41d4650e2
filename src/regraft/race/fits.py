"""The fit of one candidate, a network or a sum, on a sample: how it answers images held out."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from regraft.core.version import __version__
from regraft.features.features import Features
from regraft.heads.temperature import log_losses
from regraft.probe.fit import ProbeSettings, fit_probe
from regraft.race.kept import Kept, key_of
from regraft.splits.clusters import units_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from regraft.data.dataset import Dataset
    from regraft.race.entrant import Entrant


class Fit(msgspec.Struct):
    """How a candidate answers each of n images of the training part that its fit had not seen."""

    losses: list[float]  # in nats; 0 where none was held out
    right: list[bool]
    scored: list[bool]  # whether the image was held out by a fold
    seconds: float

    @classmethod
    def none(cls) -> Fit:
        """Return that of a candidate which was not fitted."""
        return cls([], [], [], 0.0)

    def fits(self, n: int) -> bool:
        """Return whether it can be that of n images: a file may have been changed."""
        lengths = {len(self.losses), len(self.right), len(self.scored)}
        finite = np.isfinite(np.asarray(self.losses, np.float64)).all()
        return bool(lengths == {n} and finite and self.seconds >= 0)


def side_by_side(features: Sequence[Features]) -> Features:
    """Return the features of several networks as those of a sum, with their views."""
    joined = Features.of(*(each.networks[0] for each in features))
    views = zip(*(each.views for each in features), strict=True)
    return joined.with_views([Features.of(*(v.networks[0] for v in same)) for same in views])


def fit_candidate(
    members: Sequence[Entrant],
    features: Features,
    sample: Dataset,
    settings: ProbeSettings,
    kept: Kept,
) -> Fit:
    """Return the fit of a candidate on the training part of a sample; one that was kept, if any."""
    key = _key(features, sample, settings)
    found = kept.find(key, Fit)
    if found is not None and found.fits(len(sample.train)):
        return found
    began = time.perf_counter()
    networks = [each.network for each in members]
    probe = fit_probe(features, sample, networks, settings)
    n = len(sample.train)  # the first rows are the images, the others views of them
    order = np.argsort(probe.rows[:n], kind="stable")
    scored = probe.fitted.scored[:n][order]
    logits = probe.fitted.oof_logits[:n][order] / np.float32(probe.fitted.temperature)
    labels = sample.labels(sample.train)
    losses = np.zeros(n)
    losses[scored] = log_losses(logits[scored], labels[scored])
    right = scored & (logits.argmax(axis=1) == labels)
    made = Fit(losses.tolist(), right.tolist(), scored.tolist(), time.perf_counter() - began)
    kept.keep(key, made)
    return made


def _key(features: Features, sample: Dataset, settings: ProbeSettings) -> str:
    """Return a hash of all that a fit depends on: rows, labels, units, weights and settings."""
    train = sample.train
    rows = [
        b"".join(stored.keys[int(index)] for index in train)
        for each in (features, *features.views)
        for stored in each.networks
    ]
    weights = sample.weights(train)
    units = np.unique(units_in(sample)[train], return_inverse=True)[1]
    return key_of(
        "fit", __version__, sorted(dataclasses.asdict(settings).items()), sample.classes, len(rows),
        *rows, _bytes(sample.labels(train)), _bytes(units),
        b"" if weights is None else _bytes(weights),
    )  # fmt: skip


def _bytes(values: NDArray[np.int64] | NDArray[np.float64]) -> bytes:
    return np.ascontiguousarray(values).tobytes()
