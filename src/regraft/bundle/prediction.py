"""The answer for one image."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from regraft.core.notebook import html_bars, html_table
from regraft.core.text import listed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from regraft.errors import ImageError


@dataclass(frozen=True)
class Prediction:
    """The answer for one image. Later versions may add fields.

    Attributes
    ----------
    id : str
        Path or number of the image.
    label : str or None
        The most probable class; None if the image could not be read.
    probability : float
        Calibrated probability of ``label``, from 0 to 1; NaN if the image could not be read.
    top : tuple of (str, float)
        The most probable classes with their probabilities, best first.
    probabilities : array of shape (K,), float32
        Of all classes, in the order of ``Predictor.classes``; empty if the image could not be read.
    error : ImageError, optional
        The reason why there is no answer.
    notes : tuple of str
        What decoding left out, such as further frames.
    typicality : float, optional
        A p-value: share of images of the training's kind that are at least as unlike the training
        images, above 0 to 1. None if the bundle does not tell.
    unknown : bool, optional
        Whether the image fits no class: ``typicality`` is at most the level. None if the bundle
        does not tell, or no level can be borne.
    set : tuple of str, optional
        Classes that are aimed to hold the true one in a share of images, the coverage; the most
        probable first. None if the bundle does not tell.
    abstained : bool, optional
        Whether no answer is given, because a precision could not be promised or costs say so. None
        if neither was asked for.
    decision : str, optional
        What to do with all this: the name of a class, "abstain" or "unknown" (``abstained`` and
        ``unknown`` tell these from classes of the same name); None if there is no answer.
    by_costs : bool
        Whether the answer of least expected cost was taken, and not the most probable class.
    pooled : array of shape (D,), float32, optional
        Pooled features of the network; None unless they were asked for.

    Examples
    --------
    >>> answer = Prediction("a.jpg", "cat", 0.9, (("cat", 0.9), ("dog", 0.1)))
    >>> answer.label, answer.error is None
    ('cat', True)
    >>> from regraft.errors import ImageError
    >>> missing = Prediction("b.jpg", error=ImageError("missing", "there is no such file"))
    >>> missing.label, missing.probability, missing.error.kind
    (None, nan, 'missing')
    """

    id: str
    label: str | None = None
    probability: float = math.nan
    top: tuple[tuple[str, float], ...] = ()
    probabilities: NDArray[np.float32] = field(
        default_factory=lambda: np.empty(0, np.float32), repr=False
    )
    error: ImageError | None = None
    notes: tuple[str, ...] = ()
    typicality: float | None = None
    unknown: bool | None = None
    set: tuple[str, ...] | None = None
    abstained: bool | None = None
    decision: str | None = None
    by_costs: bool = field(default=False, repr=False)
    pooled: NDArray[np.float32] | None = field(default=None, repr=False)

    def remarks(self) -> list[str]:
        """Return what was decided in words, where that is more than the most probable class.

        Examples
        --------
        >>> Prediction("a.jpg", "cat", 0.5, typicality=0.0005, unknown=True).remarks()
        ['fits no class: unlike the training images, p 0.0005']
        >>> Prediction("a.jpg", "cat", 0.5, set=("cat", "dog"), abstained=True).remarks()
        ['no answer: not sure enough', 'set: cat, dog']
        """
        found = []
        if self.unknown:
            found.append(f"fits no class: unlike the training images, p {self.typicality:.2g}")
        refused = self.unknown and self.decision == "unknown"  # else costs have no such answer
        if self.abstained:
            why = "that costs least" if self.by_costs else "not sure enough"
            found.append(f"no answer: {why}")
        elif not refused and self.decision not in {None, self.label}:
            found.append(f"costs least: {self.decision}")
        if self.set is not None and len(self.set) > 1 and not self.unknown:
            found.append(f"set: {listed(self.set, 10)}")
        return found

    def _repr_html_(self) -> str:
        if self.error is not None:
            return html_table(f"image {self.id}: no answer", [("error", str(self.error))])
        note = "; ".join([*self.remarks(), *self.notes])
        return html_bars(f"image {self.id}: {self.label}", self.top, note)
