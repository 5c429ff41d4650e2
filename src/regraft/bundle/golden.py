"""Golden images: for them a bundle must give the answers that it gave when it was written.

They are synthetic, never photographs of a user, and each finds a different mistake: a wide one in
the crop, one with EXIF orientation in the rotation, one with alpha in the compositing, a small grey
one in the enlarging.
"""

from __future__ import annotations

import dataclasses
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from PIL import Image

from regraft.errors import BundleError, ImageError
from regraft.features.reader import FeatureReader
from regraft.features.taps import block_widths
from regraft.images.augment import render_views
from regraft.images.decode import decode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from regraft.bundle.format import Bundle
    from regraft.bundle.manifest import Manifest
    from regraft.decision.typicality import Typicality
    from regraft.features.compute import Compute
    from regraft.images.render import Preprocess
    from regraft.model import Model

#: Largest difference of a pixel, of 255: JPEG decoders and resizing kernels round differently.
PIXEL_TOLERANCE = 4
#: Relative to the norm of the features. Another summation order differs by 1e-5, TF32 by 1e-3,
#: bfloat16 by 2e-2; wrong weights or a wrong normalisation by 0.3 and more.
FEATURE_TOLERANCE: dict[Literal["float32", "bfloat16"], float] = {"float32": 0.01, "bfloat16": 0.1}
#: Of a golden image, whatever the user allows for other images; those of regraft have 48,000.
_MOST_PIXELS = 1_000_000
LOGIT_TOLERANCE = 1e-3  # relative to the largest logit, from the same features


@dataclass(frozen=True)
class Golden:
    """The golden images, with the pixels, features and logits that the writer got."""

    images: dict[str, bytes]  # encoded, by file name
    pixels: tuple[torch.Tensor, ...]  # by network: (G, 3, S, S) uint8, or (G, 1 + views, 3, S, S)
    features: NDArray[np.float32]  # (G, F), rounded as in the feature store
    logits: NDArray[np.float32]  # (G, K)
    pooled: NDArray[np.float32] | None = None  # (G, D), rounded, where there is a typicality
    typicality: NDArray[np.float32] | None = None  # (G,): scores, which large ones make unlike

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return all but the images, by the names that a bundle gives them."""
        found = {f"pixels-{number}": each for number, each in enumerate(self.pixels, 1)}
        for name in ("features", "logits", "pooled", "typicality"):
            if getattr(self, name) is not None:
                found[name] = torch.from_numpy(getattr(self, name))
        return found


def golden_images() -> dict[str, bytes]:
    """Return the golden images by file name, encoded.

    The bytes are the same for each call on one machine. Encoders differ between machines, so the
    bundle contains the bytes.

    Examples
    --------
    >>> sorted(golden_images())
    ['golden/alpha.png', 'golden/rotated.jpg', 'golden/small-grey.png', 'golden/wide.jpg']
    """
    upright = Image.fromarray(_scene(240, 180))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: the camera was held upright, the pixels are rotated
    alpha = np.dstack([_scene(160, 160), np.tile(np.linspace(0, 255, 160), (160, 1))])
    return {
        "golden/wide.jpg": _encoded(Image.fromarray(_scene(150, 320)), "JPEG", quality=95),
        "golden/rotated.jpg": _encoded(upright, "JPEG", quality=95, exif=exif),
        "golden/alpha.png": _encoded(Image.fromarray(alpha.astype(np.uint8)), "PNG"),
        "golden/small-grey.png": _encoded(Image.fromarray(_scene(28, 28)).convert("L"), "PNG"),
    }


def _scene(height: int, width: int) -> NDArray[np.uint8]:
    """Draw smooth colours, an edge and a disc (H, W, 3), without symmetry."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]  # (H, W) each
    red = 60 + 150 * x
    green = 128 + 90 * np.sin(9 * x + 4 * y)
    blue = np.where(x + 0.7 * y > 0.9, 190.0, 70.0)
    disc = (x - 0.35) ** 2 + (y - 0.3) ** 2 < 0.03
    picture = np.stack([red, green, blue], axis=-1)  # (H, W, 3)
    picture[disc] = (235, 200, 40)
    return picture.round().astype(np.uint8)


