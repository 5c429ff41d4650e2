"""Images as users of Python have them: one place that takes every form of them.

A form whose meaning is clear is taken; another is refused with a line that says what is expected.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from PIL import Image

from regraft.data.sources.folder import LARGEST_FILE, read_file
from regraft.errors import DataError, ImageError
from regraft.images.decode import decode_opened
from regraft.images.pixels import as_array, is_pixels, to_pixels

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from regraft.images.payload import Payload

_AS_TEXT = "the file gives text and not bytes; open it in binary mode: open(path, 'rb')"

#: Encoded bytes, a file opened in binary mode, a path, a PIL image, or pixels as
#: ``regraft.images.pixels`` takes them.
ImageLike: TypeAlias = (
    "bytes | bytearray | memoryview | BinaryIO | str | os.PathLike[str] | Image.Image"
    " | NDArray[Any] | torch.Tensor"
)
#: One array or tensor of N images, or N images of any kind and size.
Images: TypeAlias = "NDArray[Any] | torch.Tensor | Iterable[ImageLike]"


def payload_of(image: ImageLike, max_pixels: int) -> Payload:
    """Return the encoded bytes of an image if it has any, and else its pixels.

    A file is read from its beginning, as Pillow does, and as a whole. ``max_pixels`` is for pixels;
    encoded bytes are checked by their decoder. An image that cannot be used is an ImageError.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | os.PathLike):
        return read_file(os.fsdecode(image))
    if isinstance(image, Image.Image):
        return decode_opened(image, max_pixels)
    if _is_file(image):
        return read_whole(image)
    if is_pixels(image):
        return to_pixels(as_array(image), max_pixels)
    raise ImageError(
        "not an image", f"{type(image).__name__} is neither bytes, a file, a path nor pixels"
    )


def is_one_image(given: object) -> bool:
    """Return whether an object is certainly a single image, although one could iterate over it."""
    single = isinstance(given, str | bytes | bytearray | memoryview | os.PathLike | Image.Image)
    return single or _is_file(given)


def images_of(given: Any) -> NDArray[Any] | list[Any]:
    """Return several images: one array with its channels last, or a list in which files are read.

    Nothing is copied. Images of a list are checked as far as that needs no decoding; DataError
    names the first one that cannot be used by its number. An array (N, H, W) is N grey images.
    """
    if is_one_image(given) or not (is_pixels(given) or isinstance(given, Iterable)):
        raise DataError(
            f"the images are a {type(given).__name__}; there must be several",
            hint="one image is a list of one: [image]",
        )
    if hasattr(given, "columns"):
        raise DataError("the images are a table", hint="give the column that holds them")
    if is_pixels(given) and not _holds_objects(given):
        try:
            return as_array(given, several=True)
        except ImageError as error:
            raise DataError(f"the images cannot be used: {error.reason}") from None
    several: list[Any] = list(given) if getattr(given, "ndim", 1) else [given]
    for number, image in enumerate(several):
        try:
            several[number] = _checked(image)
        except ImageError as error:
            raise DataError(f"image {number} cannot be used: {error.reason}") from None
    return several


def _holds_objects(given: Any) -> bool:
    """Return whether an array holds paths or other objects instead of pixels."""
    kind = getattr(getattr(given, "dtype", None), "kind", "O")
    return kind not in "biufc" and not hasattr(given, "detach")  # a tensor's type has no kind


def _checked(image: Any) -> Any:
    """Return an image that can be read again and again, and by threads."""
    if _is_file(image):
        return read_whole(image)
    if is_one_image(image):
        return image
    if is_pixels(image):
        return as_array(image)
    raise ImageError(
        "not an image", f"{type(image).__name__} is neither bytes, a file, a path nor pixels"
    )


def _is_file(given: object) -> bool:
    return callable(getattr(given, "read", None)) and not isinstance(given, os.PathLike)


def read_whole(file: Any) -> bytes:
    """Read a file object from its beginning to its end; one that cannot go back, from where it is.

    Examples
    --------
    >>> import io
    >>> stream = io.BytesIO(b"abc")
    >>> stream.read(1), read_whole(stream)
    (b'a', b'abc')
    """
    if isinstance(file, io.TextIOBase):
        raise ImageError("unreadable", _AS_TEXT)
    pieces: list[bytes] = []
    left = LARGEST_FILE + 1
    try:
        if getattr(file, "seekable", lambda: False)():
            file.seek(0)
        while left and (piece := file.read(min(left, 1 << 20))):
            if not isinstance(piece, bytes | bytearray | memoryview):
                raise ImageError("unreadable", _AS_TEXT)
            pieces.append(bytes(piece[:left]))
            left -= len(pieces[-1])
    except (OSError, ValueError) as error:  # closed, detached, or the system's own
        reason = getattr(error, "strerror", None) or error
        raise ImageError("unreadable", f"the file cannot be read: {reason}") from None
    if not left:
        raise ImageError("too large", f"the file holds more than {LARGEST_FILE} bytes")
    return b"".join(pieces)
