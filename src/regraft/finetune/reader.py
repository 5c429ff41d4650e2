"""Images that the scan has read already: here an image that cannot be read is an error."""

from __future__ import annotations

import itertools
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from regraft.errors import DataError, ImageError
from regraft.images.ahead import read_checked, render_ahead
from regraft.images.decode import decode

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from regraft.data.samples import Samples
    from regraft.images.payload import Load
    from regraft.images.render import Preprocess


def lost_image_error(name: str, reason: str) -> DataError:
    """Return the error for an image that could be read when the run began, and cannot be now."""
    return DataError(
        f"{name} could be read when the run began and cannot be now: {reason}",
        hint="put it back as it was; `resume=True` with the same settings then goes on",
    )


@dataclass(frozen=True)
class ImageReader:
    """Reads, checks and decodes samples; ``n_threads`` changes no bit."""

    samples: Samples
    preprocess: Preprocess
    n_threads: int

    def pixels(self, index: int, load: Load) -> NDArray[np.uint8]:
        """Decode one sample (H, W, 3)."""
        samples = self.samples
        try:
            return decode(read_checked(load, samples.hashes[index]), samples.max_pixels)
        except ImageError as error:
            raise lost_image_error(samples.ids[index], str(error)) from error

    def batches(
        self, indices: Sequence[int] | NDArray[np.int64], size: int
    ) -> Generator[tuple[list[int], list[torch.Tensor]]]:
        """Yield samples and their renderings (3, S, S), uint8, at most ``size`` at a time."""
        samples = self.samples
        stream = render_ahead(
            samples.stream(indices), self.preprocess, self.n_threads, samples.max_pixels,
            samples.hashes,
        )  # fmt: skip
        with closing(stream) as rendered:
            while batch := list(itertools.islice(rendered, size)):
                images = [self._image(index, image) for index, image in batch]
                yield [index for index, _ in batch], images

    def _image(self, index: int, image: torch.Tensor | ImageError) -> torch.Tensor:
        if isinstance(image, ImageError):
            raise lost_image_error(self.samples.ids[index], str(image))
        return image
