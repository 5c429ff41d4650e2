"""X and y as users of scikit-learn give them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import issparse
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import assert_all_finite, column_or_1d

from regraft.core.text import listed
from regraft.data.names import normalise
from regraft.data.sources.given import images_of, is_one_image
from regraft.errors import EstimatorError, SmallSampleWarning

if TYPE_CHECKING:
    from numpy.typing import NDArray


def several(images: Any) -> Any:
    """Return the images of X in one array or a list; there must be several."""
    if issparse(images):
        raise EstimatorError("X is sparse; images are dense")
    if is_one_image(images) or not hasattr(images, "__iter__"):
        raise EstimatorError(
            f"X is a {type(images).__name__}; it must hold several images",
            hint="one image is a list of one: [image]",
        )
    shape = tuple(getattr(images, "shape", (1,)))
    if len(shape) not in {1, 3, 4} or not shape[0]:
        raise EstimatorError(
            f"X of shape {shape} is no array of images",
            hint="give (N, H, W) or (N, H, W, 3) in uint8, or a list of paths, bytes, PIL images "
            "or arrays; X.reshape(-1, height, width) of rows of pixels",
        )
    return images_of(images)


def check_labels(y: Any) -> NDArray[Any]:
    """Return the labels (N,) as an array."""
    if y is None:
        raise EstimatorError("Classifier requires y to be passed, but the target y is None")
    labels = column_or_1d(y, warn=True)
    if labels.dtype.kind == "f":
        assert_all_finite(labels, input_name="y")
    check_classification_targets(labels)
    return np.asarray(labels)


def classes_and_names(labels: NDArray[Any]) -> tuple[NDArray[Any], list[str]]:
    """Return the classes and each image's label as text."""
    classes, names = np.unique(labels), [as_text(label) for label in labels.tolist()]
    if len(set(names)) != len(classes):
        raise EstimatorError("y has different labels that are the same as text")
    if not isinstance(classes.tolist()[0], str | int | float):
        raise EstimatorError(f"labels of type {type(classes[0]).__name__} cannot be used in y")
    return classes, names


def as_text(label: object) -> str:
    """Return a label as a training names its class."""
    return normalise(str(label))


def warn_of_lost_classes(labels: NDArray[Any], classes: NDArray[Any]) -> None:
    """Warn if all images of a class have weight 0."""
    lost = np.setdiff1d(labels, classes)
    if len(lost) and len(classes) > 1:  # one class is an error
        message = f"all images of {listed([as_text(label) for label in lost])} have weight 0"
        warnings.warn(f"{message}: the model does not know the class", SmallSampleWarning, 3)
