"""AVIF, HEIC and JPEG 2000: pixels, turns, crops, and bounds before anything is decoded."""

import io
import struct

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageOps, UnidentifiedImageError

from regraft.data.sources.members import has_image_magic, has_image_suffix
from regraft.errors import ImageError
from regraft.images import decode as decoder
from regraft.images import isobmff
from regraft.images.coded_size import av1_sizes, hevc_sizes
from regraft.images.decode import decode, image_size, inspect_header

CAP = 1_000_000
ROWS, COLUMNS = np.mgrid[0:48, 0:70]
RGB = np.stack([COLUMNS * 3, ROWS * 5, (ROWS + COLUMNS) * 2], axis=-1).astype(np.uint8)
ALPHA = np.where(COLUMNS < 35, 255, 0).astype(np.uint8)
WHITE_BEHIND = np.where(ALPHA[..., None] == 255, RGB, 255)
PICTURE, SEEN_THROUGH = Image.fromarray(RGB), Image.fromarray(np.dstack([RGB, ALPHA]))


def avif(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "AVIF", **{"quality": 95, "subsampling": "4:4:4", "speed": 9, **options})
    return buffer.getvalue()


def heic(image, **options):
    """Encode without loss: colours are stored as they are."""
    buffer = io.BytesIO()
    settings = {"quality": -1, "chroma": 444, "matrix_coefficients": 0, **options}
    pillow_heif.from_pillow(image).save(buffer, **settings)
    return buffer.getvalue()


