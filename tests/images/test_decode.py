"""Unusual and malformed files: known pixels, or an error with a kind; no other exception."""

import io
import random
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import numpy as np
import pytest
from PIL import Image, ImageOps

from pictures import encode, exif
from png_files import chunk, png
from regraft.errors import ImageError, MemoryShortError
from regraft.images.decode import DECODER_VERSION, KINDS, decode, hash_payload, image_size
from regraft.images.readers import image_error

CAP = 1_000_000
ROWS, COLUMNS = np.mgrid[0:24, 0:36]
RGB = np.stack([COLUMNS * 7, ROWS * 10, (ROWS + COLUMNS) * 4], axis=-1).astype(np.uint8)
GREY = (COLUMNS * 7).astype(np.uint8)
ALPHA = (ROWS * 10).astype(np.uint8)
PICTURE = Image.fromarray(RGB)


def tiff(*entries, pixels, order="<"):
    """Write a TIFF by hand: entries are (tag, type, value), the pixels are at byte 8."""
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HL", 42, 8 + len(pixels))
    body = struct.pack(order + "H", len(entries))
    for tag, kind, value in entries:
        packed = struct.pack(order + {3: "H2x", 4: "L"}[kind], value)
        body += struct.pack(order + "HHL", tag, kind, 1) + packed
    return head + pixels + body + bytes(4)


def grey_tiff(width, height, bits, pixels, *more, photometric=1, order="<"):
    entries = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1,
               278: height, 279: len(pixels)}  # fmt: skip
    entries.update(more)
    longs = {256, 257, 273, 278, 279}
    typed = [(tag, 4 if tag in longs else 3, value) for tag, value in sorted(entries.items())]
    return tiff(*typed, pixels=pixels, order=order)


def refusal(payload, cap=CAP):
    with pytest.raises(ImageError) as caught:
        decode(payload, cap)
    assert caught.value.kind in KINDS
    return caught.value


LOSSLESS = {
    "PNG": encode(PICTURE, "PNG"),
    "PNG, 16 bit colour": png(
        36, 24, 16, 2, b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in RGB)
    ),
    "WebP": encode(PICTURE, "WEBP", lossless=True),
    "WebP, animated": encode(
        PICTURE, "WEBP", lossless=True, save_all=True, append_images=[ImageOps.invert(PICTURE)]
    ),
    "PNG, animated": encode(
        PICTURE, "PNG", save_all=True, append_images=[ImageOps.invert(PICTURE)]
    ),
    "BMP": encode(PICTURE, "BMP"),
    "TIFF": encode(PICTURE, "TIFF"),
    "TIFF, deflated": encode(PICTURE, "TIFF", compression="tiff_adobe_deflate"),
    "TIFF, LZW": encode(PICTURE, "TIFF", compression="tiff_lzw"),
    "TIFF, pages": encode(PICTURE, "TIFF", save_all=True, append_images=[Image.new("L", (5, 5))]),
    "BigTIFF": encode(PICTURE, "TIFF", big_tiff=True),
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_formats_give_the_very_pixels(name):
    assert image_size(LOSSLESS[name], CAP) == (24, 36)
    image = decode(LOSSLESS[name], CAP)
    assert image.flags.c_contiguous
    assert image.flags.writeable
    np.testing.assert_array_equal(image, RGB)


@pytest.mark.parametrize(
    "options",
    [{"quality": 95}, {"quality": 95, "progressive": True}, {"quality": 95, "subsampling": 0}],
)
def test_jpeg_is_what_pillow_reads(options):
    data = encode(PICTURE, "JPEG", **options)
    np.testing.assert_array_equal(decode(data, CAP), np.asarray(Image.open(io.BytesIO(data))))
    assert np.abs(decode(data, CAP).astype(int) - RGB).mean() < 4


def test_phones_mpo_is_its_first_picture():
    data = encode(PICTURE, "MPO", save_all=True, append_images=[ImageOps.invert(PICTURE)])
    np.testing.assert_array_equal(decode(data, CAP), decode(encode(PICTURE, "JPEG"), CAP))


