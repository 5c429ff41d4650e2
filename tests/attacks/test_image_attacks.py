"""Six formats by twelve kinds, hostile files in a folder, bombs, and 5,000 mutants."""

import io
import itertools
import multiprocessing
import os
import signal
import socket
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from attacks.hunting import MOST_MEMORY, hunt, memory
from attacks.images import attack, check, chunk, corpus, encode
from regraft.config.train_config import TrainConfig
from regraft.data.scan import scan
from regraft.errors import ImageError
from regraft.images.decode import decode, inspect_header

CAP = 40_000_000
FORMATS = ("JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF")
LOSSY = {"JPEG"}
ROWS, COLUMNS = np.mgrid[0:24, 0:36]
RGB = np.stack([COLUMNS * 7, ROWS * 10, (ROWS + COLUMNS) * 4], axis=-1).astype(np.uint8)
PICTURE = Image.fromarray(RGB)
FEW = PICTURE.quantize(16)  # for GIF and other palettes
GREY = np.asarray(PICTURE.convert("L"))
BITS = PICTURE.convert("1")
SETTINGS = {"WebP": {"lossless": True, "exact": True}, "JPEG": {"quality": 95}}


def save(image, kind, **options):
    return encode(image, kind.upper(), **{**SETTINGS.get(kind, {}), **options})


def plain(kind, **options):
    return save(FEW if kind == "GIF" else PICTURE, kind, **options)


def pixels_of(kind):
    """Return the pixels of a plain image of a format: known ones, or Pillow's if it is lossy."""
    if kind in LOSSY:
        return np.asarray(Image.open(io.BytesIO(plain(kind))).convert("RGB"))
    return np.asarray(FEW.convert("RGB")) if kind == "GIF" else RGB


def rewritten(data, at, form, *values):
    return data[:at] + struct.pack(form, *values) + data[at + struct.calcsize(form) :]


def png_with(data, **chunks):
    """Return a PNG with chunks after its header."""
    extra = b"".join(chunk(name.encode(), content) for name, content in chunks.items())
    return data[:33] + extra + data[33:]


# --- the kinds: each returns the bytes, and the golden pixels or the kinds of refusal -------------


