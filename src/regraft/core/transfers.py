"""Bounds on what a server sends: its bytes, its silence and its slowness.

No client of a download has all three. urllib, requests (Kaggle's client) and httpx (the hub's) wait
for ever where nobody names a time, and none counts bytes: an answer without an end fills the disk,
or the memory where it is JSON. The last two unpack compressed answers, and a few bytes of them
can become gigabytes before anybody counts: these are not asked for, and refused.
"""

from __future__ import annotations

import re
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from functools import partial
from http.client import HTTPException
from importlib import import_module
from threading import Lock, get_ident
from typing import TYPE_CHECKING, Any, Self
from urllib.error import HTTPError
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Seconds to wait for a server that sends nothing.
SILENCE = 10.0
#: Bytes of one answer that is read into memory, and of all of them for one download.
LARGEST_TEXT = 1 << 25
LARGEST_TEXTS = 1 << 28

_CHUNK = 1 << 16  # bytes
_PATIENCE = 60.0  # seconds over which an answer's speed is measured
_SLOWEST = 100.0  # bytes a second: a telephone line's modem has thousands
# Headers that the hub's client makes a file's or a folder's name from.
_NAMES_OF_FILES = ("ETag", "X-Linked-ETag", "X-Repo-Commit")
_SAFE_NAME = re.compile(r'(W/)?"?([\w+=-][\w.+=-]{0,127})?"?', re.ASCII)
_HUB = "https://huggingface.co"
_PLAIN = {"", "identity"}
_PARTS = ("connect", "read", "write", "pool")  # the timeouts of httpx


#: What a client raises whose server answers in another form than it expects.
OTHER_FORM = (TypeError, LookupError, AttributeError, AssertionError, ArithmeticError)


class TransferError(OSError):
    """What a server sends is refused before it ends."""


class Allowance:
    """Bytes that may still arrive, in all answers together; threads may share it."""

    def __init__(self, limit: int) -> None:
        self._limit = self._left = limit
        self._lock = Lock()

    def take(self, count: int) -> None:
        """Count bytes that have arrived. Raises TransferError if they are too many."""
        with self._lock:
            self._left -= count
            if self._left < 0:
                raise TransferError(f"the server sends more than {self._limit:,} bytes")


class _Meter:
    """Counts the bytes of one answer, and measures its speed."""

    def __init__(self, *allowances: Allowance) -> None:
        self._allowances = allowances
        self._since, self._arrived = time.monotonic(), 0

    def count(self, chunk: bytes) -> bytes:
        """Return a chunk that has arrived."""
        for allowance in self._allowances:
            allowance.take(len(chunk))
        self._arrived += len(chunk)
        seconds = time.monotonic() - self._since
        if seconds > _PATIENCE:
            if self._arrived < seconds * _SLOWEST:
                raise TransferError(
                    f"the server sent {self._arrived:,} bytes in {seconds:.0f} seconds"
                )
            self._since, self._arrived = time.monotonic(), 0
        return chunk


def _in_memory(status: int) -> tuple[Allowance, ...]:
    """Return the limit of an answer that its client reads into memory: a redirect or an error."""
    return () if 200 <= status < 300 else (Allowance(LARGEST_TEXT),)


def _require_plain(response: Any) -> None:
    """Raise TransferError if an answer, of requests or httpx, is compressed."""
    if response.headers.get("Content-Encoding", "").strip().lower() not in _PLAIN:
        response.close()
        raise TransferError("the server sends it compressed, which was not asked for")


# --- urllib: torchvision, torch's weights --------------------------------------------------------


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects to http and https alone: urllib's own rule adds ftp."""

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except BaseException as error:  # urllib leaves both open
            fp.close()
            if isinstance(error, HTTPError):
                error.close()
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(self, *arguments: Any) -> urllib.request.Request | None:
        """Return the request to send next; ``arguments`` are those of urllib, the address last."""
        request, *_, address = arguments
        scheme = urlsplit(address).scheme
        if scheme not in {"http", "https"} or (request.type == "https" and scheme == "http"):
            raise TransferError(f"the server leads from {request.type} to {scheme or 'nothing'}")
        return super().redirect_request(*arguments)


