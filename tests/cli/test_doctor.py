"""The doctor finds what a training would find."""

import shutil
import sys
import tempfile

import pytest

from regraft.backbones import embedded
from regraft.cli import doctor
from regraft.cli.main import main
from regraft.features.store.store import open_store


@pytest.fixture
def store(tmp_path, monkeypatch):
    folder = tmp_path / "store"
    monkeypatch.setenv("REGRAFT_CACHE", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def check_of(name):
    """Run one check as ``checks`` does."""
    return doctor._safely(name, doctor.CHECKS[name])


def test_a_sound_installation_passes(store, capsys):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = [line.split()[1] for line in lines if not line.startswith("      ")]
    assert found == list(doctor.CHECKS)
    assert all(line.startswith(("ok    ", "      hint: ")) for line in lines)
    text = " ".join(lines)
    for part in (
        "sha256 579344248a93 as published", "auto is ", "simplejpeg ", "libjpeg-turbo ",
        f"{store} (", "not created yet", "two small images in ", "GiB free",
    ):  # fmt: skip
        assert part in text
    assert not store.exists()  # a check leaves no file
    assert not list(store.parent.iterdir())


def test_what_is_broken_is_one_line_with_what_to_do(store, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "PIL", None)  # as where it cannot be imported
    monkeypatch.setattr(
        doctor, "CHECKS", {name: doctor.CHECKS[name] for name in ("decoders", "runs")}
    )
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("FAIL  decoders     ")
    assert lines[1] == "      hint: install again: pip install --force-reinstall regraft"
    assert lines[2].startswith("ok    runs ")


def test_formats_that_are_not_read_here_are_a_hint(store, monkeypatch):
    assert check_of("decoders").hint is None
    assert "pillow-heif" in check_of("decoders").detail
    monkeypatch.setattr("regraft.images.decode.DECODER_VERSION", "rules 2, pillow 13.0.0")
    monkeypatch.setattr("PIL.features.check", lambda library: library != "avif")
    assert check_of("decoders").ok
    assert check_of("decoders").hint == (
        "this build of Pillow does not read AVIF; pip install 'regraft[heif]' to read HEIC, the "
        "photographs of phones"
    )


def test_broken_weights_fail_here_as_in_training(store, monkeypatch, tmp_path, capsys):
    """One flipped byte in the installed file."""
    damaged = tmp_path / "weights.pth"
    shutil.copyfile(embedded.INSTALLED["embedded"].path(), damaged)
    with damaged.open("r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)
        file.seek(1_000_000)
        file.write(bytes([byte[0] ^ 1]))
    monkeypatch.setattr(embedded.Installed, "path", lambda _: damaged)
    for name in ("weights", "network"):
        check = check_of(name)
        assert not check.ok
        assert "sha256" in check.detail
    assert main(["train", "digits", "--out", "run"]) == 2
    assert "sha256" in capsys.readouterr().err


def test_a_store_is_shown_with_what_it_holds(store):
    open_store(store)
    assert check_of("store").ok
    assert ", 0 rows in 0 of 20,480 MiB" in check_of("store").detail


def test_a_store_that_cannot_be_used_is_a_hint_and_stops_nothing(tmp_path, monkeypatch):
    """Training goes on in the temporary folder, and fails only where that is unusable too."""
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "store"
    monkeypatch.setenv("REGRAFT_CACHE", str(folder))
    check = check_of("store")
    assert check.ok
    assert check.detail == f"{folder}: Not a directory; features will not be kept"
    assert check.hint == "name another folder with --cache-dir or REGRAFT_CACHE"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    check = check_of("store")
    assert not check.ok
    assert check.detail.endswith(f"and {tmp_path / 'missing'} cannot be written either")
    assert check.hint.endswith("and one with TMPDIR")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is a folder where root cannot write")
def test_where_no_run_can_be_written_it_fails_as_training_does(store, monkeypatch, capsys):
    monkeypatch.chdir("/proc")
    check = check_of("runs")
    assert not check.ok
    assert check.detail.startswith("/proc/regraft-runs cannot be written: ")
    assert check.hint == "go to a folder that you can write to, or name one with --out"
    assert main(["train", "digits"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_little_space_is_a_hint(store, monkeypatch):
    monkeypatch.setattr(doctor, "LEAST_FREE", 2**60)
    assert check_of("store").hint.startswith("little space: regraft cache clear")
    assert check_of("runs").hint.startswith("little space: ")
    assert check_of("store").ok
    assert check_of("runs").ok
