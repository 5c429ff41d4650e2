"""The manifest of a bundle: its fields, and a strict reader with limits for each of them."""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from regraft.backbones.sums import MOST_NETWORKS
from regraft.config.train_config import MAX_VIEWS
from regraft.decision.answers import MOST_ANSWERS
from regraft.decision.costs import MOST_COSTLY
from regraft.decision.scorers import SCORERS
from regraft.decision.typicality import MOST_MEASURED
from regraft.errors import BundleError, InputError
from regraft.task import LEAST_CLASSES, MOST_CLASSES, Task, check_classes

#: 1: features channel by channel, before the first release. 2: one network, no decisions.
SCHEMA_VERSION = 3
MAX_BYTES = 16 * 2**20  # of the manifest; 100,000 classes of 100 letters fit
_MOST_RESIZED = 10  # times the image size; the smallest crop of any record of weights
CARD, MOST_CARD = "README.md", 2**20  # text for people: it may be there, and bytes
DECISIONS = "decisions.safetensors"
STATISTICS = "statistics.safetensors"  # of version 2

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Name = Annotated[str, Meta(min_length=1, max_length=1000)]
Side = Annotated[int, Meta(ge=1, le=4096)]
Width = Annotated[int, Meta(ge=1, le=1_000_000)]
Number = Annotated[float, Meta(ge=-1000, le=1000)]
Positive = Annotated[float, Meta(gt=0, le=1000)]
Three = tuple[Number, Number, Number]
Share = Annotated[float, Meta(gt=0, lt=1)]  # of images or answers
FeatureTolerance = dict[Literal["float32", "bfloat16"], Annotated[float, Meta(ge=0, le=1)]]
PixelTolerance = Annotated[int, Meta(ge=0, le=64)]  # largest difference, of 255


class _Strict(Struct, forbid_unknown_fields=True, frozen=True):
    """Unknown fields are errors; a writer with new fields increases the schema version."""


class FileRecord(_Strict, frozen=True):
    """Hash and size of one file."""

    sha256: Sha256
    bytes: Annotated[int, Meta(ge=1, le=2**40)]


Files = Annotated[dict[str, FileRecord], Meta(max_length=64)]


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


class _Network(_Strict, frozen=True):
    """How the network is built again: by its name in the registry, never by a URL or a path."""

    # A key of ``registry.FAMILIES`` and a name in it; no colon, so it cannot be a URL.
    name: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9\-]{0,40}(/[A-Za-z0-9_.\-]{1,200})?\Z")]
    arguments: Annotated[dict[str, str | int | float | bool | None], Meta(max_length=32)]
    weights: Name
    weights_sha256: Sha256
    licence: Annotated[str, Meta(max_length=1000)] | None
    preprocess: PreprocessRecord
    stages: Annotated[list[StageRecord], Meta(max_length=1000)]
    n_features: Width


class NetworkRecord(_Network, frozen=True, kw_only=True):
    """A network, and the tolerances for its golden pixels and features on another machine."""

    pixel_tolerance: PixelTolerance
    feature_tolerance: FeatureTolerance


class _Block(_Strict, frozen=True):
    tap: Name
    grid: Annotated[int, Meta(ge=1, le=64)]
    width: Width


class BlockRecord(_Block, frozen=True, kw_only=True):
    """One block of features that the head reads, of a network by its index from 0."""

    network: Annotated[int, Meta(ge=0, lt=MOST_NETWORKS)]


class HeadRecord(_Strict, frozen=True):
    """The head's kind in ``regraft.heads.modules.HEADS``; its tensors are in head.safetensors."""

    kind: Name
    temperature: Annotated[float, Meta(ge=0.001, le=1000)]


class GoldenRecord(_Strict, frozen=True):
    """The synthetic images by file name, and the tolerance for another machine."""

    images: Annotated[list[Annotated[str, Meta(pattern=r"^golden/[a-z0-9\-]{1,40}\.(png|jpg)\Z")]],
                      Meta(min_length=1, max_length=16)]  # fmt: skip
    logit_tolerance: Annotated[float, Meta(ge=0, le=1)]  # of logits from golden features


class TypicalityRecord(_Strict, frozen=True):
    """What measures how unlike an image is, and the number of scores it is compared with."""

    kind: Name  # a key of ``SCORERS``
    network: Annotated[int, Meta(ge=0, le=0)]  # so far always the first
    n: Annotated[int, Meta(ge=0, le=MOST_MEASURED)]


class AnswersRecord(_Strict, frozen=True):
    """The number of answers for training images by models of other images."""

    n: Annotated[int, Meta(ge=0, le=MOST_ANSWERS)]


class CostsRecord(_Strict, frozen=True):
    """Answers of a table of costs that are no class, in the order of its last columns."""

    extra: Annotated[list[Literal["abstain", "unknown"]], Meta(max_length=2)]

    def __post_init__(self) -> None:
        """Refuse a column that comes twice."""
        if len(set(self.extra)) != len(self.extra):
            raise ValueError("a column of the costs comes twice")


class LevelsRecord(_Strict, frozen=True):
    """``regraft.decision.policy.Levels``; a table of costs is among the tensors."""

    unknown: Share | None
    coverage: Share
    coverage_by: Literal["all", "class"]
    min_precision: Share | None
    costs: CostsRecord | None


class DecisionsRecord(_Strict, frozen=True):
    """``regraft.decision.policy.Decisions``; its tensors are in decisions.safetensors."""

    typicality: TypicalityRecord | None
    answers: AnswersRecord
    n_units: Annotated[int, Meta(ge=0, le=2**31)]
    held_out: bool
    levels: LevelsRecord