class _Errors(urllib.request.HTTPDefaultErrorHandler):
    """Raise errors without their answers: nobody reads these, and nobody closes them."""

    def http_error_default(
        self, request: Any, response: Any, code: int, message: str, headers: Any
    ) -> Any:
        response.close()
        error = HTTPError(request.full_url, code, message, headers, None)
        error.close()  # the newest Pythons warn of one that is left open, even without an answer
        raise error


class _Answer:
    """An answer of urllib, counted: ``read(n)`` returns at most what has come.

    All of ``n`` bytes could take for ever.
    """

    def __init__(self, response: Any, meter: _Meter) -> None:
        self._response, self._meter = response, meter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._response, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._response.close()

    def read(self, amount: int | None = None) -> bytes:
        if amount is None or amount < 0:
            return b"".join(iter(partial(self._read_some, _CHUNK), b""))
        return self._read_some(amount)

    def _read_some(self, amount: int) -> bytes:
        chunk: bytes = self._meter.count(self._response.read1(amount))
        if not chunk and self._response.length:
            missing = self._response.length
            raise TransferError(f"the server stops with {missing:,} bytes missing")
        return chunk


class _Bounds(urllib.request.BaseHandler):
    """Count what arrives, and wait for ``SILENCE`` where the caller names no time."""

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance

    def http_request(self, request: urllib.request.Request) -> urllib.request.Request:
        if not isinstance(request.timeout, (int, float)):
            request.timeout = SILENCE
        return request

    def http_response(self, _: urllib.request.Request, response: Any) -> Any:
        # urllib unpacks nothing, so an encoding is no danger: servers name one for .gz files.
        return _Answer(response, _Meter(self._allowance, *_in_memory(response.status)))

    https_request, https_response = http_request, http_response


def bounded_opener(allowance: Allowance) -> urllib.request.OpenerDirector:
    """Return an opener for http and https; ``read(n)`` returns at most what has come."""
    return urllib.request.build_opener(_Redirects(), _Errors(), _Bounds(allowance))


@contextmanager
def bounded_urllib(allowance: Allowance) -> Iterator[None]:
    """Bound what ``urllib.request.urlopen`` opens in this block."""
    previous = getattr(urllib.request, "_opener", None)  # there is no public way to ask
    urllib.request.install_opener(bounded_opener(allowance))
    try:
        yield
    finally:
        urllib.request.install_opener(previous)


def require_answer(address: str) -> None:
    """Send one request to a server; any status is an answer. Raises OSError without one."""
    request = urllib.request.Request(address, method="HEAD")  # noqa: S310 - the client's own
    try:
        bounded_opener(Allowance(LARGEST_TEXT)).open(request, timeout=SILENCE).close()
    except HTTPError:
        return


# --- requests: Kaggle's client -------------------------------------------------------------------


@contextmanager
def bounded_requests(allowance: Allowance) -> Iterator[None]:
    """Bound what this thread receives through requests in this block.

    Kaggle's client makes its own session, and has no place for a time or a limit: the one method
    that all sessions send through is replaced.
    """
    from requests.adapters import HTTPAdapter  # noqa: PLC0415 - an extra's

    adapter: Any = HTTPAdapter
    send, owner = adapter.send, get_ident()

    def bounded(self: Any, request: Any, **settings: Any) -> Any:
        if get_ident() != owner:
            return send(self, request, **settings)
        request.headers["Accept-Encoding"] = "identity"
        settings["timeout"] = settings.get("timeout") or SILENCE
        response = send(self, request, **settings)
        ended.callback(response.close)  # the client leaves it open where it fails
        _require_plain(response)
        json = "json" in response.headers.get("Content-Type", "")
        in_memory = json or not settings.get("stream")
        limits = (Allowance(LARGEST_TEXT),) if in_memory else _in_memory(response.status_code)
        meter = _Meter(allowance, *limits)
        read = response.raw.read1

        def chunks(amount: int = _CHUNK, **_: Any) -> Iterator[bytes]:
            while chunk := meter.count(read(amount)):
                yield chunk

        response.raw.stream = chunks
        return response

    with ExitStack() as ended:
        ended.callback(setattr, adapter, "send", send)
        adapter.send = bounded
        yield


