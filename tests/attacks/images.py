"""Hostile images: each ends in pixels of the size in its header, or in an ImageError.

A mutation knows the format: it drops, repeats, swaps or rewrites pieces, and corrects checksums and
lengths, so that more than the first check is reached.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import random
import struct
import warnings
import zlib
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pillow_heif
from PIL import Image, ImageFile

from regraft.errors import ImageError
from regraft.images.decode import KINDS, decode, inspect_header

if TYPE_CHECKING:
    from collections.abc import Callable

CAP = 1 << 20  # pixels
NUMBERS = (0, 1, 2, 3, 7, 8, 9, 15, 16, 31, 32, 64, 127, 128, 255, 256, 257, 32767, 32768, 65535,
           65536, 2**20, 2**24, 2**31 - 1, 2**31, 2**32 - 1)  # fmt: skip


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return an encoded image."""
    stream = io.BytesIO()
    if kind == "HEIC":  # not registered with Pillow, here as in the package
        pillow_heif.from_pillow(image).save(stream, **options)
        return stream.getvalue()
    # Saving leaves settings in the object, which the encoder of another format can refuse.
    if "append_images" in options:
        options["append_images"] = [other.copy() for other in options["append_images"]]
    image.copy().save(stream, kind, **options)
    return stream.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    """Return a PNG chunk with its checksum."""
    return struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data))


