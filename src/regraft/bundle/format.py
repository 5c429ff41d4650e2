"""Write and read a bundle folder: safetensors and JSON, with a hash of each file. See FORMAT.md.

Reading runs no code from the bundle, downloads nothing and trusts nothing: names are looked up in
the registries of regraft, hashes are compared before a file is parsed, and shapes before a network
is built.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import safetensors
import safetensors.torch
import torch

from regraft.bundle.decisions import kept, most_bytes, read_decisions, record_of
from regraft.bundle.golden import (
    LOGIT_TOLERANCE,
    PIXEL_TOLERANCE,
    Golden,
    check_pixels,
    check_typicality,
    feature_tolerances,
    record_golden,
)
from regraft.bundle.manifest import (
    CARD,
    DECISIONS,
    MAX_BYTES,
    MOST_CARD,
    SCHEMA_VERSION,
    STATISTICS,
    BlockRecord,
    FileRecord,
    GoldenRecord,
    HeadRecord,
    Manifest,
    NetworkRecord,
    PreprocessRecord,
    StageRecord,
    network_file,
    read_manifest,
    write_manifest,
)
from regraft.bundle.network import bytes_of, check_buffers, fill_backbone, plan_backbone
from regraft.core.files import read_regular, write_atomic
from regraft.core.text import shape_text
from regraft.core.version import __version__
from regraft.errors import BundleError, InputError
from regraft.features.taps import Block, block_widths, row_blocks
from regraft.heads.modules import HEADS, LinearHead
from regraft.model import Model
from regraft.model import Statistics as Statistics  # noqa: PLC0414 - earlier pickles name it here
from regraft.task import SINGLE_LABEL

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from regraft.backbones.backbone import Backbone
    from regraft.decision.policy import Decisions
    from regraft.features.compute import Compute

_HEADER = 16 * 2**20  # bytes of a safetensors header: names and shapes of 100,000 tensors
_LARGEST_IMAGE = 4 * 2**20  # bytes of an encoded golden image; those of regraft have 10,000
_KINDS = {torch.int8, torch.uint8, torch.int32, torch.float32, torch.float64}  # of decisions
LARGEST_HEAD = 4 * 2**30  # bytes of a k-NN head: 500,000 images, all stages at 1x1


@dataclass(frozen=True)
class Bundle:
    """What a bundle has: a model, what describes and what tests it, and what decides with it."""

    model: Model
    manifest: Manifest
    golden: Golden
    decisions: Decisions | None


def write_bundle(
    folder: Path, model: Model, compute: Compute, decisions: Decisions | None
) -> Manifest:
    """Write a model as a bundle into a new folder, which the caller renames when it is complete.

    A full disk is a DiskFullError. What a reader would refuse is a BundleError, and nothing is
    written. ``compute`` is what the training ran on, for the record.
    """
    _check_writable(model)
    if decisions is not None:
        widths = [network.n_features for network in model.networks]
        decisions = kept(decisions, len(model.classes), widths)
        model = _without_mean(model, decisions)
    golden = record_golden(model, compute, None if decisions is None else decisions.typicality)
    contents = {
        **golden.images,
        **{
            network_file(k): _to_bytes(network.module.state_dict())
            for k, network in enumerate(model.networks)
        },
        "head.safetensors": _to_bytes(model.head.tensors()),  # type: ignore[operator]
        "golden.safetensors": _to_bytes(golden.tensors()),
    }
    if decisions is not None:
        tensors = {name: torch.from_numpy(array) for name, array in decisions.tensors().items()}
        contents[DECISIONS] = _to_bytes(tensors)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        regraft=__version__,
        task=SINGLE_LABEL,
        classes=list(model.classes),
        networks=_network_records(model, compute, golden),
        blocks=[
            BlockRecord(network=block.network, tap=block.tap, grid=block.grid, width=width)
            for block, width in block_widths(model.networks, model.blocks).items()
        ],
        head=HeadRecord(kind=model.head.kind, temperature=model.temperature),  # type: ignore[arg-type]
        max_pixels=model.max_pixels,
        compute=compute.fingerprint(),
        golden=GoldenRecord(images=list(golden.images), logit_tolerance=LOGIT_TOLERANCE),
        decisions=None if decisions is None else record_of(decisions),
        files={
            name: FileRecord(hashlib.sha256(data).hexdigest(), len(data))
            for name, data in contents.items()
        },
    )
    encoded = write_manifest(manifest)
    read_manifest(encoded)  # raises where a value is beyond the limits of a reader
    (folder / "golden").mkdir(parents=True)
    for name, data in contents.items():
        write_atomic(folder / name, data)
    # The manifest is written last: a folder without it is no bundle.
    write_atomic(folder / "manifest.json", encoded)
    return manifest


def _without_mean(model: Model, decisions: Decisions) -> Model:
    """Return a model whose head keeps no mean of features where no image of a bank is kept."""
    typicality, head = decisions.typicality, model.head
    if not isinstance(head, LinearHead) or (typicality and typicality.scorer.has_images):
        return model
    return dataclasses.replace(model, head=head.folded())


def _check_writable(model: Model) -> None:
    """Refuse a model that is larger than the limits of the reader."""
    for network in model.networks:
        if network.no_bundle is not None:
            raise BundleError(f"{network.name} cannot be in a bundle: {network.no_bundle}")
        check_buffers(network.module, f"{network.name} at {network.preprocess.image_size} pixels")
    head = bytes_of(model.head.state_dict().values())
    if model.head.kind != "linear" and head > LARGEST_HEAD:
        raise BundleError(
            f"the head has {head / 2**30:.1f} GiB; in a bundle it has at most {LARGEST_HEAD >> 30}",
            hint="`head='logistic'` keeps no training images; `taps='last'` makes rows shorter",
        )


def _network_records(model: Model, compute: Compute, golden: Golden) -> list[NetworkRecord]:
    tolerances = feature_tolerances(model, compute, golden)
    return [
        NetworkRecord(
            name=network.name,
            arguments=dict(network.arguments),
            weights=network.weights,
            weights_sha256=network.weights_sha256,
            licence=network.licence,
            preprocess=PreprocessRecord(**network.preprocess.recorded()),
            stages=[StageRecord(**dataclasses.asdict(stage)) for stage in network.stages],
            n_features=network.n_features,
            pixel_tolerance=PIXEL_TOLERANCE,
            feature_tolerance=tolerance,
        )
        for network, tolerance in zip(model.networks, tolerances, strict=True)
    ]


def read_bundle(folder: Path) -> Bundle:
    """Read the bundle in a folder, or in a run folder, and check everything but its answers.

    The pixels of the golden images and their typicality are checked here. ``check_golden`` checks
    features and logits after the caller has chosen a device and a precision.

    Raises
    ------
    BundleError
        Something is not as the format says; the message names the file or the field.
    """
    folder, manifest = _read_manifest(folder)
    plans = [plan_backbone(network) for network in manifest.networks]
    n_features = _check_blocks(manifest, plans)
    most = _most_bytes(manifest, plans, n_features)
    contents = {
        name: _read_checked(folder, name, record, most.get(name, _LARGEST_IMAGE))
        for name, record in manifest.files.items()
    }
    # The networks are built last: that costs most.
    head = _read_head(manifest, contents["head.safetensors"], n_features)
    golden = _read_golden(manifest, contents, plans, n_features)
    check_pixels(manifest, golden, [plan.preprocess for plan in plans])
    decisions = None
    if manifest.decisions is not None:
        arrays = _arrays(contents[DECISIONS], DECISIONS)
        widths = [plan.n_features for plan in plans]
        decisions = read_decisions(manifest.decisions, arrays, len(manifest.classes), widths)
        if decisions.typicality is not None:
            check_typicality(golden, decisions.typicality)
    _check_unused(contents, plans[0].n_features)
    backbones = []
    for index, plan in enumerate(plans):
        file = manifest.network_file(index)
        backbones.append(fill_backbone(plan, _tensors(contents.pop(file), file), file))
    backbone, *others = backbones
    blocks = tuple(Block(block.tap, block.grid, block.network) for block in manifest.blocks)
    model = Model(
        backbone, blocks, head, manifest.head.temperature, tuple(manifest.classes),
        manifest.max_pixels, tuple(others),
    )  # fmt: skip
    return Bundle(model, manifest, golden, decisions)


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


def _check_blocks(manifest: Manifest, plans: Sequence[Backbone]) -> int:
    """Check that the networks have the blocks that the head reads; return their width."""
    for record in manifest.blocks:
        plan, block = plans[record.network], Block(record.tap, record.grid)
        if block not in row_blocks(plan):
            raise BundleError(f"manifest.json: {plan.name} does not have the blocks that it names")
        if record.width != block_widths((plan,), (block,))[block]:
            raise BundleError("manifest.json: a block's width does not follow from its stage")
    return sum(block.width for block in manifest.blocks)


def _most_bytes(manifest: Manifest, plans: Sequence[Backbone], n_features: int) -> dict[str, int]:
    """Return the largest size of each file, so that a sparse file of terabytes is not read."""
    n_classes, widths = len(manifest.classes), [plan.n_features for plan in plans]
    head = 4 * (n_features * (n_classes + 2) + n_classes)
    looks = [plan.preprocess for plan in plans]
    pixels = sum(3 * each.image_size**2 * (1 + each.views) for each in looks)
    golden = pixels + 4 * (n_features + n_classes + max(widths) + 1)
    most = {
        # A k-NN head contains the rows of all training images.
        "head.safetensors": head if manifest.head.kind == "linear" else LARGEST_HEAD,
        "golden.safetensors": len(manifest.golden.images) * golden,
        STATISTICS: 4 * widths[0] * (widths[0] + 1),
    }
    for index, plan in enumerate(plans):
        most[manifest.network_file(index)] = bytes_of(plan.module.state_dict().values())
    if manifest.decisions is not None:
        most[DECISIONS] = most_bytes(manifest.decisions, n_classes, widths)
    return {**{name: size + _HEADER for name, size in most.items()}, CARD: MOST_CARD}


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


def _read_golden(
    manifest: Manifest, contents: dict[str, bytes], plans: Sequence[Backbone], n_features: int
) -> Golden:
    tensors = _tensors(contents["golden.safetensors"], "golden.safetensors")
    count = len(manifest.golden.images)
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        "features": ((count, n_features), torch.float32),
        "logits": ((count, len(manifest.classes)), torch.float32),
    }
    for index, preprocess in enumerate(plan.preprocess for plan in plans):
        views = (1 + preprocess.views,) if preprocess.views else ()
        side = preprocess.image_size
        shapes[manifest.pixels_name(index)] = (count, *views, 3, side, side), torch.uint8
    if manifest.decisions is not None and manifest.decisions.typicality is not None:
        width = plans[manifest.decisions.typicality.network].n_features
        shapes["pooled"] = (count, width), torch.float32
        shapes["typicality"] = (count,), torch.float32
    _same_shapes("golden.safetensors", tensors, shapes)
    arrays = {name: tensors[name].numpy() for name in shapes if "pixels" not in name}
    pixels = tuple(tensors[manifest.pixels_name(index)] for index in range(len(plans)))
    return Golden({name: contents[name] for name in manifest.golden.images}, pixels, **arrays)


def _check_unused(contents: dict[str, bytes], width: int) -> None:
    """Check files that are not used: the card, and the statistics of version 2."""
    if CARD in contents:
        try:
            contents[CARD].decode("utf-8")
        except UnicodeDecodeError as error:
            raise BundleError(f"{CARD}: is no text in UTF-8: {error.reason}") from error
    if STATISTICS in contents:
        shapes = {
            "mean": ((width,), torch.float32),
            "covariance": ((width, width), torch.float32),
            "count": ((1,), torch.int64),
        }
        _same_shapes(STATISTICS, _tensors(contents[STATISTICS], STATISTICS), shapes)


def _same_shapes(
    file: str,
    tensors: dict[str, torch.Tensor],
    expected: dict[str, tuple[tuple[int, ...], torch.dtype]],
) -> None:
    found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    for name in sorted(expected | found):
        if found.get(name) != expected.get(name):
            raise BundleError(
                f"{file}: {name[:100]} is {_kind(found.get(name), 'missing')}; "
                f"expected {_kind(expected.get(name), 'nothing of that name')}"
            )
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise BundleError(f"{file}: {name} has values that are not finite")


def _kind(kind: tuple[tuple[int, ...], torch.dtype] | None, none: str) -> str:
    if kind is None:
        return none
    shape, dtype = kind
    return f"{str(dtype).removeprefix('torch.')} of shape {shape_text(shape)}"


def _to_bytes(tensors: dict[str, torch.Tensor]) -> bytes:
    return safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in tensors.items()})


def _tensors(data: bytes, name: str) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise BundleError(f"{name}: {str(error)[:300]}") from error


def _arrays(data: bytes, name: str) -> dict[str, NDArray[np.generic]]:
    tensors = _tensors(data, name)
    for key, tensor in tensors.items():
        if tensor.dtype not in _KINDS:  # numpy knows no bfloat16, and none of 8 bits
            raise BundleError(f"{name}: {key[:100]} is {tensor.dtype}")
    return {key: tensor.numpy() for key, tensor in tensors.items()}


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