def test_gif_is_its_first_frame():
    still = Image.fromarray(GREY).convert("P")
    data = encode(still, "GIF", save_all=True, append_images=[Image.new("P", (36, 24), 3)])
    assert image_size(data, CAP) == (24, 36)
    np.testing.assert_array_equal(decode(data, CAP), np.dstack([GREY] * 3))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "CMYK"])
def test_every_orientation_is_applied(file_format, orientation):
    picture, options = PICTURE, {"lossless": True}
    if file_format == "CMYK":  # the way past libjpeg's own colours, through Pillow
        picture, file_format = PICTURE.convert("CMYK"), "JPEG"
    plain = decode(encode(picture, file_format, **options), CAP)
    data = encode(picture, file_format, exif=exif(orientation), **options)
    block = exif(orientation)
    upright = Image.fromarray(plain)
    upright.getexif()[0x0112] = block[0x0112]
    golden = np.asarray(ImageOps.exif_transpose(upright))
    np.testing.assert_array_equal(decode(data, CAP), golden)
    assert image_size(data, CAP) == golden.shape[:2]


@pytest.mark.parametrize("block", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff",
                                   b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0junk" * 9,
                                   exif(9).tobytes(), exif(0).tobytes()])  # fmt: skip
def test_nonsense_in_exif_means_upright_and_stays_silent(block):
    for picture in (PICTURE, PICTURE.convert("CMYK")):
        data = bytearray(encode(picture, "JPEG"))
        data[2:2] = b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
        np.testing.assert_array_equal(
            decode(bytes(data), CAP), decode(encode(picture, "JPEG"), CAP)
        )


WHITE_BEHIND = np.asarray(
    Image.alpha_composite(
        Image.new("RGBA", PICTURE.size, "white"), Image.fromarray(np.dstack([RGB, ALPHA]))
    ).convert("RGB")
)
SIXTEEN = np.array([[0, 128, 129, 257, 32896, 65406, 65407, 65535]], np.uint16)
SIXTEEN_GOLDEN = [0, 0, 1, 1, 128, 254, 255, 255]  # value / 257, rounded
PALETTE = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
PALETTE.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
ONE_BIT = Image.fromarray(np.array([[0, 255, 255]], np.uint8)).convert("1")
GOLDEN_RGBA = {
    "PNG with alpha": (encode(Image.fromarray(np.dstack([RGB, ALPHA])), "PNG"), WHITE_BEHIND),
    "WebP with alpha": (
        encode(Image.fromarray(np.dstack([RGB, ALPHA])), "WEBP", lossless=True, exact=True),
        WHITE_BEHIND,
    ),
    "TIFF with alpha": (encode(Image.fromarray(np.dstack([RGB, ALPHA])), "TIFF"), WHITE_BEHIND),
    "grey PNG": (encode(Image.fromarray(GREY), "PNG"), np.dstack([GREY] * 3)),
    "grey BMP": (encode(Image.fromarray(GREY), "BMP"), np.dstack([GREY] * 3)),
}
#: One row of pixels each; a single value means three equal channels.
GOLDEN_ROWS = {
    "1 bit PNG": (encode(ONE_BIT, "PNG"), [0, 255, 255]),
    "1 bit BMP": (encode(ONE_BIT, "BMP"), [0, 255, 255]),
    "1 bit TIFF, fax": (encode(ONE_BIT, "TIFF", compression="group4"), [0, 255, 255]),
    "2 bit PNG": (png(3, 1, 2, 0, b"\0\x1b"), [0, 85, 170]),
    "palette PNG": (encode(PALETTE, "PNG"), [(10, 20, 30), (40, 50, 60), (70, 80, 90)]),
    "palette PNG, one colour transparent": (
        encode(PALETTE, "PNG", transparency=1),
        [(10, 20, 30), (255, 255, 255), (70, 80, 90)],
    ),
    "palette PNG, half transparent": (
        encode(PALETTE, "PNG", transparency=bytes([255, 128, 0])),
        [(10, 20, 30), (147, 152, 157), (255, 255, 255)],
    ),
    "palette GIF, transparent": (
        encode(PALETTE, "GIF", transparency=2),
        [(10, 20, 30), (40, 50, 60), (255, 255, 255)],
    ),
    "palette BMP": (encode(PALETTE, "BMP"), [(10, 20, 30), (40, 50, 60), (70, 80, 90)]),
    "grey with alpha": (png(2, 1, 8, 4, b"\0\x40\xff\x40\0"), [64, 255]),
    "grey PNG, one value transparent": (
        png(2, 1, 8, 0, b"\0\x40\x41", chunk(b"tRNS", b"\0\x41")),
        [64, 255],
    ),
    "colour PNG, one colour transparent": (
        png(2, 1, 8, 2, b"\0\1\2\3\4\5\6", chunk(b"tRNS", b"\0\1\0\2\0\3")),
        [(255, 255, 255), (4, 5, 6)],
    ),
    "16 bit PNG": (png(8, 1, 16, 0, b"\0" + SIXTEEN.astype(">u2").tobytes()), SIXTEEN_GOLDEN),
    "16 bit PNG, one value transparent": (
        png(2, 1, 16, 0, b"\0\0\0\x40\x40", chunk(b"tRNS", b"\0\0")),
        [255, 64],
    ),
    "16 bit TIFF, little": (
        grey_tiff(8, 1, 16, SIXTEEN.astype("<u2").tobytes()),
        SIXTEEN_GOLDEN,
    ),
    "16 bit TIFF, big": (
        grey_tiff(8, 1, 16, SIXTEEN.astype(">u2").tobytes(), order=">"),
        SIXTEEN_GOLDEN,
    ),
    "16 bit TIFF, white is zero": (
        grey_tiff(8, 1, 16, SIXTEEN.astype("<u2").tobytes(), photometric=0),
        [255 - value for value in SIXTEEN_GOLDEN],
    ),
    "12 bit TIFF": (grey_tiff(2, 1, 12, b"\xff\xf8\x00"), [255, 128]),
    "8 bit TIFF, white is zero": (grey_tiff(2, 1, 8, b"\0\xff", photometric=0), [255, 0]),
    "PNG with a text that unpacks to 64 MB": (
        png(1, 1, 8, 0, b"\0\x07", chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 26)))),
        [7],
    ),
    "PNG with a profile that unpacks to 64 MB": (
        png(1, 1, 8, 0, b"\0\x07", chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1 << 26)))),
        [7],
    ),
    "PNG with a broken comment": (
        png(1, 1, 8, 0, b"\0\x07", chunk(b"iTXt", b"\xff\0\1\1")[:-1] + b"!"),
        [7],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN_RGBA)
