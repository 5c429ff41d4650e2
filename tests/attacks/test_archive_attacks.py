"""Hostile archives one by one, 600 mutants, and the files that they must not touch."""

import gzip
import io
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from attacks.archives import (
    DEVICE,
    LINK,
    PIPE,
    Member,
    attack,
    build_zip,
    check_names,
    images,
)
from attacks.hunting import hunt
from attacks.watching import tree_hash, watched
from image_trees import left_out, read_all, write_tar, write_tree, write_zip
from regraft.config.train_config import TrainConfig
from regraft.data.ledger import Ledger, LedgerEntry
from regraft.data.scan import scan
from regraft.data.sources import archive, tars, zips
from regraft.data.sources.registry import open_source
from regraft.errors import ArchiveError, DataError, ImageError

GOOD = {f"{label}/{n}.png": images()[n] for n, label in enumerate(("rose", "tulip") * 10)}


def zipped(tmp_path, *odd, **end):
    members = [Member(name.encode(), data) for name, data in GOOD.items()]
    path = tmp_path / "a.zip"
    path.write_bytes(build_zip([*members, *odd], end))
    return path


@pytest.mark.parametrize(
    "name",
    ["../out.png", "rose/../../out.png", "/etc/x.png", "//server/share/x.png", "C:/x.png",
     "C:x.png", "\\\\server\\x.png", "rose\\x.png", "rose/x.png\0.txt", "x" * 5000 + ".png"],
)  # fmt: skip
@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_names_that_lead_out_are_refused(tmp_path, name, write):
    if write is write_zip:
        path = zipped(tmp_path, Member(name.encode(), images()[30]))
    else:
        if "\0" in name:
            pytest.skip("a tar's names end at a NUL")
        path = write_tar(tmp_path / "a.tar", {**GOOD, name: images()[30]})
    source = open_source(path)
    ((_, status),) = left_out(source).items()
    assert status == ("refused", "unsafe name")
    assert read_all(source) == GOOD


@pytest.mark.parametrize("mode", [LINK, PIPE, DEVICE])
def test_members_that_are_no_files_are_refused(tmp_path, mode):
    link = Member(b"rose/odd.png", b"../../secret.png", attributes=mode << 16)
    source = open_source(zipped(tmp_path, link))
    assert left_out(source)["rose/odd.png"][0] == "refused"
    assert read_all(source) == GOOD


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE,
                                  tarfile.BLKTYPE, tarfile.FIFOTYPE])  # fmt: skip
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    path = write_tar(tmp_path / "a.tar", GOOD)
    with tarfile.open(path, "a") as opened:
        member = tarfile.TarInfo("rose/odd.png")
        member.type, member.linkname = kind, "../../secret.png"
        opened.addfile(member)
    source = open_source(path)
    assert left_out(source)["rose/odd.png"][0] == "refused"
    assert read_all(source) == GOOD


@pytest.mark.parametrize(
    "odd",
    [
        Member(b"rose/twin.png", images()[0], offset=0, missing=True),  # the same member
        Member(b"rose/part.png", images()[0], offset=40, missing=True),  # within one
        Member(b"rose/long.png", images()[0], packed_size=5_000, offset=0, missing=True),
    ],
)
def test_members_that_overlap_are_an_error(tmp_path, odd):
    with pytest.raises(ArchiveError, match=r"a\.zip is damaged: rose/\w+\.png overlaps with "):
        open_source(zipped(tmp_path, odd))


def test_a_quoting_bomb_is_refused_before_it_is_unpacked(tmp_path):
    """Fifield's construction: each member quotes the headers of all that follow."""
    kernel = build_zip([Member(b"rose/0.png", bytes(1 << 22))])
    compressed = kernel[: kernel.index(b"PK\1\2")]
    members = [Member(b"rose/0.png", bytes(1 << 22))]
    members += [
        Member(b"rose/%d.png" % number, bytes(1 << 22), offset=0, missing=True)
        for number in range(1, 50)
    ]
    path = tmp_path / "bomb.zip"
    path.write_bytes(build_zip(members))
    assert path.stat().st_size < len(compressed) + 9_000
    with pytest.raises(ArchiveError, match="overlaps with rose/"):
        open_source(path)


