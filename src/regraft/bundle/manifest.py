"""The manifest of a bundle: its fields, and a strict reader with limits for each of them."""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from regraft.config.train_config import MAX_VIEWS
from regraft.errors import BundleError, InputError
from regraft.task import LEAST_CLASSES, MOST_CLASSES, Task, check_classes

SCHEMA_VERSION = 2  # 1: features channel by channel, before the first release
MAX_BYTES = 16 * 2**20  # of the manifest; 100,000 classes of 100 letters fit
_MOST_RESIZED = 10  # times the image size; the smallest crop of any record of weights
FILES = ("backbone.safetensors", "head.safetensors", "statistics.safetensors", "golden.safetensors")

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Name = Annotated[str, Meta(min_length=1, max_length=1000)]
Side = Annotated[int, Meta(ge=1, le=4096)]
Width = Annotated[int, Meta(ge=1, le=1_000_000)]
Number = Annotated[float, Meta(ge=-1000, le=1000)]
Positive = Annotated[float, Meta(gt=0, le=1000)]
Three = tuple[Number, Number, Number]


class _Strict(Struct, forbid_unknown_fields=True, frozen=True):
    """Unknown fields are errors; a writer with new fields increases the schema version."""


class FileRecord(_Strict, frozen=True):
    """Hash and size of one file."""

    sha256: Sha256
    bytes: Annotated[int, Meta(ge=1, le=2**40)]


class PreprocessRecord(_Strict, frozen=True):
    """``regraft.images.render.Preprocess``."""

    image_size: Side
    resize_size: Annotated[int, Meta(ge=1, le=8192)]
    mean: Three
    std: tuple[Positive, Positive, Positive]
    interpolation: Literal["bilinear", "bicubic"]
    views: Annotated[int, Meta(ge=0, le=MAX_VIEWS)] = 0
    augment: Literal["none", "light", "standard", "strong", "digits"] = "none"

    def __post_init__(self) -> None:
        """Check one field against the other; msgspec adds the path of the field to the error."""
        if (self.views > 0) == (self.augment == "none"):
            raise ValueError("views and an augmentation need each other")


class StageRecord(_Strict, frozen=True):
    """``regraft.backbones.backbone.Stage``."""

    name: Name
    path: Name
    channels: Width
    layout: Literal["nchw", "nhwc", "tokens"]
    prefix_tokens: Annotated[int, Meta(ge=0, le=1000)]


class BackboneRecord(_Strict, frozen=True):
    """How the network is built again: by its name in the registry, never by a URL or a path."""

    # A key of ``registry.FAMILIES`` and a name in it; no colon, so it cannot be a URL.
    name: Annotated[str, Meta(pattern=r"^[a-z]{1,40}(/[A-Za-z0-9_.\-]{1,200})?\Z")]
    arguments: Annotated[dict[str, str | int | float | bool | None], Meta(max_length=32)]
    weights: Name
    weights_sha256: Sha256
    licence: Annotated[str, Meta(max_length=1000)] | None
    preprocess: PreprocessRecord
    stages: Annotated[list[StageRecord], Meta(max_length=1000)]
    n_features: Width


class BlockRecord(_Strict, frozen=True):
    """One block of features that the head reads."""

    tap: Name
    grid: Annotated[int, Meta(ge=1, le=64)]
    width: Width


class HeadRecord(_Strict, frozen=True):
    """The head's kind in ``regraft.heads.modules.HEADS``; its tensors are in head.safetensors."""

    kind: Name
    temperature: Annotated[float, Meta(ge=0.001, le=1000)]


class GoldenRecord(_Strict, frozen=True):
    """The synthetic images by file name, and the tolerances for another machine."""

    images: Annotated[list[Annotated[str, Meta(pattern=r"^golden/[a-z0-9\-]{1,40}\.(png|jpg)\Z")]],
                      Meta(min_length=1, max_length=16)]  # fmt: skip
    pixel_tolerance: Annotated[int, Meta(ge=0, le=64)]  # largest difference, of 255
    feature_tolerance: dict[Literal["float32", "bfloat16"], Annotated[float, Meta(ge=0, le=1)]]
    logit_tolerance: Annotated[float, Meta(ge=0, le=1)]  # of logits from golden features


