"""Zip archives are read member by member, from several threads, and never extracted."""

import stat
import struct
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from image_trees import FLOWERS, encoded, left_out, read_all, write_zip
from regraft.data.sources import zips
from regraft.data.sources.options import SourceOptions
from regraft.data.sources.unlabelled import open_unlabelled
from regraft.data.sources.zips import open_zip
from regraft.errors import ArchiveError, DataError, ImageError

OPTIONS = SourceOptions()


def special(name, mode):
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = mode << 16
    return info


@pytest.mark.parametrize(
    "compression",
    [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA],
)
def test_members_are_read(tmp_path, compression):
    files = {f"flowers/{name}": content for name, content in FLOWERS.items()}
    source = open_zip(write_zip(tmp_path / "flowers.zip", files, compression), OPTIONS)
    assert list(read_all(source).items()) == list(FLOWERS.items())
    assert [item.name for item in tmp_path.iterdir()] == ["flowers.zip"]


def test_many_threads_read_the_same_archive(tmp_path):
    files = {f"{label}/{number}.png": encoded(number, height=40, width=40)
             for label in "ab" for number in range(100)}  # fmt: skip
    source = open_zip(write_zip(tmp_path / "a.zip", files), OPTIONS)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            loads = [load for _, load in source.stream(range(len(files)))]
            read = list(pool.map(lambda load: load(), loads))
            assert read == [files[name] for name in sorted(files)]


def test_unsafe_members_are_refused_by_name(tmp_path):
    path = write_zip(tmp_path / "a.zip", FLOWERS)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../escape.png", encoded(1))
        archive.writestr("/etc/absolute.png", encoded(1))
        archive.writestr("C:/drive.png", encoded(1))
        archive.writestr(special("rose/link.png", stat.S_IFLNK | 0o777), "1.png")
        archive.writestr(special("rose/pipe.png", stat.S_IFIFO | 0o644), "")
        archive.writestr("__MACOSX/rose/._1.png", b"x")
        archive.writestr("rose/readme", b"text")
        archive.mkdir("empty")
    source = open_zip(path, OPTIONS)
    assert {entry.id for entry in source.entries} == set(FLOWERS)
    assert left_out(source) == {
        "../escape.png": ("refused", "unsafe name"),
        "/etc/absolute.png": ("refused", "unsafe name"),
        "C:/drive.png": ("refused", "unsafe name"),
        "rose/link.png": ("refused", "link"),
        "rose/pipe.png": ("refused", "not a regular file"),
        "__MACOSX/rose/._1.png": ("passed over", "hidden file"),
        "rose/readme": ("passed over", "not an image"),
    }


def test_a_name_with_a_nul_byte_is_refused(tmp_path):
    path = write_zip(tmp_path / "a.zip", {**FLOWERS, "rose/1.png@.txt": encoded(5)})
    path.write_bytes(path.read_bytes().replace(b"1.png@", b"1.png\0"))
    source = open_zip(path, OPTIONS)
    assert left_out(source) == {r"rose/1.png\x00.txt": ("refused", "unsafe name")}


def test_an_encrypted_member_is_refused(tmp_path):
    path = write_zip(tmp_path / "a.zip", {**FLOWERS, "rose/locked.png": b"secret"})
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\x01\x02", 0, content.rindex(b"rose/locked.png"))
    content[at + 8] |= 1  # bit 0 of the flags in the central directory
    path.write_bytes(content)
    assert left_out(open_zip(path, OPTIONS)) == {"rose/locked.png": ("refused", "encrypted")}


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_the_second_member_of_a_name_is_refused(tmp_path):
    path = write_zip(tmp_path / "a.zip", FLOWERS)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("rose/1.png", encoded(99))
    source = open_zip(path, OPTIONS)
    assert read_all(source) == FLOWERS
    assert left_out(source) == {"rose/1.png": ("refused", "duplicate name")}


def test_two_forms_of_one_name_are_the_same_name(tmp_path):
    files = {**FLOWERS, "rose/\u00e9.png": encoded(7), "rose/e\u0301.png": encoded(8)}
    source = open_zip(write_zip(tmp_path / "a.zip", files), OPTIONS)
    assert read_all(source)["rose/\u00e9.png"] == encoded(7)
    assert left_out(source) == {"rose/\u00e9.png": ("refused", "duplicate name")}


