"""The task of a classifier: which kind of answer it gives for an image, and what follows from that.

There is one task today, ``single-label``: each image has exactly one class, so a label is one whole
number and the probabilities of all classes sum to 1. The name is written to metrics.json and to the
manifest of a bundle, so that a reader refuses a task that it does not know. A new task needs a name
here, checks of its labels and classes here, a loss and a head in ``heads``, and its own metrics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from regraft.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

#: The names that metrics.json and a manifest may contain.
Task: TypeAlias = Literal["single-label"]
SINGLE_LABEL: Final = "single-label"

LEAST_CLASSES: Final = 2  # with one class there is nothing to choose
MOST_CLASSES: Final = 100_000  # in a manifest; it bounds what a reader allocates


def check_classes(classes: Sequence[str]) -> None:
    """Check the names of the classes: sorted by code point, without repetition, at least two.

    Examples
    --------
    >>> check_classes(("cat", "dog"))
    >>> check_classes(("dog", "cat"))
    Traceback (most recent call last):
    regraft.errors.InputError: classes are not sorted by code point, each once
    """
    check_n_classes(len(classes))
    if sorted(set(classes)) != list(classes):
        raise InputError("classes are not sorted by code point, each once")


def check_n_classes(n_classes: int) -> None:
    """Check that there are enough classes for a classifier.

    Examples
    --------
    >>> check_n_classes(1)
    Traceback (most recent call last):
    regraft.errors.InputError: there is 1 class; a classifier needs two
    hint: put the images of each class into a folder of its own
    """
    if n_classes < LEAST_CLASSES:
        raise InputError(
            f"there is {n_classes} class; a classifier needs two",
            hint="put the images of each class into a folder of its own",
        )


def check_labels(labels: NDArray[np.int64], n_classes: int) -> None:
    """Check that each label (N,) is the number of a class, from 0 to K - 1.

    Examples
    --------
    >>> import numpy as np
    >>> check_labels(np.array([0, 2]), n_classes=2)
    Traceback (most recent call last):
    regraft.errors.InputError: labels are from 0 to 2; they must be from 0 to 1
    """
    if len(labels) and (labels.min() < 0 or labels.max() >= n_classes):
        raise InputError(
            f"labels are from {labels.min()} to {labels.max()}; they must be from 0 to "
            f"{n_classes - 1}"
        )
