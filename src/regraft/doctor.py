"""`regraft doctor`: what this installation has, what it lacks, and what to do about it."""

# ruff: noqa: PLC0415 - each check imports what it looks at, so that one broken library is one line

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import regraft
from regraft.errors import RegraftError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

LEAST_FREE = 2 * 2**30  # bytes; features of 100,000 images with the default backbone and all stages


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes
    ----------
    name : str
        What.
    ok : bool
        False where training would fail.
    detail : str
        What was found, in one line.
    hint : str or None
        What to do about it; also where something works and could work better.
    """

    name: str
    ok: bool
    detail: str
    hint: str | None = None


def checks() -> list[Check]:
    """Look at everything that training needs.

    Returns
    -------
    list of Check
        In the order in which they are shown; a check that itself fails is one that is not ok.
    """
    return [_safely(name, look) for name, look in CHECKS.items()]


def report(found: Sequence[Check]) -> str:
    """Write checks as lines: ``ok`` or ``FAIL``, what, what was found; hints below.

    Parameters
    ----------
    found : sequence of Check
        As ``checks`` returns them.

    Returns
    -------
    str
        Without a line break at the end.

    Examples
    --------
    >>> print(report([Check("python", True, "3.11.7"), Check("torch", False, "gone", "get it")]))
    ok    python       3.11.7
    FAIL  torch        gone
          hint: get it
    """
    lines = []
    for check in found:
        lines.append(f"{'ok' if check.ok else 'FAIL':<6}{check.name:<13}{check.detail}")
        if check.hint is not None:
            lines.append(f"      hint: {check.hint}")
    return "\n".join(lines)


def _safely(name: str, look: Callable[[str], Check]) -> Check:
    try:
        return look(name)
    except RegraftError as error:
        return Check(name, ok=False, detail=error.message, hint=error.hint)
    except Exception as error:  # noqa: BLE001 - a broken installation fails in any way it likes
        reason = " ".join(str(error).split())[:200]
        return Check(
            name,
            ok=False,
            detail=f"{type(error).__name__}: {reason}",
            hint="install again: pip install --force-reinstall regraft",
        )


def _python(name: str) -> Check:
    detail = f"{platform.python_version()} at {sys.executable}, regraft {regraft.__version__}"
    return Check(name, ok=sys.version_info >= (3, 11), detail=detail)


def _platform(name: str) -> Check:
    return Check(name, ok=True, detail=f"{platform.platform()}, {os.cpu_count()} processors")


def _torch(name: str) -> Check:
    import torch

    from regraft.features.compute import choose_compute

    device = choose_compute("auto", "float32", 1).device
    what = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    return Check(
        name, ok=True, detail=f"{torch.__version__}, {what}, {torch.get_num_threads()} threads"
    )


def _precision(name: str) -> Check:
    from regraft.features.compute import choose_compute

    chosen = choose_compute("auto", "auto", 1)
    why = "native here" if chosen.precision == "bfloat16" else "bfloat16 is not native here"
    return Check(name, ok=True, detail=f"auto is {chosen.precision} on {chosen.device}: {why}")


def _allocator(name: str) -> Check:
    from regraft.process import tune_process

    detail = "glibc, tuned by our commands" if tune_process() else "not glibc: left as it is"
    return Check(name, ok=True, detail=detail)


def _torchvision(name: str) -> Check:
    from regraft.backbones.vision import extension_loaded, torchvision

    loaded = extension_loaded()
    how = "with its operators" if loaded else "without its compiled operators, which are not needed"
    return Check(name, ok=True, detail=f"{torchvision.__version__} {how}")


def _decoders(name: str) -> Check:
    import PIL
    import simplejpeg
    from PIL import features

    kinds = [kind for kind in ("jpg", "zlib", "webp", "libtiff") if features.check(kind)]
    detail = f"simplejpeg {simplejpeg.__version__}, Pillow {PIL.__version__} ({', '.join(kinds)})"
    return Check(name, ok=True, detail=detail)


def _store(name: str) -> Check:
    """Never a failure: where the store cannot be used, a run goes on without it."""
    from regraft.features.store import default_folder, network_file_system

    folder = default_folder().expanduser().absolute()
    existing = next(place for place in (folder, *folder.parents) if place.is_dir())
    free = shutil.disk_usage(existing).free
    detail = f"{folder}, {free / 2**30:,.0f} GiB free"
    hint = None
    if not _writable(existing):
        detail = f"{folder} cannot be written: features will not be kept"
        hint = "name another folder with --cache-dir or REGRAFT_CACHE"
    elif (kind := network_file_system(folder)) is not None:
        detail = f"{folder} is on a network file system ({kind}): features will not be kept"
        hint = "name a local folder with --cache-dir or REGRAFT_CACHE"
    elif free < LEAST_FREE:
        hint = "little space for features: regraft cache clear gives back what earlier runs took"
    return Check(name, ok=True, detail=detail, hint=hint)


def _writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _weights(name: str) -> Check:
    from regraft.backbones import embedded

    weights = embedded.read()  # checks the hash
    return Check(
        name, ok=True, detail=f"EfficientNet-Lite0, {len(weights)} tensors, hash as published"
    )


def _libraries(name: str) -> Check:
    """Import nothing: versions alone, for bug reports."""
    found = []
    for package in ("numpy", "scipy", "scikit-learn", "timm", "matplotlib"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            return Check(
                name, ok=False, detail=f"{package} is not installed", hint=f"pip install {package}"
            )
    return Check(name, ok=True, detail=", ".join(found))


CHECKS: dict[str, Callable[[str], Check]] = {
    "python": _python,
    "platform": _platform,
    "libraries": _libraries,
    "torch": _torch,
    "precision": _precision,
    "process": _allocator,
    "torchvision": _torchvision,
    "decoders": _decoders,
    "store": _store,
    "weights": _weights,
}
