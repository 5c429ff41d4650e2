"""A hostile server in place of Kaggle, met by Kaggle's own client.

Each attack ends in one DataError of two lines; nothing is written outside the client's cache, what
was downloaded is removed, and no token travels to another host.
"""

import base64
import gzip
import hashlib
import io
import json
import shutil
import tarfile
import time
import zipfile

import pytest

from regraft.core import transfers
from regraft.data.sources import kaggle
from regraft.data.sources.registry import open_source
from regraft.errors import DataError, DiskFullError
from stand_ins import TOKEN, endless, redirect, serve_kaggle, use_kaggle, with_headers

pytest.importorskip("kagglehub")

NAME = "kaggle:owner/flowers"
FREE = 1 << 30


@pytest.fixture
def met(tmp_path, monkeypatch):
    """Return the error of a dataset whose server is hostile, after the checks of all attacks."""
    monkeypatch.setattr(transfers, "LARGEST_TEXT", 1 << 19)
    usage = shutil.disk_usage(tmp_path)._replace(free=FREE + (1 << 20))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)

    def meet(**hostile):
        inside = tmp_path / "inside"
        inside.mkdir()
        with serve_kaggle(inside, hostile=hostile) as (address, _):
            use_kaggle(monkeypatch, address, inside)
            monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
            start = time.monotonic()
            with pytest.raises((DataError, DiskFullError)) as caught:
                open_source(NAME)
        assert time.monotonic() - start < 9
        error = caught.value
        assert len(str(error).splitlines()) == 2
        assert len(str(error)) < 1000
        assert TOKEN not in str(error)
        assert [path.name for path in tmp_path.iterdir()] == ["inside"]
        kept = [path for path in inside.rglob("*") if path.is_file()]
        assert {path.name for path in kept} <= {"served.zip", "3.archive"}
        assert sum(path.stat().st_size for path in kept) < 1 << 19
        return error

    return meet


@pytest.mark.parametrize("what", ["GetDataset", "DownloadDataset"])
@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/a", "http://127.0.0.1:9/a"])
def test_redirects_lead_to_no_file_and_no_other_protocol(met, what, to):
    assert met(**{what: redirect(to)}).message.startswith(f"{NAME} cannot be downloaded: ")


def test_redirects_end(met):
    message = met(DownloadDataset=redirect("/a"), GET=redirect("/a")).message
    assert "Exceeded 30 redirects" in message


@pytest.mark.parametrize("what", ["GetDataset", "DownloadDataset"])
@pytest.mark.parametrize("kind", ["application/json", "application/zip"])
@pytest.mark.parametrize("status", [200, 404])
def test_an_answer_without_an_end_is_bounded(met, what, kind, status):
    error = met(**{what: endless(b"[", kind=kind, status=status)})
    if status == 200:
        assert "the server sends more than " in error.message


@pytest.mark.parametrize("what", ["GetDataset", "DownloadDataset"])
def test_an_answer_that_trickles_is_given_up(met, what, monkeypatch):
    monkeypatch.setattr(transfers, "_PATIENCE", 0.2)
    answer = endless(b"[", chunk=b" ", pause=0.02)
    assert " bytes in 0 seconds" in met(**{what: answer}).message


@pytest.mark.parametrize("what", ["GetDataset", "DownloadDataset"])
def test_a_server_that_says_nothing_is_given_up(met, what, monkeypatch):
    """The client itself waits for ever."""
    monkeypatch.setattr(transfers, "SILENCE", 0.2)
    assert "cannot be reached" in met(**{what: lambda _: time.sleep(0.5)}).message


@pytest.mark.parametrize("what", ["GetDataset", "DownloadDataset"])
def test_compressed_answers_are_refused_before_they_grow(met, what):
    bomb = with_headers(gzip.compress(b" " * (1 << 22)), Content_Encoding="gzip")
    assert "the server sends it compressed" in met(**{what: bomb}).message


@pytest.mark.parametrize("number", ["../../x", "/x", -1, 2.5, [3], {"a": 3}, None, "", 2**70])
def test_a_version_that_is_no_number_is_no_path(met, number):
    version = with_headers(json.dumps({"currentVersionNumber": number}).encode())
    nothing = with_headers(b"", kind="application/zip")
    assert met(GetDataset=version, DownloadDataset=nothing).message.startswith(f"{NAME} ")


