"""One network in a race: loaded, with its size, its licence and how long it takes an image."""

from __future__ import annotations

import dataclasses
import statistics
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import torch

from regraft.core.reporter import Reporter
from regraft.features.extractor import Extractor, load_networks
from regraft.features.taps import TapReader, padded, row_blocks, select_blocks
from regraft.race.kept import Kept, key_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from regraft.backbones.backbone import Backbone
    from regraft.core.reporter import Advance
    from regraft.data.dataset import Dataset
    from regraft.data.samples import Samples
    from regraft.features.features import Features

_WARM, _LEAST, _MOST, _SECONDS = 2, 5, 30, 1.0  # passes: before, at least, at most; time for them


class _Latency(msgspec.Struct):
    milliseconds: float


class _Reading(msgspec.Struct):
    seconds: float
    extracted: int


class _Named(Reporter):
    """Says which network an extraction is by."""

    def __init__(self, reporter: Reporter, name: str) -> None:
        self._reporter, self._name = reporter, name

    def say(self, line: str) -> None:
        self._reporter.say(line)

    @contextmanager
    def track(self, label: str, total: int) -> Iterator[Advance]:
        with self._reporter.track(f"{label} by {self._name}", total) as advance:
            yield advance


@dataclass(eq=False)
class Entrant:
    """One network, and what reading it has cost so far."""

    name: str
    place: int  # among those that were named: the order in a sum
    extractor: Extractor
    latency: float  # ms for one image alone, with the threads that are in use
    seconds: float = 0.0  # of reading
    extracted: int = 0  # images, in that time

    @property
    def network(self) -> Backbone:
        """Return the network at the image size for the data."""
        return self.extractor.backbone

    @property
    def megabytes(self) -> float:
        """Return the size of its weights, as a bundle has them."""
        tensors = self.network.module.state_dict().values()
        sizes = (int(each.numel() * each.element_size()) for each in tensors)
        return sum(sizes) / 1e6

    @property
    def rate(self) -> float:
        """Return the seconds for each image: as measured, before that by the latency."""
        return self.seconds / self.extracted if self.extracted else self.latency / 1000

    def read(self, dataset: Dataset, kept: Kept) -> Features:
        """Return the features of a dataset; what it took is kept, also where it was stored."""
        began = time.perf_counter()
        features = self.extractor.read(dataset)
        taken = _Reading(time.perf_counter() - began, features.n_extracted)
        key = key_of("reading", self.name, *sorted(features.networks[0].keys.values()))
        earlier = kept.find(key, _Reading)
        if earlier is None:
            kept.keep(key, taken)
        reading = earlier or taken
        self.seconds += reading.seconds
        self.extracted += reading.extracted
        return features


def load_entrant(
    name: str, place: int, samples: Samples, config: Any, kept: Kept, reporter: Reporter
) -> Entrant:
    """Load a network for some samples, and measure how long it takes an image.

    Raises a RegraftError if its weights cannot be had, or it cannot be used as the settings say.
    """
    own = config.replace(model=name)
    networks = load_networks(own)
    select_blocks(networks, own.taps, own.grids)
    extractor = Extractor.for_samples(networks, samples, own, reporter)
    extractor.reporter = _Named(reporter, name)
    rows = key_of(
        "latency", name, extractor.backbone.weights_sha256, extractor.backbone.preprocess,
        sorted(extractor.compute.fingerprint().items()),
    )  # fmt: skip
    found = kept.find(rows, _Latency)
    if found is None:
        found = _Latency(measure_latency(extractor))
        kept.keep(rows, found)
    return Entrant(name, place, extractor, found.milliseconds)


def measure_latency(extractor: Extractor) -> float:
    """Return the milliseconds that the network takes for one image alone, the median of a few.

    All blocks are read, as in the race. The image is there already: decoding is the same for all.
    """
    network = extractor.backbone
    one = dataclasses.replace(extractor.compute, batch_size=1)
    reader = TapReader(network, row_blocks(network), one)
    side, views = network.preprocess.image_size, network.preprocess.views
    shape = (3, side, side) if not views else (1 + views, 3, side, side)
    noise = torch.Generator().manual_seed(0)
    image = padded([torch.randint(0, 256, shape, dtype=torch.uint8, generator=noise)], 1)
    taken: list[float] = []
    until = time.perf_counter() + _SECONDS
    while len(taken) < _WARM + _LEAST or (
        len(taken) < _WARM + _MOST and time.perf_counter() < until
    ):
        began = time.perf_counter()
        reader(image)
        taken.append(time.perf_counter() - began)
    return 1000 * statistics.median(taken[_WARM:])
