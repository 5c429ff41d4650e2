"""IDX files, the format of MNIST and similar datasets: plain or gzipped, read within bounds."""

from __future__ import annotations

import gzip
import math
import zlib
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from regraft.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_LARGEST = 2 << 30  # bytes of one array; EMNIST's, the largest known one, has 0.6 GB
_TYPES: dict[int, np.dtype[Any]] = {0x08: np.dtype(">u1"), 0x0C: np.dtype(">i4")}


def read_idx(path: Path, n_dimensions: int) -> NDArray[Any]:
    """Read one IDX file, or the same name with ``.gz``; uint8 or int32, as the file declares.

    ``n_dimensions`` is 3 for images, 1 for labels and 2 for QMNIST's labels. The format is at the
    end of LeCun's page, https://yann.lecun.com/exdb/mnist/.
    """
    found = find_idx(path)
    if found is None:
        raise DataError(f"{path} does not exist, and neither does {path.name}.gz")
    try:
        with found.open("rb") as raw:
            if raw.read(2) == b"\x1f\x8b":
                raw.seek(0)
                with gzip.GzipFile(fileobj=raw) as file:
                    return _read(file, found, n_dimensions)
            raw.seek(0)
            return _read(raw, found, n_dimensions)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{found} cannot be read: {error}") from error


def find_idx(path: Path) -> Path | None:
    """Return the file, or the gzipped one beside it; None where there is neither."""
    zipped = path.with_name(f"{path.name}.gz")
    return next((candidate for candidate in (path, zipped) if candidate.is_file()), None)


def _read(file: IO[bytes] | gzip.GzipFile, path: Path, n_dimensions: int) -> NDArray[Any]:
    magic = file.read(4)
    dtype = _TYPES.get(magic[2]) if len(magic) == 4 and magic[:2] == b"\0\0" else None
    if dtype is None or magic[3] != n_dimensions:
        raise DataError(
            f"{path} begins with {magic.hex(' ')}; an IDX file of {n_dimensions} dimensions begins "
            f"with 00 00, a type and {n_dimensions:02x}"
        )
    header = file.read(4 * n_dimensions)
    if len(header) < 4 * n_dimensions:
        raise DataError(f"{path} ends within its header")
    shape = tuple(int(n) for n in np.frombuffer(header, ">u4"))
    size = math.prod(shape) * dtype.itemsize
    if size > _LARGEST:
        raise DataError(f"{path} declares {size} bytes; at most {_LARGEST} are read")
    data = file.read(size + 1)
    if len(data) != size:
        more = "more than" if len(data) > size else f"{len(data)} of"
        raise DataError(f"{path} holds {more} the {size} bytes that its header declares")
    values: NDArray[Any] = np.frombuffer(data, dtype).reshape(shape)
    return values.astype(dtype.newbyteorder("="), copy=False)
