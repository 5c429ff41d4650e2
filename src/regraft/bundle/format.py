"""Write and read a bundle folder: safetensors and JSON, with a hash of each file. See FORMAT.md.

Reading runs no code from the bundle, downloads nothing and trusts nothing: names are looked up in
the registries of regraft, hashes are compared before a file is parsed, and shapes before a network
is built.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
from typing import TYPE_CHECKING

import safetensors
import safetensors.torch
import torch

from regraft.bundle.golden import Golden, check_pixels, record_golden
from regraft.bundle.manifest import (
    MAX_BYTES,
    SCHEMA_VERSION,
    BackboneRecord,
    BlockRecord,
    FileRecord,
    GoldenRecord,
    HeadRecord,
    Manifest,
    PreprocessRecord,
    StageRecord,
    read_manifest,
    write_manifest,
)
from regraft.bundle.network import bytes_of, check_buffers, fill_backbone, plan_backbone
from regraft.core.files import read_regular, write_atomic
from regraft.core.version import __version__
from regraft.errors import BundleError, InputError
from regraft.features.taps import Block, block_widths, row_blocks
from regraft.heads.modules import HEADS
from regraft.model import Model, Statistics
from regraft.task import SINGLE_LABEL

if TYPE_CHECKING:
    from pathlib import Path

    from regraft.backbones.backbone import Backbone
    from regraft.features.compute import Compute

_HEADER = 16 * 2**20  # bytes of a safetensors header: names and shapes of 100,000 tensors
_LARGEST_IMAGE = 4 * 2**20  # bytes of an encoded golden image; those of regraft have 10,000
LARGEST_HEAD = 4 * 2**30  # bytes of a k-NN head: 500,000 images, all stages at 1x1


def write_bundle(
    folder: Path,
    model: Model,
    compute: Compute,
    statistics: Statistics,
) -> Manifest:
    """Write a model as a bundle into a new folder, which the caller renames when it is complete.

    A full disk is a DiskFullError. A model that is larger than a reader allows is a BundleError,
    and nothing is written. ``compute`` is what the training ran on, for the record.
    """
    _check_writable(model)
    (folder / "golden").mkdir(parents=True)
    record, images, golden = record_golden(model, compute)
    contents = {
        **images,
        "backbone.safetensors": _to_bytes(model.backbone.module.state_dict()),
        "head.safetensors": _to_bytes(model.head.tensors()),  # type: ignore[operator]
        "statistics.safetensors": _to_bytes(
            {
                "mean": torch.from_numpy(statistics.mean),
                "covariance": torch.from_numpy(statistics.covariance),
                "count": torch.tensor([statistics.count]),
            }
        ),
        "golden.safetensors": _to_bytes(
            {
                "pixels": golden.pixels,
                "features": torch.from_numpy(golden.features),
                "logits": torch.from_numpy(golden.logits),
            }
        ),
    }
    manifest = _manifest_of(model, compute, record, contents)
    for name, data in contents.items():
        write_atomic(folder / name, data)
    # The manifest is written last: a folder without it is no bundle.
    write_atomic(folder / "manifest.json", write_manifest(manifest))
    return manifest


def _check_writable(model: Model) -> None:
    """Refuse a model that is larger than the limits of the reader."""
    backbone, head = model.backbone, bytes_of(model.head.state_dict().values())
    if backbone.no_bundle is not None:
        raise BundleError(f"{backbone.name} cannot be in a bundle: {backbone.no_bundle}")
    check_buffers(backbone.module, f"{backbone.name} at {backbone.preprocess.image_size} pixels")
    if model.head.kind != "linear" and head > LARGEST_HEAD:
        raise BundleError(
            f"the head has {head / 2**30:.1f} GiB; in a bundle it has at most {LARGEST_HEAD >> 30}",
            hint="`head='logistic'` keeps no training images; `taps='last'` makes rows shorter",
        )


def _manifest_of(
    model: Model,
    compute: Compute,
    golden: GoldenRecord,
    contents: dict[str, bytes],
) -> Manifest:
    backbone = model.backbone
    widths = block_widths(backbone, model.blocks)
    return Manifest(
        schema_version=SCHEMA_VERSION,
        regraft=__version__,
        task=SINGLE_LABEL,
        classes=list(model.classes),
        backbone=BackboneRecord(
            name=backbone.name,
            arguments=dict(backbone.arguments),
            weights=backbone.weights,
            weights_sha256=backbone.weights_sha256,
            licence=backbone.licence,
            preprocess=PreprocessRecord(**backbone.preprocess.recorded()),
            stages=[StageRecord(**dataclasses.asdict(stage)) for stage in backbone.stages],
            n_features=backbone.n_features,
        ),
        blocks=[BlockRecord(block.tap, block.grid, widths[block]) for block in model.blocks],
        head=HeadRecord(kind=model.head.kind, temperature=model.temperature),  # type: ignore[arg-type]
        max_pixels=model.max_pixels,
        compute=compute.fingerprint(),
        golden=golden,
        files={
            name: FileRecord(hashlib.sha256(data).hexdigest(), len(data))
            for name, data in contents.items()
        },
    )


def read_bundle(folder: Path) -> tuple[Model, Manifest, Golden]:
    """Read the bundle in a folder, or in a run folder, and check everything but its answers.

    The pixels of the golden images are checked here. ``check_golden`` checks features and logits
    after the caller has chosen a device and a precision.

    Raises
    ------
    BundleError
        Something is not as the format says; the message names the file or the field.
    """
    folder, manifest = _read_manifest(folder)
    plan = plan_backbone(manifest.backbone)
    blocks = tuple(Block(block.tap, block.grid) for block in manifest.blocks)
    if not set(blocks) <= set(row_blocks(plan)):
        raise BundleError(f"manifest.json: {plan.name} does not have the blocks of the manifest")
    widths = block_widths(plan, blocks)
    if [block.width for block in manifest.blocks] != [widths[block] for block in blocks]:
        raise BundleError("manifest.json: a block's width does not follow from its stage")
    n_features = sum(widths.values())
    most = _most_bytes(manifest, plan, n_features)
    contents = {
        name: _read_checked(folder, name, record, most.get(name, _LARGEST_IMAGE))
        for name, record in manifest.files.items()
    }
    # The network is built last: that costs most.
    head = _read_head(manifest, contents["head.safetensors"], n_features)
    golden = _read_golden(manifest, contents, n_features)
    check_pixels(manifest, golden, plan.preprocess)
    _read_statistics(contents["statistics.safetensors"], plan.n_features)
    state = _tensors(contents.pop("backbone.safetensors"), "backbone.safetensors")
    model = Model(
        fill_backbone(plan, state), blocks, head, manifest.head.temperature,
        tuple(manifest.classes), manifest.max_pixels,
    )  # fmt: skip
    return model, manifest, golden


def _read_manifest(folder: Path) -> tuple[Path, Manifest]:
    """Return the folder of the bundle, which may be inside the given one, and its manifest."""
    if not (folder / "manifest.json").exists() and (folder / "bundle").is_dir():
        folder = folder / "bundle"
    if not (folder / "manifest.json").is_file():
        what = "is neither a run nor a bundle" if folder.exists() else "does not exist"
        if (folder / "metrics.json").is_file():
            raise BundleError(
                f"{folder} is a run without a bundle", hint="no_bundle in its metrics.json says why"
            )
        raise BundleError(
            f"{folder} {what}", hint="regraft train writes a run folder; the bundle is inside"
        )
    if (folder / "golden").is_symlink():
        raise BundleError(f"{folder / 'golden'} is a link", hint="copy the bundle with its files")
    data = _read_file(folder, "manifest.json", MAX_BYTES)
    try:
        return folder, read_manifest(data)
    except BundleError as error:
        raise BundleError(f"{folder}: {error.message}", hint=error.hint) from error


def _most_bytes(manifest: Manifest, backbone: Backbone, n_features: int) -> dict[str, int]:
    """Return the largest size of each file, so that a sparse file of terabytes is not read."""
    n_classes, side = len(manifest.classes), backbone.preprocess.image_size
    head = 4 * (n_features * (n_classes + 2) + n_classes)
    images = len(manifest.golden.images)
    return {
        "backbone.safetensors": bytes_of(backbone.module.state_dict().values()) + _HEADER,
        # A k-NN head contains the rows of all training images.
        "head.safetensors": (head if manifest.head.kind == "linear" else LARGEST_HEAD) + _HEADER,
        "statistics.safetensors": 4 * backbone.n_features * (backbone.n_features + 1) + _HEADER,
        "golden.safetensors": images
        * (3 * side**2 * (1 + backbone.preprocess.views) + 4 * (n_features + n_classes))
        + _HEADER,
    }


def _read_head(manifest: Manifest, data: bytes, n_features: int) -> torch.nn.Module:
    kind = HEADS.get(manifest.head.kind)
    if kind is None:
        raise BundleError(f"manifest.json: there is no head {manifest.head.kind!r}")
    try:
        head = kind.from_tensors(_tensors(data, "head.safetensors"))
    except InputError as error:
        raise BundleError(f"head.safetensors: {error.message[:300]}") from error
    if (head.n_features, head.n_classes) != (n_features, len(manifest.classes)):
        raise BundleError(
            f"head.safetensors: maps {head.n_features} features to {head.n_classes} classes; the "
            f"manifest has {n_features} and {len(manifest.classes)}"
        )
    return head.eval()


def _read_golden(manifest: Manifest, contents: dict[str, bytes], n_features: int) -> Golden:
    tensors = _tensors(contents["golden.safetensors"], "golden.safetensors")
    count, preprocess = len(manifest.golden.images), manifest.backbone.preprocess
    views = (1 + preprocess.views,) if preprocess.views else ()
    side = preprocess.image_size
    shapes = {
        "pixels": ((count, *views, 3, side, side), torch.uint8),
        "features": ((count, n_features), torch.float32),
        "logits": ((count, len(manifest.classes)), torch.float32),
    }
    _same_shapes("golden.safetensors", tensors, shapes)
    return Golden(
        [contents[name] for name in manifest.golden.images],
        tensors["pixels"],
        tensors["features"].numpy(),
        tensors["logits"].numpy(),
    )


def _read_statistics(data: bytes, n_features: int) -> Statistics:
    tensors = _tensors(data, "statistics.safetensors")
    shapes = {
        "mean": ((n_features,), torch.float32),
        "covariance": ((n_features, n_features), torch.float32),
        "count": ((1,), torch.int64),
    }
    _same_shapes("statistics.safetensors", tensors, shapes)
    return Statistics(tensors["mean"].numpy(), tensors["covariance"].numpy(), int(tensors["count"]))


def _same_shapes(
    file: str,
    tensors: dict[str, torch.Tensor],
    expected: dict[str, tuple[tuple[int, ...], torch.dtype]],
) -> None:
    found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    for name in sorted(expected | found):
        if found.get(name) != expected.get(name):
            raise BundleError(
                f"{file}: {name[:100]} is {found.get(name, 'missing')}; "
                f"expected {expected.get(name, 'nothing of that name')}"
            )
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise BundleError(f"{file}: {name} has values that are not finite")


def _to_bytes(tensors: dict[str, torch.Tensor]) -> bytes:
    return safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in tensors.items()})


def _tensors(data: bytes, name: str) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise BundleError(f"{name}: {str(error)[:300]}") from error


def _read_checked(folder: Path, name: str, record: FileRecord, most: int) -> bytes:
    if record.bytes > most:
        raise BundleError(
            f"manifest.json: {name} has {record.bytes:,} bytes; by the other fields it can have "
            f"at most {most:,}"
        )
    data = _read_file(folder, name, record.bytes)
    if len(data) != record.bytes or hashlib.sha256(data).hexdigest() != record.sha256:
        raise BundleError(
            f"{folder / name} is not what the manifest says (bytes or sha256 differ)",
            hint="the file was changed or copied in part: copy the bundle again",
        )
    return data


def _read_file(folder: Path, name: str, limit: int) -> bytes:
    """Read a regular file of at most ``limit`` bytes, without following a link."""
    path = folder / name
    try:
        return read_regular(path, limit, follow=False)
    except OSError as error:
        reason = f": {error.strerror or type(error).__name__}"
        if error.errno == errno.EFBIG:
            reason = f" is larger than {limit:,} bytes"
        elif error.errno in {errno.EINVAL, errno.ELOOP, errno.ENXIO, errno.EISDIR}:
            reason = " is not a regular file"
        raise BundleError(f"{path}{reason}", hint="copy the bundle again") from error
