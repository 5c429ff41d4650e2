"""Files are written whole or not at all, and read within bounds."""

import errno
import os
import stat
import sys
from pathlib import Path

import pytest

from regraft.core import files
from regraft.core.files import (
    network_file_system,
    read_bounded,
    read_regular,
    write_atomic,
    write_new,
)
from regraft.errors import DiskFullError, InputError, RegraftError
from regraft.features.store.store import open_store
from regraft.runs.names import picture_path, place_for_table
from regraft.runs.reserve import reserve


def test_a_file_is_made_and_replaced(tmp_path):
    path = tmp_path / "metrics.json"
    write_atomic(path, b"first, and longer")
    write_atomic(path, b"second")
    assert path.read_bytes() == b"second"
    assert [item.name for item in tmp_path.iterdir()] == ["metrics.json"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permission bits")
def test_a_file_has_the_permissions_that_others_get(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write_atomic(tmp_path / "atomic", b"")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "atomic")]
    assert modes[0] == modes[1]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, failing):
    path = tmp_path / "ledger.json"
    write_atomic(path, b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(DiskFullError) as caught:
        write_atomic(path, b"0123456789")
    monkeypatch.undo()
    assert caught.value.message == f"no space left for {path}: 10 bytes were needed"
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_an_interrupt_leaves_nothing_half_written(tmp_path, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "a", b"0123456789")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.*a cannot be written: No such file"):
        write_atomic(tmp_path / "nowhere" / "a", b"")


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 5000])
def test_reading_stops_at_the_limit(tmp_path, size):
    path = tmp_path / "a"
    path.write_bytes(os.urandom(size))
    assert read_bounded(path, size) == path.read_bytes()
    if size:
        with pytest.raises(InputError, match=f"{size} bytes; at most {size - 1} are read"):
            read_bounded(path, size - 1)


def test_the_first_bytes_can_be_read_of_any_file(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"0123456789")
    assert read_regular(path, 0, first=4) == b"0123"


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(InputError, match="a cannot be read: No such file"):
        read_bounded(tmp_path / "a", 10)
    with pytest.raises(InputError, match="cannot be read"):
        read_bounded(tmp_path, 10)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs here")
def test_a_fifo_is_refused_and_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"):
        read_bounded(tmp_path / "pipe", 10)


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_link_is_followed_only_where_it_may_be(tmp_path):
    (tmp_path / "file").write_bytes(b"data")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_regular(tmp_path / "link", 10) == b"data"
    with pytest.raises(OSError, match="not a regular file"):
        read_regular(tmp_path / "link", 10, follow=False)
    assert read_regular(tmp_path / "file", 10, follow=False) == b"data"


@pytest.mark.skipif(os.name == "nt", reason="a file of 8 GB is not sparse there")
def test_a_huge_sparse_file_is_refused_unread(tmp_path):
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(2**33)
    with pytest.raises(InputError, match="8589934592 bytes; at most 100 are read"):
        read_bounded(path, 100)


MOUNTS = """\
22 1 252:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
23 22 0:21 / /proc rw - proc proc rw
40 22 0:44 / /mnt/my\\040share rw shared:9 - nfs4 server:/export rw,vers=4.2
41 40 252:2 / /mnt/my\\040share/local rw - xfs /dev/vdb1 rw
42 22 0:45 / /home rw - fuse.sshfs me@host: rw
43 42 0:46 / /home/me/fast rw - tmpfs tmpfs rw
44 22 0:47 / /data rw - ext4 /dev/vdc rw
45 44 0:48 / /data rw - cifs //server/share rw
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the mount table of Linux")
@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/var/cache", None),
        ("/mnt/my share/store", "nfs4"),
        ("/mnt/my share/local/store", None),
        ("/mnt/my shared", None),
        ("/home/me/.cache/regraft", "fuse.sshfs"),
        ("/home/me/fast", None),
        ("/data/store", "cifs"),  # mounted over: the last one counts
    ],
)
def test_the_nearest_mount_decides(folder, kind):
    assert network_file_system(Path(folder), MOUNTS) == kind


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b"])
def test_what_is_no_path_is_an_error_of_ours_wherever_it_is_read_or_written(name, tmp_path):
    for action in (
        lambda path: read_bounded(path, 10),
        lambda path: write_atomic(path, b""),
        open_store,
        lambda path: picture_path(path.with_suffix(".png"), "a.png"),
        lambda path: reserve(path, None, overwrite=False).__enter__(),
        lambda path: place_for_table(path, overwrite=True).__enter__(),
    ):
        with pytest.raises(RegraftError, match=r"path that this system|cannot be read: no path"):
            action(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_new_file_is_written_only_where_nothing_is(tmp_path):
    write_new(tmp_path / "a", b"one")
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"one"
    with pytest.raises(InputError, match="cannot be written: No such file or directory"):
        write_new(tmp_path / "none" / "a", b"two")


def test_a_new_file_that_cannot_be_written_leaves_no_empty_one(tmp_path, monkeypatch):
    def full(*_):
        raise InputError("no space")

    monkeypatch.setattr(files, "write_atomic", full)
    with pytest.raises(InputError, match="no space"):
        write_new(tmp_path / "a", b"one")
    assert list(tmp_path.iterdir()) == []