def test_golden_pixels_of_a_picture(name):
    data, golden = GOLDEN_RGBA[name]
    np.testing.assert_array_equal(decode(data, CAP), golden)


@pytest.mark.parametrize("name", GOLDEN_ROWS)
def test_golden_pixels_of_a_row(name):
    data, row = GOLDEN_ROWS[name]
    golden = np.array([[[v] * 3 if isinstance(v, int) else v for v in row]], np.uint8)
    assert image_size(data, CAP) == golden.shape[:2]
    np.testing.assert_array_equal(decode(data, CAP), golden)


def test_cmyk_is_pillows_conversion():
    data = encode(PICTURE.convert("CMYK"), "JPEG", quality=95)
    golden = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode(data, CAP), golden)
    assert np.abs(decode(data, CAP).astype(int) - RGB).mean() < 6


def test_a_jpeg_with_spare_bytes_is_whole():
    data = encode(PICTURE, "JPEG")
    spared = data[:-2] + bytes(99) + data[-2:]  # as in widely used collections of cats and dogs
    np.testing.assert_array_equal(decode(spared, CAP), decode(data, CAP))


JPEG = encode(PICTURE, "JPEG", quality=95)
FRAME = JPEG.index(b"\xff\xc0")
RESTARTS = bytearray(encode(PICTURE, "JPEG", quality=95, restart_marker_blocks=1))
RESTARTS[RESTARTS.index(b"\xff\xd1") + 1] = 0xD5


def changed(data, position, value):
    return data[:position] + value + data[position + len(value) :]