# --- httpx: the hub's client ---------------------------------------------------------------------


def hub_failures() -> tuple[type[Exception], ...]:
    """Return all exceptions of huggingface_hub's downloads.

    ValueError is an answer that is not JSON, such as the login page of a hotel's network.
    RuntimeError comes from hf_xet, which transfers large files. Which HTTP library the client uses
    depends on its version (httpx, httpx2): its errors, such as a refused connection, are known as a
    base class of the client's own error.
    """
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415 - an extra

    known = HfHubHTTPError.__bases__
    return (OSError, ValueError, RuntimeError, HTTPException, *OTHER_FORM, *known)


@contextmanager
def bounded_hub(allowance: Allowance) -> Iterator[None]:
    """Bound what huggingface_hub receives in this block.

    Answers of its interface, and all that are no file, are kept in memory: they have a limit of
    their own. hf_xet transfers by itself, past every bound, to addresses that the server names, so
    it is used with the hub alone, not with another server that stands in for it.
    """
    from huggingface_hub import constants, set_client_factory  # noqa: PLC0415 - an extra
    from huggingface_hub.utils import _http  # noqa: PLC0415

    def ask(request: Any) -> None:
        request.headers["Accept-Encoding"] = "identity"
        times = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {
            part: SILENCE if times.get(part) is None else times[part] for part in _PARTS
        }
        # A redirect keeps the extensions of the request that it answers.
        request.extensions.setdefault("in_memory", urlsplit(str(request.url)).path[:5] == "/api/")

    def answer(response: Any) -> None:
        _require_plain(response)
        in_memory = response.request.extensions["in_memory"]
        if response.request.method == "HEAD" and not in_memory:
            _require_names(response)
        limits = (Allowance(LARGEST_TEXT),) if in_memory else _in_memory(response.status_code)
        response.stream = _counted_stream(response.stream, _Meter(allowance, *limits))

    previous = getattr(_http, "_GLOBAL_CLIENT_FACTORY", _http.default_client_factory)

    def make() -> Any:
        client = previous()
        hooks = client.event_hooks
        client.event_hooks = {
            "request": [*hooks["request"], ask],
            "response": [*hooks["response"], answer],
        }
        return client

    xet_disabled = constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_DISABLE_XET = xet_disabled or constants.ENDPOINT != _HUB
    set_client_factory(make)
    try:
        yield
    finally:
        set_client_factory(previous)
        constants.HF_HUB_DISABLE_XET = xet_disabled


def _require_names(response: Any) -> None:
    """Raise TransferError if the client would make a path that leads out from what a file has."""
    for header in _NAMES_OF_FILES:
        if not _SAFE_NAME.fullmatch(response.headers.get(header, "")):
            raise TransferError(f"the server's header {header} is not the name of a content")


def _counted_stream(stream: Any, meter: _Meter) -> Any:
    """Return a stream of the library's own kind, which checks the class, that is counted."""
    library = import_module(type(stream).__module__.partition(".")[0])  # httpx or httpx2

    class Counted(library.SyncByteStream):  # type: ignore[misc, name-defined]
        def __iter__(self) -> Iterator[bytes]:
            return map(meter.count, stream)

        def close(self) -> None:
            stream.close()

    return Counted()