def test_nested_archives_are_not_opened(tmp_path):
    inner = build_zip([Member(b"rose/1.png", images()[1])])
    source = open_source(zipped(tmp_path, Member(b"rose/inner.zip", inner)))
    assert left_out(source) == {"rose/inner.zip": ("passed over", "not an image")}
    named = Member(b"rose/inner.png", inner)
    samples = scan(zipped(tmp_path, named), TrainConfig())
    refused = [e for e in samples.ledger.entries if e.status == "refused"]
    assert [(e.path, e.reason[:13]) for e in refused] == [("rose/inner.png", "a zip archive")]


@pytest.mark.parametrize("field", ["size", "packed_size", "local_size"])
@pytest.mark.parametrize("value", [0, 1, 2**31, 2**32 - 2])
def test_false_sizes_are_an_error_or_do_not_matter(tmp_path, field, value):
    odd = Member(b"rose/odd.png", images()[30], **{field: value})
    try:
        samples = scan(zipped(tmp_path, odd), TrainConfig())
    except ArchiveError as error:
        assert "a.zip" in error.message  # noqa: PT017 - either end is fine
        return
    read = {samples.ids[index]: load() for index, load in samples.stream(range(len(samples)))}
    assert read.pop("rose/odd.png", images()[30]) == images()[30]
    assert read == GOOD
    if "rose/odd.png" not in samples.ids:
        status = {e.path: e.kind for e in samples.ledger.entries}["rose/odd.png"]
        assert status in {"damaged member", "empty"}


def test_an_encrypted_member_without_its_flag_is_refused(tmp_path):
    odd = Member(b"rose/odd.png", images()[30], flags=0x801)
    assert left_out(open_source(zipped(tmp_path, odd))) == {
        "rose/odd.png": ("refused", "encrypted")
    }


def test_names_that_differ_in_case_are_two_classes_and_noted(tmp_path):
    files = {**GOOD, "Rose/1.png": images()[31], "rose/CON.png": images()[32],
             "NUL/aux.png": images()[33]}  # fmt: skip
    source = open_source(write_zip(tmp_path / "a.zip", files))
    assert read_all(source) == files
    assert source.notes == (
        (
            "the classes Rose and rose differ in case or form only: if they are the same class, "
            "put their images into one folder"
        ),
    )


def test_the_number_of_members_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MOST_MEMBERS", 19)
    for path in (write_zip(tmp_path / "a.zip", GOOD), write_tar(tmp_path / "a.tgz", GOOD, "w:gz")):
        with pytest.raises(ArchiveError, match="more than 19 members"):
            open_source(path)
    monkeypatch.setattr(archive, "MOST_MEMBERS", 20)
    assert len(open_source(path).entries) == 20


def test_many_empty_members_cost_little_memory(tmp_path):
    """Ten thousand headers of half a kilobyte each pack to a thousandth; none may be kept."""
    header = tarfile.TarInfo("rose/").tobuf()
    (tmp_path / "a.tgz").write_bytes(gzip.compress(header * 20_000, 1))
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from attacks.hunting import memory\n"
        "from regraft.data.sources.registry import open_source\n"
        "from regraft.errors import DataError\n"
        "before = memory()\n"
        "try: open_source(sys.argv[2])\n"
        "except DataError as error: print('holds no images' in error.message, "
        "memory() - before < 20 << 20)"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent.parent),
               str(tmp_path / "a.tgz")]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == "True True\n"


@pytest.mark.parametrize("size", [2**33, 2**60])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_tar_that_claims_more_than_there_is_ends_at_once(tmp_path, size, compress):
    """tarfile skips such a member block by block, which would take years."""
    member = tarfile.TarInfo("rose/1.png")
    member.size = size
    path = tmp_path / "a.tar"
    path.write_bytes(compress(member.tobuf() + images()[0]))
    with pytest.raises(
        ArchiveError, match=r"a\.tar is damaged at (its start|or after rose/1\.png)"
    ):
        open_source(path)