def jpeg_2000(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG2000", **options)
    return buffer.getvalue()


GREY = Image.fromarray(RGB[..., 0])
FILES = {
    "AVIF": (avif(PICTURE), RGB, 4),
    "AVIF, grey": (avif(GREY), np.dstack([RGB[..., 0]] * 3), 4),
    "AVIF, alpha": (avif(SEEN_THROUGH), WHITE_BEHIND, 6),
    "AVIF, sequence": (avif(PICTURE, save_all=True, append_images=[PICTURE.rotate(9)]), RGB, 4),
    "HEIC": (heic(PICTURE), RGB, 0),
    "HEIC, grey": (heic(GREY), np.dstack([RGB[..., 0]] * 3), 0),
    "HEIC, alpha": (heic(SEEN_THROUGH), WHITE_BEHIND, 0),
    "HEIC, in a grid": (heic(Image.fromarray(np.tile(RGB, (3, 3, 1))), tile_size=64),
                        np.tile(RGB, (3, 3, 1)), 0),
    "JPEG 2000": (jpeg_2000(PICTURE), RGB, 0),
    "JPEG 2000, bare": (jpeg_2000(PICTURE, no_jp2=True), RGB, 0),
    "JPEG 2000, tiles": (jpeg_2000(PICTURE, tile_size=(32, 32)), RGB, 0),
    "JPEG 2000, alpha": (jpeg_2000(SEEN_THROUGH), WHITE_BEHIND, 0),
    "JPEG 2000, 16 bit": (
        jpeg_2000(Image.fromarray(RGB[..., 0].astype(np.uint16) * 257)),
        np.dstack([RGB[..., 0]] * 3), 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_pixels_are_those_that_were_encoded(name):
    data, golden, most = FILES[name]
    header = inspect_header(data, CAP)
    assert header[:2] == golden.shape[:2]
    assert header.has_more_frames == ("sequence" in name)
    assert header.has_16_bits == ("16 bit" in name)
    image = decode(data, CAP)
    assert np.abs(image.astype(int) - golden).max() <= most
    assert image.flags.c_contiguous
    assert has_image_magic(data[:16])


def test_of_a_sequence_the_still_picture_is_read_and_not_the_track():
    """Only the still one is checked before it is decoded."""
    data = FILES["AVIF, sequence"][0]
    assert data[8:12] == b"avis"
    header = data.index(b"tkhd") - 4
    sides = header + int.from_bytes(data[header : header + 4], "big") - 8  # its last two numbers
    track = data[:sides] + struct.pack(">LL", 999 << 16, 999 << 16) + data[sides + 8 :]
    assert Image.open(io.BytesIO(track)).size == (999, 999)
    np.testing.assert_array_equal(decode(track, CAP), decode(data, CAP))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("encode", [avif, heic])
def test_turns_and_mirrors_of_the_file_are_applied_once(encode, orientation):
    """Writers store the turn beside EXIF: applied from both, photographs would lie on a side."""
    picture = PICTURE.copy()
    picture.getexif()[0x0112] = orientation
    data = encode(PICTURE, exif=picture.getexif().tobytes())
    golden = np.asarray(ImageOps.exif_transpose(picture))
    assert image_size(data, CAP) == golden.shape[:2]
    assert np.abs(decode(data, CAP).astype(int) - golden).max() <= 4


@pytest.mark.parametrize("encode", [avif, heic])
def test_exif_alone_turns_nothing_and_nonsense_in_it_is_silent(encode):
    exif = Image.Exif()
    exif[0x010E] = "a description of some length"
    data = encode(PICTURE, exif=exif.tobytes())
    at = max(data.find(b"MM\0*"), data.find(b"II*\0"))
    turned = b"MM\0*" + struct.pack(">LHHHLHH", 8, 1, 274, 3, 1, 6, 0) + bytes(4)
    nonsense = b"MM\0*" + struct.pack(">LH", 8, 0xFFFF)
    for block in (turned, nonsense):
        changed = data[:at] + block + data[at + len(block) :]
        np.testing.assert_array_equal(decode(changed, CAP), decode(encode(PICTURE), CAP))


def test_a_crop_in_the_file_is_applied():
    """HEIC of sides that are not even is coded larger, and cropped; an AVIF may be, too."""
    odd = RGB[:47, :69]
    np.testing.assert_array_equal(decode(heic(Image.fromarray(odd)), CAP), odd)
    assert image_size(heic(Image.fromarray(odd)), CAP) == (47, 69)
    data = with_crop(avif(PICTURE), top=8, left=10, height=20, width=30)
    assert image_size(data, CAP) == (20, 30)
    assert np.abs(decode(data, CAP).astype(int) - RGB[8:28, 10:40]).max() <= 4


def with_crop(data, top, left, height, width):
    """Insert a clean aperture into an AVIF of one item with few properties."""
    across = (2 * left + width - RGB.shape[1], 2)  # offsets of the centre, in halves
    down = (2 * top + height - RGB.shape[0], 2)
    clap = struct.pack(">L4sLLLLlLlL", 40, b"clap", width, 1, height, 1, *across, *down)
    boxes = {name: data.index(name) - 4 for name in (b"meta", b"iprp", b"ipco", b"ipma", b"iloc")}
    size = {name: int.from_bytes(data[at : at + 4], "big") for name, at in boxes.items()}
    changed = bytearray(data)
    for name, more in {b"meta": 41, b"iprp": 41, b"ipco": 40, b"ipma": 1}.items():
        changed[boxes[name] : boxes[name] + 4] = struct.pack(">L", size[name] + more)
    offset = boxes[b"iloc"] + 8 + 4 + 2 + 2 + 2 + 2 + 2  # the only extent's
    where = struct.unpack_from(">L", data, offset)[0]
    changed[offset : offset + 4] = struct.pack(">L", where + 41)
    number = count_boxes(data[boxes[b"ipco"] + 8 : boxes[b"ipco"] + size[b"ipco"]]) + 1
    held = boxes[b"ipma"] + 8 + 4 + 4 + 2
    changed[held] += 1
    changed.insert(boxes[b"ipma"] + size[b"ipma"], 0x80 | number)
    at = boxes[b"ipco"] + size[b"ipco"]
    changed[at:at] = clap
    return bytes(changed)


def count_boxes(data):
    at = number = 0
    while at < len(data):
        at, number = at + int.from_bytes(data[at : at + 4], "big"), number + 1
    return number


def with_size(data, height, width):
    """Declare another size in the boxes of an AVIF or HEIC; the coded picture stays as it is."""
    at = data.index(b"ispe") + 8
    return data[:at] + struct.pack(">LL", width, height) + data[at + 8 :]


def test_no_picture_is_decoded_that_is_larger_than_it_says(monkeypatch):
    """Encoding 9 million pixels takes seconds, so the bound is lowered: 8 times 4,096 pixels."""
    monkeypatch.setattr(isobmff, "_SMALL", 1 << 12)
    flat = Image.new("L", (320, 320), 77)
    for encode in (avif, heic):
        data = encode(flat, quality=10)
        for read in (image_size, decode):
            with pytest.raises(ImageError) as caught:
                read(data, 10_000)
            assert caught.value.kind == "too many pixels"
            with pytest.raises(ImageError) as caught:
                read(with_size(data, 60, 60), 10_000)
            assert caught.value.kind == "corrupt"
            assert caught.value.reason.startswith("a picture of 3,600 pixels, coded in pictures of")
        with pytest.raises(ImageError) as caught:
            image_size(with_size(data, 2**32 - 1, 2**32 - 1), 40_000_000)
        assert caught.value.kind == "too many pixels"


def test_jpeg_2000_is_bounded_by_its_codestream():
    data = jpeg_2000(PICTURE)
    at = data.index(b"\xff\x4f\xff\x51") + 8
    for write, kind in {
        (0, struct.pack(">LL", 60_000, 60_000)): "too many pixels",
        (16, struct.pack(">LL", 1, 1)): "corrupt",
        (16, struct.pack(">LL", 0, 8)): "corrupt",
        (8, struct.pack(">LL", 70, 48)): "empty",
        (32, struct.pack(">H", 200)): "unsupported format",
    }.items():
        place, value = write
        with pytest.raises(ImageError) as caught:
            image_size(data[: at + place] + value + data[at + place + len(value) :], CAP)
        assert caught.value.kind == kind


@pytest.mark.parametrize("size", [2**63, 2**64 - 1])
def test_a_box_that_ends_after_all_memory_is_a_cut_file(size):
    start = jpeg_2000(PICTURE)[:12]
    with pytest.raises(ImageError) as caught:
        image_size(start + struct.pack(">L4sQ", 1, b"ftyp", size) + bytes(99), CAP)
    assert caught.value.kind == "truncated"


@pytest.mark.parametrize("name", FILES)
def test_files_that_end_early_are_refused(name):
    data = FILES[name][0]
    for share in (0.2, 0.5, 0.8, 0.97):
        with pytest.raises(ImageError) as caught:
            decode(data[: int(len(data) * share)], CAP)
        assert caught.value.kind in {"truncated", "corrupt"}


def test_coded_sizes_are_read_from_headers_written_by_hand():
    sps = bits(
        "0000 000 1" + "0" * 96, exp_golomb(0), exp_golomb(1), exp_golomb(321), exp_golomb(123), "1"
    )
    unit = b"\x42\x01" + sps.replace(b"\0\0", b"\0\0\3")
    in_box = bytes(22) + b"\1" + b"\x21\0\1" + struct.pack(">H", len(unit)) + unit
    assert list(hevc_sizes(in_box, b"")) == [(321, 123)]
    in_item = b"\0\0\0\2\x26\1" + struct.pack(">L", len(unit)) + unit
    assert list(hevc_sizes(bytes(21) + b"\3\0", in_item)) == [(321, 123)]
    short = bits("000 1 1 00000", "1000 0111", f"{321 - 1:09b}", f"{123 - 1:08b}")
    assert list(av1_sizes(b"", b"\x12\0\x0a" + bytes([len(short)]) + short)) == [(321, 123)]
    long = bits("000 0 0", "1", "0" * 64, "0", "1", "00011" + "0" * 42, "1", "00001",
                "0" * 12 + "01000" + "0" + "1" + "0" * 9 + "1" + "0" * 4,
                "0" * 12 + "00000" + "0" + "0", "1000 0111", f"{320:09b}",
                f"{122:08b}")  # fmt: skip
    assert list(av1_sizes(b"\x81\0\0\0\x0a" + bytes([len(long)]) + long, b"")) == [(321, 123)]


def bits(*parts):
    text = "".join(parts).replace(" ", "")
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def exp_golomb(value):
    """Return an unsigned number in Exp-Golomb code."""
    binary = f"{value + 1:b}"
    return "0" * (len(binary) - 1) + binary


def test_heic_is_read_without_a_trace_in_pillow():
    data = FILES["HEIC"][0]
    decode(data, CAP)
    assert not {"HEIF", "HEIC"} & {*Image.OPEN}
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(data))


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setattr(decoder, "_heif_version", lambda: None)
    for read in (image_size, decode):
        with pytest.raises(ImageError) as caught:
            read(FILES["HEIC"][0], CAP)
        assert str(caught.value) == (
            "unsupported format: a HEIC image; pip install 'regraft[heif]'"
        )
    assert "None" not in decoder._decoder_version()


def test_what_this_pillow_was_built_without_is_named(monkeypatch):
    monkeypatch.setattr(decoder.features, "check", lambda name: name not in {"avif", "jpg_2000"})
    for name in ("AVIF", "JPEG 2000"):
        with pytest.raises(ImageError) as caught:
            decode(FILES[name][0], CAP)
        assert caught.value.reason == f"{name}, which this build of Pillow does not read"


def test_brands_decide_between_avif_and_heic():
    head = struct.pack(">L", 24) + b"ftypmif1\0\0\0\0mif1"
    for brand, reason in {b"avif": "box meta", b"heic": "box meta"}.items():
        with pytest.raises(ImageError, match=reason):
            decode(head + brand + bytes(8), CAP)
    either = FILES["AVIF"][0].replace(b"ftypavif", b"ftypmif1", 1)
    np.testing.assert_array_equal(decode(either, CAP), decode(FILES["AVIF"][0], CAP))
    with pytest.raises(ImageError, match="a video"):
        decode(struct.pack(">L", 20) + b"ftypisom" + bytes(20), CAP)
    assert all(map(has_image_suffix, ["a.heic", "a.HEIF", "a.avif", "a.jp2", "a.j2k", "a.NEF"]))
