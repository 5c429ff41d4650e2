"""The exported decoder: regraft's own pixels by Pillow alone, or a refusal in one line."""

import itertools
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from odd_pictures import noise
from pictures import encode, exif
from png_files import chunk, png
from regraft.errors import ImageError
from regraft.images.decode import decode as golden
from regraft.standalone.decode import MAX_PIXELS, DecodeError, decode
from tiff_files import directory, tiff_file

CAP = 1_000_000
ROWS, COLUMNS = np.mgrid[0:24, 0:36]
RGB = np.stack([COLUMNS * 7, ROWS * 10, (ROWS + COLUMNS) * 4], axis=-1).astype(np.uint8)
ALPHA = (ROWS * 10).astype(np.uint8)
PICTURE = Image.fromarray(RGB)
CLEAR = Image.fromarray(np.dstack([RGB, ALPHA]))
WIDE = np.random.default_rng(0).integers(0, 65_536, (19, 23, 4)).astype(np.uint16)


def refusal(data, max_pixels=CAP):
    with pytest.raises(DecodeError) as caught:
        decode(data, max_pixels)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def palette(mode="P"):
    image = PICTURE.quantize(7)
    return image if mode == "P" else image.convert(mode)


def bmp_with_alpha(alpha):
    """Write a BMP of 32 bits with a mask for alpha, which Pillow does not write."""
    stored = np.dstack([RGB[..., ::-1], np.full_like(ALPHA, alpha)])[::-1].tobytes()
    masks = struct.pack("<4L", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = struct.pack("<LLlHHLLLLLL", 108, 36, 24, 1, 32, 3, len(stored), 0, 0, 0, 0)
    head += masks + bytes(52)
    offset = 14 + len(head)
    return b"BM" + struct.pack("<LLL", offset + len(stored), 0, offset) + head + stored


def keyed(depth, colour, pixels, *key):
    return png(3, 1, depth, colour, b"\0" + pixels, chunk(b"tRNS", struct.pack(">3H", *key)))


def text_profile(name, packed):
    block = b"Exif\0\0MM\0*" + struct.pack(">LHHHLHH", 8, 1, 274, 3, 1, 6, 0) + bytes(4)
    text = b"\nexif\n%8d\n%s\n" % (len(block), block.hex().encode())
    before = b"Raw profile type exif\0" + {b"tEXt": b"", b"zTXt": b"\0"}.get(name, b"")
    if name == b"iTXt":
        before += bytes([packed]) + b"\0en\0name\0"
    content = before + (zlib.compress(text) if packed else text)
    return png(3, 2, 8, 0, b"\0\1\2\3\0\4\5\6", chunk(name, content))


FILES = {
    "PNG": encode(PICTURE, "PNG"),
    "PNG, grey": encode(PICTURE.convert("L"), "PNG"),
    "PNG, LA": encode(CLEAR.convert("LA"), "PNG"),
    "PNG, alpha": encode(CLEAR, "PNG"),
    "PNG, 1 bit": encode(PICTURE.convert("1"), "PNG"),
    "PNG, 2 bits": png(3, 1, 2, 0, b"\0\x1b"),
    "PNG, palette": encode(palette(), "PNG"),
    "PNG, palette, one clear": encode(palette(), "PNG", transparency=1),
    "PNG, palette, half clear": encode(palette(), "PNG", transparency=bytes([255, 128, 0])),
    "PNG, 16 bit grey": png(
        23, 19, 16, 0, b"".join(b"\0" + row.astype(">u2").tobytes() for row in WIDE[..., 0])
    ),
    "PNG, 16 bit colour": png(
        23, 19, 16, 2, b"".join(b"\0" + row.astype(">u2").tobytes() for row in WIDE[..., :3])
    ),
    "PNG, 16 bit with alpha": png(
        23, 19, 16, 6, b"".join(b"\0" + row.astype(">u2").tobytes() for row in WIDE)
    ),
    "PNG, one grey clear": keyed(8, 0, b"\1\2\3", 2, 0, 0),
    "PNG, one of four greys clear": keyed(2, 0, b"\x1b", 1, 0, 0),
    "PNG, black and clear": keyed(1, 0, b"\xa0", 1, 0, 0),
    "PNG, further bits of a key": keyed(4, 0, b"\x12\x30", 0xFFF2, 0, 0),
    "PNG, one 16 bit grey clear": keyed(16, 0, b"\1\2\1\3\2\2", 0x0102, 0, 0),
    "PNG, one colour clear": keyed(8, 2, b"\1\2\3\1\2\4\1\2\3", 1, 2, 3),
    "PNG, animated": encode(
        PICTURE, "PNG", save_all=True, append_images=[ImageOps.invert(PICTURE)]
    ),
    "PNG, black": png(9, 9, 8, 0, bytes(90)),
    "PNG, EXIF": encode(PICTURE, "PNG", exif=exif(6)),
    "PNG, profile": png(3, 1, 8, 0, b"\0\1\2\3", chunk(b"iCCP", b"a\0\0" + zlib.compress(b"x"))),
    **{
        f"PNG, EXIF in {name.decode()}, {packed}": text_profile(name, packed)
        for name, packed in [(b"tEXt", 0), (b"zTXt", 1), (b"iTXt", 0), (b"iTXt", 1)]
    },
    "WebP": encode(PICTURE, "WEBP"),
    "WebP, lossless": encode(PICTURE, "WEBP", lossless=True),
    "WebP, alpha": encode(CLEAR, "WEBP", lossless=True, exact=True),
    "WebP, EXIF": encode(PICTURE, "WEBP", exif=exif(8)),
    "WebP, animated": encode(
        PICTURE, "WEBP", save_all=True, append_images=[ImageOps.invert(PICTURE)]
    ),
    "GIF": encode(PICTURE, "GIF"),
    "GIF, clear": encode(palette(), "GIF", transparency=2),
    "GIF, grey": encode(PICTURE.convert("L"), "GIF"),
    "GIF, frames": encode(PICTURE, "GIF", save_all=True, append_images=[PICTURE.rotate(180)]),
    "BMP": encode(PICTURE, "BMP"),
    "BMP, palette": encode(palette(), "BMP"),
    "BMP, 1 bit": encode(PICTURE.convert("1"), "BMP"),
    "BMP, alpha of zeros": bmp_with_alpha(0),
    "BMP, alpha": bmp_with_alpha(99),
    "TIFF": encode(PICTURE, "TIFF"),
    "TIFF, alpha": encode(CLEAR, "TIFF"),
    "TIFF, palette": encode(palette(), "TIFF"),
    "TIFF, CMYK": encode(PICTURE.convert("CMYK"), "TIFF"),
    "TIFF, EXIF": encode(PICTURE, "TIFF", exif=exif(5), compression="tiff_lzw"),
    "TIFF, JPEG": encode(PICTURE, "TIFF", compression="jpeg"),
    "TIFF, fax": encode(PICTURE.convert("1"), "TIFF", compression="group4"),
    "TIFF, pages": encode(PICTURE, "TIFF", save_all=True, append_images=[palette("L")]),
    "TIFF, 16 bit grey": tiff_file(WIDE[..., :1], rows=7),
    "TIFF, 16 bit grey, big": tiff_file(WIDE[..., :1], order=">", compression=8),
    "TIFF, 16 bit grey, white is zero": tiff_file(WIDE[..., :1], tags={262: (3, [0])}),
    "TIFF, 16 bit colour": tiff_file(WIDE[..., :3], tile=16, compression=8, predictor=2),
    "TIFF, wrong sizes of strips": tiff_file(RGB, tags={279: (4, [35_000_000])}),
    "TIFF, palette of bytes": directory(
        b"\0\1",
        {256: (4, [2]), 257: (4, [1]), 258: (3, [8]), 259: (3, [1]), 262: (3, [3]), 273: (4, [8]),
         277: (3, [1]), 278: (4, [1]), 279: (4, [2]), 320: (3, [*range(256)] * 3)},
    ),
    "AVIF": encode(PICTURE, "AVIF"),
    "AVIF, alpha": encode(CLEAR, "AVIF"),
    "JPEG 2000": encode(PICTURE, "JPEG2000"),
    "JPEG 2000, bare": encode(CLEAR, "JPEG2000", no_jp2=True),
    "JPEG 2000, 16 bit": encode(Image.fromarray(WIDE[..., 0]), "JPEG2000"),
    "MPO": encode(PICTURE, "MPO", save_all=True, append_images=[ImageOps.invert(PICTURE)]),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_pixels_are_regrafts_own(name):
    here = decode(FILES[name], CAP)
    assert here.dtype == np.uint8
    assert here.flags.c_contiguous
    np.testing.assert_array_equal(here, golden(FILES[name], CAP))


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2},
     {"quality": 20}, {"restart_marker_blocks": 1}, {"progressive": True, "subsampling": 1}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_of_all_kinds_and_odd_sizes_have_regrafts_own_pixels(mode, options):
    for height, width in itertools.product((1, 7, 8, 17, 33), (1, 2, 15, 16, 31)):
        data = encode(Image.fromarray(noise(height, width) // 2 + 64).convert(mode), "JPEG",
                      **options)  # fmt: skip
        np.testing.assert_array_equal(decode(data, CAP), golden(data, CAP))
    if mode == "RGB" and not options.get("subsampling"):
        data = encode(PICTURE, "JPEG", keep_rgb=True, **options)
        np.testing.assert_array_equal(decode(data, CAP), golden(data, CAP))


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation_is_applied(file_format, orientation):
    data = encode(PICTURE, file_format, exif=exif(orientation))
    here = decode(data, CAP)
    assert here.shape == ((36, 24, 3) if 5 <= orientation <= 8 else (24, 36, 3))
    np.testing.assert_array_equal(here, golden(data, CAP))


XMP = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta tiff:Orientation="6"/>'
JPEG = encode(PICTURE, "JPEG")


@pytest.mark.parametrize(
    "block",
    [XMP, b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0junk" * 9,
     b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"],
)  # fmt: skip
def test_xmp_and_nonsense_in_exif_mean_upright_and_stay_silent(block):
    for picture in (PICTURE, PICTURE.convert("CMYK")):
        data = bytearray(encode(picture, "JPEG"))
        data[2:2] = b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
        here = decode(bytes(data), CAP)
        np.testing.assert_array_equal(here, golden(bytes(data), CAP))
        assert here.shape == (24, 36, 3)


def test_a_path_is_read_as_its_bytes(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(JPEG)
    np.testing.assert_array_equal(decode(path), decode(JPEG))
    np.testing.assert_array_equal(decode(str(path)), decode(JPEG))
    assert MAX_PIXELS == 40_000_000


# --- refusals -------------------------------------------------------------------------------------

TURNED_AVIF = encode(PICTURE, "AVIF", exif=exif(6))
OTHERWISE = {
    "TIFF by planes": (tiff_file(RGB, planar=True), "save it as PNG"),
    "TIFF of 16 bits with alpha": (tiff_file(WIDE[..., :2], tags={338: (3, [2])}), "save it as"),
    "BigTIFF": (tiff_file(RGB, big=True), "are read"),
    "TIFF of 12 bits": (tiff_file(WIDE[..., :1], tags={258: (3, [12])}), "12 bits"),
    "TIFF of floats": (tiff_file(WIDE[..., :1], tags={339: (3, [3])}), "save it as PNG"),
    "TIFF of LAB": (tiff_file(RGB, tags={262: (3, [8])}), "photometric 8"),
    "TIFF, DNG": (tiff_file(RGB, tags={50_706: (1, [1, 4, 0, 0])}), "raw camera image"),
    "TIFF, thumbnail": (tiff_file(RGB, tags={254: (4, [1]), 330: (4, [8])}), "smaller copy"),
    "TIFF, strips missing": (tiff_file(RGB, tags={278: (4, [6])}), "its size needs 4"),
    "TIFF, cut": (encode(PICTURE, "TIFF")[:-900], "TIFF"),
    "PNG, 16 bit colour clear": (keyed(16, 2, bytes(18), 1, 2, 3), "transparent colour"),
    "PNG, cut": (FILES["PNG"][:70], "without IEND"),
    "PNG, flipped bit": (FILES["PNG"][:60] + b"\x55" + FILES["PNG"][61:], "checksum"),
    "PNG, pixels missing": (png(4, 4, 8, 0, b"\0\1\2\3\4"), "PNG"),
    "PNG, rows missing": (png(9, 9, 8, 0, bytes(60), interlaced=1), "fewer pixels"),
    "PNG of an iPhone": (FILES["PNG"][:12] + b"CgBI" + FILES["PNG"][16:], "IHDR"),
    "AVIF, turned": (TURNED_AVIF, "turned, mirrored or cropped"),
    "AVIF, cut": (FILES["AVIF"][:-20], "within a box"),
    "JPEG 2000, cut": (FILES["JPEG 2000"][:-20], "within a box"),
    "HEIC": (b"\0\0\0\x18ftypheic" + bytes(12), "HEIC and videos are not read here"),
    "JPEG, cut": (JPEG[:-60], "truncated"),
    "JPEG, head": (JPEG[:100], "before its pixels"),
    "JPEG of 12 bits": (JPEG.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), "of 12 bits"),
    "WebP, cut": (FILES["WebP"][:40], "WebP"),
    "GIF, cut": (FILES["GIF"][:-300], "GIF"),
    "GIF without frame": (b"GIF89a\4\0\4\0\0\0\0;", "no frame"),
    "BMP, cut": (FILES["BMP"][:-1000], "BMP"),
    "text": (b"a text", "beginning with 61 20"),
    "nothing": (b"", "no bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_pillow_reads_otherwise_or_not_at_all_is_refused_by_name(name):
    data, words = OTHERWISE[name]
    assert words in refusal(data)


FRAME = JPEG.index(b"\xff\xc0")
HUGE = 60_000
TOO_LARGE = {
    "JPEG": JPEG[: FRAME + 5] + struct.pack(">HH", HUGE, HUGE) + JPEG[FRAME + 9 :],
    "PNG": png(HUGE, HUGE),
    "WebP": b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\x3f\0\xff\x3f\0",
    "GIF": b"GIF89a" + struct.pack("<HHBBB", HUGE, HUGE, 0, 0, 0) + b",\0\0\0\0\1\0\1\0\0\2\0;",
    "GIF, large frame": b"GIF89a\1\0\1\0\0\0\0!\xf9\4\x08\0\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\0;",
    "BMP": FILES["BMP"][:18] + struct.pack("<LL", HUGE, HUGE) + FILES["BMP"][26:],
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_sizes_are_bounded_before_decoding(name):
    message = refusal(TOO_LARGE[name], 40_000_000)
    assert message.endswith("40,000,000 pixels are allowed (max_pixels)")


@pytest.mark.parametrize("name", FILES)
def test_the_bound_counts_pixels(name):
    height, width = golden(FILES[name], CAP).shape[:2]
    assert decode(FILES[name], height * width).shape == (height, width, 3)
    assert "pixels are allowed" in refusal(FILES[name], height * width - 1)


def test_pillows_own_limit_neither_warns_nor_changes(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert decode(JPEG, CAP).shape == decode(FILES["PNG"], CAP).shape == (24, 36, 3)
    for name in ("TIFF", "WebP", "GIF"):
        assert "100 pixels are allowed" in refusal(FILES[name])
    assert Image.MAX_IMAGE_PIXELS == 100


# --- damage ---------------------------------------------------------------------------------------

SEEDS = {name: data for name, data in FILES.items() if "PNG, black" not in name}
SEEDS |= {"JPEG": JPEG, "JPEG, progressive": encode(PICTURE, "JPEG", progressive=True),
          "JPEG, CMYK": encode(PICTURE.convert("CMYK"), "JPEG", exif=exif(3))}  # fmt: skip


def damaged(whole, chance):
    data = bytearray(whole)
    if chance.random() < 0.2:
        del data[chance.randrange(len(data)) :]
        return bytes(data)
    end = len(data) if chance.random() < 0.5 else min(100, len(data))
    for _ in range(chance.choice([1, 2, 8])):
        position = chance.randrange(end)
        data[position] = chance.choice([data[position] ^ 1 << chance.randrange(8), 0, 255])
    return bytes(data)


def answer(decoder, data):
    try:
        return decoder(data, CAP)
    except (ImageError, DecodeError):
        return None


@pytest.mark.parametrize("name", SEEDS)
def test_damaged_files_give_regrafts_own_pixels_or_a_refusal(name):
    chance = random.Random(3)
    refused = 0
    for _ in range(80):
        data = damaged(SEEDS[name], chance)
        here, expected = answer(decode, data), answer(golden, data)
        refused += here is None
        if here is not None and expected is not None:
            np.testing.assert_array_equal(here, expected)
        elif here is not None:
            # See the next test; and libavif ignores boxes that contradict each other.
            assert name in {"JPEG", "JPEG, progressive", "MPO", "AVIF, alpha"}
    assert refused


def test_of_damage_inside_of_jpegs_pixels_only_regraft_knows():
    """Pillow hides libjpeg's warnings: the documented difference between the two decoders."""
    restarts = bytearray(encode(PICTURE, "JPEG", restart_marker_blocks=1))
    restarts[restarts.index(b"\xff\xd1") + 1] = 0xD5
    assert answer(golden, bytes(restarts)) is None
    assert answer(decode, bytes(restarts)) is not None
