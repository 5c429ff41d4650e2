"""`regraft doctor`: what is installed, what is missing, and what to do about it."""

# ruff: noqa: PLC0415 - each check imports what it tests: one broken library is one line

from __future__ import annotations

import io
import platform
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from regraft.core.files import existing_parent
from regraft.core.text import counted
from regraft.core.version import __version__
from regraft.errors import RegraftError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_AGAIN = "install again: pip install --force-reinstall regraft"
LEAST_FREE = 2 * 2**30  # bytes; features of 100,000 images with the default backbone and all stages


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    name: str
    ok: bool  # False if training would fail
    detail: str  # what was found, in one line
    hint: str | None = None  # what to do about it, also if it works and could work better


def checks() -> list[Check]:
    """Check everything that training needs; a check that raises an error is not ok."""
    return [_safely(name, check) for name, check in CHECKS.items()]


def report(found: Sequence[Check]) -> str:
    """Return checks as lines: ``ok`` or ``FAIL``, the name, what was found; hints below.

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


def _safely(name: str, check: Callable[[str], Check]) -> Check:
    try:
        return check(name)
    except RegraftError as error:
        return Check(name, ok=False, detail=error.message, hint=error.hint)
    except Exception as error:  # noqa: BLE001 - a broken installation can fail in any way
        reason = " ".join(str(error).split())[:200]
        return Check(
            name,
            ok=False,
            detail=f"{type(error).__name__}: {reason}",
            hint=_AGAIN,
        )


def _python(name: str) -> Check:
    detail = f"{platform.python_version()} at {sys.executable}, regraft {__version__}"
    return Check(name, ok=sys.version_info >= (3, 11), detail=detail)


def _platform(name: str) -> Check:
    from regraft.core.machine import free_memory, n_processors

    processors = counted(n_processors(), "processor")
    memory = f"{free_memory() / 2**30:,.1f} GiB of memory free"
    return Check(name, ok=True, detail=f"{platform.platform()}, {processors}, {memory}")


def _torch(name: str) -> Check:
    import torch

    detail = f"{torch.__version__}, {torch.get_num_threads()} threads on the processor"
    return Check(name, ok=True, detail=detail)


def _device(name: str) -> Check:
    import torch

    from regraft.features.compute import choose_compute

    device = choose_compute("auto", "float32", 1).device
    if not device.startswith("cuda"):
        return Check(name, ok=True, detail=f"auto is {device}")
    free, total = (value / 2**30 for value in torch.cuda.mem_get_info(device))
    found = f"{torch.cuda.get_device_name(device)}, {free:.0f} of {total:.0f} GiB free"
    return Check(name, ok=True, detail=f"auto is {device}: {found}")


def _precision(name: str) -> Check:
    import torch

    from regraft.features.compute import choose_compute, has_bfloat16

    chosen = choose_compute("auto", "auto", 1)
    native = "native" if has_bfloat16(chosen.device) else "not native"
    instructions = torch.backends.cpu.get_cpu_capability()
    where = f"on this processor ({instructions})" if chosen.device == "cpu" else "on this device"
    return Check(name, ok=True, detail=f"auto is {chosen.precision}: bfloat16 is {native} {where}")


def _allocator(name: str) -> Check:
    from regraft.cli.tuning import tune_process

    detail = "glibc, tuned by our commands" if tune_process() else "not glibc: left as it is"
    return Check(name, ok=True, detail=detail)


def _torchvision(name: str) -> Check:
    from regraft.core.torchvision_shim import extension_loaded, torchvision

    loaded = extension_loaded()
    how = "with its operators" if loaded else "without its compiled operators, which are not needed"
    return Check(name, ok=True, detail=f"{torchvision.__version__} {how}")


def _decoders(name: str) -> Check:
    """Decode a picture of each common format: the libraries are built in many ways."""
    import numpy as np
    from PIL import Image, features

    from regraft.images.decode import DECODER_VERSION, decode

    picture = np.full((16, 24, 3), 128, np.uint8)
    optional = {"AVIF": "avif", "JPEG2000": "jpg_2000"}
    missing = [kind for kind, library in optional.items() if not features.check(library)]
    for kind in ("JPEG", "PNG", "WebP", *(kind for kind in optional if kind not in missing)):
        encoded = io.BytesIO()
        Image.fromarray(picture).save(encoded, kind)
        decoded = decode(encoded.getvalue(), max_pixels=1000)
        if decoded.shape != picture.shape or np.abs(decoded.astype(int) - 128).max() > 4:
            return Check(name, ok=False, detail=f"{kind} is decoded wrongly", hint=_AGAIN)
    hints = [f"this build of Pillow does not read {' and '.join(missing)}"] if missing else []
    if "pillow-heif" not in DECODER_VERSION:
        hints.append("pip install 'regraft[heif]' to read HEIC, the photographs of phones")
    hint = "; ".join(hints) or None
    return Check(name, ok=True, detail=DECODER_VERSION.partition(", ")[2], hint=hint)


def _weights(name: str) -> Check:
    from regraft.backbones import embedded

    installed = embedded.INSTALLED["embedded"]
    weights = installed.read()  # checks the hash
    detail = (
        f"EfficientNet-Lite0, {len(weights)} tensors, sha256 {installed.sha256[:12]} as published"
    )
    return Check(name, ok=True, detail=detail)


def _network(name: str) -> Check:
    """Run the embedded network as training does: an import alone does not show broken kernels."""
    import numpy as np
    import torch

    from regraft.backbones.image_size import at_image_size
    from regraft.backbones.registry import load_backbone
    from regraft.features.compute import choose_compute
    from regraft.features.taps import POOLED, Block, TapReader

    backbone = at_image_size(load_backbone("embedded"), 64)
    compute = choose_compute("auto", "auto", 2)
    block = Block(POOLED)
    reader = TapReader(backbone, (block,), compute)
    images = torch.arange(2 * 3 * 64 * 64).remainder(251).to(torch.uint8).reshape(2, 3, 64, 64)
    reader(images)  # the first pass prepares kernels
    start = time.perf_counter()
    features = np.asarray(reader(images)[block], dtype=np.float64)
    seconds = time.perf_counter() - start
    if features.shape != (2, backbone.n_features) or not np.isfinite(features).all():
        return Check(
            name, ok=False, detail=f"wrong features on {compute.device} in {compute.precision}",
            hint="try --precision float32 or --device cpu, and report this with all these lines",
        )  # fmt: skip
    return Check(
        name, ok=True,
        detail=f"two small images in {1000 * seconds:.0f} ms on {compute.device} in "
        f"{compute.precision}",
    )  # fmt: skip


def _store(name: str) -> Check:
    """Check the feature store; it fails only if the temporary folder cannot be used either."""
    from regraft.features.store.store import close_store, default_folder, open_store

    folder = default_folder().expanduser().absolute()
    try:
        if folder.is_dir():
            info = open_store(folder).info()
            close_store(folder)
            held = (
                f"{info.rows:,} rows in {info.bytes / 2**20:,.0f} of {info.limit / 2**20:,.0f} MiB"
            )
        else:
            _try_to_write(existing_parent(folder))
            held = "not created yet"
    except (RegraftError, OSError) as error:
        what = error.message if isinstance(error, RegraftError) else f"{folder}: {error.strerror}"
        temporary = Path(tempfile.gettempdir())
        hint = "name another folder with --cache-dir or REGRAFT_CACHE"
        try:
            _try_to_write(temporary)
        except OSError:
            detail = f"{what}; and {temporary} cannot be written either"
            return Check(name, ok=False, detail=detail, hint=f"{hint}, and one with TMPDIR")
        return Check(name, ok=True, detail=f"{what}; features will not be kept", hint=hint)
    detail, free = _space(folder)
    few = "regraft cache clear frees what earlier runs took" if free < LEAST_FREE else None
    return Check(name, ok=True, detail=f"{detail}, {held}", hint=few and f"little space: {few}")


def _runs(name: str) -> Check:
    from regraft.runs.names import DEFAULT_RUNS_FOLDER

    folder = DEFAULT_RUNS_FOLDER.absolute()
    try:
        _try_to_write(existing_parent(folder))
    except OSError as error:
        return Check(
            name, ok=False, detail=f"{folder} cannot be written: {error.strerror}",
            hint="go to a folder that you can write to, or name one with --out",
        )  # fmt: skip
    detail, free = _space(folder)
    few = "a run takes 20 to 400 MB" if free < LEAST_FREE // 4 else None
    return Check(name, ok=True, detail=detail, hint=few and f"little space: {few}")


def _try_to_write(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder):
        pass


def _space(folder: Path) -> tuple[str, int]:
    """Return a line with a folder, its file system and its free space; and the free bytes."""
    import psutil

    existing = existing_parent(folder)
    free = shutil.disk_usage(existing).free
    here = existing.resolve()
    mounts = [
        (len(disk.mountpoint), disk.fstype)
        for disk in psutil.disk_partitions(all=True)
        if here.is_relative_to(disk.mountpoint)
    ]
    kind = max(mounts, default=(0, "unknown file system"))[1]
    return f"{folder} ({kind}), {free / 2**30:,.0f} GiB free", free


def _libraries(name: str) -> Check:
    """List versions for bug reports, without importing the libraries."""
    found = []
    for package in ("numpy", "scipy", "scikit-learn", "timm", "safetensors", "matplotlib"):
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
    "device": _device,
    "precision": _precision,
    "process": _allocator,
    "torchvision": _torchvision,
    "decoders": _decoders,
    "weights": _weights,
    "network": _network,
    "store": _store,
    "runs": _runs,
}
