"""A file of rows of one length: activations at the cut, each row with its own checksum.

The file is made for one run and removed with it. No row is returned that is torn, stale or of
another image, and a missing row is computed again. So a kill costs a few rows at most, and nothing
must be flushed to the disk.
"""

from __future__ import annotations

import shutil
import threading
import zlib
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from regraft.core.files import existing_parent, is_full
from regraft.errors import DiskFullError, RunError
from regraft.finetune.frozen.cut_network import Activations

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

_CHECK = 4  # bytes of CRC-32 at the end of each row
_ALIGNED = 8  # each tensor of a row begins at a multiple of it


@dataclass(frozen=True)
class _Part:
    """One tensor of a row: its bytes, and its order in memory."""

    start: int
    stop: int
    dtype: torch.dtype
    order: tuple[int, ...]  # of the dimensions, outermost first: channels_last comes back as such
    shape: tuple[int, ...]  # in that order, without the images


class Layout:
    """Encodes the tensors at the cut as rows of bytes, and decodes them to the same bits.

    ``example`` may have any number of images; ``width`` are the bytes of a row with its checksum.

    >>> some = Activations((torch.rand(2, 3, 4, 4).bfloat16(), torch.rand(2, 5)))
    >>> layout = Layout(some)
    >>> layout.width, torch.equal(layout.decode(layout.encode(some)).tensors[0], some.tensors[0])
    (124, True)
    """

    def __init__(self, example: Activations) -> None:
        self._parts: list[_Part] = []
        end = 0
        for tensor in example.tensors:
            inner = sorted(range(1, tensor.dim()), key=lambda d, t=tensor: -t.stride(d))  # type: ignore[misc]
            shape = tuple(tensor.shape[dimension] for dimension in inner)
            size = tensor[0].numel() * tensor.element_size()
            self._parts.append(_Part(end, end + size, tensor.dtype, (0, *inner), shape))
            end += -(-size // _ALIGNED) * _ALIGNED
        self.width = end + _CHECK

    def encode(self, kept: Activations) -> torch.Tensor:
        """Return rows (n, width), uint8, on the processor; their checksums are 0 so far."""
        rows = torch.zeros(len(kept), self.width, dtype=torch.uint8)
        for part, tensor in zip(self._parts, kept.tensors, strict=True):
            flat = tensor.cpu().permute(part.order).reshape(len(kept), -1)
            rows[:, part.start : part.stop] = flat.contiguous().view(torch.uint8)
        return rows

    def decode(self, rows: torch.Tensor) -> Activations:
        """Return the tensors of rows (n, width)."""
        tensors = []
        for part in self._parts:
            flat = rows[:, part.start : part.stop].contiguous().view(part.dtype)
            inverse = sorted(range(len(part.order)), key=part.order.__getitem__)
            tensors.append(flat.view(len(rows), *part.shape).permute(inverse))
        return Activations(tuple(tensors))


class RowFile:
    """Rows by their number in one file."""

    def __init__(
        self,
        path: Path,  # its name depends on all that the rows depend on; ``opened`` makes its folder
        width: int,  # bytes of a row, checksum included
        count: int,
    ) -> None:
        self.path = path
        self._width = width
        self._file: Any = None
        self._lock = threading.Lock()
        # Rows of an earlier process may be there: ``read`` finds out.
        self._written = np.full(count, path.exists())

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self._width * len(self._written)

    def bytes_on_disk(self) -> int:
        """Return the bytes that the file takes on the disk; holes take none on most systems."""
        if not self.path.exists():
            return 0
        status = self.path.stat()
        return min(getattr(status, "st_blocks", status.st_size // 512) * 512, self.size)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Keep the file open for a block of code."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch()
            file = self.path.open("r+b", buffering=0)
        except OSError as error:
            raise self._unusable(error) from error
        with file:
            self._file = file
            yield

    def read(self, number: int, key: bytes) -> torch.Tensor | None:
        """Return a row (width,), uint8; None where it is missing, damaged or of another image.

        Any thread may read.
        """
        if not self._written[number]:
            return None
        row, count = np.empty(self._width, np.uint8), 0
        with self._lock, suppress(OSError):  # a failing disk: the row is computed again
            self._file.seek(number * self._width)
            count = self._file.readinto(row.data)
        sound = count == self._width and _checksum(row, key) == row[-_CHECK:].tobytes()
        return torch.from_numpy(row) if sound else None

    def write(self, number: int, key: bytes, row: torch.Tensor) -> None:
        """Write a row with its checksum; raise DiskFullError or RunError where that fails."""
        data = row.numpy()
        data[-_CHECK:] = np.frombuffer(_checksum(data, key), np.uint8)
        try:
            with self._lock:
                self._file.seek(number * self._width)
                left = data.data
                while left:  # the last bytes that fit are written without an error
                    left = left[self._file.write(left) :]
        except OSError as error:
            if not is_full(error):
                raise self._unusable(error) from error
            raise DiskFullError(
                f"no space left for {self.path}: it grows to {self.size:,} bytes",
                hint="free some space there; `resume=True` with the same settings then goes on",
            ) from error
        self._written[number] = True

    def _unusable(self, error: OSError) -> RunError:
        return RunError(f"{self.path} cannot be used: {error.strerror or error}")


def _checksum(row: NDArray[np.uint8], key: bytes) -> bytes:
    return zlib.crc32(row[:-_CHECK].data, zlib.crc32(key)).to_bytes(_CHECK, "little")


def require_free_space(*files: RowFile) -> None:
    """Raise DiskFullError where files of one folder would leave less than a tenth of what is free.

    Files that exist need only the bytes that they lack.
    """
    folder = files[0].path.parent
    free = shutil.disk_usage(existing_parent(folder)).free
    needed = sum(file.size - file.bytes_on_disk() for file in files)
    if needed > free - free // 10:
        raise DiskFullError(
            f"outputs of the frozen stages need {needed:,} bytes in {folder}; {free:,} are free, "
            "and a tenth of them must stay free",
            hint="free some space there; `cached_views=0` needs none",
        )
