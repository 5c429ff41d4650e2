"""The predictor: images in, answers out, as in training, from a bundle alone."""

from __future__ import annotations

import io
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from regraft.backbones.preprocess import render
from regraft.bundle.format import read_bundle
from regraft.bundle.golden import check_golden
from regraft.data.decode import decode
from regraft.errors import BundleError, ImageError
from regraft.features.compute import choose_compute
from regraft.features.extract import render_ahead
from regraft.features.taps import TapReader, read_features

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from regraft.config import Precision
    from regraft.data.samples import Payload, Source
    from regraft.model import Model

#: Encoded bytes, a path, a PIL image, or pixels: uint8 (H, W) or (H, W, 3).
ImageLike: TypeAlias = bytes | str | Path | Image.Image | NDArray[np.uint8]


@dataclass(frozen=True)
class Prediction:
    """The answer for one image; later versions may add fields.

    Attributes
    ----------
    id : str
        Path or number of the image.
    label : str
        The most probable class; empty where the image could not be read.
    probability : float
        Of ``label``, calibrated.
    top : tuple of (str, float)
        The most probable classes with their probabilities, best first.
    probabilities : array of shape (K,), float32
        In the order of the predictor's ``classes``.
    error : ImageError, optional
        Why there is no answer.
    """

    id: str
    label: str = ""
    probability: float = 0.0
    top: tuple[tuple[str, float], ...] = ()
    probabilities: NDArray[np.float32] = field(
        default_factory=lambda: np.empty(0, np.float32), repr=False
    )
    error: ImageError | None = None


class Predictor:
    """Answers for images as the training run did; made by ``Predictor.load``.

    Attributes
    ----------
    classes : tuple of str
        In the order of ``Prediction.probabilities``.
    model : Model
        As the bundle holds it.
    compute : Compute
        Device and precision of the forward pass.

    Examples
    --------
    ::

        predictor = regraft.Predictor.load("regraft-runs/flowers")
        predictor.predict("photo.jpg").label
    """

    def __init__(self, model: Model, reader: TapReader) -> None:
        self.model = model
        self.classes = model.classes
        self.compute = reader.compute
        self._reader = reader

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        batch_size: int = 16,
    ) -> Predictor:
        """Load a bundle, and check on its golden images that it answers here as it did there.

        Parameters
        ----------
        path : str or Path
            The run folder, or the bundle in it.
        device : str
            "auto", "cpu", "cuda", "cuda:N" or "mps".
        precision : str
            "auto" (as in training, where this machine can), "bfloat16" or "float32".
        batch_size : int
            Images in one forward pass, at least 1.

        Returns
        -------
        Predictor

        Raises
        ------
        BundleError
            Where the bundle is not what it says, or this machine answers otherwise.
        """
        model, manifest, golden = read_bundle(Path(path))
        if precision == "auto" and manifest.compute.get("precision") == "float32":
            precision = "float32"  # as it was trained, not as fast as this machine could
        compute = choose_compute(device, precision, batch_size)
        reader = TapReader(model.backbone, model.blocks, compute)
        try:
            check_golden(model, manifest, golden, reader)
        except (ValueError, IndexError, RuntimeError, TypeError, AttributeError) as error:
            what = f"{path}: the stages do not fit the network: {error}"
            raise BundleError(what) from error
        return cls(model, reader)

    def predict(self, image: ImageLike, top_k: int = 5) -> Prediction:
        """Answer for one image.

        Parameters
        ----------
        image : bytes, str, Path, PIL image, or uint8 array of shape (H, W) or (H, W, 3)
            Encoded bytes, a file, or pixels.
        top_k : int
            How many classes ``top`` lists.

        Returns
        -------
        Prediction

        Raises
        ------
        ImageError
            Where the image cannot be read.
        """
        (prediction,) = self.predict_many([image], top_k)
        if prediction.error is not None:
            raise prediction.error
        return prediction

    def predict_many(self, images: Iterable[ImageLike], top_k: int = 5) -> list[Prediction]:
        """Answer for several images; each as if it were alone, within 1e-4.

        Parameters
        ----------
        images : iterable of images
            As for ``predict``, of any sizes; an array of shape (N, H, W, 3) too.
        top_k : int
            How many classes each ``top`` lists.

        Returns
        -------
        list of Prediction
            In their order, ``id`` counting from "0"; one that cannot be read has ``error``.
        """
        rendered = ((str(index), self._render(image)) for index, image in enumerate(images))
        return list(self._answer(rendered, top_k))

    def stream(self, source: Source, *, workers: int, top_k: int = 5) -> Iterator[Prediction]:
        """Answer for all images of a source, in its order, a bounded number at a time.

        Parameters
        ----------
        source : Source
            From ``regraft.data.sources.open_unlabelled`` or ``open_source``.
        workers : int
            Threads that read and decode.
        top_k : int
            How many classes ``top`` lists.

        Yields
        ------
        Prediction
            With ``error`` where an image cannot be read.
        """
        model = self.model
        rendered = render_ahead(
            source.stream(range(len(source.entries))),
            model.backbone.preprocess,
            workers,
            model.max_pixels,
        )
        named = ((source.entries[index].id, image) for index, image in rendered)
        yield from self._answer(named, top_k)

    def _render(self, image: ImageLike) -> torch.Tensor | ImageError:
        try:
            pixels = decode(payload_of(image), self.model.max_pixels)
            return render(pixels, self.model.backbone.preprocess)
        except ImageError as error:
            return error

    def _answer(
        self, rendered: Iterator[tuple[str, torch.Tensor | ImageError]], top_k: int
    ) -> Iterator[Prediction]:
        while batch := list(itertools.islice(rendered, self._reader.compute.batch_size)):
            images = [image for _, image in batch if isinstance(image, torch.Tensor)]
            probabilities = iter(())
            if images:
                features = read_features(self._reader, torch.stack(images))
                probabilities = iter(self.model.probabilities(features))
            for name, image in batch:
                if isinstance(image, ImageError):
                    yield Prediction(name, error=image)
                else:
                    yield self._prediction(name, next(probabilities), top_k)

    def _prediction(self, name: str, p: NDArray[np.float32], top_k: int) -> Prediction:
        best = np.argsort(-p, kind="stable")[: max(top_k, 1)]  # p: (K,)
        top = tuple((self.classes[k], float(p[k])) for k in best)
        return Prediction(name, top[0][0], top[0][1], top, p)


def payload_of(image: ImageLike) -> Payload:
    """Return what the decoder takes: encoded bytes or pixels.

    Parameters
    ----------
    image : bytes, str, Path, PIL image or array
        A PIL image that was opened from a file is taken as that file's format gave it: its EXIF
        orientation is applied.

    Returns
    -------
    bytes or array

    Raises
    ------
    ImageError
        Where a file cannot be read, or the value is no image.
    """
    if isinstance(image, bytes | np.ndarray):
        return image
    if isinstance(image, str | Path):
        try:
            return Path(image).read_bytes()
        except OSError as error:
            raise ImageError("unreadable", f"{image}: {error.strerror}") from error
    if isinstance(image, Image.Image):
        # Through a lossless file, so that every mode and the orientation follow the one decoder.
        buffer = io.BytesIO()
        image.save(buffer, "TIFF" if image.mode == "CMYK" else "PNG", exif=image.getexif())
        return buffer.getvalue()
    raise ImageError("not an image", f"{type(image).__name__} is neither bytes, path nor pixels")