def _encoded(image: Image.Image, format_name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def record_golden(model: Model, compute: Compute, typicality: Typicality | None = None) -> Golden:
    """Compute what is recorded of the golden images, in float32."""
    images = golden_images()
    decoded = [decode(data, _MOST_PIXELS) for data in images.values()]
    pixels = tuple(
        torch.stack([render_views(each, network.preprocess) for each in decoded]).contiguous()
        for network in model.networks
    )
    reference = dataclasses.replace(compute, precision="float32")
    reader = FeatureReader(model.networks, model.blocks, reference)
    features, pooled = reader(pixels)
    golden = Golden(images, pixels, features, model.logits(features))
    if typicality is None:
        return golden
    scores = typicality.score(pooled, golden.logits).astype(np.float32)
    return dataclasses.replace(golden, pooled=pooled, typicality=scores)


def feature_tolerances(
    model: Model, compute: Compute, golden: Golden
) -> list[dict[Literal["float32", "bfloat16"], float]]:
    """Return how much the golden features of each network may differ on another machine."""
    tolerances = [dict(FEATURE_TOLERANCE) for _ in model.networks]
    if compute.precision == "bfloat16":
        here = FeatureReader(model.networks, model.blocks, compute)(golden.pixels)
        recorded = golden.features, golden.pooled
        for allowed, parts in zip(tolerances, _by_network(model, here, recorded), strict=True):
            lost = max((float(_distances(*each).max()) for _, *each in parts), default=0.0)
            # Features that nearly cancel lose more: allow four times the loss of this machine.
            allowed["bfloat16"] = min(max(allowed["bfloat16"], 4 * lost), 1.0)
    return tolerances


def _by_network(
    model: Model,
    here: tuple[NDArray[np.float32], NDArray[np.float32]],
    recorded: tuple[NDArray[np.float32], NDArray[np.float32] | None],
) -> list[list[tuple[str, NDArray[np.float32], NDArray[np.float32]]]]:
    """Return what there is to compare of each network: its name, this machine's, the recorded."""
    widths = block_widths(model.networks, model.blocks)
    numbers = np.repeat([b.network for b in model.blocks], [widths[b] for b in model.blocks])
    parts = []
    for k in range(len(model.networks)):
        own = numbers == k
        parts.append([("features", here[0][:, own], recorded[0][:, own])] if own.any() else [])
    if recorded[1] is not None:
        parts[0].append(("pooled features", here[1], recorded[1]))
    return parts


def check_pixels(manifest: Manifest, golden: Golden, preprocesses: Sequence[Preprocess]) -> None:
    """Check that this machine decodes and renders the golden images as the writer did.

    ``preprocesses`` are those of the networks.

    Raises
    ------
    BundleError
        Names the golden image and the difference.
    """
    for network, pixels, preprocess in zip(
        manifest.networks, golden.pixels, preprocesses, strict=True
    ):
        for (name, data), expected in zip(golden.images.items(), pixels, strict=True):
            try:
                image = render_views(decode(data, _MOST_PIXELS), preprocess)
            except ImageError as error:
                raise BundleError(f"{name}: {error}") from error
            difference = int((image.short() - expected.short()).abs().max())
            if difference > network.pixel_tolerance:
                raise BundleError(
                    f"{name}: a pixel differs by {difference} of 255 when it is decoded here; "
                    f"{network.pixel_tolerance} is allowed",
                    hint="the image libraries here decode this file differently: regraft doctor",
                )


def check_typicality(golden: Golden, typicality: Typicality) -> None:
    """Check that this machine measures the recorded pooled features as the writer did.

    Raises
    ------
    BundleError
        Names the golden image and the difference.
    """
    if golden.pooled is None or golden.typicality is None:
        raise BundleError("golden.safetensors: there is no typicality")
    recorded = golden.typicality.astype(np.float64)
    here = typicality.score(golden.pooled, golden.logits)
    differences = np.abs(here - recorded) / np.maximum(np.abs(recorded), 1)
    worst, allowed = int(differences.argmax()), typicality.scorer.tolerance
    if not differences[worst] <= allowed:
        raise BundleError(
            f"{[*golden.images][worst]}: from the same features the typicality differs by "
            f"{differences[worst]:.2g}; {allowed:g} is allowed"
        )


def check_golden(bundle: Bundle, reader: FeatureReader) -> None:
    """Check that this machine computes the golden features and logits as the writer did.

    Each step begins from the values that the writer recorded one step before, so that the error
    names the step that differs. ``check_pixels`` has checked the pixels,
    ``check_typicality`` the scores. The precision of ``reader`` decides the tolerance.

    Raises
    ------
    BundleError
        Names the golden image, the step and the difference.
    """
    golden, manifest = bundle.golden, bundle.manifest
    here = reader(golden.pixels)
    precision: Literal["bfloat16", "float32"] = (
        "bfloat16" if reader.compute.precision == "bfloat16" else "float32"
    )
    compared = _by_network(bundle.model, here, (golden.features, golden.pooled))
    for network, parts in zip(manifest.networks, compared, strict=True):
        allowed = network.feature_tolerance[precision]
        of = f" of {network.name}" if len(manifest.networks) > 1 else ""
        for what, ours, recorded in parts:
            distances = _distances(ours, recorded)
            worst = int(distances.argmax())
            if not distances[worst] <= allowed:
                raise BundleError(
                    f"{[*golden.images][worst]}: the {what}{of} differ by {distances[worst]:.2g} "
                    f"of their norm in {precision}; {allowed:g} is allowed",
                    hint="try `precision='float32'`; if that fails, the weights or libraries "
                    "differ",
                )
    logits = bundle.model.logits(golden.features)
    scale = max(float(np.abs(golden.logits).max()), 1e-6)
    difference = float(np.abs(logits - golden.logits).max()) / scale
    if not difference <= manifest.golden.logit_tolerance:
        raise BundleError(
            f"golden.safetensors: from the same features the logits differ by {difference:.2g}; "
            f"{manifest.golden.logit_tolerance:g} is allowed"
        )


def _distances(features: NDArray[np.float32], recorded: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return each image's distance from its recorded features, relative to their norm (G,)."""
    # In float64: the numbers of a hostile bundle may overflow in float32.
    expected = recorded.astype(np.float64)
    norms = np.maximum(np.linalg.norm(expected, axis=1), 1e-6)
    distances: NDArray[np.float64] = np.linalg.norm(features - expected, axis=1) / norms
    return distances
