"""Answers of models that had not seen an image, one for each unit: what every level comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from regraft.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


#: Most answers that are kept: the standard error of a share of 0.95 is then 0.0007.
MOST_ANSWERS = 100_000
#: Arrays of a bundle and their types.
_TYPES = {"labels": np.int32, "true": np.float32, "confidence": np.float32, "answered": np.int32}


@dataclass(frozen=True)
class Answers:
    """Answers for n training images by models of other images.

    Parameters
    ----------
    labels : array of shape (n,), int64
        True classes.
    true : array of shape (n,), float32
        Probability of the true class.
    confidence : array of shape (n,), float32
        Probability of the class that was answered, with the classes' own shares (``plain``).
    answered : array of shape (n,), int64
        Classes that were answered: the most probable ones.
    """

    labels: NDArray[np.int64]
    true: NDArray[np.float32]
    confidence: NDArray[np.float32]
    answered: NDArray[np.int64]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each answer is the true class (n,)."""
        right: NDArray[np.bool_] = self.answered == self.labels
        return right

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of(
        cls,
        probabilities: NDArray[np.float32],
        labels: NDArray[np.int64],
        class_weights: NDArray[np.float64] | None = None,
    ) -> Answers:
        """Return the answers with these probabilities (n, K), sorted by their values.

        ``class_weights`` (K,) are those of the fit, if the classes had different ones.

        Examples
        --------
        >>> answers = Answers.of(np.array([[0.9, 0.1], [0.6, 0.4]], np.float32), np.array([0, 1]))
        >>> answers.true.tolist(), answers.right.tolist()
        ([0.8999999761581421, 0.4000000059604645], [True, False])
        """
        rows = np.arange(len(labels))
        answered = probabilities.argmax(1)
        true = probabilities[rows, labels]
        confidence = plain(probabilities, class_weights)[rows, answered]
        # By value: an order that depends on the images would tell whose each answer is.
        order = np.lexsort((answered, confidence, true, labels))
        return cls(labels[order], true[order], confidence[order], answered[order])

    def at_most(self, most: int) -> Answers:
        """Return all answers, or ``most`` of them, drawn at random: the same ones each time.

        The draw does not look at the answers. Those that are left are as exchangeable as all.
        """
        if len(self) <= most:
            return self
        kept = np.sort(np.random.default_rng(0).choice(len(self), most, replace=False))
        return Answers(
            self.labels[kept], self.true[kept], self.confidence[kept], self.answered[kept]
        )

    def tensors(self) -> dict[str, NDArray[np.generic]]:
        """Return what a bundle keeps."""
        return {
            "labels": self.labels.astype(np.int32),
            "true": self.true,
            "confidence": self.confidence,
            "answered": self.answered.astype(np.int32),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[np.generic]], n_classes: int) -> Answers:
        """Check and take over what a bundle kept.

        Raises
        ------
        InputError
            An array is missing, of another type or length, or holds what is no label or share.
        """
        missing = [name for name in _TYPES if name not in tensors]
        if missing:
            raise InputError(f"there is no {missing[0]}")
        n = tensors["labels"].size
        for name, dtype in _TYPES.items():
            if tensors[name].dtype != dtype or tensors[name].shape != (n,):
                raise InputError(f"{name} must be {np.dtype(dtype).name} of the length of labels")
        labels, answered = (tensors[name].astype(np.int64) for name in ("labels", "answered"))
        shares = np.stack([tensors["true"], tensors["confidence"]])
        classes = np.stack([labels, answered])
        if not ((classes >= 0) & (classes < n_classes)).all():
            raise InputError("labels or answered hold what is no class")
        if not ((shares >= 0) & (shares <= 1)).all():
            raise InputError("true or confidence hold what is no probability")
        true, confidence = shares.astype(np.float32)
        return cls(labels, true, confidence, answered)


def check_class_weights(weights: NDArray[np.generic], n_classes: int) -> NDArray[np.float64]:
    """Check and take over the class weights that a bundle kept.

    Raises
    ------
    InputError
        They are of another type or length, or no weights.
    """
    if weights.dtype != np.float64 or weights.shape != (n_classes,):
        raise InputError(f"class_weights must be {n_classes:,} numbers of float64")
    result: NDArray[np.float64] = weights.astype(np.float64)
    if not (np.isfinite(result) & (result >= 0)).all() or not result.any():
        raise InputError("class_weights must be finite, at least 0, and not all 0")
    return result


def prior_factors(class_weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what probabilities (N, K) are multiplied by, before their sum is made 1 again.

    A class without training images has no weight, and no share. Over the least of the weights, no
    factor overflows.

    Examples
    --------
    >>> prior_factors(np.array([0.5, 2.0, 0.0])).tolist()
    [1.0, 0.25, 0.0]
    """
    weighted = class_weights > 0
    least = class_weights.min(initial=np.inf, where=weighted)
    factors: NDArray[np.float64] = np.divide(
        least, class_weights, out=np.zeros(len(class_weights)), where=weighted
    )
    return factors


def plain(
    probabilities: NDArray[np.float32], class_weights: NDArray[np.float64] | None
) -> NDArray[np.float32]:
    """Return probabilities (N, K) as they are where no class counts more than another.

    A fit in which an image of class k counts w(k) times gives each class w(k) times its share,
    up to a common factor. Divided by w(k), the probabilities are those of the data.

    Saerens, Latinne and Decaestecker, Adjusting the outputs of a classifier to new a priori
    probabilities, Neural Computation 2002.

    Examples
    --------
    >>> plain(np.array([[0.5, 0.5]], np.float32), np.array([0.5, 2.0])).round(3).tolist()
    [[0.800000011920929, 0.20000000298023224]]
    """
    if class_weights is None:
        return probabilities
    factors = prior_factors(class_weights)
    shares = probabilities * factors
    total = shares.sum(1, keepdims=True)
    kept: NDArray[np.float64] = np.divide(
        shares, total, out=probabilities.astype(np.float64), where=total > 0
    )
    result: NDArray[np.float32] = kept.astype(np.float32)
    return result
