"""Published weights: fetched once, hashed before they are parsed, on cache hits too."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tempfile
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import torch

from regraft.backbones.weights import read_file
from regraft.core.files import read_regular, write_atomic
from regraft.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_TIMEOUT = 10  # seconds without an answer or a byte
_CHUNK = 2**20
_SHA256 = re.compile(r"[0-9a-f]{64}")
# torch.hub's habit: the first digits of the file's sha256 stand at the end of its name.
_PREFIX = re.compile(r"-([0-9a-f]{8,64})\.")


def _unreachable(what: str, reason: object) -> WeightsError:
    return WeightsError(
        f"cannot download the weights {what}: {reason}",
        hint="use --model embedded, which needs no network, or a local file with --weights FILE",
    )


def fetch_url(url: str) -> dict[str, torch.Tensor]:
    """Fetch weights into torch's own cache folder and read them.

    Parameters
    ----------
    url : str
        https; where its file name ends in ``-HASH.pth``, the file's sha256 must begin so.

    Returns
    -------
    dict of str to torch.Tensor
        On the processor.

    Raises
    ------
    WeightsError
        Where the download fails or the hash is another.
    """
    parts = urlsplit(url)
    if parts.scheme != "https":
        raise WeightsError(f"weights are fetched by https only, not from {url}")
    name = Path(parts.path).name
    match = _PREFIX.search(name)
    prefix = match[1] if match is not None else None
    folder = Path(torch.hub.get_dir(), "checkpoints")
    file = folder / name
    if not file.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _download(url, file, prefix)
        except OSError as error:
            raise _unreachable(url, getattr(error, "reason", error)) from error
    return read_file(file, sha256=_noted(file) or prefix)


def _note(file: Path) -> Path:
    return file.with_name(f"{file.name}.sha256")


def _noted(file: Path) -> str | None:
    """Return the whole hash that was noted when the file was fetched, where we fetched it."""
    try:
        text = read_regular(_note(file), 100).decode("ascii")
    except (OSError, ValueError):
        return None
    return text if _SHA256.fullmatch(text) else None


def _download(url: str, file: Path, prefix: str | None) -> None:
    """Write beside, check, rename: a broken download leaves nothing under the final name.

    The name holds eight digits of the hash at most, often none: all of them are noted beside it.
    """
    digest = hashlib.sha256()
    handle, partial = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with (
            os.fdopen(handle, "wb") as target,
            urllib.request.urlopen(url, timeout=_TIMEOUT) as source,  # noqa: S310 - https, checked
        ):
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                target.write(chunk)
        if not digest.hexdigest().startswith(prefix or ""):
            raise WeightsError(
                f"{url} has the sha256 {digest.hexdigest()}, expected it to begin with {prefix}"
            )
        write_atomic(_note(file), digest.hexdigest().encode())
        Path(partial).replace(file)
    finally:
        Path(partial).unlink(missing_ok=True)


def fetch_hub_file(repository: str, names: Sequence[str]) -> Path:
    """Fetch the first of some files that a Hugging Face repository has, or find it in the cache.

    Parameters
    ----------
    repository : str
        "OWNER/NAME", or "OWNER/NAME@REVISION".
    names : sequence of str
        File names, the preferred one first.

    Returns
    -------
    Path
        In the hub's own cache folder.

    Raises
    ------
    WeightsError
        Where the hub cannot be reached or has none of the files.
    """
    from huggingface_hub import constants, hf_hub_download  # noqa: PLC0415 - 0.3 s
    from huggingface_hub.errors import (  # noqa: PLC0415
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    identifier, _, revision = repository.partition("@")
    what = f"hf-hub:{repository}"

    def get(name: str, *, offline: bool) -> Path:
        return Path(
            hf_hub_download(
                identifier,
                name,
                revision=revision or None,
                local_files_only=offline,
                etag_timeout=_TIMEOUT,
            )
        )

    with _quiet_hub():
        for name in names:
            try:
                return get(name, offline=True)
            except LocalEntryNotFoundError:
                continue
            except (HFValidationError, ValueError) as error:
                raise WeightsError(f"{what} is not a repository's name: {error}") from error
        try:
            # The hub's client repeats each failed request for 23 s; one request tells beforehand.
            request = urllib.request.Request(constants.ENDPOINT, method="HEAD")  # noqa: S310
            urllib.request.urlopen(request, timeout=_TIMEOUT).close()  # noqa: S310
            for name in names:
                try:
                    return get(name, offline=False)
                except EntryNotFoundError as error:
                    if isinstance(error, LocalEntryNotFoundError):
                        raise
        except (OSError, HfHubHTTPError) as error:
            raise _unreachable(what, getattr(error, "reason", error)) from error
    raise WeightsError(f"{what} holds none of {', '.join(names)}")


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Keep the hub's client from printing: errors are told by ours."""
    from huggingface_hub.utils.tqdm import (  # noqa: PLC0415
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    logger = logging.getLogger("huggingface_hub")
    level, disabled = logger.level, are_progress_bars_disabled()
    logger.setLevel(logging.CRITICAL)
    disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if not disabled:
            enable_progress_bars()


def fetch_hub(repository: str, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """Fetch weights from a Hugging Face repository and read them.

    Parameters
    ----------
    repository : str
        "OWNER/NAME", or "OWNER/NAME@REVISION".
    names : sequence of str
        File names, the preferred one first.

    Returns
    -------
    dict of str to torch.Tensor
        On the processor.

    Raises
    ------
    WeightsError
        Where the hub cannot be reached, has none of the files, or the file has another hash.
    """
    file = fetch_hub_file(repository, names)
    # In the hub's cache a large file is a link to one that is named by its sha256. Where the file
    # system has no links, the hub's own check while downloading has to do.
    target = file.resolve().name
    return read_file(file, sha256=target if _SHA256.fullmatch(target) else None)
