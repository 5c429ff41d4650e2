"""Convert what Pillow has decoded to RGB, by the table in ``decode.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, TiffImagePlugin

from regraft.errors import ImageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BITS, _PHOTOMETRIC, _SAMPLES, _PLANAR, _PALETTE = 258, 262, 277, 284, 320  # tags of TIFF


def rgb_of(image: Image.Image) -> NDArray[np.uint8]:
    """Return an image that Pillow has loaded as RGB (H, W, 3)."""
    if image.mode.startswith("I;16"):
        return _from_16_bit(image)
    if image.mode in {"I", "F", "LAB"}:
        what = {"I": "32 bit or signed integers", "F": "floating point numbers", "LAB": "LAB"}
        raise ImageError(
            "unsupported pixels", f"{image.format or 'a picture'} of {what[image.mode]}"
        )
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in {"P", "PA"} and isinstance(image, TiffImagePlugin.TiffImageFile):
        _repair_palette(image)
    if image.format == "BMP" and image.mode == "RGBA" and not image.getchannel(3).getbbox():
        # Writers leave the fourth byte at zero without thinking of alpha; browsers ignore it then.
        image = image.convert("RGB")
    if image.has_transparency_data or image.mode == "RGBa":
        coloured = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return np.array(Image.alpha_composite(white, coloured).convert("RGB"))
    return np.array(image.convert("RGB"))


def refuse_planes(image: Image.Image) -> None:
    """Raise ``ImageError`` for a TIFF that Pillow has read, or will read, as noise."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        several = tags.get(_PLANAR) == 2 and tags.get(_SAMPLES, 1) > 1
        if several and (image.mode in {"LA", "La"} or tags.get(_BITS, (1,))[0] != 8):
            raise ImageError(
                "unsupported pixels",
                "TIFF in separate planes, which Pillow reads wrongly; give the file and not the "
                "opened image",
            )


def _repair_palette(tiff: TiffImagePlugin.TiffImageFile) -> None:
    """Take the palette's values as bytes if none needs more: Pillow drops the low byte of each.

    Some writers forget that a TIFF's palette has 16 bits; libtiff and ImageMagick read it so, too.
    """
    stored = np.array(tiff.tag_v2.get(_PALETTE, ()))
    if len(stored) and stored.max() < 256 and len(stored) % 3 == 0:
        colours = stored.astype(np.uint8).reshape(3, -1).T
        tiff.putpalette(colours.tobytes(), "RGB")


def _from_16_bit(image: Image.Image) -> NDArray[np.uint8]:
    values = np.asarray(image)
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    grey = to_8_bits(values, int(tags.get(_BITS, (16,))[0]))
    if tags.get(_PHOTOMETRIC) == 0:  # white is zero, which Pillow applies up to 8 bits only
        grey = 255 - grey
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return np.repeat(grey[:, :, None], 3, axis=2)


def to_8_bits(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Return value / (2^bits - 1) of 255, rounded."""
    full = 2**bits - 1
    wide = np.minimum(values.astype(np.uint32), full)
    scaled: NDArray[np.uint8] = ((wide * 255 + full // 2) // full).astype(np.uint8)
    return scaled


def whiten_key(pixels: NDArray[np.uint8], stored: NDArray[Any], key: tuple[int, ...]) -> None:
    """Make pixels (H, W, 3) white where the stored values (H, W, C) are the transparent ones."""
    pixels[(stored == np.array(key)).all(axis=2)] = 255