MALFORMED = {
    "nothing": (b"", "empty", "no bytes"),
    "zeros": (bytes(99), "not an image", "zeros"),
    "text": ("größer\n".encode(), "not an image", "text"),
    "a page": (b"\n <!DOCTYPE HTML><html>404", "not an image", "HTML"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1", "not an image", "git lfs pull"),
    "video": (b"\0\0\0\x20ftypisom" + bytes(20), "not an image", "video"),
    "zip": (b"PK\3\4" + bytes(20), "not an image", "zip"),
    "noise": (b"\x01\x02\x03\x04", "not an image", "01 02 03 04"),
    "JPEG XL": (b"\xff\x0a" + bytes(20), "unsupported format", "JPEG XL"),
    "SVG": (b"<?xml version='1.0'?><svg>", "unsupported format", "SVG"),
    "icon": (encode(PICTURE, "ICO"), "unsupported format", "icon"),
    "12 bit JPEG": (changed(JPEG, FRAME + 4, b"\x0c"), "unsupported format", "12 bits"),
    "JPEG of 2 channels": (changed(JPEG, FRAME + 9, b"\x02"), "unsupported format", "2 channels"),
    "JPEG without rows": (changed(JPEG, FRAME + 5, b"\0\0"), "empty", "36 by 0"),
    "JPEG, before its tables": (JPEG[: len(JPEG) // 2], "truncated", "before its pixels"),
    "JPEG, half": (JPEG[:-300], "truncated", "JPEG"),
    "JPEG, head": (JPEG[:100], "truncated", "before its pixels"),
    "JPEG without end mark": (JPEG[:-2], "truncated", "JPEG"),
    "JPEG without frame": (JPEG[:FRAME] + JPEG[JPEG.index(b"\xff\xda") :], "corrupt", "no frame"),
    "JPEG, wrong restart": (bytes(RESTARTS), "corrupt", "RST"),
    "progressive, half": (
        encode(PICTURE, "JPEG", progressive=True)[:-200],
        "truncated",
        "JPEG",
    ),
    "CMYK, half": (encode(PICTURE.convert("CMYK"), "JPEG")[:-99], "truncated", "JPEG"),
    "PNG, half": (LOSSLESS["PNG"][:70], "truncated", "within IDAT"),
    "PNG without end": (LOSSLESS["PNG"][:-12], "truncated", "without IEND"),
    "PNG, pixels missing": (png(4, 4, 8, 0, b"\0\1\2\3\4"), "truncated", "PNG"),
    "PNG, pixels missing, interlaced": (
        png(9, 9, 8, 0, bytes(60), interlaced=1),
        "truncated",
        "fewer pixels",
    ),
    "PNG, flipped bit": (changed(LOSSLESS["PNG"], 60, b"\x55"), "corrupt", "checksum"),
    "PNG of an iPhone": (changed(LOSSLESS["PNG"], 12, b"CgBI"), "unsupported format", "CgBI"),
    "PNG of no size": (png(0, 4), "empty", "0 by 4"),
    "PNG, odd depth": (png(1, 1, 3, 0, b"\0\0"), "corrupt", "PNG"),
    "WebP, half": (LOSSLESS["WebP"][:40], "truncated", "WebP"),
    "WebP, damaged": (changed(LOSSLESS["WebP"], 25, b"\xff" * 40), "corrupt", "WebP"),
    "GIF, half": (encode(PICTURE, "GIF")[:-300], "truncated", "GIF"),
    "GIF without frame": (b"GIF89a\4\0\4\0\0\0\0;", "empty", "no frame"),
    "GIF, ended early": (
        b"GIF89a\4\0\4\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\4\0\4\0\0\2\2\x4c\1\0;",
        "truncated",
        "GIF",
    ),
    "BMP, half": (LOSSLESS["BMP"][:-1000], "truncated", "BMP"),
    "BMP of a later kind": (changed(LOSSLESS["BMP"], 14, b"\x63"), "unsupported format", "header"),
    "TIFF, half": (LOSSLESS["TIFF"][:-1000], "truncated", "TIFF"),
    "TIFF, flipped bit": (
        changed(LOSSLESS["TIFF, deflated"], 20, b"\xff\xff"),
        "corrupt",
        "TIFF",
    ),
    "TIFF, huge tiles": (
        grey_tiff(8, 8, 8, bytes(64), (322, 65535), (323, 65535)),
        "corrupt",
        "tiles",
    ),
    "TIFF, half of its strips": (
        grey_tiff(4, 8, 8, bytes(32), (278, 4)),
        "truncated",
        "1 strips or tiles; its size needs 2",
    ),
    "TIFF, 99 samples": (grey_tiff(1, 1, 8, b"\0", (277, 99)), "unsupported pixels", "99"),
    "TIFF of floats": (
        encode(Image.fromarray(RGB[..., 0].astype(np.float32)), "TIFF"),
        "unsupported pixels",
        "floating point",
    ),
    "TIFF of integers": (
        encode(Image.fromarray(RGB[..., 0].astype(np.int32)), "TIFF"),
        "unsupported pixels",
        "32 bit",
    ),
    "TIFF without directory": (b"II*\0\xff\0\0\0", "truncated", "header"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files_are_named(name):
    data, kind, reason = MALFORMED[name]
    error = refusal(data)
    assert (error.kind, reason in error.reason) == (kind, True), str(error)
    assert "\n" not in error.reason


HUGE = 60_000
TOO_LARGE = {
    "JPEG": changed(JPEG, FRAME + 5, struct.pack(">HH", HUGE, HUGE)),
    "PNG": png(HUGE, HUGE),
    "PNG, absurd": png(2**32 - 1, 2**32 - 1),
    "WebP": b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\x3f\0\xff\x3f\0",
    "GIF": b"GIF89a" + struct.pack("<HHBBB", HUGE, HUGE, 0, 0, 0) + b",\0\0\0\0\1\0\1\0\0\2\0;",
    "GIF, large frame": b"GIF89a\1\0\1\0\0\0\0!\xf9\4\x08\0\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\0;",
    "BMP": changed(LOSSLESS["BMP"], 18, struct.pack("<LL", HUGE, HUGE)),
    "TIFF": grey_tiff(HUGE, HUGE, 8, b"\0"),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_sizes_are_capped_before_decoding(name):
    for read in (image_size, decode):
        with pytest.raises(ImageError) as caught:
            read(TOO_LARGE[name], 40_000_000)
        assert caught.value.kind == "too many pixels"
    assert "40,000,000 pixels are allowed" in caught.value.reason


def test_the_cap_counts_pixels_and_not_sides():
    tall = png(1, 65_535, 8, 0, bytes(2 * 65_535))
    assert decode(tall, 65_535).shape == (65_535, 1, 3)
    assert refusal(tall, 65_534).kind == "too many pixels"


def test_pillows_own_limit_neither_warns_nor_changes(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for name in ("PNG", "BMP"):
        assert decode(LOSSLESS[name], CAP).shape == (24, 36, 3)
    assert decode(JPEG, CAP).shape == (24, 36, 3)
    for name in ("TIFF", "WebP"):
        assert refusal(LOSSLESS[name]).kind == "too many pixels"
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("side", range(1, 20))
def test_black_and_interlaced_pngs_are_whole(side):
    assert not decode(png(side, side, 8, 0, bytes(side * (side + 1))), CAP).any()
    rows = sum(  # Adam7, in the specification's own words: starting row and column, increments
        len(range(top, side, down)) * (1 + len(range(left, side, across)))
        for left, top, across, down in [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4),
                                        (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
        if range(left, side, across)
    )  # fmt: skip
    assert not decode(png(side, side, 8, 0, bytes(rows), interlaced=1), CAP).any()
    assert refusal(png(side, side, 8, 0, bytes(rows - 1), interlaced=1)).kind == "truncated"


def test_arrays():
    np.testing.assert_array_equal(decode(GREY, CAP), np.dstack([GREY] * 3))
    assert decode(RGB, CAP) is RGB
    mirrored = decode(RGB[:, ::-1], CAP)
    assert mirrored.flags.c_contiguous
    np.testing.assert_array_equal(mirrored, RGB[:, ::-1])
    assert image_size(RGB, CAP) == (24, 36)
    assert refusal(np.zeros((2, 2), np.float32)).kind == "unsupported pixels"
    assert refusal(np.zeros((2, 2, 4), np.uint8)).kind == "unsupported pixels"
    assert refusal(np.zeros((0, 2), np.uint8)).kind == "empty"
    assert refusal(RGB, cap=10).kind == "too many pixels"


def test_hashes_follow_contents():
    assert len(hash_payload(JPEG)) == 32
    assert hash_payload(RGB) == hash_payload(RGB[:, ::-1][:, ::-1])
    assert hash_payload(RGB) != hash_payload(RGB[:, ::-1])
    assert hash_payload(GREY) != hash_payload(GREY.T)


def test_threads_give_the_same_pixels():
    files = [*LOSSLESS.values(), JPEG, *(data for data, _ in GOLDEN_RGBA.values())] * 8
    with ThreadPoolExecutor(8) as pool:
        for alone, beside in zip(
            files, pool.map(lambda data: decode(data, CAP), files), strict=True
        ):
            np.testing.assert_array_equal(decode(alone, CAP), beside)


def test_the_version_names_what_pixels_depend_on():
    for part in ("rules 2", "simplejpeg", "pillow", "libjpeg-turbo", "zlib", "libtiff", "webp",
                 "libavif", "openjpeg", f"pillow-heif {version('pillow-heif')}"):  # fmt: skip
        assert part in DECODER_VERSION
    assert "None" not in DECODER_VERSION


SEEDS = {
    **LOSSLESS,
    **{name: data for name, (data, _) in GOLDEN_RGBA.items()},
    "JPEG": encode(PICTURE, "JPEG", exif=exif(6)),
    "JPEG, progressive": encode(PICTURE, "JPEG", progressive=True),
    "JPEG, CMYK": encode(PICTURE.convert("CMYK"), "JPEG", exif=exif(3)),
    "GIF": encode(PICTURE, "GIF", save_all=True, append_images=[PICTURE.rotate(180)], disposal=2),
    "BMP, palette": encode(PICTURE.convert("P"), "BMP"),
    "TIFF, JPEG": encode(PICTURE, "TIFF", compression="jpeg", exif=exif(5)),
    "TIFF, fax": encode(PICTURE.convert("1"), "TIFF", compression="group4"),
}


@pytest.mark.parametrize("name", SEEDS)
def test_mutated_files_give_pixels_or_an_image_error(name):
    chance = random.Random(7)
    whole = SEEDS[name]
    kinds = set()
    for _ in range(150):
        data = bytearray(whole)
        if chance.random() < 0.3:
            del data[chance.randrange(len(data)) :]
        else:
            end = len(data) if chance.random() < 0.5 else min(100, len(data))
            for _ in range(chance.choice([1, 2, 8])):
                position = chance.randrange(end)
                flipped = data[position] ^ 1 << chance.randrange(8)
                data[position] = chance.choice([flipped, 0, 255])
        try:
            size = image_size(bytes(data), CAP)
            image = decode(bytes(data), CAP)
        except ImageError as error:
            kinds.add(error.kind)
        else:
            assert image.dtype == np.uint8
            assert image.shape == (*size, 3)
    assert "truncated" in kinds
    assert kinds <= set(KINDS)


def test_a_lack_of_memory_is_no_damage_of_the_file():
    data = bytearray(encode(PICTURE, "BMP"))
    struct.pack_into("<ll", data, 18, 1 << 30, 1)  # Pillow asks for no memory for such a row
    with pytest.raises(MemoryShortError) as caught:
        decode(bytes(data), max_pixels=1 << 31)
    assert str(caught.value) == (
        "there is not enough memory to decode an image (BMP)\n"
        "hint: fewer `workers` decode fewer images at a time"
    )


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("Failed to decode frame 0: Out of memory"),  # libavif
        ValueError("Insufficient memory (case 4)"),  # libjpeg
    ],
)
def test_each_librarys_words_for_a_lack_of_memory_are_known(error):
    assert isinstance(image_error("a picture", error), MemoryShortError)
    assert isinstance(image_error("a picture", ValueError("Bogus marker length")), ImageError)
