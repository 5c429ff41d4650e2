import sys

import pytest

from regraft import doctor
from regraft.cli import main


@pytest.fixture
def store(tmp_path, monkeypatch):
    folder = tmp_path / "store"
    monkeypatch.setenv("REGRAFT_CACHE", str(folder))
    return folder


def test_a_sound_installation_passes(store, capsys):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = [line.split()[1] for line in lines if not line.startswith("      ")]
    assert found == list(doctor.CHECKS)
    assert all(line.startswith(("ok    ", "      hint: ")) for line in lines)
    assert any("hash as published" in line for line in lines)
    assert not store.exists()  # looking leaves nothing behind


def test_what_is_broken_is_one_line_with_what_to_do(store, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "simplejpeg", None)  # as where it cannot be imported
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "FAIL  decoders     ModuleNotFoundError: import of simplejpeg halted" in out
    assert "hint: install again: pip install --force-reinstall regraft" in out
    assert "ok    weights" in out


def test_a_place_that_cannot_be_written_is_told_and_stops_nothing(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_bytes(b"")
    monkeypatch.setenv("REGRAFT_CACHE", str(file / "store"))
    monkeypatch.setattr(doctor, "_writable", lambda _folder: False)
    [check] = [check for check in doctor.checks() if check.name == "store"]
    assert check.ok
    assert check.detail == f"{file / 'store'} cannot be written: features will not be kept"
    assert check.hint == "name another folder with --cache-dir or REGRAFT_CACHE"
