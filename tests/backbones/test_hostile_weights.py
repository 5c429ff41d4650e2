"""A hostile server in place of those that have published weights."""

import gzip
import hashlib
import time

import pytest

from regraft.backbones import downloads
from regraft.backbones.downloads import _download, fetch_hub_file, fetch_url
from regraft.core import transfers
from regraft.errors import WeightsError
from stand_ins import (
    TOKEN,
    endless,
    redirect,
    serve_hub,
    use_hub,
    with_headers,
)


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.setattr(downloads, "LARGEST_WEIGHTS", 1 << 19)
    monkeypatch.setattr(transfers, "LARGEST_TEXT", 1 << 18)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture
def met(tmp_path, monkeypatch):
    """Return the error of weights by their address; https is spoken by real servers alone."""
    monkeypatch.setattr(downloads, "_SCHEMES", {"https", "http"})

    def meet(answer):
        with serve_hub({}, {"file": answer}) as address:
            start = time.monotonic()
            with pytest.raises(WeightsError) as caught:
                fetch_url(f"{address}/net.pth")
        assert time.monotonic() - start < 9
        assert len(str(caught.value)) < 1000
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]
        return caught.value.message

    return meet


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/a", None])
def test_redirects_lead_to_no_file_and_no_other_protocol_and_end(met, to):
    assert "cannot download the weights" in met(redirect(to))


@pytest.mark.parametrize("status", [200, 302, 404])
def test_an_answer_without_an_end_is_bounded(met, status):
    message = met(endless(b"x", status=status))
    assert status == 404 or "the server sends more than " in message


def test_weights_that_end_early_are_not_kept(met):
    """Without a hash in their name, their own would be recorded, and half of them be used."""

    def short(handler):
        handler.close_connection = True
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"x" * 900)

    assert "the server stops with 100 bytes missing" in met(short)


def test_slow_and_silent_answers_are_refused(met, monkeypatch):
    monkeypatch.setattr(transfers, "SILENCE", 0.2)
    assert "timed out" in met(lambda _: time.sleep(0.5))
    monkeypatch.setattr(transfers, "SILENCE", 5.0)
    monkeypatch.setattr(transfers, "_PATIENCE", 0.2)
    assert " bytes in 0 seconds" in met(endless(b"x", chunk=b"x", pause=0.02))


def test_bytes_are_taken_as_they_are_if_a_server_names_an_encoding(tmp_path):
    """Many servers name one for files that end in .gz."""
    packed = gzip.compress(b"weights")
    with serve_hub({}, {"file": with_headers(packed, Content_Encoding="x-gzip")}) as address:
        _download(f"{address}/net.gz", tmp_path / "net.gz", hashlib.sha256(packed).hexdigest())
    assert (tmp_path / "net.gz").read_bytes() == packed


COMMIT = "c" * 40
HEADERS = {"ETag": '"5"', "X_Repo_Commit": COMMIT}


@pytest.mark.parametrize(
    "answer",
    [
        with_headers(b"x", **{**HEADERS, "ETag": '"../../../../x"'}),
        with_headers(b"x", **{**HEADERS, "ETag": '"/x"'}),
        with_headers(b"x", **{**HEADERS, "ETag": '".."'}),
        with_headers(b"x", **{**HEADERS, "X_Repo_Commit": "../../../x"}),
        with_headers(b"x"),
        redirect("file:///etc/passwd", **HEADERS),
        redirect("ftp://127.0.0.1/a", **HEADERS),
        redirect(None, **HEADERS),
        endless(b"x"),
        endless(b"x", status=404),
    ],
    ids=["etag", "absolute", "dots", "commit", "none", "file", "ftp", "itself", "endless", "error"],
)
def test_a_hostile_hub_gives_no_weights_and_writes_nothing_outside(answer, tmp_path, monkeypatch):
    inside = tmp_path / "inside" / "hub"
    inside.mkdir(parents=True)
    with serve_hub({}, {"file": answer}) as address:
        use_hub(monkeypatch, address, tmp_path)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(inside))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        with pytest.raises(WeightsError) as caught:
            fetch_hub_file("someone/net", ["model.safetensors"])
    assert TOKEN not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} <= {"inside"}
    assert {path.name for path in inside.parent.iterdir()} <= {"hub"}
    assert not list(inside.rglob("model.safetensors"))
