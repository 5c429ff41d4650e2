"""Hostile archives: each ends in samples with safe names, or in one error that names the archive.

They are written field by field, so that any field of a header can be false while the others fit.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import random
import shutil
import struct
import tarfile
import tempfile
import unicodedata
import zlib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from attacks.watching import tree_hash, watched
from regraft.config.train_config import TrainConfig
from regraft.data.scan import scan
from regraft.data.sources import tars, zips
from regraft.errors import ArchiveError, DataError, ImageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from regraft.data.ledger import Ledger
    from regraft.data.samples import Samples

CAP = 1 << 16  # bytes of one member; the real cap is larger, so that bombs here can be small
CONFIG = TrainConfig(workers=1)
LINK, PIPE, DEVICE, FOLDER = 0o120777, 0o010644, 0o020644, 0o040755

NAMES = (
    "../out.png", "rose/../../out.png", "/etc/passwd.png", "//server/share/1.png", "C:/1.png",
    "C:1.png", "\\\\server\\share\\1.png", "rose\\1.png", "..\\out.png", "rose/1.png\0.txt", "\0",
    "", ".", "..", "/", "rose", "rose/", "rose/.", "rose//1.png", "./rose/1.png", "rose/1.png",
    "ROSE/1.PNG", "Rose/1.png", "rose/1.png/2.png", "rose/con.png", "CON", "NUL.png", "aux/1.png",
    "rose/com1.png", "rose/trailing. ", "rose /1.png", "rose/1.png:stream", "rose/\u00e9.png",
    "rose/e\u0301.png", "\u212b/1.png", "rose/\x1b[2J.png", "ro\nse/1.png", "rose/\u202egnp.png",
    "\ufeffrose/1.png", "train/rose/1.png", "test/rose/1.png", "rose/" + "x" * 300 + ".png",
    "x" * 5000 + "/1.png", "/".join("d" * 300) + "/1.png", "__MACOSX/rose/._1.png", ".hidden/1.png",
    "rose/inner.zip", "rose/readme.txt", "~/1.png", "$HOME/1.png", "rose/%2e%2e/1.png",
)  # fmt: skip


@dataclass
class Member:
    """One member of a zip, with every field that can be false."""

    name: bytes
    data: bytes
    method: int = 8
    flags: int = 0x800
    crc: int | None = None
    packed: bytes | None = None
    size: int | None = None
    packed_size: int | None = None
    local_name: bytes | None = None
    local_size: int | None = None
    extra: bytes = b""
    attributes: int = 0
    system: int = 3
    offset: int | None = None
    missing: bool = False  # in the directory only


def pack(method: int, data: bytes) -> bytes:
    """Return data compressed by a method; unknown methods change nothing."""
    if method == 8:
        stream = zlib.compressobj(6, zlib.DEFLATED, -15)
        return stream.compress(data) + stream.flush()
    if method == 12:
        return bz2.compress(data)
    if method == 14:
        raw = lzma.compress(data, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA1}])
        return b"\x09\x14\x05\0]\0\0\x80\0" + raw
    return data


def build_zip(members: list[Member], end: dict[str, int] | None = None, comment: bytes = b"") -> (
    bytes
):  # fmt: skip
    """Write a zip field by field."""
    out, directory = io.BytesIO(), io.BytesIO()
    for m in members:
        packed = pack(m.method, m.data) if m.packed is None else m.packed
        crc = zlib.crc32(m.data) if m.crc is None else m.crc
        size = len(m.data) if m.size is None else m.size
        packed_size = len(packed) if m.packed_size is None else m.packed_size
        at = out.tell() if m.offset is None else m.offset
        fields = (m.flags, m.method, 0, 0x21, crc, packed_size)
        if not m.missing:
            local = m.name if m.local_name is None else m.local_name
            local_size = size if m.local_size is None else m.local_size
            out.write(struct.pack("<4sHHHHHLLLHH", b"PK\3\4", 20, *fields, local_size, len(local),
                                  len(m.extra)))  # fmt: skip
            out.write(local + m.extra + packed)
        directory.write(
            struct.pack(
                "<4sBBHHHHHLLLHHHHHLL",
                b"PK\1\2",
                20,
                m.system,
                20,
                *fields,
                size,
                len(m.name),
                len(m.extra),
                0,
                0,
                0,
                m.attributes,
                at,
            )
        )
        directory.write(m.name + m.extra)
    end_fields = {"disk": 0, "start_disk": 0, "here": len(members), "all": len(members),
            "size": directory.tell(), "at": out.tell(), **(end or {})}  # fmt: skip
    tail = struct.pack("<4sHHHHLLH", b"PK\5\6", *end_fields.values(), len(comment))
    return out.getvalue() + directory.getvalue() + tail + comment


@cache
def images() -> tuple[bytes, ...]:
    """Return tiny images."""
    found = []
    for number in range(40):
        stream = io.BytesIO()
        Image.new("RGB", (2, 2), (number, 7 * number % 256, 3)).save(stream, "PNG")
        found.append(stream.getvalue())
    return tuple(found)


def _names(chance: random.Random) -> list[str]:
    return [f"{('rose', 'tulip')[n % 2]}/{n}.png" for n in range(chance.choice((4, 12, 40)))]


def hostile_zip(chance: random.Random) -> bytes:
    """Return a zip with false fields."""
    members = [Member(name.encode(), images()[n]) for n, name in enumerate(_names(chance))]
    end: dict[str, int] = {}
    for _ in range(chance.choice((1, 1, 2, 3))):
        at = chance.randrange(len(members))
        members[at] = _falsify(members, at, chance)
        if chance.random() < 0.1:
            members.insert(chance.randrange(len(members)), replace(members[at]))
    if chance.random() < 0.2:
        key = chance.choice(("disk", "start_disk", "here", "all", "size", "at"))
        end[key] = chance.choice((0, 1, 2, 0xFFFF, 1000)) if key != "at" else chance.randrange(9999)
    data = build_zip(members, end, bytes(chance.choice((0, 0, 9, 65535))))
    return _damage(data, chance)


def _falsify(  # noqa: C901, PLR0911, PLR0912 - a list of cases
    members: list[Member], at: int, chance: random.Random
) -> Member:
    m = members[at]
    number = chance.choice((0, 1, 46, 2**16, 2**31 - 1, 2**31, 2**32 - 1, len(m.data) + 1))
    match chance.randrange(15):
        case 0 | 1 | 2:
            name = chance.choice(NAMES)
            coded = name.encode("utf-8", "surrogateescape")
            return replace(m, name=coded, flags=chance.choice((0, 0x800)), system=chance.choice(
                (0, 3, 10, 19)))  # fmt: skip
        case 3:
            return replace(m, name=chance.randbytes(chance.randrange(30)) + b".png")
        case 4:
            return replace(m, size=number)
        case 5:
            return replace(m, packed_size=number)
        case 6:
            return replace(m, local_size=number, local_name=chance.choice((None, b"other.png")))
        case 7:
            return replace(m, method=chance.choice((0, 1, 6, 8, 9, 12, 14, 93, 95, 97, 98, 99)))
        case 8:
            return replace(m, flags=chance.choice((1, 8, 0x41, 0x2041, 0x20, 0xFFFF, 0x808)))
        case 9:
            return replace(m, crc=chance.choice((0, 1, 2**32 - 1)))
        case 10:
            mode = chance.choice((LINK, PIPE, DEVICE, FOLDER, 0o140000, 0o060000, 0o170000))
            return replace(m, data=b"../../secret.png", attributes=mode << 16)
        case 11:  # a bomb, and one whose header declares a small size
            bomb = bytes(chance.choice((CAP + 1, 1 << 22)))
            return replace(m, data=chance.choice((b"", images()[0])) + bomb, size=chance.choice(
                (None, 10)))  # fmt: skip
        case 12:  # overlapping: another member's offset, or the middle of it
            return replace(m, offset=chance.randrange(60 * len(members)), missing=True)
        case 13:
            wide = struct.pack("<QQQ", *(chance.choice((0, 1, 2**40, 2**63, 2**64 - 1)) for _ in
                                         range(3)))  # fmt: skip
            extra = chance.choice((
                struct.pack("<HH", 1, 24) + wide, struct.pack("<HH", 1, 9999) + wide,
                b"\1", struct.pack("<HH", 0x7075, 9) + b"\1" + struct.pack("<L", zlib.crc32(m.name))
                + b"../a", chance.randbytes(20)))  # fmt: skip
            return replace(m, extra=extra, size=chance.choice((None, 2**32 - 1)))
        case _:
            inner = build_zip([Member(b"rose/1.png", images()[1])])
            return replace(m, data=chance.choice((inner, gzip.compress(inner), b"<html>", b"")))


def hostile_tar(chance: random.Random) -> bytes:
    """Return a tar, plain or compressed, with false fields."""
    out = io.BytesIO()
    for n, name in enumerate(_names(chance)):
        member = tarfile.TarInfo(name)
        data = images()[n]
        member.size = len(data)
        header = member.tobuf(chance.choice((tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT)))
        if chance.random() < 0.15:
            header, data = _false_header(member, data, chance)
        out.write(header + data + bytes(-len(data) % 512))
    if chance.random() < 0.9:
        out.write(bytes(10240))
    data = _damage(out.getvalue(), chance) if chance.random() < 0.5 else out.getvalue()
    match chance.randrange(6):
        case 0:
            data = gzip.compress(data, 1)
        case 1:
            data = bz2.compress(data, 1)
        case 2:
            data = lzma.compress(data, preset=0)
        case 3:
            data = gzip.compress(data[: len(data) // 2]) + gzip.compress(data[len(data) // 2 :])
        case _:
            return data
    return _damage(data, chance) if chance.random() < 0.4 else data


def _false_header(
    member: tarfile.TarInfo, data: bytes, chance: random.Random
) -> tuple[bytes, bytes]:
    match chance.randrange(8):
        case 0 | 1:
            member.name = chance.choice(NAMES)
        case 2:
            member.type = chance.choice(
                (b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"S", b"V", b"Z")
            )
            member.linkname = chance.choice(("../../secret.png", "/dev/zero", "rose/0.png", ""))
        case 3:
            member.size = chance.choice((0, 1, 513, CAP + 1, 2**33, 2**60))
        case 4:  # pax records, true and false
            key = chance.choice(("path", "size", "linkpath", "GNU.sparse.map", "GNU.sparse.size",
                                 "GNU.sparse.major", "hdrcharset", "mtime", "x"))  # fmt: skip
            value = chance.choice((*NAMES, "-1", "9" * 100, "0,1,2", "\0", "1.0", "BINARY", "nan"))
            member.pax_headers = {key: value}
        case 5:
            member.pax_headers = {"comment": "x" * chance.choice((10, 70_000))}
        case 6:
            data = bytes(chance.choice((CAP + 1, 1 << 20)))
            member.size = len(data)
        case 7:
            raw = bytearray(member.tobuf(tarfile.GNU_FORMAT))
            at = chance.choice((0, 99, 100, 108, 124, 125, 136, 156, 257, 263, 345))
            raw[at] = chance.choice((0, 0x20, 0x37, 0x80, 0xFF))
            raw[148:156] = b"%06o\0 " % (256 + sum(raw[:148]) + sum(raw[156:512]))
            return bytes(raw), data
    try:
        form = chance.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))
        return member.tobuf(form, "utf-8", "surrogateescape"), data
    except (ValueError, UnicodeError):
        return tarfile.TarInfo("rose/other.png").tobuf(), b""


def _damage(data: bytes, chance: random.Random) -> bytes:
    """Flip bits, cut, put bytes in front, or change nothing."""
    match chance.randrange(8):
        case 0:
            changed = bytearray(data)
            for _ in range(chance.choice((1, 2, 8))):
                changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
            return bytes(changed)
        case 1:
            return data[: chance.randrange(len(data))] or b"\0"
        case 2:
            return chance.randbytes(chance.randrange(99)) + data
        case _:
            return data


@cache
def _folders() -> tuple[Path, Path]:
    """Return the folder of the archives, and the folder around it, which must not change."""
    around = Path(tempfile.mkdtemp(prefix="regraft-attack-")).resolve()
    (around / "work").mkdir()
    (around / "secret.png").write_bytes(images()[39])
    (around / "work" / "rose").mkdir()
    (around / "work" / "rose" / "canary.txt").write_text("as it was", encoding="utf-8")
    import atexit  # noqa: PLC0415

    atexit.register(shutil.rmtree, around, ignore_errors=True)
    return around / "work", around


def attack(seed: int, number: int) -> str:
    """List and read one hostile archive, and check that it did nothing else."""
    chance = random.Random(f"archive {seed} {number}")
    make, suffix = chance.choice(((hostile_zip, ".zip"), (hostile_tar, ".tar")))
    folder, around = _folders()
    path = folder / f"a{suffix}"
    path.write_bytes(make(chance))
    zips.LARGEST_FILE = tars.LARGEST_FILE = CAP
    before = tree_hash(around)
    with watched(path):
        outcome = check(path)
    if tree_hash(around) != before:
        raise AssertionError("the tree around the archive has changed")
    return outcome


def check(path: Path) -> str:
    """Scan; return "samples" or the name of the typed error, and raise for anything else."""
    try:
        samples = scan(path, CONFIG)
    except ArchiveError as error:
        if path.name not in error.message:
            raise AssertionError(f"does not name the archive: {error}") from error
        return "ArchiveError"
    except DataError as error:
        if "\0" in str(error) or "\x1b" in str(error):
            raise AssertionError(f"cannot be printed: {error!r}") from error
        return "DataError"
    check_names(samples.ids, samples.classes, samples.ledger)
    check_bytes(samples)
    return "samples"


def check_names(ids: Sequence[str], classes: Sequence[str], ledger: Ledger) -> None:
    """Raise where an id leads out, a name cannot be printed, or a name is there twice."""
    for name in ids:
        parts = name.split("/")
        if ".." in parts or name.startswith("/") or "\\" in name or not parts[-1]:
            raise AssertionError(f"an unsafe name: {name!r}")
        if unicodedata.normalize("NFC", name) != name:
            raise AssertionError(f"not in NFC: {name!r}")
    for name in (*ids, *classes, *(entry.path for entry in ledger.entries)):
        name.encode()
        if any(unicodedata.category(letter) == "Cc" for letter in name):
            raise AssertionError(f"cannot be printed: {name!r}")
    used = [entry.path for entry in ledger.entries if entry.status == "used"]
    if len(set(used)) != len(used):
        raise AssertionError("one name for two images")


def check_bytes(samples: Samples) -> None:
    """Raise where a second reading gives other bytes, or more bytes than the cap."""
    for index, load in samples.stream(range(len(samples))):
        try:
            payload = load()
        except ImageError as error:
            raise AssertionError(f"the second reading failed: {error}") from error
        if len(payload) > CAP:
            raise AssertionError(f"{len(payload)} bytes; {CAP} are allowed")
        if hashlib.sha256(payload).digest() != samples.hashes[index]:
            raise AssertionError(f"{samples.ids[index]} is another image now")
