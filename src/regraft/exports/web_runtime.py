"""The runtime of the page: onnxruntime-web of one release, from its package or from a file."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zlib
from http.client import HTTPException
from typing import TYPE_CHECKING, NamedTuple

from regraft.core.files import read_regular, write_atomic
from regraft.core.transfers import Allowance, bounded_opener
from regraft.errors import ExportError
from regraft.features.store.store import default_folder

if TYPE_CHECKING:
    from pathlib import Path

    from regraft.core.reporter import Reporter

VERSION = "1.30.0"
NAME = f"onnxruntime-web-{VERSION}.tgz"
URL = f"https://registry.npmjs.org/onnxruntime-web/-/{NAME}"
SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
_BYTES = 33_106_585
# The one build that has its glue inside: no second module, no `blob:` and no worker are needed.
_MODULE = "package/dist/ort.wasm.bundle.min.mjs"
_WASM = "package/dist/ort-wasm-simd-threaded.wasm"
_LARGEST_MEMBER = 1 << 25
_HINT = f"`runtime=FILE` takes the file that {URL} gives"


class Runtime(NamedTuple):
    """The two files of onnxruntime-web that a page needs."""

    module: bytes  # JavaScript
    wasm: bytes  # packed by gzip: many plain servers do not pack what they send


def get_runtime(file: Path | None, reporter: Reporter) -> Runtime:
    """Return the runtime: from a file, from regraft's cache folder, or from the npm registry.

    Raises ExportError if it cannot be had, or is not the one release that this version knows.
    """
    if file is not None:
        return _read(_checked(_read_file(file), str(file)))
    kept = default_folder() / "runtimes" / NAME
    if kept.exists():
        return _read(_checked(_read_file(kept), str(kept)))
    reporter.say(f"{NAME} is downloaded once, {_BYTES / 1e6:.0f} MB, to {kept.parent}")
    data = _checked(_download(), URL)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(
            f"{kept.parent} cannot be made: {error.strerror}",
            hint="REGRAFT_CACHE names another folder",
        ) from error
    write_atomic(kept, data)
    return _read(data)


def _read_file(file: Path) -> bytes:
    try:
        return read_regular(file, _BYTES)
    except OSError as error:
        raise ExportError(
            f"the runtime {file} cannot be read: {error.strerror or error}", hint=_HINT
        ) from error


def _download() -> bytes:
    try:
        with bounded_opener(Allowance(_BYTES)).open(URL) as answer:
            data: bytes = answer.read()
            return data
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ExportError(f"{URL} cannot be downloaded: {reason}", hint=_HINT) from error


def _checked(data: bytes, origin: str) -> bytes:
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256:
        raise ExportError(
            f"{origin} has the sha256 {found}; {NAME} has {SHA256}",
            hint=f"{_HINT}; a file in the cache folder may be removed",
        )
    return data


def _read(data: bytes) -> Runtime:
    """Read two members; nothing is extracted to the disk."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data)), mode="r:") as archive:
            for member in archive:
                wanted = member.name in {_MODULE, _WASM} and member.size <= _LARGEST_MEMBER
                if wanted and (content := archive.extractfile(member)) is not None:
                    found[member.name] = content.read()
        return Runtime(found[_MODULE], gzip.compress(found[_WASM], 9, mtime=0))
    except (tarfile.TarError, OSError, EOFError, zlib.error, KeyError) as error:
        raise ExportError(f"{NAME} cannot be read: {error}") from error
