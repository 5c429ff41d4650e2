"""The decoder's table of rules, each against values by hand or files written without a library."""

import io
import itertools
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from png_files import chunk, png
from regraft.errors import ImageError
from regraft.images.decode import decode, decode_opened, image_size, inspect_header
from tiff_files import directory, tiff_file

CAP = 1_000_000
RANDOM = np.random.default_rng(0)


def refusal(data):
    with pytest.raises(ImageError) as caught:
        decode(data, CAP)
    with pytest.raises(ImageError) as again:  # a scan says the same, without decoding
        inspect_header(data, CAP)
    assert str(again.value) == str(caught.value)
    return caught.value


def grey(values):
    return np.repeat(np.array(values, np.uint8).reshape(1, -1, 1), 3, axis=2)


# --- PNG: transparent values ----------------------------------------------------------------------


def packed_row(values, depth):
    """Pack one row of samples, the first in the highest bits, after the byte of its filter."""
    bits = "".join(f"{value:0{depth}b}" for value in values)
    bits += "0" * (-len(bits) % 8)
    return b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")


@pytest.mark.parametrize("further_bits", [0, 0xFFFF])
@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_one_grey_of_a_png_is_transparent_at_every_depth(depth, further_bits):
    """Pillow compares the stored key with values that it has scaled to 8 bits."""
    largest = 2**depth - 1
    values = [*range(min(largest, 256) + 1), largest]
    for key in {0, 1, largest // 2, largest}:
        stored = key | further_bits & ~largest  # the standard: only the lowest bits count
        data = png(len(values), 1, depth, 0, packed_row(values, depth),
                   chunk(b"tRNS", struct.pack(">H", stored)))  # fmt: skip
        golden = [255 if v == key else round(v * 255 / largest) for v in values]
        np.testing.assert_array_equal(decode(data, CAP), grey(golden))
        if further_bits == 0 and depth < 16:
            np.testing.assert_array_equal(
                decode_opened(Image.open(io.BytesIO(data)), CAP), grey(golden)
            )


@pytest.mark.parametrize("interlaced", [0, 1])
def test_one_colour_of_a_png_is_transparent_in_all_its_bits(interlaced):
    """Pillow kept the high bytes only, and made colours transparent that differ in the low ones."""
    key = (0x1235, 0x5678, 0x9ABC)
    colours = [key, (0x1234, 0x5678, 0x9ABC), (0x1235, 0x5600, 0x9ABC), (0xFFFF, 0, 0x8000)]
    for pixel in colours:  # one pixel each: an interlaced row has no other order then
        row = b"\0" + struct.pack(">3H", *pixel)
        data = png(1, 1, 16, 2, row, chunk(b"tRNS", struct.pack(">3H", *key)), interlaced)
        golden = (255, 255, 255) if pixel == key else tuple(value >> 8 for value in pixel)
        assert tuple(decode(data, CAP)[0, 0]) == golden
    whole = b"\0" + b"".join(struct.pack(">3H", *pixel) for pixel in colours)
    data = png(4, 1, 16, 2, whole, chunk(b"tRNS", struct.pack(">3H", *key)))
    assert decode(data, CAP)[0].tolist() == [
        [255] * 3, [0x12, 0x56, 0x9A], [0x12, 0x56, 0x9A], [255, 0, 128]
    ]  # fmt: skip
    small = png(1, 1, 16, 2, b"\0\x12\0\x34\0\x56\0", chunk(b"tRNS", b"\0\x12\0\x34\0\x56"))
    assert decode(small, CAP)[0].tolist() == [[0x12, 0x34, 0x56]]
    eight = png(2, 1, 8, 2, b"\0\1\2\3\1\2\4", chunk(b"tRNS", b"\xab\1\0\2\0\3"))
    assert decode(eight, CAP)[0].tolist() == [[255] * 3, [1, 2, 4]]


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_png_palette_has_alpha_for_its_first_colours(depth):
    n = 2**depth
    colours = RANDOM.integers(0, 256, (n, 3))
    alpha = [0, 128, 255][: min(n, 3)] if depth > 1 else [128]
    extra = chunk(b"PLTE", colours.astype(np.uint8).tobytes()) + chunk(b"tRNS", bytes(alpha))
    data = png(n, 1, depth, 3, packed_row(range(n), depth), extra)
    shares = np.array([*alpha, *[255] * (n - len(alpha))])[:, None] / 255
    golden = colours * shares + 255 * (1 - shares)
    assert np.abs(decode(data, CAP)[0] - golden).max() <= 1


def test_pngs_are_not_changed_by_gamma_profile_or_significant_bits():
    extra = (chunk(b"gAMA", struct.pack(">L", 100_000)) + chunk(b"sBIT", b"\4")
             + chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(200))))  # fmt: skip
    data = png(3, 1, 8, 0, b"\0\x10\x80\xf0", extra)
    np.testing.assert_array_equal(decode(data, CAP), grey([0x10, 0x80, 0xF0]))


