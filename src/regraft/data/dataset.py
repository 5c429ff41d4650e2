"""A dataset: labelled images and their parts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from regraft.data.refused import record_refused
from regraft.data.samples import Parts
from regraft.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from regraft.data.ledger import Ledger
    from regraft.data.samples import Part, Samples
    from regraft.errors import ImageError


@dataclass(frozen=True)
class Dataset:
    """Samples and their parts: the argument of each step of a training."""

    samples: Samples  # all images that were scanned
    parts: Parts  # those for training, validation and testing
    #: (N,) the unit of each sample, once near copies were searched; images of one unit depend on
    #: each other.
    units: NDArray[np.int64] | None = None

    @property
    def train(self) -> NDArray[np.int64]:
        """Return the indices of the training part, ascending."""
        return self.parts.train

    @property
    def val(self) -> NDArray[np.int64]:
        """Return the indices of the validation part, ascending; empty if there is none."""
        return self.parts.val

    @property
    def test(self) -> NDArray[np.int64]:
        """Return the indices of the test part, ascending."""
        return self.parts.test

    @property
    def used(self) -> NDArray[np.int64]:
        """Return the indices of all parts together, ascending."""
        return np.sort(np.concatenate([self.train, self.val, self.test]))

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes; a label is an index into them."""
        return self.samples.classes

    def ledger(self) -> Ledger:
        """Return the ledger of all files, with the reason why a sample is in no part."""
        left_out = self.parts.left_out.items()
        reasons = {self.samples.ids[index]: f"left out: {reason}" for index, reason in left_out}
        return self.samples.ledger.with_remarks("copy", reasons)

    def labels(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the labels of some samples."""
        return self.samples.labels[indices]

    def weights(self, indices: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """Return the weights of some samples; None where all samples count the same."""
        return None if self.samples.weights is None else self.samples.weights[indices]

    def names(self, indices: NDArray[np.int64] | Sequence[int]) -> list[str]:
        """Return the ids of some samples."""
        return [self.samples.ids[index] for index in indices]

    def part_names(self) -> list[Part | None]:
        """Return the part of each sample; None for one that is left out."""
        names: list[Part | None] = [None] * len(self.samples)
        parts: tuple[tuple[Part, NDArray[np.int64]], ...]
        parts = (("train", self.train), ("val", self.val), ("test", self.test))
        for name, indices in parts:
            for index in indices.tolist():
                names[index] = name
        return names

    def only_train(self) -> Dataset:
        """Return the same dataset with its training part only."""
        none = np.empty(0, np.int64)
        parts = dataclasses.replace(self.parts, val=none, test=none)
        return dataclasses.replace(self, parts=parts)

    def with_units(self, units: NDArray[np.int64]) -> Dataset:
        """Return the same dataset with the units that a search for near copies has found."""
        return dataclasses.replace(self, units=units)

    @classmethod
    def only_test(cls, samples: Samples, test: NDArray[np.int64]) -> Dataset:
        """Return a dataset that has only a test part."""
        none = np.empty(0, np.int64)
        return cls(samples, Parts(none, none, test, left_out={}))

    def without(self, refused: Mapping[int, ImageError], *, strict: bool) -> Dataset:
        """Remove images that could not be decoded from the parts, and record them in the ledger.

        Raises DataError with ``strict``, and if too many images are lost, a class has no training
        image left, or the test part would be empty.
        """
        if not refused:
            return self
        samples = record_refused(self.samples, self.used, refused, strict=strict)
        gone = np.fromiter(refused, np.int64)
        left = dataclasses.replace(
            self,
            samples=samples,
            parts=dataclasses.replace(
                self.parts,
                train=self.train[~np.isin(self.train, gone)],
                val=self.val[~np.isin(self.val, gone)],
                test=self.test[~np.isin(self.test, gone)],
            ),
        )
        left.require_every_class()
        if len(self.test) and not len(left.test):
            raise DataError("no test image is left: the others could not be read")
        return left

    def require_every_class(self) -> None:
        """Raise DataError if a class has no training image."""
        trained = set(self.labels(self.train).tolist())
        for label, name in enumerate(self.classes):
            if label not in trained:
                raise DataError(
                    f"class {name} has no training image left: the others could not be read",
                    hint="the ledger of refused files says why; add images of that class",
                )
