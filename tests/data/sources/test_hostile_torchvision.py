"""A hostile server in place of the authors' own, met by torchvision's downloads by urllib."""

import time

import pytest

from regraft.core import transfers
from regraft.data.sources import fetched
from regraft.data.sources.options import SourceOptions
from regraft.data.sources.registry import open_source
from regraft.errors import DataError
from stand_ins import endless, redirect, serve_hub, with_headers


@pytest.fixture
def met(tmp_path, monkeypatch):
    """Return the error of MNIST whose only server is hostile."""
    from regraft.core.torchvision_shim import torchvision  # noqa: PLC0415 - seconds

    monkeypatch.setattr(transfers, "LARGEST_TEXT", 1 << 18)
    monkeypatch.setattr(fetched, "LARGEST_TEXT", (1 << 19) - 24_000_000)  # 512 KiB are left
    monkeypatch.setenv("NO_PROXY", "*")

    def meet(answer):
        with serve_hub({}, {"file": answer}) as address:
            monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"{address}/mnist/"])
            start = time.monotonic()
            with pytest.raises(DataError) as caught:
                open_source("mnist", SourceOptions(tmp_path / "data"))
        assert time.monotonic() - start < 9
        assert len(str(caught.value).splitlines()) == 2
        assert len(str(caught.value)) < 1000
        assert sum(path.stat().st_size for path in tmp_path.rglob("*")) < 1 << 20
        assert [path.name for path in tmp_path.iterdir()] == ["data"]
        return caught.value.message

    return meet


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/a", None])
def test_redirects_lead_to_no_file_and_no_other_protocol_and_end(met, to):
    assert "could not be downloaded: " in met(redirect(to))


@pytest.mark.parametrize("status", [200, 302, 404])
def test_an_answer_without_an_end_is_bounded(met, status):
    message = met(endless(b"x", status=status))
    assert status == 404 or "the server sends more than " in message


def test_slow_silent_and_other_answers_are_refused(met, monkeypatch):
    assert "could not be downloaded: " in met(with_headers(b"another file"))
    monkeypatch.setattr(transfers, "SILENCE", 0.2)
    assert "timed out" in met(lambda _: time.sleep(0.5))
    monkeypatch.setattr(transfers, "SILENCE", 5.0)
    monkeypatch.setattr(transfers, "_PATIENCE", 0.2)
    assert " bytes in 0 seconds" in met(endless(b"x", chunk=b"x", pause=0.02))
