"""Is every one of Pillow's own test images read rightly, or refused with a reason?

    python benchmarks/bench_conformance.py FOLDER [--list]

FOLDER is ``Tests/images`` of Pillow's source: of its repository, or of the archive that
``pip download --no-binary pillow --no-deps pillow==13.0.0`` gets. Nothing is downloaded here.

Each image is decoded by regraft and read a second time without it: 8 bits a channel by Pillow's own
conversion, 16 bits by a formula from the stored values, BMPs from the reference pictures that their
suite brings, and PNGs that Pillow refuses for their metadata by a reader of thirty lines.

Prints one JSON line with the counts. Exits with 1 if pixels differ, or an image is refused that
Pillow reads, without an entry in ``REASONS``.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import os
import re
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from regraft.errors import ImageError
from regraft.images.decode import decode
from regraft.images.headers import FORMATS

CAP = 200_000_000  # pixels; larger ones are tests of Pillow's own limit
_NAMES = {"WEBP": "WebP", "MPO": "JPEG", "JPEG2000": "JPEG 2000"}

#: By a pattern of the path: why an image is not what Pillow makes of it, or is refused.
REASONS = {
    r"(avif/)?xmp_tags_orientation\w*\.(png|avif)": "turned by XMP alone, which is not applied",
    r"(8bit\.s|16bit\.s|separate_planar_extra_samples)\.tiff?": "signed: no white is defined",
    r"(10ct_32bit_128|16_bit_binary_pgm)\.tiff": "32 bits: no white is defined",
    r"(lab|lab-red|lab-green|hopper\.Lab)\.tif": "LAB",
}

#: Reference pictures of the BMP suite, for all files of a kind; the largest difference.
BMP_FAMILIES = {
    r"bmp/\w/rgb(24|32)(?!jpeg|png)\w*\.bmp|rgb32bf-abgr\.bmp": ("rgb24", 0),
    r"bmp/\w/rgb16-565(pal)?\.bmp": ("rgb16-565", 1),
    r"bmp/\w/rgb16\.bmp": ("rgb16", 1),
    r"bmp/\w/pal8(-0|os2|rle|topdown|v4|v5|offs|os2sp|os2v2)?\.bmp": ("pal8", 1),
    r"bmp/\w/pal8(w12[456])\.bmp": (r"pal8\1", 1),
    r"bmp/\w/pal4(rle)?\.bmp": ("pal4", 0),
    r"bmp/\w/pal1(wb)?\.bmp": ("pal1", 0),
    r"bmp/\w/pal1bg\.bmp": ("pal1bg", 0),
}


def read_by_pillow(data: bytes) -> tuple[str, np.ndarray]:
    """Return the format and the pixels as RGB (H, W, 3), by Pillow and formulas."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(io.BytesIO(data))
        name = _NAMES.get(image.format, image.format)
        image.load()
        if image.mode.startswith("I;16"):
            return name, grey_of_16_bits(image)
        image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        return name, np.asarray(image.convert("RGB"))


def grey_of_16_bits(image: Image.Image) -> np.ndarray:
    values = np.asarray(image).astype(float)
    tags = getattr(image, "tag_v2", {})
    grey = np.rint(values * 255 / (2 ** tags.get(258, (16,))[0] - 1))
    if tags.get(262) == 0:
        grey = 255 - grey
    if isinstance(key := image.info.get("transparency"), int):
        grey[values == key] = 255
    upright = Image.fromarray(grey.astype(np.uint8))
    if not tags:  # Pillow turns a TIFF when it loads it
        upright.getexif()[0x0112] = image.getexif().get(0x0112, 1)
    return np.asarray(ImageOps.exif_transpose(upright).convert("RGB"))


def read_png_by_hand(data: bytes) -> np.ndarray:
    """Return a PNG of 8 bits that is not interlaced as RGB (H, W, 3), by the specification."""
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">LLBBBBB", data, 16)
    chunks, at = collections.defaultdict(bytes), 8
    while at < len(data):
        size, name = struct.unpack_from(">L4s", data, at)
        chunks[name] += data[at + 8 : at + 8 + size]
        at += 12 + size
    step = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    if depth != 8 or interlaced:
        raise ValueError("another kind of PNG")
    packed, before, rows = zlib.decompress(chunks[b"IDAT"]), bytes(width * step), []
    for start in range(0, height * (width * step + 1), width * step + 1):
        row = bytearray(packed[start + 1 : start + 1 + width * step])
        for i in range(len(row)):
            a, c = (row[i - step], before[i - step]) if i >= step else (0, 0)
            b = before[i]
            nearest = min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]
            row[i] = row[i] + (0, a, b, (a + b) // 2, nearest)[packed[start]] & 255
        rows.append(bytes(row))
        before = rows[-1]
    samples = np.frombuffer(b"".join(rows), np.uint8).reshape(height, width, step)
    alpha = np.full((height, width), 255)
    if colour == 3:
        palette = np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)
        transparent = np.full(256, 255)
        transparent[: len(chunks[b"tRNS"])] = list(chunks[b"tRNS"])
        samples, alpha = palette[samples[..., 0]], transparent[samples[..., 0]]
    elif colour in {4, 6}:
        samples, alpha = samples[..., :-1], samples[..., -1]
    share = alpha[..., None] / 255
    return np.rint(np.broadcast_to(samples, (height, width, 3)) * share + 255 * (1 - share))