class Manifest(_Strict, frozen=True):
    """The fields of manifest.json; see FORMAT.md."""

    schema_version: int
    regraft: Annotated[str, Meta(max_length=100)]
    task: Task
    classes: Annotated[list[Name], Meta(min_length=LEAST_CLASSES, max_length=MOST_CLASSES)]
    backbone: BackboneRecord
    blocks: Annotated[list[BlockRecord], Meta(min_length=1, max_length=1000)]
    head: HeadRecord
    max_pixels: Annotated[int, Meta(ge=1, le=2**31)]
    compute: Annotated[dict[str, str | int | float | bool | None], Meta(max_length=32)]
    golden: GoldenRecord
    files: Annotated[dict[str, FileRecord], Meta(max_length=64)]


class _ManifestVersion(Struct):
    """The schema version alone: a newer manifest may have fields that the strict reader refuses."""

    schema_version: int


def read_manifest(data: bytes) -> Manifest:
    """Read a manifest from JSON; check each field by itself and together with the others.

    Raises
    ------
    BundleError
        Names the field and the reason.
    """
    try:
        version = msgspec.json.decode(data, type=_ManifestVersion).schema_version
        if version > SCHEMA_VERSION:
            raise BundleError(
                f"manifest.json has schema version {version}; this regraft reads {SCHEMA_VERSION}",
                hint="pip install --upgrade regraft",
            )
        if version != SCHEMA_VERSION:
            raise BundleError(
                f"manifest.json has schema version {version}; this regraft reads {SCHEMA_VERSION}",
                hint="train again: this bundle is from before the first release",
            )
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"manifest.json: {str(error)[:300]}") from error
    _check(manifest)
    return manifest


def write_manifest(manifest: Manifest) -> bytes:
    """Return a manifest as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2)


def _check(manifest: Manifest) -> None:
    try:
        check_classes(manifest.classes)
    except InputError as error:
        raise BundleError(f"manifest.json: {error.message}") from error
    size, resize = (
        manifest.backbone.preprocess.image_size, manifest.backbone.preprocess.resize_size
    )  # fmt: skip
    if not size <= resize <= _MOST_RESIZED * size:
        raise BundleError(
            f"manifest.json: resize_size {resize} is below image_size {size}, or more than "
            f"{_MOST_RESIZED} times as large"
        )
    names = {stage.name for stage in manifest.backbone.stages} | {"pooled"}
    if len(names) != len(manifest.backbone.stages) + 1:
        raise BundleError("manifest.json: two stages have the same name")
    blocks = [(block.tap, block.grid) for block in manifest.blocks]
    if len(set(blocks)) != len(blocks) or not {tap for tap, _ in blocks} <= names:
        raise BundleError("manifest.json: blocks name a tap twice, or an unknown tap")
    wanted = {*FILES, *manifest.golden.images}
    if set(manifest.files) != wanted:
        wrong = [name[:100] for name in sorted(set(manifest.files) ^ wanted)[:5]]
        raise BundleError(f"manifest.json: these files are missing or unexpected: {wrong}")
    for precision in ("float32", "bfloat16"):
        if precision not in manifest.golden.feature_tolerance:
            raise BundleError(f"manifest.json: golden.feature_tolerance has no {precision}")
    values = (*manifest.backbone.preprocess.mean, *manifest.backbone.preprocess.std)
    if not all(math.isfinite(value) for value in values):
        raise BundleError("manifest.json: mean or std is not finite")
    if any(not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,60}", key)
           for key in manifest.backbone.arguments):  # fmt: skip
        raise BundleError("manifest.json: backbone.arguments has a name that is not allowed")