class _Common(_Strict, frozen=True, kw_only=True):
    """The fields that versions 2 and 3 have alike."""

    schema_version: int
    regraft: Annotated[str, Meta(max_length=100)]
    task: Task
    classes: Annotated[list[Name], Meta(min_length=LEAST_CLASSES, max_length=MOST_CLASSES)]
    head: HeadRecord
    max_pixels: Annotated[int, Meta(ge=1, le=2**31)]
    compute: Annotated[dict[str, str | int | float | bool | None], Meta(max_length=32)]


class Manifest(_Common, frozen=True, kw_only=True):
    """The fields of manifest.json; see FORMAT.md."""

    networks: Annotated[list[NetworkRecord], Meta(min_length=1, max_length=MOST_NETWORKS)]
    blocks: Annotated[list[BlockRecord], Meta(min_length=1, max_length=1000)]
    golden: GoldenRecord
    decisions: DecisionsRecord | None
    files: Files

    def network_file(self, index: int) -> str:
        """Return the name of the file with the tensors of a network."""
        return "backbone.safetensors" if self.schema_version == 2 else network_file(index)

    def pixels_name(self, index: int) -> str:
        """Return the name of the tensor with the golden pixels of a network."""
        return "pixels" if self.schema_version == 2 else f"pixels-{index + 1}"

    def needed_files(self) -> set[str]:
        """Return the names of the files that the bundle must have, besides the manifest."""
        names = {self.network_file(index) for index in range(len(self.networks))}
        names |= {"head.safetensors", "golden.safetensors", *self.golden.images}
        if self.schema_version == 2:
            names.add(STATISTICS)
        return names | (set() if self.decisions is None else {DECISIONS})


def network_file(index: int) -> str:
    """Return the name of the file with the tensors of a network, by its index from 0."""
    return f"network-{index + 1}.safetensors"


class _GoldenOfVersion2(GoldenRecord, frozen=True, kw_only=True):
    pixel_tolerance: PixelTolerance
    feature_tolerance: FeatureTolerance


class _ManifestOfVersion2(_Common, frozen=True, kw_only=True):
    """As regraft wrote it before there were decisions."""

    backbone: _Network
    blocks: Annotated[list[_Block], Meta(min_length=1, max_length=1000)]
    golden: _GoldenOfVersion2
    files: Files

    def converted(self) -> Manifest:
        """Return the same with the fields of version 3; ``schema_version`` stays 2."""
        common = {name: getattr(self, name) for name in _Common.__struct_fields__}
        network = NetworkRecord(
            **msgspec.structs.asdict(self.backbone),
            pixel_tolerance=self.golden.pixel_tolerance,
            feature_tolerance=self.golden.feature_tolerance,
        )
        return Manifest(
            **common,
            networks=[network],
            blocks=[BlockRecord(**msgspec.structs.asdict(each), network=0) for each in self.blocks],
            golden=GoldenRecord(self.golden.images, self.golden.logit_tolerance),
            decisions=None,
            files=self.files,
        )


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
        if version not in (2, SCHEMA_VERSION):
            raise BundleError(
                f"manifest.json has schema version {version}; this regraft reads 2 and "
                f"{SCHEMA_VERSION}",
                hint="pip install --upgrade regraft"
                if version > SCHEMA_VERSION
                else "train again: this bundle is from before the first release",
            )
        manifest = (
            msgspec.json.decode(data, type=_ManifestOfVersion2).converted()
            if version == 2
            else msgspec.json.decode(data, type=Manifest)
        )
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
    for network in manifest.networks:
        _check_network(network)
    blocks = [(block.network, block.tap, block.grid) for block in manifest.blocks]
    taps = {
        (index, name)
        for index, network in enumerate(manifest.networks)
        for name in (*(stage.name for stage in network.stages), "pooled")
    }
    if len(set(blocks)) != len(blocks) or not {block[:2] for block in blocks} <= taps:
        raise BundleError("manifest.json: blocks name a tap twice, or an unknown tap")
    needed, found = manifest.needed_files(), set(manifest.files)
    may_be = {CARD} if manifest.schema_version > 2 else set()
    if found - may_be != needed:
        wrong = [name[:100] for name in sorted((found - may_be) ^ needed)[:5]]
        raise BundleError(f"manifest.json: these files are missing or unexpected: {wrong}")
    if manifest.decisions is not None:
        _check_decisions(manifest.decisions, manifest)


def _check_decisions(decisions: DecisionsRecord, manifest: Manifest) -> None:
    if decisions.typicality is not None and decisions.typicality.kind not in SCORERS:
        raise BundleError(f"manifest.json: there is no typicality {decisions.typicality.kind!r}")
    if decisions.levels.costs is not None and len(manifest.classes) > MOST_COSTLY:
        raise BundleError(
            f"manifest.json: there are costs, and {len(manifest.classes):,} classes; a table of "
            f"costs has at most {MOST_COSTLY:,}",
        )


def _check_network(network: NetworkRecord) -> None:
    size, resize = network.preprocess.image_size, network.preprocess.resize_size
    if not size <= resize <= _MOST_RESIZED * size:
        raise BundleError(
            f"manifest.json: resize_size {resize} is below image_size {size}, or more than "
            f"{_MOST_RESIZED} times as large"
        )
    names = {stage.name for stage in network.stages} | {"pooled"}
    if len(names) != len(network.stages) + 1:
        raise BundleError("manifest.json: two stages have the same name")
    for precision in ("float32", "bfloat16"):
        if precision not in network.feature_tolerance:
            raise BundleError(f"manifest.json: feature_tolerance has no {precision}")
    values = (*network.preprocess.mean, *network.preprocess.std)
    if not all(math.isfinite(value) for value in values):
        raise BundleError("manifest.json: mean or std is not finite")
    if any(not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,60}", key) for key in network.arguments):
        raise BundleError("manifest.json: the network's arguments have a name that is not allowed")
