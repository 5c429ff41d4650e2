"""What a download raises becomes one of two errors: a full disk, or the reason."""

import errno
from urllib.error import HTTPError, URLError

import pytest

from regraft.data.sources.downloads import download_errors, reason_of
from regraft.errors import DataError, DiskFullError


def failing(error):
    with download_errors(
        "mnist in data", "`data_root`", (OSError, ValueError), lambda e: DataError(reason_of(e))
    ):
        raise error


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT"])
def test_a_full_disk_and_a_full_quota_are_the_same_error(name):
    code = getattr(errno, name, errno.ENOSPC)
    with pytest.raises(DiskFullError, match="no space left for mnist in data") as caught:
        failing(OSError(code, "it is full"))
    assert caught.value.hint == "free some space; `data_root` names another folder"


def test_other_failures_become_the_callers_error():
    with pytest.raises(DataError, match="no such host") as caught:
        failing(ValueError("no\n  such host"))
    assert isinstance(caught.value.__cause__, ValueError)


def test_errors_that_are_not_failures_of_a_download_stay():
    with pytest.raises(KeyError):
        failing(KeyError("a mistake"))
    with pytest.raises(DiskFullError, match="elsewhere"):
        failing(DiskFullError("elsewhere"))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (URLError(OSError(111, "Connection refused")), "[Errno 111] Connection refused"),
        (HTTPError("http://a/b", 404, "Not Found", None, None), "HTTP Error 404: Not Found"),
        (OSError("GET https://a/b?token=5d1 failed"), "GET https://a/b?... failed"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_the_reason_is_one_line_without_signatures(error, reason):
    assert reason_of(error) == reason