def test_a_damaged_member_is_refused_and_the_others_are_read(tmp_path):
    path = write_zip(tmp_path / "a.zip", FLOWERS, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[content.index(FLOWERS["rose/2.png"]) + 50] ^= 1
    path.write_bytes(content)
    source = open_zip(path, OPTIONS)
    loads = dict(source.stream([0, 1, 2]))
    assert loads[0]() == FLOWERS["rose/1.png"]
    with pytest.raises(ImageError, match=r"damaged member: Bad CRC-32 for file 'rose/2.png'"):
        loads[1]()
    assert loads[2]() == FLOWERS["tulip/1.png"]


def test_real_bytes_are_counted_and_not_the_declared_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(zips, "LARGEST_FILE", 1000)
    path = write_zip(tmp_path / "a.zip", {**FLOWERS, "rose/bomb.png": bytes(5_000_000)})
    loads = dict(open_zip(path, OPTIONS).stream([2]))
    with pytest.raises(ImageError, match="too large: it has more than 1000 bytes"):
        loads[2]()
    content = path.read_bytes()  # the same with a false header: the checksum fails
    path.write_bytes(content.replace(struct.pack("<I", 5_000_000), struct.pack("<I", 10)))
    loads = dict(open_zip(path, OPTIONS).stream([2]))
    with pytest.raises(ImageError, match="damaged member: Bad CRC-32"):
        loads[2]()


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut short"])
def test_what_is_no_zip_is_named(tmp_path, content):
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(ArchiveError, match=r"a\.zip cannot be read as a zip: "):
        open_zip(tmp_path / "a.zip", OPTIONS)


def test_a_zip_that_is_cut_short_is_named(tmp_path):
    path = write_zip(tmp_path / "a.zip", FLOWERS)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ArchiveError, match=r"a\.zip cannot be read as a zip"):
        open_zip(path, OPTIONS)


def test_a_zip_without_images_is_named(tmp_path):
    with pytest.raises(DataError, match=r"a\.zip holds no images"):
        open_zip(write_zip(tmp_path / "a.zip", {"readme.txt": b"x"}), OPTIONS)


def test_the_content_makes_a_zip_and_not_the_suffix(tmp_path):
    assert open_zip(write_zip(tmp_path / "flowers", FLOWERS), OPTIONS).kind == "zip"


@pytest.mark.parametrize("system", [0, 3, 10, 19])
def test_utf_8_names_without_the_flag_are_read_as_they_were_meant(tmp_path, system):
    """Info-ZIP on Linux writes them so; zipfile alone would name the class G├ñnse."""
    path = tmp_path / "birds.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("Gxxnse/1.png", "Enten/1.png"):
            info = zipfile.ZipInfo(name)
            info.create_system = system
            archive.writestr(info, encoded(1))
    path.write_bytes(path.read_bytes().replace(b"Gxxnse", "Gänse".encode()))
    source = open_zip(path, OPTIONS)
    assert {entry.label for entry in source.entries} == {"Enten", "Gänse"}


def test_the_name_in_the_unicode_field_counts_where_its_checksum_fits(tmp_path):
    path = tmp_path / "birds.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, meant, right in (("G_nse/1.png", "Gänse/1.png", 0), ("E/1.png", "X/1.png", 1)):
            info = zipfile.ZipInfo(name)
            checksum = zlib.crc32(name.encode()) ^ right
            field = struct.pack("<BI", 1, checksum) + meant.encode()
            info.extra = struct.pack("<HH", 0x7075, len(field)) + field
            archive.writestr(info, encoded(1))
    source = open_zip(path, OPTIONS)
    assert {entry.label for entry in source.entries} == {"E", "Gänse"}


def in_code_page(path, names, page):
    """Write a zip as old programs on Windows do: names in a code page, and no sign of it."""
    stand_ins = {name: f"{'x' * len(name.encode(page))}" for name in names}
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(names):
            info = zipfile.ZipInfo(f"{number}{stand_ins[name]}/1.png")
            info.create_system = 0
            archive.writestr(info, encoded(number))
    content = path.read_bytes()
    for number, name in enumerate(names):
        content = content.replace(f"{number}{stand_ins[name]}/".encode(),
                                  f"{number}".encode() + name.encode(page) + b"/")  # fmt: skip
    path.write_bytes(content)
    return path


def test_names_in_the_code_page_of_old_programs_are_read_and_told(tmp_path):
    path = in_code_page(tmp_path / "birds.zip", ["Gänse", "Zoé", "Enten"], "cp437")
    source = open_zip(path, OPTIONS)
    assert {entry.label for entry in source.entries} == {"0Gänse", "1Zoé", "2Enten"}
    expected = (
        f"{path}: 2 names are not marked as UTF-8 and read in code page 437, such as "
        "0Gänse/1.png: if it looks wrong, unpack the zip where it was made and give the folder, or "
        "make it again with names in UTF-8"
    )
    assert source.notes == (expected,)
    assert open_unlabelled([str(path)]).notes == (expected,)


def test_names_in_another_code_page_are_told_to_be_a_guess(tmp_path):
    source = open_zip(in_code_page(tmp_path / "a.zip", ["花", "x"], "gbk"), OPTIONS)
    assert len(source.entries) == 2
    assert "1 name is not marked as UTF-8" in source.notes[0]


def test_names_of_letters_alone_are_no_guess(tmp_path):
    assert open_zip(in_code_page(tmp_path / "a.zip", ["a", "b"], "ascii"), OPTIONS).notes == ()