# --- PNG: EXIF in text ----------------------------------------------------------------------------


def exif_block(orientation):
    return b"MM\0*" + struct.pack(">LHHHLHH", 8, 1, 274, 3, 1, orientation, 0) + bytes(4)


def raw_profile(orientation, name=b"exif"):
    """Return the text that ImageMagick writes: a name, a length, hexadecimal lines."""
    digits = (b"Exif\0\0" + exif_block(orientation)).hex().encode()
    lines = b"\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
    return b"\n%s\n%8d\n%s\n" % (name, len(digits) // 2, lines)


TEXTS = {
    "tEXt": lambda text: chunk(b"tEXt", b"Raw profile type exif\0" + text),
    "zTXt": lambda text: chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text)),
    "iTXt": lambda text: chunk(b"iTXt", b"Raw profile type exif\0\0\0\0\0" + text),
    "iTXt, packed": lambda text: chunk(
        b"iTXt", b"Raw profile type exif\0\1\0en\0name\0" + zlib.compress(text)
    ),
    "APP1": lambda text: chunk(b"zTXt", b"Raw profile type APP1\0\0" + zlib.compress(text)),
}


@pytest.mark.parametrize("name", TEXTS)
def test_exif_in_the_text_of_a_png_turns_it(name):
    """ImageMagick wrote EXIF so until 2017, and older files are still about."""
    pixels = b"\0\1\2\3\0\4\5\6"
    rows = np.array([[1, 2, 3], [4, 5, 6]])
    for orientation, golden in {
        6: np.rot90(rows, -1),
        3: rows[::-1, ::-1],
        8: np.rot90(rows),
    }.items():
        data = png(3, 2, 8, 0, pixels, TEXTS[name](raw_profile(orientation)))
        np.testing.assert_array_equal(decode(data, CAP)[..., 0], golden)
        assert image_size(data, CAP) == golden.shape
    both = TEXTS[name](raw_profile(6)) + chunk(b"eXIf", exif_block(3))
    np.testing.assert_array_equal(
        decode(png(3, 2, 8, 0, pixels, both), CAP)[..., 0], rows[::-1, ::-1]
    )


@pytest.mark.parametrize("text", [b"", b"\nexif\n", b"\nexif\n 9\nzz", b"\nexif\n 1\nabc",
                                  b"\xff" * 9, raw_profile(9),
                                  b"\nexif\n 1\n" + b"0" * (1 << 22)])  # fmt: skip
def test_nonsense_in_the_text_of_a_png_means_upright(text):
    for write in TEXTS.values():
        data = png(3, 1, 8, 0, b"\0\1\2\3", write(text))
        np.testing.assert_array_equal(decode(data, CAP), grey([1, 2, 3]))


# --- TIFF: planes, orders, predictors -------------------------------------------------------------

LAYOUTS = [
    {"big": big, "order": order, "tile": tile, "rows": 7, "compression": compression,
     "predictor": predictor}
    for big, order, tile in itertools.product((False, True), "<>", (None, 16))
    for compression, predictor in ((1, 1), (5, 1), (5, 2), (8, 1), (8, 2))
]  # fmt: skip