def truncated(kind):
    data = plain(kind)
    return data[: len(data) * 6 // 10], {"truncated"} | ({"corrupt"} if kind == "WebP" else set())


def flipped(kind):
    """Only formats with a checksum can detect that a bit of their pixels has changed."""
    data = bytearray(plain(kind))
    data[len(data) * 6 // 10] ^= 4
    return bytes(data), {"corrupt"} if kind == "PNG" else {"pixels", "corrupt", "truncated"}


def false_dimensions(kind):
    """The header declares twice the rows that are there."""
    data, refused = plain(kind), {"truncated", "corrupt"}
    if kind == "JPEG":
        return rewritten(data, data.index(b"\xff\xc0") + 5, ">H", 48), refused
    if kind == "PNG":
        return data[:8] + chunk(b"IHDR", rewritten(data[16:29], 4, ">L", 48)) + data[33:], refused
    if kind == "WebP":
        bits = struct.unpack_from("<L", data, 21)[0] & ~(0x3FFF << 14) | 47 << 14
        return rewritten(data, 21, "<L", bits), refused
    if kind == "GIF":
        at = data.index(b",\0\0\0\0")
        return rewritten(data, at + 7, "<H", 48), refused
    if kind == "BMP":
        return rewritten(data, 22, "<L", 48), refused
    return rewritten(data, _tag(data, 257) + 8, "<L", 48), refused


def _tag(data, tag):
    start = struct.unpack_from("<L", data, 4)[0] + 2
    return next(at for at in range(start, len(data), 12) if data[at : at + 2] == struct.pack(
        "<H", tag))  # fmt: skip


def empty(_kind):
    return b"", {"empty"}


def cmyk(kind):
    if kind not in {"JPEG", "TIFF"}:
        return None
    data = save(PICTURE.convert("CMYK"), kind)
    return data, np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def sixteen_bit(kind):
    if kind not in {"PNG", "TIFF"}:
        return None
    data = save(Image.fromarray(GREY.astype(np.uint16) * 257), kind)
    return data, np.dstack([GREY] * 3)


def one_bit(kind):
    if kind not in {"PNG", "GIF", "BMP", "TIFF"}:
        return None
    return save(BITS, kind), np.asarray(BITS.convert("RGB"))


def palette(kind):
    if kind not in {"PNG", "GIF", "BMP", "TIFF"}:
        return None
    return save(FEW, kind), np.asarray(FEW.convert("RGB"))


def alpha(kind):
    if kind in {"JPEG", "BMP"}:  # a BMP of 32 bits has a channel that most writers leave at zero
        return None
    if kind == "GIF":
        golden = np.asarray(FEW.convert("RGB")).copy()
        golden[np.asarray(FEW) == 3] = 255
        return save(FEW, kind, transparency=3), golden
    shade = Image.fromarray((ROWS * 10).astype(np.uint8))
    image = PICTURE.copy()
    image.putalpha(shade)
    white = Image.new("RGBA", PICTURE.size, "white")
    return save(image, kind), np.asarray(Image.alpha_composite(white, image).convert("RGB"))


def turned(orientation):
    def kind_of(kind):
        if kind in {"GIF", "BMP"}:
            return None
        exif = Image.Exif()
        exif[0x0112] = orientation
        upright = Image.fromarray(pixels_of(kind))
        upright.getexif()[0x0112] = orientation
        return plain(kind, exif=exif), np.asarray(ImageOps.exif_transpose(upright))

    return kind_of


def many_frames(kind):
    if kind == "BMP":
        return None
    others = [ImageOps.invert(PICTURE)] * 30
    if kind == "JPEG":  # a phone's MPO
        return encode(PICTURE, "MPO", save_all=True, append_images=others, quality=95), (
            pixels_of("JPEG")
        )
    first = FEW if kind == "GIF" else PICTURE
    return save(first, kind, save_all=True, append_images=others), pixels_of(kind)


def huge_metadata(kind):
    """Profiles and texts of megabytes, and of 64 MB once unpacked: none is read."""
    data, much = plain(kind), bytes(1 << 26)
    if kind == "JPEG":
        segment = b"\xff\xe2\xff\xff" + b"ICC_PROFILE\0\1\1" + bytes(65519)
        comment = b"\xff\xfe\xff\xff" + b"x" * 65533
        return data[:2] + segment * 200 + comment * 50 + data[2:], pixels_of(kind)
    if kind == "PNG":
        packed = zlib.compress(much, 1)
        extra = {"iCCP": b"a\0\0" + packed, "zTXt": b"a\0\0" + packed, "tEXt": b"a\0" + b"x" * 9999}
        return png_with(data, **extra), pixels_of(kind)
    if kind == "BMP":
        return None
    if kind == "GIF":
        comment = b"!\xfe" + (b"\xff" + b"x" * 255) * 5000 + b"\0"
        at = data.index(b",\0\0\0\0")
        return data[:at] + comment + data[at:], pixels_of(kind)
    return plain(kind, icc_profile=bytes(4 << 20)), pixels_of(kind)


def one_pixel(kind):
    image = Image.new("RGB", (1, 1), (0, 0, 0))
    return save(image, kind), np.zeros((1, 1, 3), np.uint8)


def one_column(kind):
    height = {"JPEG": 65_500, "WebP": 16_383}.get(kind, 65_535)
    return save(Image.new("L", (1, height), 0), kind), np.zeros((height, 1, 3), np.uint8)


KINDS = {
    "truncated": truncated,
    "bit-flipped": flipped,
    "false dimensions": false_dimensions,
    "empty": empty,
    "CMYK": cmyk,
    "16 bit": sixteen_bit,
    "1 bit": one_bit,
    "palette": palette,
    "alpha": alpha,
    **{f"EXIF {orientation}": turned(orientation) for orientation in range(1, 9)},
    "many frames": many_frames,
    "huge profile and text": huge_metadata,
    "1 by 1": one_pixel,
    "1 by 65535": one_column,
}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_every_format_is_golden_or_refused(name, kind):
    made = KINDS[name](kind)
    if made is None:
        pytest.skip(f"{kind} has no such kind")
    data, expected = made
    start = time.process_time()
    if isinstance(expected, set):
        assert check(data, CAP) in expected
    else:
        np.testing.assert_array_equal(decode(data, CAP), expected)
        assert inspect_header(data, CAP)[:2] == expected.shape[:2]
    assert time.process_time() - start < 5


@pytest.mark.parametrize("kind", FORMATS)
def test_the_suffix_does_not_matter(tmp_path, kind):
    for label, number in itertools.product("ab", range(3)):
        (tmp_path / label).mkdir(exist_ok=True)
        name = tmp_path / label / f"{number}.{FORMATS[number].lower()}"
        name.write_bytes(plain(kind) + bytes([number, ord(label)]) * (kind != "WebP"))
    samples = scan(tmp_path, TrainConfig())
    for _, load in samples.stream(range(6)):
        np.testing.assert_array_equal(decode(load(), CAP), pixels_of(kind))


# --- hostile files on a disk ----------------------------------------------------------------------


def test_a_folder_of_hostile_files_is_scanned_and_each_is_named(tmp_path):
    top, folder = tmp_path / "photos", tmp_path / "photos" / "rose"
    folder.mkdir(parents=True)
    (top / "tulip").mkdir()
    for number in range(300):
        noise = np.random.default_rng(number).integers(0, 256, (3, 3, 3), np.uint8)
        Image.fromarray(noise).save(top / ("rose", "tulip")[number % 2] / f"{number}.png")
    expected = {"rose/page.jpg": "not an image", "rose/empty.png": "empty"}
    (folder / "page.jpg").write_bytes(b"<!DOCTYPE html><html>not found</html>")
    (folder / "empty.png").write_bytes(b"")
    long = "x" * 240 + ".jpg"
    (folder / long).write_bytes(b"text")
    expected[f"rose/{long}"] = "not an image"
    (folder / "ünï 花 🌹.png").write_bytes(plain("PNG"))
    if os.name != "nt":
        (folder / "loop.png").symlink_to("loop.png")
        (folder / "away.png").symlink_to("/etc/passwd")
        (folder / "zero.png").symlink_to("/dev/zero")
        (folder / "gone.png").symlink_to("nothing.png")
        (folder / "up").symlink_to("..")
        os.mkfifo(folder / "pipe.png")
        (folder / "a\x1b[2J\n.png").write_bytes(plain("PNG"))
        expected |= {
            "rose/loop.png": "link loop",
            "rose/away.png": "link out of the tree",
            "rose/zero.png": "link out of the tree",
            "rose/gone.png": "broken link",
            "rose/up": "link to a folder",
            "rose/pipe.png": "not a regular file",
            "rose/a\\x1b[2J\\n.png": "unreadable name",
        }
        if hasattr(socket, "AF_UNIX") and len(str(folder)) < 90:
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(str(folder / "socket.png"))
            expected["rose/socket.png"] = "not a regular file"
        if os.geteuid() != 0:  # nothing is unreadable to root
            (folder / "locked.png").write_bytes(plain("PNG"))
            (folder / "locked.png").chmod(0)
            expected["rose/locked.png"] = "unreadable"
    start = time.perf_counter()
    samples = scan(top, TrainConfig())
    assert time.perf_counter() - start < 5
    refused = {e.path: e.kind for e in samples.ledger.entries if e.status == "refused"}
    assert refused == expected
    assert len(samples) == 301
    assert all(entry.reason for entry in samples.ledger.entries if entry.status == "refused")


# --- bombs ----------------------------------------------------------------------------------------

SIDE = 65_000


def bomb(kind):
    """A few bytes that declare 4,225 million pixels, or WebP's most."""
    if kind == "JPEG":
        data = plain("JPEG", progressive=True)
        return rewritten(data, data.index(b"\xff\xc2") + 5, ">HH", SIDE, SIDE)
    if kind == "PNG":
        header = struct.pack(">LLBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
        pixels = zlib.compress(bytes(1 << 24))
        return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels)
                + chunk(b"IEND", b""))  # fmt: skip
    if kind == "WebP":
        return b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\0"
    if kind == "GIF":
        data = rewritten(plain("GIF"), 6, "<HH", SIDE, SIDE)
        return rewritten(data, data.index(b",\0\0\0\0") + 5, "<HH", SIDE, SIDE)
    if kind == "BMP":
        return rewritten(plain("BMP"), 18, "<LL", SIDE, SIDE)
    data = plain("TIFF", compression="tiff_adobe_deflate")
    for tag in (256, 257, 278):
        at = _tag(data, tag)
        data = rewritten(rewritten(data, at + 2, "<HL", 4, 1), at + 8, "<L", SIDE)
    return data


def newer_bomb(kind):
    """The same for AVIF and HEIC, whose sizes stand in a box, and for JPEG 2000."""
    if kind == "JPEG 2000":
        data = encode(PICTURE, "JPEG2000")
        data = rewritten(data, data.index(b"ihdr") + 4, ">LL", SIDE, SIDE)
        return rewritten(data, data.index(b"\xff\x51") + 6, ">6L", SIDE, SIDE, 0, 0, SIDE, SIDE)
    data = encode(PICTURE, kind)
    return rewritten(data, data.index(b"ispe") + 8, ">LL", SIDE, SIDE).replace(b"clap", b"free")


def _decode_all(files, send):
    check(files[0], CAP)
    before, outcomes = memory(), []
    for data in files:
        start = time.perf_counter()
        outcomes.append((check(data, CAP), time.perf_counter() - start))
    send.send((outcomes, memory() - before))


def in_a_child(files):
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=_decode_all, args=(files, send))
    child.start()
    send.close()
    result = receive.recv()
    child.join()
    return result