@pytest.mark.parametrize("answer", [b"", b"[", b"7", b"[]", b"null", b'"a"', b'{"code": []}'])
@pytest.mark.parametrize("what", ["GetDataset", "DownloadDataset"])
def test_answers_of_another_form_are_one_error(met, what, answer):
    message = met(**{what: with_headers(answer)}).message
    assert message.startswith(f"{NAME} cannot be downloaded: ")


def zipped(*names, size=9):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, b"0" * size)
    return target.getvalue()


def tarred(name, kind=tarfile.REGTYPE, to="", size=0):
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, to, size
    return member.tobuf(tarfile.GNU_FORMAT) + bytes(tarfile.RECORDSIZE)  # a header alone


def archive(body, **headers):
    return with_headers(body, kind="application/zip", **headers)


@pytest.mark.parametrize(
    "body",
    [
        zipped("../../../../../x.png", "/x.png", "C:x.png"),
        tarred("../../../../../x.png"),
        tarred("x.png", tarfile.SYMTYPE, "/etc/passwd"),
        tarred("x.png", tarfile.LNKTYPE, "/etc/passwd"),
        tarred("x.png", tarfile.SYMTYPE, "../../../../../../../../x"),
        tarred("x.png", tarfile.CHRTYPE),
        zipped("a" * 5000),
    ],
    ids=["zip", "tar", "link", "hard link", "relative link", "device", "long"],
)
def test_names_of_an_archive_lead_nowhere(body, tmp_path, monkeypatch):
    inside = tmp_path / "inside"
    inside.mkdir()
    with serve_kaggle(inside, hostile={"DownloadDataset": archive(body)}) as (address, _):
        use_kaggle(monkeypatch, address, inside)
        with pytest.raises(DataError) as caught:
            open_source(NAME)
    assert "root:" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]


def test_an_archive_with_another_md5_is_refused_and_removed(met):
    md5 = base64.b64encode(hashlib.md5(b"other").digest()).decode()  # noqa: S324 - Kaggle's
    error = met(DownloadDataset=archive(zipped("rose/1.png"), x_goog_hash=f"md5={md5}"))
    assert "The X-Goog-Hash header indicated a MD5 checksum" in error.message


@pytest.mark.parametrize(
    "body",
    [zipped("rose/1.png", "tulip/1.png", size=1 << 20), tarred("x.png", size=2**60)],
    ids=["zip", "tar"],
)
def test_an_archive_larger_than_the_disk_is_refused_before_it_is_unpacked(met, body):
    """A few kilobytes say that they are megabytes; the disk has one."""
    error = met(DownloadDataset=archive(body))
    assert isinstance(error, DiskFullError)


def test_a_download_that_the_network_interrupts_can_be_continued(tmp_path, monkeypatch):
    """Kaggle's client continues an archive that is there."""

    def interrupted(handler):
        handler.close_connection = True
        handler.send_response(200)
        handler.send_header("Content-Length", "9")
        handler.end_headers()
        handler.wfile.write(b"PK12")

    with serve_kaggle(tmp_path, hostile={"DownloadDataset": interrupted}) as (address, _):
        use_kaggle(monkeypatch, address, tmp_path)
        with pytest.raises(DataError, match="cannot be downloaded: "):
            open_source(NAME)
    (kept,) = tmp_path.rglob("*.archive")
    assert kept.read_bytes() == b"PK12"


def test_a_token_does_not_travel_to_another_host(tmp_path, monkeypatch):
    seen = []

    def remember(handler):
        seen.append(handler.headers.get("Authorization"))
        handler.answer(404)

    (tmp_path / "other").mkdir()
    with serve_kaggle(tmp_path / "other", hostile={"GET": remember}) as (other, _):
        elsewhere = {"DownloadDataset": redirect(f"{other}/a")}
        with serve_kaggle(tmp_path, hostile=elsewhere) as (address, _):
            use_kaggle(monkeypatch, address, tmp_path)
            monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
            with pytest.raises(DataError):
                open_source(NAME)
    assert seen == [None]
    assert kaggle._KEPT_FREE == FREE
