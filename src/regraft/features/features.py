"""The features of some samples: the rows of one network, or of several side by side."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from regraft.errors import ImageError
    from regraft.features.extract import StoredRows
    from regraft.features.taps import Block


@dataclass(frozen=True)
class Features:
    """The rows of some samples by each network, and those of augmented views of some of them."""

    networks: tuple[StoredRows, ...]
    widths: dict[Block, int]  # number of features in each block of any network
    refused: dict[int, ImageError]  # samples without a row of each network and of each view
    views: tuple[Features, ...] = ()

    @classmethod
    def of(cls, *networks: StoredRows) -> Self:
        """Return the features that have the rows of some networks."""
        widths = {
            dataclasses.replace(block, network=k): width
            for k, rows in enumerate(networks)
            for block, width in rows.widths.items()
        }
        refused = {index: e for rows in networks for index, e in rows.refused.items()}
        return cls(networks, widths, refused)

    @property
    def n_extracted(self) -> int:
        """Return the number of new rows, of all networks and views."""
        return sum(rows.n_extracted for rows in self._all_rows())

    @property
    def n_reused(self) -> int:
        """Return the number of rows that were in the store, of all networks and views."""
        return sum(rows.n_reused for rows in self._all_rows())

    def _all_rows(self) -> list[StoredRows]:
        return [rows for each in (self, *self.views) for rows in each.networks]

    def with_views(self, views: Sequence[Features]) -> Features:
        """Return these features with those of views; refuse samples with a refused view."""
        refused = {i: error for each in (self, *views) for i, error in each.refused.items()}
        return dataclasses.replace(self, refused=refused, views=tuple(views))

    def matrix(self, indices: NDArray[np.int64], blocks: Sequence[Block]) -> NDArray[np.float32]:
        """Return the blocks of some samples side by side (n, D), float32, in the given order.

        Raises StoreError if the store has removed a row and its image cannot be read again.
        """
        numbers = {block.network for block in blocks}
        if len(numbers) == 1:
            return self.networks[min(numbers)].matrix(indices, [block.alone for block in blocks])
        ends = np.cumsum([self.widths[block] for block in blocks])
        result = np.empty((len(indices), ends[-1]), np.float32)
        for number in sorted(numbers):
            own = [block.alone for block in blocks if block.network == number]
            columns = [
                np.arange(end - self.widths[block], end)
                for block, end in zip(blocks, ends, strict=True)
                if block.network == number
            ]
            result[:, np.concatenate(columns)] = self.networks[number].matrix(indices, own)
        return result