@pytest.mark.parametrize("planar", [False, True], ids=["by pixel", "by plane"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_tiffs_of_every_layout_give_their_samples(channels, bits, planar):
    """Planes of 16 bits were noise; grey with alpha and big-endian BigTIFF were called corrupt."""
    samples = RANDOM.integers(0, 2**bits, (19, 23, channels)).astype(f"u{bits // 8}")
    tags = {}
    if channels in {2, 4}:  # alpha: opaque, but for one pixel
        tags[338] = (3, [2])
        samples[..., -1] = 2**bits - 1
        samples[3, 4, -1] = 0
    colours = samples[..., :1] if channels < 3 else samples[..., :3]
    golden = colours
    if bits == 16:
        golden = np.rint(colours / 257) if channels == 1 else colours // 256
    golden = np.broadcast_to(golden, (19, 23, 3)).astype(np.uint8).copy()
    if channels in {2, 4}:
        golden[3, 4] = 255
    for layout in LAYOUTS:
        data = tiff_file(samples, planar=planar, tags=tags, **layout)
        np.testing.assert_array_equal(decode(data, CAP), golden, err_msg=str(layout))


@pytest.mark.parametrize("order", "<>")
def test_samples_of_a_tiff_mean_what_its_tags_say(order):
    values = RANDOM.integers(0, 65_536, (5, 6, 5)).astype(np.uint16)
    one, three, four, five = (values[..., :n] for n in (1, 3, 4, 5))
    white = decode(tiff_file(one, order=order, tags={262: (3, [0])}), CAP)
    np.testing.assert_array_equal(white[..., :1], 255 - np.rint(one / 257))
    dropped = decode(tiff_file(five, order=order, planar=True, tags={338: (3, [0, 0])}), CAP)
    np.testing.assert_array_equal(dropped, three >> 8)
    inks = decode(tiff_file(four, order=order, planar=True, tags={262: (3, [5])}), CAP)
    light = 1 - (four >> 8) / 255
    assert np.abs(inks - 255 * light[..., :3] * light[..., 3:]).max() <= 1
    eight = (four >> 8).astype(np.uint8)
    eight[..., :3] = np.minimum(eight[..., :3], eight[..., 3:])
    premultiplied = decode(tiff_file(eight, order=order, planar=True, tags={338: (3, [1])}), CAP)
    on_white = eight[..., :3].astype(int) + 255 - eight[..., 3:]
    assert np.abs(premultiplied - on_white).max() <= 1
    assumed = decode(tiff_file(four, order=order, planar=True), CAP)  # without the tag: alpha
    told = decode(tiff_file(four, order=order, planar=True, tags={338: (3, [2])}), CAP)
    np.testing.assert_array_equal(assumed, told)
    assert (assumed != three >> 8).any()
    turned = decode(tiff_file(three, order=order, planar=True, tags={274: (3, [6])}), CAP)
    np.testing.assert_array_equal(turned, np.rot90(three >> 8, -1))


def test_a_tiff_that_pillow_has_opened_has_the_same_pixels_or_is_refused():
    values = RANDOM.integers(0, 65_536, (5, 6, 3)).astype(np.uint16)
    white = tiff_file(values[..., :1], tags={262: (3, [0])})
    np.testing.assert_array_equal(
        decode_opened(Image.open(io.BytesIO(white)), CAP), decode(white, CAP)
    )
    eight = tiff_file((values >> 8).astype(np.uint8), planar=True)
    np.testing.assert_array_equal(decode_opened(Image.open(io.BytesIO(eight)), CAP), values >> 8)
    for samples in (values, (values[..., :2] >> 8).astype(np.uint8)):
        data = tiff_file(
            samples, planar=True, tags={338: (3, [2])} if samples.shape[2] == 2 else {}
        )
        with pytest.raises(ImageError, match="separate planes, which Pillow reads wrongly"):
            decode_opened(Image.open(io.BytesIO(data)), CAP)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("photometric", [0, 1])
def test_12_bit_tiffs_are_read_in_both_orders(order, photometric):
    values = [0, 1, 2048, 4095]
    pixels = int("".join(f"{value:012b}" for value in values), 2).to_bytes(6, "big")
    tags = {256: (4, [4]), 257: (4, [1]), 258: (3, [12]), 259: (3, [1]), 262: (3, [photometric]),
            273: (4, [8]), 277: (3, [1]), 278: (4, [1]), 279: (4, [6])}  # fmt: skip
    golden = [round(value * 255 / 4095) for value in values]
    if photometric == 0:
        golden = [255 - value for value in golden]
    data = directory(pixels, tags, order=order)
    np.testing.assert_array_equal(decode(data, CAP), grey(golden))
    if order == "<" and photometric == 1:  # of the four, Pillow opens this one
        np.testing.assert_array_equal(
            decode_opened(Image.open(io.BytesIO(data)), CAP), grey(golden)
        )


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("factor", [1, 256, 257])
def test_a_tiff_palette_has_8_or_16_bits(bits, factor):
    """Values up to 255 were divided by 256: a black image."""
    n = 2**bits
    colours = RANDOM.integers(0, 256, (n, 3))
    colours[0, 0] = 255
    pixels = packed_row(range(n), bits)[1:]
    tags = {256: (4, [n]), 257: (4, [1]), 258: (3, [bits]), 259: (3, [1]), 262: (3, [3]),
            273: (4, [8]), 277: (3, [1]), 278: (4, [1]), 279: (4, [len(pixels)]),
            320: (3, (colours * factor).T.ravel().tolist())}  # fmt: skip
    data = directory(pixels, tags)
    np.testing.assert_array_equal(decode(data, CAP)[0], colours)
    np.testing.assert_array_equal(decode_opened(Image.open(io.BytesIO(data)), CAP)[0], colours)


def test_sizes_of_strips_that_are_wrong_do_no_harm_if_the_pixels_are_there():
    samples = RANDOM.integers(0, 256, (5, 6, 3)).astype(np.uint8)
    data = tiff_file(samples, tags={279: (4, [35_000_000])})
    np.testing.assert_array_equal(decode(data, CAP), samples)
    cut = tiff_file(samples, tags={279: (4, [35_000_000]), 273: (4, [len(data) - 89])})
    assert refusal_of_pixels(cut).kind == "truncated"
    too_many = tiff_file(samples, tags={258: (3, [8, 8, 8, 1])})
    np.testing.assert_array_equal(decode(too_many, CAP), samples)


@pytest.mark.parametrize("planar", [False, True])
def test_more_strips_than_the_size_needs_are_no_image(planar):
    """Pillow took the last strip for the whole image, without an error."""
    samples = RANDOM.integers(0, 256, (8, 6, 3)).astype(np.uint8)
    error = refusal_of_pixels(tiff_file(samples, planar=planar, rows=2, tags={278: (4, [2**31])}))
    found, needed = (12, 3) if planar else (4, 1)
    assert (error.kind, error.reason) == (
        "corrupt", f"the TIFF file has {found} strips or tiles; its size needs {needed} only"
    )  # fmt: skip


def refusal_of_pixels(data):
    with pytest.raises(ImageError) as caught:
        decode(data, CAP)
    return caught.value


NO_COLOURS = {
    "signed integers of 8 bits": {339: (3, [2])},
    "signed integers of 16 bits": {339: (3, [2]), 258: (3, [16])},
    "floating point numbers of 16 bits": {339: (3, [3]), 258: (3, [16])},
    "integers of 32 bits": {258: (3, [32])},
    "LAB": {262: (3, [8])},
    "raw values of a camera's sensor": {262: (3, [32_803])},
    "logarithms": {262: (3, [32_845])},
}


@pytest.mark.parametrize("name", NO_COLOURS)
def test_tiffs_without_defined_colours_are_refused_by_name(name):
    data = tiff_file(np.zeros((4, 4, 1), np.uint8), tags=NO_COLOURS[name])
    error = refusal(data)
    assert (error.kind, error.reason) == ("unsupported pixels", f"TIFF of {name}")


def test_tiffs_that_no_library_reads_here_are_unsupported_and_not_corrupt():
    bits = tiff_file(np.zeros((4, 4, 3), np.uint8), tags={258: (3, [5, 6, 5])})
    assert refusal(bits).reason == "TIFF of integers of 5 and 6 bits"
    unknown = refusal_of_pixels(tiff_file(np.zeros((4, 4, 3), np.uint8), tags={262: (3, [1])}))
    assert (unknown.kind, unknown.reason) == (
        "unsupported pixels", "TIFF of grey with 3 samples of 8 bits"
    )  # fmt: skip
    packed = refusal_of_pixels(tiff_file(np.zeros((4, 4, 1), np.uint8), tags={259: (3, [50_001])}))
    assert packed.kind == "unsupported format"
    assert packed.reason.startswith("TIFF with compression 50001")
    subsampled = refusal_of_pixels(
        tiff_file(np.zeros((4, 4, 3), np.uint8), planar=True, tags={262: (3, [6])})
    )
    assert subsampled.kind == "unsupported pixels"


# --- TIFF: thumbnails of cameras ------------------------------------------------------------------

THUMBNAIL = np.full((12, 16, 3), 99, np.uint8)


def ascii_tag(text):
    return 2, [*text.encode(), 0]


RAWS = {
    "DNG": {254: (4, [1]), 330: (4, [8]), 50_706: (1, [1, 4, 0, 0]), 271: ascii_tag("Google")},
    "NEF": {254: (4, [1]), 330: (4, [8, 9]), 271: ascii_tag("NIKON CORPORATION")},
    "ARW": {254: (4, [1]), 330: (13, [8]), 271: ascii_tag("SONY")},
    "PEF": {254: (4, [1]), 330: (4, [8]), 271: ascii_tag("PENTAX Corporation")},
}


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("suffix", RAWS)
def test_raws_of_cameras_are_refused_by_name_and_their_thumbnails_not_used(suffix, order):
    error = refusal(tiff_file(THUMBNAIL, order=order, tags=RAWS[suffix]))
    assert error.kind == "unsupported format"
    assert f"a raw camera image ({suffix})" in error.reason
    assert error.reason.endswith("develop it to JPEG or TIFF")


def test_raws_with_marks_of_their_own_are_refused_by_name():
    body = b"CR\2\0" + bytes(4) + THUMBNAIL.tobytes()
    tags = {256: (4, [16]), 257: (4, [12]), 258: (3, [8] * 3), 259: (3, [1]), 262: (3, [2]),
            273: (4, [16]), 277: (3, [3]), 278: (4, [12]), 279: (4, [576])}  # fmt: skip
    assert "(CR2)" in refusal(directory(body, tags, after=8)).reason
    for head, suffix in {b"FUJIFILMCCD-RAW 0201": "RAF", b"IIRO\x08\0\0\0": "ORF",
                         b"IIU\0\x18\0\0\0": "RW2", b"\0\0\0\x18ftypcrx ": "CR3",
                         b"II\x1a\0\0\0HEAPCCDR": "CRW"}.items():  # fmt: skip
        assert f"({suffix})" in refusal(head + bytes(40)).reason


def test_a_page_is_a_thumbnail_only_if_the_image_is_elsewhere():
    smaller = tiff_file(THUMBNAIL, tags={254: (4, [1]), 330: (4, [8])})
    assert refusal(smaller).reason == (
        "a TIFF whose first page is a smaller copy of the image (16 by 12 pixels); save the image "
        "as the first page"
    )
    for tags in ({254: (4, [1])}, {254: (4, [0]), 330: (4, [8])}, {271: ascii_tag("NIKON")}):
        np.testing.assert_array_equal(decode(tiff_file(THUMBNAIL, tags=tags), CAP), THUMBNAIL)


# --- BMP ------------------------------------------------------------------------------------------


def bmp_with_alpha(pixels):
    """Write a BMP of 32 bits with a mask for alpha, from pixels (H, W, 4) as RGBA."""
    height, width = pixels.shape[:2]
    stored = pixels[::-1, :, [2, 1, 0, 3]].tobytes()
    masks = struct.pack("<4L", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = struct.pack("<LLlHHLLLLLL", 108, width, height, 1, 32, 3, len(stored), 0, 0, 0, 0)
    head += masks + bytes(108 - 40 - 16)
    offset = 14 + len(head)
    return b"BM" + struct.pack("<LLL", offset + len(stored), 0, offset) + head + stored


def test_alpha_of_a_bmp_that_is_zero_everywhere_is_no_alpha():
    """Such files are common; they came out as a blank white image."""
    pixels = RANDOM.integers(0, 256, (4, 5, 4)).astype(np.uint8)
    pixels[..., 3] = 0
    data = bmp_with_alpha(pixels)
    np.testing.assert_array_equal(decode(data, CAP), pixels[..., :3])
    np.testing.assert_array_equal(decode_opened(Image.open(io.BytesIO(data)), CAP), pixels[..., :3])
    pixels[1, 2, 3] = 255  # now it is
    golden = np.full((4, 5, 3), 255, np.uint8)
    golden[1, 2] = pixels[1, 2, :3]
    np.testing.assert_array_equal(decode(bmp_with_alpha(pixels), CAP), golden)


# --- JPEG -----------------------------------------------------------------------------------------


def test_jpegs_say_themselves_whether_they_are_rgb():
    rows, columns = np.mgrid[0:24, 0:32]
    colours = np.stack([columns * 8, rows * 10, 255 - columns * 4], axis=-1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colours).save(buffer, "JPEG", quality=98, keep_rgb=True)
    assert np.abs(decode(buffer.getvalue(), CAP).astype(int) - colours).max() < 12


def test_stray_bytes_between_segments_of_a_jpeg_do_no_harm():
    buffer = io.BytesIO()
    Image.fromarray(THUMBNAIL).save(buffer, "JPEG")
    whole = buffer.getvalue()
    marker = whole.index(b"\xff\xdb")
    stray = (
        whole[:2] + b"\xff\xe1\0\6abcd" + bytes(16) + whole[2:marker] + bytes(5) + whole[marker:]
    )
    np.testing.assert_array_equal(decode(stray, CAP), decode(whole, CAP))