@cache
def corpus() -> tuple[tuple[str, bytes], ...]:
    """Return small images of every format and kind, each with its format's name."""
    rows, columns = np.mgrid[0:6, 0:9]
    rgb = np.stack([columns * 28, rows * 42, (rows + columns) * 18], axis=-1).astype(np.uint8)
    picture, other = Image.fromarray(rgb), Image.fromarray(255 - rgb)
    alpha = Image.fromarray(np.dstack([rgb, rgb[..., :1]]))
    grey, bits = picture.convert("L"), picture.convert("1")
    palette = picture.quantize(8)
    deep = Image.fromarray(rgb[..., 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "words"
    frames = {"save_all": True, "append_images": [other, picture]}
    return (
        *(("JPEG", encode(picture, "JPEG", **options)) for options in (
            {}, {"progressive": True}, {"subsampling": 0, "exif": exif}, {"optimize": True},
            {"restart_marker_blocks": 1, "icc_profile": b"profile"}, {"comment": "words"})),
        ("JPEG", encode(grey, "JPEG")),
        ("JPEG", encode(picture.convert("CMYK"), "JPEG", exif=exif)),
        ("JPEG", encode(picture, "MPO", **frames)),
        *(("PNG", encode(image, "PNG")) for image in (picture, grey, bits, palette, alpha, deep)),
        ("PNG", encode(picture, "PNG", exif=exif, icc_profile=b"profile", dpi=(9, 9))),
        ("PNG", encode(palette, "PNG", transparency=1)),
        ("PNG", encode(picture, "PNG", **frames)),
        ("WebP", encode(picture, "WEBP")),
        ("WebP", encode(alpha, "WEBP", lossless=True, exif=exif)),
        ("WebP", encode(alpha, "WEBP", quality=50, icc_profile=b"profile")),
        ("WebP", encode(picture, "WEBP", lossless=True, **frames)),
        ("GIF", encode(palette, "GIF")),
        ("GIF", encode(palette, "GIF", transparency=2, comment=b"words")),
        ("GIF", encode(picture, "GIF", disposal=2, **frames)),
        *(("BMP", encode(image, "BMP")) for image in (picture, grey, bits, palette, alpha)),
        *(("TIFF", encode(picture, "TIFF", compression=name)) for name in (
            None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")),
        *(("TIFF", encode(image, "TIFF")) for image in (
            grey, bits, palette, alpha, deep, picture.convert("CMYK"))),
        ("TIFF", encode(bits, "TIFF", compression="group4")),
        ("TIFF", encode(picture, "TIFF", exif=exif)),
        ("TIFF", encode(picture, "TIFF", big_tiff=True)),
        ("TIFF", encode(picture, "TIFF", compression=None, **frames)),
        *(("AVIF", encode(picture, "AVIF", speed=9, **options)) for options in (
            {}, {"exif": exif}, {"icc_profile": b"profile"}, frames)),
        *(("AVIF", encode(image, "AVIF", speed=9)) for image in (grey, alpha)),
        ("HEIC", encode(picture, "HEIC", exif=exif.tobytes())),
        *(("HEIC", encode(image, "HEIC")) for image in (grey, alpha)),
        ("HEIC", encode(picture.resize((100, 70)), "HEIC", tile_size=64)),
        *(("JPEG 2000", encode(image, "JPEG2000")) for image in (picture, alpha, deep)),
        ("JPEG 2000", encode(picture, "JPEG2000", no_jp2=True, tile_size=(4, 4))),
    )  # fmt: skip


# --- the pieces of each format --------------------------------------------------------------------


_BOXES = (b"meta", b"pitm", b"iloc", b"iinf", b"infe", b"iref", b"iprp", b"ipco", b"ispe", b"clap",
          b"irot", b"av1C", b"hvcC", b"ipma", b"mdat", b"moov", b"jp2h", b"ihdr", b"colr", b"jp2c",
          b"\xff\x4f\xff\x51", b"\xff\x90")  # fmt: skip


def _pieces(kind: str, data: bytes) -> list[bytes]:
    """Cut a file into pieces that can be dropped, repeated and swapped."""
    cut: list[int] = []
    if kind == "JPEG":
        cut = _segments(data)
    elif kind == "PNG":
        at = 8
        while at + 8 <= len(data):
            cut.append(at)
            at += 12 + struct.unpack_from(">L", data, at)[0]
    elif kind == "WebP":
        at = 12
        while at + 8 <= len(data):
            cut.append(at)
            size = struct.unpack_from("<L", data, at + 4)[0]
            at += 8 + size + size % 2
    elif kind == "GIF":
        cut = [at for at in range(13, len(data)) if data[at] in b"!,;"]
    elif kind == "BMP":
        cut = [14, 54]
    elif kind in {"AVIF", "HEIC", "JPEG 2000"}:
        # Boxes, and those within others: by their names, since their sizes may be wrong.
        cut = sorted(at - 4 for name in _BOXES if (at := data.find(name)) >= 4)
    elif kind == "TIFF":
        at, step, size = _directory(data)
        cut = [at + step * number for number in range(min(size, 999) + 1)]
    ends = [0, *[at for at in cut if at < len(data)], len(data)]
    return [data[start:end] for start, end in itertools.pairwise(ends)]


def _segments(data: bytes) -> list[int]:
    """Return where the segments of a JPEG begin, and its pixels."""
    cut = []
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        cut.append(at)
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    cut.append(at)
    return cut


def _directory(data: bytes) -> tuple[int, int, int]:
    """Return where a TIFF's first directory's entries begin, their size and their number."""
    order = "<" if data[:2] == b"II" else ">"
    if data[2:4] in {b"+\0", b"\0+"}:
        start = struct.unpack_from(order + "Q", data, 8)[0]
        return start + 8, 20, struct.unpack_from(order + "Q", data, start)[0]
    start = struct.unpack_from(order + "L", data, 4)[0]
    return start + 2, 12, struct.unpack_from(order + "H", data, start)[0]


def _shuffle_pieces(kind: str, data: bytes, chance: random.Random) -> bytes:
    pieces = _pieces(kind, data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at, other = chance.randrange(len(pieces)), chance.randrange(len(pieces))
        match chance.randrange(5):
            case 0:
                del pieces[at]
            case 1:
                pieces.insert(at, pieces[other])
            case 2:
                pieces[at], pieces[other] = pieces[other], pieces[at]
            case 3:
                _, stranger = chance.choice(corpus())
                pieces.insert(at, stranger[: chance.randrange(len(stranger))])
            case 4:
                pieces[at:at] = [pieces[other]] * chance.choice((2, 50, 500))
        if not pieces:
            break
    return _repair(kind, b"".join(pieces))


def _repair(kind: str, data: bytes) -> bytes:
    """Correct lengths and checksums, so that more than the first check is reached."""
    if kind == "WebP" and len(data) >= 8:
        return data[:4] + struct.pack("<L", len(data) - 8) + data[8:]
    if kind != "PNG":
        return data
    out, at = [data[:8]], 8
    while at + 12 <= len(data):
        size = min(struct.unpack_from(">L", data, at)[0], len(data) - at - 12)
        out.append(chunk(data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    return b"".join(out)


def _numbers(kind: str, data: bytes, chance: random.Random) -> bytes:
    """Write odd numbers into fields: near the start, in the directory, or anywhere."""
    changed = bytearray(data)
    start, end = 0, len(data)
    if chance.random() < 0.7:
        start, end = (0, min(end, 600 if kind in {"AVIF", "HEIC"} else 64))
        if kind == "TIFF" and chance.random() < 0.8:
            at, step, size = _directory(data)
            start, end = at - 2, min(at + step * size + 4, len(data))
    for _ in range(chance.choice((1, 1, 2, 3))):
        form = chance.choice(("B", "<H", ">H", "<L", ">L"))
        value = chance.choice(NUMBERS) % (1 << 8 * struct.calcsize(form))
        at = chance.randrange(start, max(end - struct.calcsize(form), start + 1))
        packed = struct.pack(form, value)
        changed[at : at + len(packed)] = packed
    return _repair(kind, bytes(changed[: len(data)])) if chance.random() < 0.8 else bytes(changed)


def _flips(kind: str, data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 2, 8, 32))):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return _repair(kind, bytes(changed)) if chance.random() < 0.5 else bytes(changed)


def _cut(_: str, data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    tail = chance.choice((b"", bytes(chance.randrange(99)), chance.randbytes(9), data[at // 2 :]))
    return data[:at] + tail


def _repacked(kind: str, data: bytes, chance: random.Random) -> bytes:
    """Change a PNG's pixels and compress them again; for other formats join parts of two files."""
    if kind != "PNG":
        other = chance.choice([whole for name, whole in corpus() if name == kind])
        at = chance.randrange(min(len(data), len(other)))
        return _repair(kind, data[:at] + other[at:])
    unpacked, at = b"", 8
    while at + 12 <= len(data):
        size = struct.unpack_from(">L", data, at)[0]
        if data[at + 4 : at + 8] == b"IDAT":
            unpacked += data[at + 8 : at + 8 + size]
        at += 12 + size
    pixels = bytearray(zlib.decompress(unpacked))
    for _ in range(chance.randrange(5)):
        pixels[chance.randrange(len(pixels))] = chance.choice((0, 1, 4, 5, 255))
    pixels = pixels[: chance.randrange(len(pixels) + 1)] + bytes(chance.choice((0, 0, 9, 5000)))
    header = bytearray(data[16:29])
    if chance.random() < 0.5:
        at = chance.choice((3, 7, 8, 9, 10, 11, 12))
        header[at] = chance.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
    packed = zlib.compress(bytes(pixels))
    return data[:8] + chunk(b"IHDR", bytes(header)) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


MUTATORS: tuple[Callable[[str, bytes, random.Random], bytes], ...] = (
    _flips, _numbers, _numbers, _shuffle_pieces, _cut, _repacked,
)  # fmt: skip


def mutant(seed: int, number: int) -> bytes:
    """Return hostile bytes, the same for the same two numbers."""
    chance = random.Random(f"image {seed} {number}")
    kind, data = chance.choice(corpus())
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        data = chance.choice(MUTATORS)(kind, data, chance)[: 1 << 20] or b"\0"
        if _pieces_fail(kind, data):
            break
    return data


def _pieces_fail(kind: str, data: bytes) -> bool:
    """Return whether the pieces of a mutated file cannot be found, for a second mutation."""
    try:
        _pieces(kind, data)
    except (struct.error, IndexError, MemoryError, OverflowError):
        return True
    return kind in {"PNG", "TIFF"}


@cache
def _whole() -> tuple[tuple[bytes, bytes], ...]:
    """Return images that no hostile one may change, each with the hash of its pixels."""
    return tuple((data, hashlib.sha256(decode(data, CAP)).digest()) for _, data in corpus())


def _state() -> object:
    return (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, len(warnings.filters),
            ImageFile.MAXBLOCK)  # fmt: skip


def attack(seed: int, number: int) -> str:
    """Decode one mutant, and then a sound image, whose pixels must be the same as ever."""
    whole, before = _whole(), _state()
    outcome = check(mutant(seed, number))
    data, pixels = whole[number % len(whole)]
    if hashlib.sha256(decode(data, CAP)).digest() != pixels:
        raise AssertionError("another image has changed")
    if _state() != before:
        raise AssertionError(f"state of the process has changed: {before} to {_state()}")
    return outcome


def check(data: bytes, cap: int = CAP) -> str:
    """Decode; return "pixels" or the kind of the ImageError, and raise for anything else."""
    try:
        header = inspect_header(data, cap)
        image = decode(data, cap)
    except ImageError as error:
        if error.kind not in KINDS or not error.reason or "\n" in error.reason:
            raise AssertionError(f"not a kind and a reason: {error!r}") from error
        return error.kind
    if image.dtype != np.uint8 or image.shape != (header.height, header.width, 3):
        raise AssertionError(f"{image.dtype} {image.shape}, announced as {header}")
    if not image.flags.c_contiguous or image.size > 3 * cap:
        raise AssertionError(f"of shape {image.shape}, over the cap or not contiguous")
    return "pixels"
