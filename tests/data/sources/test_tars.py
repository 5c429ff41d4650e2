"""Tar archives are read by offset or from front to back, and never extracted."""

import gzip
import io
import tarfile

import pytest

from image_trees import FLOWERS, encoded, left_out, read_all, write_tar
from regraft.data.sources import tars
from regraft.data.sources.options import SourceOptions
from regraft.data.sources.tars import open_tar
from regraft.errors import ArchiveError, DataError, ImageError

OPTIONS = SourceOptions()
KINDS = {"a.tar": "w", "a.tar.gz": "w:gz", "a.tgz": "w:gz", "a.tar.bz2": "w:bz2",
         "a.tar.xz": "w:xz"}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_members_are_read(tmp_path, name):
    files = {f"./top/{key}": content for key, content in FLOWERS.items()}
    source = open_tar(write_tar(tmp_path / name, files, KINDS[name]), OPTIONS)
    assert list(read_all(source).items()) == list(FLOWERS.items())
    assert [item.name for item in tmp_path.iterdir()] == [name]
    assert source.notes == ()


@pytest.mark.parametrize("name", ["a.tar", "a.tgz"])
def test_some_members_are_read_again(tmp_path, name):
    source = open_tar(write_tar(tmp_path / name, FLOWERS, KINDS[name]), OPTIONS)
    for wanted in ([1, 3], [0], [], [2, 3]):
        read = [(index, load()) for index, load in source.stream(wanted)]
        assert read == [(index, FLOWERS[source.entries[index].id]) for index in wanted]


@pytest.mark.parametrize("name", ["a.tar", "a.tgz"])
def test_what_is_no_regular_file_is_refused(tmp_path, name):
    path = tmp_path / name
    with tarfile.open(path, KINDS[name]) as archive:
        for key, content in FLOWERS.items():
            member = tarfile.TarInfo(key)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        kinds = {"rose/soft.png": tarfile.SYMTYPE, "rose/hard.png": tarfile.LNKTYPE,
                          "rose/pipe.png": tarfile.FIFOTYPE, "rose/device.png": tarfile.CHRTYPE,
                          "rose/folder": tarfile.DIRTYPE, "../up.png": tarfile.REGTYPE,
                          "/abs.png": tarfile.REGTYPE, "rose/empty": tarfile.REGTYPE}  # fmt: skip
        for key, kind in kinds.items():
            member = tarfile.TarInfo(key)
            member.type = kind
            member.linkname = "rose/1.png"
            archive.addfile(member)
    source = open_tar(path, OPTIONS)
    assert read_all(source) == FLOWERS
    assert left_out(source) == {
        "rose/soft.png": ("refused", "link"),
        "rose/hard.png": ("refused", "link"),
        "rose/pipe.png": ("refused", "not a regular file"),
        "rose/device.png": ("refused", "not a regular file"),
        "../up.png": ("refused", "unsafe name"),
        "/abs.png": ("refused", "unsafe name"),
        "rose/empty": ("passed over", "not an image"),
    }


@pytest.mark.parametrize("name", ["a.tar", "a.tgz"])
def test_a_file_without_a_suffix_is_known_by_its_content(tmp_path, name):
    files = {**FLOWERS, "rose/three": encoded(7), "rose/notes": b"text"}
    source = open_tar(write_tar(tmp_path / name, files, KINDS[name]), OPTIONS)
    assert read_all(source)["rose/three"] == encoded(7)
    assert left_out(source) == {"rose/notes": ("passed over", "not an image")}


def test_a_compressed_tar_that_is_cut_short_is_named(tmp_path):
    files = {name: encoded(1, height=100, width=200) for name in FLOWERS}
    path = write_tar(tmp_path / "a.tgz", files, "w:gz")
    path.write_bytes(path.read_bytes()[:-200])
    message = r"a\.tgz is damaged at or after tulip/.*png: Compressed file ended before"
    with pytest.raises(ArchiveError, match=message):
        open_tar(path, OPTIONS)