def test_a_member_without_a_name_is_refused(tmp_path):
    source = open_source(zipped(tmp_path, Member(b"", images()[30]), Member(b".", images()[31])))
    assert {entry.kind for entry in source.refused} == {"unsafe name"}
    assert read_all(source) == GOOD


@pytest.mark.parametrize("cut", [1, 10, 30, 200, 1000])
def test_an_archive_that_is_cut_short_is_an_error(tmp_path, cut):
    path = zipped(tmp_path)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ArchiveError, match=r"a\.zip cannot be read as a zip"):
        open_source(path)


def test_a_bomb_of_one_member_is_unpacked_no_further_than_the_cap(tmp_path, monkeypatch):
    monkeypatch.setattr(zips, "LARGEST_FILE", 100_000)
    monkeypatch.setattr(tars, "LARGEST_FILE", 100_000)
    bomb = images()[0] + bytes(1 << 24)
    for path in (write_zip(tmp_path / "a.zip", {**GOOD, "rose/b.png": bomb}),
                 write_tar(tmp_path / "a.tgz", {**GOOD, "rose/b.png": bomb}, "w:gz")):  # fmt: skip
        source = open_source(path)
        at = [entry.id for entry in source.entries].index("rose/b.png")
        ((_, load),) = source.stream([at])
        with pytest.raises(ImageError, match="too large"):
            load()


# --- mutants --------------------------------------------------------------------------------------


def test_mutants_end_in_samples_or_in_a_typed_error():
    report = hunt(attack, 600, seed=0)
    assert not report.findings, str(report)
    assert report.cases == report.outcomes.total() == 600
    assert set(report.outcomes) == {"samples", "ArchiveError", "DataError"}


def careless(_seed, number):
    """Do what no archive may cause, in a process of its own."""
    from attacks.archives import _folders  # noqa: PLC0415

    folder, around = _folders()
    before = tree_hash(around)
    with watched(folder):
        match number:
            case 1:
                (folder / "new.png").write_bytes(b"")
            case 2:
                (around / "secret.png").read_bytes()
            case 3:
                (folder / "extracted").mkdir()
            case 4:
                subprocess.run([sys.executable, "-c", ""], check=True)
            case 5:
                (folder / "rose" / "canary.txt").read_bytes()
    if tree_hash(around) != before:
        raise AssertionError("the tree has changed")
    return "fine"


def test_the_hook_reports_what_is_forbidden():
    report = hunt(careless, 7, seed=0)
    assert sorted(report.findings) == [1, 2, 3, 4]
    assert "new.png was opened for writing" in report.findings[1]
    assert "secret.png was opened" in report.findings[2]
    assert "os.mkdir" in report.findings[3]
    assert "subprocess.Popen" in report.findings[4]


def test_the_tree_hash_depends_on_names_and_contents(tmp_path):
    write_tree(tmp_path, {"a/1": b"x"})
    seen = {tree_hash(tmp_path)}
    for name, content in (("a/1", b"y"), ("a/2", b""), ("b/1", b"")):
        write_tree(tmp_path, {name: content})
        seen.add(tree_hash(tmp_path))
    (tmp_path / "empty").mkdir()
    assert len(seen | {tree_hash(tmp_path)}) == 5


@pytest.mark.parametrize("name", ["../a", "/a", "a\\b", "e\u0301", "a\nb", "a/"])
def test_the_check_refuses_unsafe_names(name):
    with pytest.raises(AssertionError):
        check_names([name], [], Ledger([]))


def test_the_check_refuses_equal_names():
    with pytest.raises(AssertionError, match="one name for two images"):
        check_names([], [], Ledger([LedgerEntry("a", "used")] * 2))


def test_a_field_by_field_zip_is_what_zipfile_reads():
    data = build_zip([Member(b"a", b"x" * 99, method=method) for method in (0, 8, 12)])
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        assert [opened.read(info) for info in opened.infolist()] == [b"x" * 99] * 3
    assert struct.unpack_from("<H", data, len(data) - 12) == (3,)


def test_an_error_of_the_data_is_not_an_archive_error(tmp_path):
    with pytest.raises(DataError, match="holds no images"):
        open_source(write_zip(tmp_path / "a.zip", {"readme": b""}))