def third_reading(root: Path, name: str, data: bytes) -> tuple[np.ndarray, float] | None:
    """Return the pixels of a file that Pillow refuses, and the difference that is allowed."""
    if data.startswith(b"\x89PNG"):
        return read_png_by_hand(data), 1
    if name == "avif/hopper.heif":  # the picture of many others, compressed with loss
        return read_by_pillow((root / "hopper.png").read_bytes())[1], 5
    return None


def reference_of_suite(root: Path, name: str) -> tuple[np.ndarray, int] | None:
    """Return the picture that the BMP suite brings for a file, and the allowed difference."""
    for pattern, (reference, most) in BMP_FAMILIES.items():
        if found := re.fullmatch(pattern, name):
            with Image.open(root / "bmp" / "html" / f"{found.expand(reference)}.png") as image:
                return np.asarray(image.convert("RGB")), most
    return None


def judge(root: Path, path: Path) -> tuple[str, str, str]:
    """Return the format, what came of a file, and details."""
    name, data = path.relative_to(root).as_posix(), path.read_bytes()
    pixels, refusal = None, ""
    try:
        pixels = decode(data, CAP)
    except ImageError as error:
        refusal = str(error)
    kind, golden = "", None
    with contextlib.suppress(Exception):  # its tests are there to raise anything
        kind, golden = read_by_pillow(data)
    kind = kind or next((each for each, (is_it, _) in FORMATS.items() if is_it(data)), "other")
    why = next((reason for each, reason in REASONS.items() if re.fullmatch(each, name)), "")
    if kind not in FORMATS:
        return kind, "another format", refusal
    if pixels is None:
        return kind, "refused by both" if golden is None else "refused", why or refusal
    return kind, compare(pixels.astype(int), golden, path, root), why


def compare(pixels: np.ndarray, golden: np.ndarray | None, path: Path, root: Path) -> str:
    """Return what came of a file that was decoded."""
    name, most, outcome = path.relative_to(root).as_posix(), 0.0, "equal"
    if (suite := reference_of_suite(root, name)) is not None:
        (golden, most), outcome = suite, "equal to the suite's reference"
    elif golden is None and (third := third_reading(root, name, path.read_bytes())) is not None:
        (golden, most), outcome = third, "equal to a third reading"
    if golden is None or pixels.shape != golden.shape:
        return "different"
    differences = np.abs(pixels - golden)
    # The compressed picture differs by little on average, all others by little everywhere.
    distance = differences.mean() if name.endswith(".heif") else differences.max()
    return outcome if distance <= most else "different"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--list", action="store_true", help="name every file that is not equal")
    arguments = parser.parse_args()
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    unexplained = []
    files = sorted(path for path in arguments.folder.rglob("*") if path.is_file())
    if not files:
        print(f"{arguments.folder} holds no files", file=sys.stderr)
        return 2
    for path in files:
        kind, outcome, details = judge(arguments.folder, path)
        name = path.relative_to(arguments.folder).as_posix()
        known = details in REASONS.values()
        if outcome in {"refused", "different"}:
            outcome += ", for a reason" if known else ""
            if not known:
                unexplained.append(f"{name}: {outcome}: {details}")
        counts[kind if kind in FORMATS else "other formats"][outcome] += 1
        if arguments.list and not outcome.startswith(("equal", "another")):
            print(f"{name}: {outcome}: {details}")
    for line in unexplained:
        print(f"UNEXPLAINED {line}")
    total = sum(counts.values(), collections.Counter())
    print(json.dumps({"files": len(files), "total": total, "formats": counts}))
    return 1 if unexplained else 0


if __name__ == "__main__":
    # libtiff writes what it thinks of damaged files straight to stderr.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.exit(main())
