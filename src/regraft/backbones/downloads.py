"""Download published weights once, and check their hash each time they are read."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tempfile
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import torch

from regraft.backbones.weights import LARGEST_WEIGHTS, read_weights
from regraft.core.files import is_full, read_regular, write_atomic
from regraft.core.transfers import (
    SILENCE,
    Allowance,
    bounded_hub,
    bounded_opener,
    hub_failures,
    require_answer,
)
from regraft.errors import DiskFullError, RegraftError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_CHUNK = 2**20
_SCHEMES = {"https"}
_SHA256 = re.compile(r"[0-9a-f]{64}")
# As in torch.hub: a file's name ends with the first digits of its sha256.
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")


def _download_error(what: str, error: Exception, folder_variable: str) -> RegraftError:
    if is_full(error):
        return DiskFullError(
            f"no space left for the weights {what}",
            hint=f"free some space, or choose another folder with the variable {folder_variable}",
        )
    return WeightsError(
        f"cannot download the weights {what}: {getattr(error, 'reason', error)}",
        hint="`model='embedded'` needs no network; `weights=FILE` takes a local file",
    )


def fetch_url(url: str) -> dict[str, torch.Tensor]:
    """Download weights by https into torch's own cache folder, unless they are there; read them.

    If the file's name ends in ``-HASH.pth``, its sha256 must begin with HASH.
    """
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES:
        raise WeightsError(f"weights are downloaded by https only, not from {url}")
    name = Path(parts.path).name
    match = _HASH_IN_NAME.search(name)
    prefix = match[1] if match is not None else None
    folder = Path(torch.hub.get_dir(), "checkpoints")
    file = folder / name
    if not file.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _download(url, file, prefix)
        except (OSError, HTTPException) as error:
            raise _download_error(url, error, "TORCH_HOME") from error
    return read_weights(file, sha256=_recorded_hash(file) or prefix)


def _hash_file(file: Path) -> Path:
    return file.with_name(f"{file.name}.sha256")


def _recorded_hash(file: Path) -> str | None:
    """Return the hash that ``_download`` recorded; None if something else downloaded the file."""
    try:
        text = read_regular(_hash_file(file), 100).decode("ascii")
    except (OSError, ValueError):
        return None
    return text if _SHA256.fullmatch(text) else None


def _download(url: str, file: Path, prefix: str | None) -> None:
    """Download to a temporary file, check it and rename it: no partial file gets the final name.

    The name has a few digits of the hash at most, so a file beside it records all of them.
    """
    digest = hashlib.sha256()
    handle, partial = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with (
            os.fdopen(handle, "wb") as target,
            bounded_opener(Allowance(LARGEST_WEIGHTS)).open(url) as source,
        ):
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                target.write(chunk)
        if not digest.hexdigest().startswith(prefix or ""):
            raise WeightsError(
                f"{url} has the sha256 {digest.hexdigest()}, expected it to begin with {prefix}"
            )
        write_atomic(_hash_file(file), digest.hexdigest().encode())
        Path(partial).replace(file)
    finally:
        Path(partial).unlink(missing_ok=True)


def fetch_hub_file(repository: str, names: Sequence[str]) -> Path:
    """Return the first of some files that a Hugging Face repository has, from the hub's cache.

    The repository is "OWNER/NAME" or "OWNER/NAME@REVISION". A file that is not in the cache is
    downloaded.
    """
    from huggingface_hub import constants, hf_hub_download  # noqa: PLC0415 - 0.3 s
    from huggingface_hub.errors import (  # noqa: PLC0415
        EntryNotFoundError,
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
                etag_timeout=SILENCE,
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
            # The hub's client repeats a failed request for 23 s, so first check that it answers.
            require_answer(constants.ENDPOINT)
            for name in names:
                try:
                    with bounded_hub(Allowance(LARGEST_WEIGHTS)):
                        return get(name, offline=False)
                except EntryNotFoundError as error:
                    if isinstance(error, LocalEntryNotFoundError):
                        raise
        except hub_failures() as error:
            raise _download_error(what, error, "HF_HOME") from error
    raise WeightsError(f"{what} holds none of {', '.join(names)}")


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Keep the hub's client from printing: our errors say what is wrong."""
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
    """Read weights from a Hugging Face repository; arguments as for ``fetch_hub_file``."""
    file = fetch_hub_file(repository, names)
    # In the hub's cache a large file is a link to a file whose name is its sha256. On a file system
    # without links only the hub itself checks the file, when it downloads it.
    target = file.resolve().name
    return read_weights(file, sha256=target if _SHA256.fullmatch(target) else None)