def test_a_wrong_checksum_of_the_whole_is_noticed(tmp_path):
    path = write_tar(tmp_path / "a.tgz", FLOWERS, "w:gz")
    content = bytearray(path.read_bytes())
    content[-8] ^= 1  # the CRC at the end
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"a\.tgz is damaged at or after .*CRC"):
        open_tar(path, OPTIONS)


def test_a_compressed_tar_that_is_damaged_later_is_named(tmp_path):
    path = write_tar(tmp_path / "a.tgz", FLOWERS, "w:gz")
    source = open_tar(path, OPTIONS)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ArchiveError, match=r"a\.tgz is damaged at or after rose/"):
        read_all(source)


def test_damage_in_the_middle_does_not_pass_for_the_end(tmp_path):
    path = write_tar(tmp_path / "a.tar", FLOWERS)
    content = bytearray(path.read_bytes())
    content[content.index(b"tulip/1.png")] ^= 1  # the header's checksum does not fit any more
    path.write_bytes(content)
    message = r"a\.tar is damaged at or after rose/2\.png: a member's header cannot be read"
    with pytest.raises(ArchiveError, match=message):
        open_tar(path, OPTIONS)


def test_a_plain_tar_that_is_cut_short_in_a_member_is_named(tmp_path):
    path = write_tar(tmp_path / "a.tar", FLOWERS)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(FLOWERS["tulip/deep/er/2.png"]) + 20])
    with pytest.raises(ArchiveError, match=r"a\.tar is damaged at or after tulip/deep/er/2\.png"):
        open_tar(path, OPTIONS)


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_tar_without_its_end_mark_is_noted(tmp_path, compress):
    path = write_tar(tmp_path / "a.tar", FLOWERS)
    content = path.read_bytes()
    end = content.index(FLOWERS["tulip/1.png"]) // 512 * 512
    size = -(-len(FLOWERS["tulip/1.png"]) // 512) * 512
    path.write_bytes(compress(content[: end + size]))
    source = open_tar(path, OPTIONS)
    assert len(source.entries) == 3
    assert source.notes == (f"{path} ends without a tar's end mark: it may have been cut short",)


@pytest.mark.parametrize("name", ["a.tar", "a.tgz"])
def test_a_header_of_gigabytes_is_not_read(tmp_path, name):
    """A pax header says of itself how long it is, and tarfile would read all of it."""
    member = tarfile.TarInfo("rose/pax")
    member.type = tarfile.XHDTYPE
    member.size = 64 << 20
    content = member.tobuf(tarfile.USTAR_FORMAT) + bytes(64 << 20)
    (tmp_path / name).write_bytes(content if name == "a.tar" else gzip.compress(content, 1))
    with pytest.raises(ArchiveError, match="a header of more than 4194304 bytes"):
        open_tar(tmp_path / name, OPTIONS)


def test_a_member_that_is_too_large_is_refused(tmp_path, monkeypatch):
    files = {**FLOWERS, "tulip/large.png": bytes(3000)}
    for name in ("a.tar", "a.tgz"):
        source = open_tar(write_tar(tmp_path / name, files, KINDS[name]), OPTIONS)
        monkeypatch.setattr(tars, "LARGEST_FILE", 2000)
        loads = dict(source.stream(range(5)))
        assert loads[0]() == FLOWERS["rose/1.png"]
        with pytest.raises(ImageError, match="too large: it has more than 2000 bytes"):
            loads[4]()


def test_a_plain_tar_that_became_shorter_gives_no_half_image(tmp_path):
    path = write_tar(tmp_path / "a.tar", FLOWERS)
    source = open_tar(path, OPTIONS)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(FLOWERS["tulip/deep/er/2.png"]) + 20])
    with pytest.raises(ImageError, match=r"damaged member: 20 of \d+ bytes are there"):
        read_all(source)


@pytest.mark.parametrize("content", [b"", b"no tar at all", b"x" * 2000])
def test_what_is_no_tar_is_named(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(ArchiveError, match=r"a\.tar is damaged at its start: "):
        open_tar(tmp_path / "a.tar", OPTIONS)


def test_an_empty_tar_holds_no_images(tmp_path):
    with pytest.raises(DataError, match=r"a\.tar holds no images"):
        open_tar(write_tar(tmp_path / "a.tar", {}), OPTIONS)