def test_bombs_are_refused_before_they_are_decoded():
    bombs = [*map(bomb, FORMATS), *map(newer_bomb, ("AVIF", "HEIC", "JPEG 2000"))]
    outcomes, grown = in_a_child([corpus()[0][1], *bombs])
    assert [outcome for outcome, _ in outcomes[1:]] == ["too many pixels"] * len(bombs)
    assert max(seconds for _, seconds in outcomes) < 1
    assert grown < 20 << 20


def test_endless_headers_cost_neither_time_nor_memory():
    """Each made the reader of headers run for minutes, or hold gigabytes, before it had bounds."""
    much = 40 << 20
    tags = struct.pack("<H", 3) + b"".join(
        struct.pack("<HHLL", *entry)
        for entry in ((256, 4, 1, 8), (257, 4, 1, 8), (273, 4, much // 4 - 9, 8))
    )
    files = {
        "JPEG of fill bytes": b"\xff\xd8\xff" + b"\xff" * much,
        "JPEG of empty segments": b"\xff\xd8" + b"\xff\xe5\0\2" * (much // 4),
        "JPEG of bare markers": b"\xff\xd8" + b"\xff\xd0" * (much // 2),
        "JPEG without markers": b"\xff\xd8\xff\xe0\0\2" + bytes(much),
        "GIF of zeros": b"GIF89a\1\0\1\0\0\0\0" + bytes(much),
        "GIF of small blocks": b"GIF89a\1\0\1\0\0\0\0!\xfe" + b"\1x" * (much // 2),
        "GIF of empty extensions": b"GIF89a\1\0\1\0\0\0\0" + b"!\xfe\0" * (much // 3),
        "PNG of empty chunks": plain("PNG")[:33] + chunk(b"tEXt", b"") * (much // 12),
        "TIFF with strips without end": b"II*\0" + struct.pack("<L", much) + bytes(much - 8) + tags,
        "BigTIFF of entries": b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, much // 20) + bytes(much),
    }
    files |= endless_boxes()
    outcomes, grown = in_a_child([corpus()[0][1], *files.values()])
    for name, (outcome, seconds) in zip(files, outcomes[1:], strict=True):
        assert outcome in {"truncated", "corrupt", "empty"}, name
        assert seconds < 5, name
    assert grown < MOST_MEMORY


def box(name, *contents):
    content = b"".join(contents)
    return struct.pack(">L4s", 8 + len(content), name) + content


def avif_of(*boxes, items=1):
    """Return an AVIF of items that are coded as AV1, with the given boxes beside."""
    entries = b"".join(
        box(b"infe", struct.pack(">LHH4s", 2 << 24, number, 0, b"av01"))
        for number in range(1, items + 1)
    )
    meta = box(b"meta", bytes(4), box(b"pitm", bytes(4), b"\0\1"),
               box(b"iinf", struct.pack(">LH", 0, items), entries), *boxes)  # fmt: skip
    return box(b"ftyp", b"avif\0\0\0\0") + meta


def endless_boxes():
    """AVIFs whose boxes refer to much, or to the same bytes over and over."""
    ispe = box(b"ispe", bytes(4), struct.pack(">LL", 9, 9))
    links = [struct.pack(">LBB", number, 1, 1) for number in range(1, 1501)]
    sized = box(b"iprp", box(b"ipco", ispe),
                box(b"ipma", struct.pack(">LL", 1 << 24, len(links)), *links))  # fmt: skip
    one = struct.pack(">HHH", 1, 0, 1) + struct.pack(">LL", 0, 0)
    zero_sizes = struct.pack(">LHH", 0, 0, 16_000) + struct.pack(">HHH", 1, 0, 65_535) * 16_000
    to = [struct.pack(">H", number) for number in range(2, 1501)]
    grid = box(b"iref", bytes(4), box(b"dimg", struct.pack(">HH", 1, len(to)), *to))
    whole = [struct.pack(">HHH", number, 0, 1) + bytes(8) for number in range(1, 1501)]
    short = box(b"iref", bytes(4), *[box(b"dimg", struct.pack(">HH", 1, 65_535))] * 15_000)
    much = box(b"mdat", b"\x12\0" * (5 << 20))
    return {
        "AVIF of boxes": avif_of(box(b"free") * (1 << 22)),
        "AVIF of pieces without bytes": avif_of(box(b"iloc", zero_sizes), sized),
        "AVIF of references": avif_of(
            box(b"iloc", struct.pack(">LHH", 0, 0x4400, 1), one), sized, short
        ),
        "AVIF of items that share a file": avif_of(
            box(b"iloc", struct.pack(">LHH", 0, 0x4400, 1500), *whole), sized, grid, items=1500
        )
        + much,
    }


# --- mutants --------------------------------------------------------------------------------------


def test_mutants_end_in_pixels_or_in_an_image_error():
    report = hunt(attack, 5_000, seed=0)
    assert not report.findings, str(report)
    assert report.cases == report.outcomes.total() == 5_000
    assert set(report.outcomes) > {"pixels", "truncated", "corrupt", "empty", "too many pixels"}


def wrong(_seed, number):
    """Do everything that must be found."""
    match number:
        case 40:
            raise ZeroDivisionError("as some decoder might")
        case 70 if os.name != "nt":
            os.kill(os.getpid(), signal.SIGSEGV)
        case 110:
            time.sleep(60)  # in C, like a decoder that never returns
        case 150:
            hold = np.ones(300 << 20, np.uint8)
            return f"fine, {hold[0]}"
        case 160:
            raise SystemExit(3)
    return "fine"


def test_the_harness_finds_what_it_must(monkeypatch):
    report = hunt(wrong, 200, seed=7, patience=3)
    assert report.findings[40].startswith("ZeroDivisionError at test_image_attacks.py:")
    assert report.findings[110] == "it took more than 3 s, or left the process"
    assert report.findings[160] == "it took more than 3 s, or left the process"
    if os.name != "nt":
        assert report.findings[70] == "killed by SIGSEGV"
        assert report.findings[150].startswith("memory grew from ")
    assert len(report.findings) == (5 if os.name != "nt" else 3)
    assert "FOUND seed 7 number 40: ZeroDivisionError" in str(report)
    alone = hunt(wrong, 1, seed=7, first=40)
    assert list(alone.findings) == [40]


def test_a_check_that_cannot_be_met_is_a_finding(monkeypatch):
    monkeypatch.setattr("attacks.images.decode", lambda *_: np.zeros((1, 2, 3), np.uint8))
    with pytest.raises(AssertionError, match="announced as"):
        check(plain("PNG"), CAP)
    monkeypatch.setattr("attacks.images.decode", _fails)
    with pytest.raises(AssertionError, match="not a kind and a reason"):
        check(plain("PNG"), CAP)


def _fails(data, cap):
    raise ImageError("surprising", "an unknown kind")
