"""One call for every head: check the arrays, weigh the classes, fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from regraft.core.text import counted
from regraft.errors import InputError
from regraft.heads.logistic import fit_logistic
from regraft.heads.ridge import fit_ridge
from regraft.heads.simple import fit_knn, fit_mean
from regraft.heads.standardise import Standard
from regraft.task import check_labels, check_n_classes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from regraft.config.train_config import ClassWeight, HeadName
    from regraft.heads.fitted import FittedHead


class Fitter(Protocol):
    """The function that fits a head: a value of ``FITTERS``.

    It may take more settings of its own as keywords with defaults, which ``fit_head`` passes on.
    """

    def __call__(
        self,
        x: NDArray[np.float32],
        y: NDArray[np.int64],
        *,
        folds: NDArray[np.int64],
        n_classes: int,
        weights: NDArray[np.float64],
        standard: Standard,
    ) -> FittedHead:
        """Fit a head; whatever is chosen is chosen by the folds.

        Parameters
        ----------
        x : array of shape (N, D), float32
            Features of the training part, as extracted: finite, not standardised, not to be
            written to.
        y : array of shape (N,), int64
            Classes, 0 to K - 1.
        folds : array of shape (N,), int64
            Fold of each sample, from 0; -1 is in every fit and is not scored. There may be no fold
            at all, but never one fold alone.
        n_classes : int
            K, at least 2. A class may have no sample outside one fold.
        weights : array of shape (N,), float64
            Weight of each sample in fits and scores, above 0, with a mean of 1.
        standard : Standard
            How features are standardised; part of the head.

        Returns
        -------
        FittedHead
            Its head is a module of ``regraft.heads.modules.HEADS``; ``finish_fit`` completes the
            rest. ``history`` has one row for each value that was tried: first the value, by its
            name, then the columns of ``OutOfFoldScores``, "seconds" and "chosen". Its
            ``criterion`` is what a choice is made by.

        See Also
        --------
        regraft.heads.simple.fit_mean : The shortest example.
        """


#: Name of ``--head`` to its fitter. A new one is also a name in ``HeadName`` of the settings.
FITTERS: dict[str, Fitter] = {
    "logistic": fit_logistic,
    "ridge": fit_ridge,
    "knn": fit_knn,
    "mean": fit_mean,
}
#: Heads that cannot use the weights of single rows, and why.
WITHOUT_WEIGHTS = {"knn": "a neighbour is a whole image"}
#: Least weight of a row, as a share of the largest.
_LEAST_WEIGHT = 1e-12


def fit_head(  # noqa: PLR0913 - arrays and choices of one fit, each by its name
    x: NDArray[np.float32],  # (N, D)
    y: NDArray[np.int64],
    *,
    folds: NDArray[np.int64],
    n_classes: int,
    name: HeadName = "logistic",
    class_weight: ClassWeight = "none",
    own_weights: NDArray[np.float64] | None = None,
    widths: Sequence[int] | None = None,
    standard: Standard | None = None,
    **options: Any,
) -> FittedHead:
    """Check the arrays, weigh the classes, and fit a head by its fitter.

    ``class_weight`` "balanced" lets each class count the same in the fit, in the choice and in the
    temperature. ``own_weights`` (N,), above 0, are those of the rows; each class then counts with
    their sum. ``standard`` is measured on ``x`` by default, in blocks of these ``widths``.
    ``options`` are passed to the fitter, such as ``scored``, for logistic and ridge: a mask (N,) of
    the rows by which choices are made. Views of an image are held out with it and not scored.

    Examples
    --------
    >>> generator = np.random.default_rng(0)
    >>> y = np.arange(60) % 3
    >>> x = (generator.normal(size=(60, 8)) + 2 * np.eye(3, 8)[y]).astype(np.float32)
    >>> fitted = fit_head(x, y, folds=np.arange(60) // 3 % 5, n_classes=3)
    >>> fitted.oof_logits.shape, fitted.record["out_of_fold"]["accuracy"] > 0.8
    ((60, 3), True)
    """
    if name not in FITTERS:
        raise InputError(f"there is no head {name!r}", hint=f"one of {', '.join(FITTERS)}")
    _check(x, y, folds, n_classes)
    if widths is not None and (min(widths, default=0) < 1 or sum(widths) != x.shape[1]):
        raise InputError(
            f"blocks of widths {list(widths)} do not make {counted(x.shape[1], 'feature')}"
        )
    weights = sample_weights(y, n_classes, class_weight, own_weights)
    x = _for_torch(x, np.float32)
    return FITTERS[name](
        x,
        _for_torch(y, np.int64),
        folds=_for_torch(folds, np.int64),
        n_classes=n_classes,
        weights=weights,
        standard=standard or Standard.measure(torch.from_numpy(x), widths),
        **options,
    )


def class_weights(
    y: NDArray[np.int64], n_classes: int, own_weights: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:  # (K,)
    """Return weights with which all classes count the same; 0 for a class without rows.

    ``own_weights`` (N,) are those of the rows, which count once each by default.

    Examples
    --------
    >>> class_weights(np.array([0, 0, 0, 1]), 3).round(2).tolist()
    [0.67, 2.0, 0.0]
    """
    counts = np.bincount(y, own_weights, minlength=n_classes)
    present = counts > 0
    weights = np.zeros(n_classes)
    weights[present] = counts.sum() / (np.count_nonzero(present) * counts[present])
    return weights


def sample_weights(
    y: NDArray[np.int64],
    n_classes: int,
    class_weight: ClassWeight,
    own_weights: NDArray[np.float64] | None = None,  # (N,), above 0
) -> NDArray[np.float64]:  # (N,)
    """Return the weight of each row by its class and its own weight, with a mean of 1.

    Examples
    --------
    >>> sample_weights(np.array([0, 0, 0, 1]), 2, "balanced").round(2).tolist()
    [0.67, 0.67, 0.67, 2.0]
    """
    if own_weights is None:
        return np.ones(len(y)) if class_weight == "none" else class_weights(y, n_classes)[y]
    # The largest is 1, so that no sum is infinite, and the smallest is not lost in float32.
    weights = np.maximum(own_weights / own_weights.max(), _LEAST_WEIGHT)
    if class_weight != "none":
        weights = weights * class_weights(y, n_classes, weights)[y]
    normalised: NDArray[np.float64] = weights / weights.mean()
    return normalised


def check_weights(given: Any, n_images: int, head: str) -> NDArray[np.float64]:
    """Return the ``sample_weight`` of a user for each image (N,), at least 0; 1 by default."""
    if given is None:
        return np.ones(n_images)
    if head in WITHOUT_WEIGHTS:
        raise InputError(
            f"head {head} cannot use sample_weight: {WITHOUT_WEIGHTS[head]}",
            hint="head='logistic' uses it; or leave images out, or give them twice",
        )
    try:
        weights = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"sample_weight holds no numbers: {error}") from error
    if weights.ndim == 0:
        weights = np.full(n_images, weights)
    if weights.shape != (n_images,):
        raise InputError(
            f"sample_weight of shape {weights.shape} does not belong to {n_images} images; it must "
            f"have the shape ({n_images},)"
        )
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(bad):
        raise InputError(
            f"sample_weight of image {bad[0]} is {weights[bad[0]]}; a weight is a finite number, "
            "at least 0"
        )
    if not weights.any():
        raise InputError("sample_weight is zero for every image; one of each class is needed")
    return weights


def _for_torch(array: NDArray[Any], dtype: type[np.generic]) -> NDArray[Any]:
    """Copy only what torch cannot share: another type or layout, or memory that is read-only."""
    return np.require(array, dtype, ["C", "W"])


def _check(
    x: NDArray[np.float32], y: NDArray[np.int64], folds: NDArray[np.int64], n_classes: int
) -> None:
    if x.ndim != 2 or not x.shape[0] or not x.shape[1]:
        raise InputError(f"features have shape {x.shape}; they must be (samples, features)")
    if y.shape != (len(x),) or folds.shape != (len(x),):
        raise InputError(
            f"{counted(len(x), 'row')} of features, labels of shape {y.shape} and folds of shape "
            f"{folds.shape} do not belong together"
        )
    if folds.min() == folds.max() >= 0:
        raise InputError(f"all samples are in fold {folds[0]}; a fit without it has none")
    check_n_classes(n_classes)
    check_labels(y, n_classes)
    for start in range(0, len(x), 4096):  # not at once: a mask of the whole would cost a quarter
        bad = np.argwhere(~np.isfinite(x[start : start + 4096]))
        if len(bad):
            row, column = bad[0]
            raise InputError(f"feature {column} of sample {start + row} is not finite")
