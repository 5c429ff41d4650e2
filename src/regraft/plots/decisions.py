"""How sure answers are, how large sets are, how typical images are: decisions.png."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.ticker import MaxNLocator

from regraft.plots.figure import DASHED, RIGHT, WRONG, new_figure, style_axes, write_figure

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_PANEL = 3.7  # inches
_MOST_SIZES = 20  # sizes of sets with a bar each; more share bars
_MOST_BINS, _IN_A_BIN = 20, 10  # of p-values, and how many of them at least, on average


class KnownAnswers(NamedTuple):
    """Answers whose truth is known: one curve.

    Parameters
    ----------
    name : str
        Which images these are, for the legend.
    confidence : array of shape (n,)
        Probability of the class that is answered.
    right : array of shape (n,), bool
        Whether it is the true one.
    """

    name: str
    confidence: NDArray[np.float32]
    right: NDArray[np.bool_]


class DrawnDecisions(NamedTuple):
    """The numbers of the picture.

    Parameters
    ----------
    tested, fitted : KnownAnswers
        Answers for the test images, and those that thresholds come from.
    kept : array of shape (n,), bool, optional
        Which test images are answered, if a precision was asked for.
    sizes : array of shape (n,), int64
        Classes in the set of each test image.
    coverage, aimed_at : float
        Share of these sets that hold the true class, and the share that was aimed at.
    p_values : array of shape (n,), optional
        Of the test images.
    """

    tested: KnownAnswers
    fitted: KnownAnswers
    kept: NDArray[np.bool_] | None
    sizes: NDArray[np.int64]
    coverage: float
    aimed_at: float
    p_values: NDArray[np.float64] | None


def draw_decisions(path: Path, drawn: DrawnDecisions) -> None:
    """Draw error against share answered, the sizes of sets and the p-values, side by side."""
    n_panels = 2 if drawn.p_values is None else 3
    width = _PANEL * n_panels
    figure = new_figure(width, 3.5)
    panels = figure.subplots(1, n_panels)
    figure.subplots_adjust(
        left=0.65 / width, right=1 - 0.2 / width, top=0.91, bottom=0.14, wspace=0.28
    )
    _draw_errors(panels[0], drawn)
    _draw_sizes(panels[1], drawn)
    if drawn.p_values is not None:
        _draw_p_values(panels[2], drawn.p_values)
    for axes in panels:
        style_axes(axes)
        axes.set_axisbelow(True)  # no grid lines across bars
    write_figure(figure, path)


def errors_of(answered: KnownAnswers) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the shares that can be answered, ascending, and the error among each.

    Answers of equal confidence are given together.

    Examples
    --------
    >>> right = np.array([True, False, True, True])
    >>> shares, errors = errors_of(KnownAnswers("", np.array([0.9, 0.6, 0.8, 0.6]), right))
    >>> shares.tolist(), errors.tolist()
    ([0.25, 0.5, 1.0], [0.0, 0.0, 0.25])
    """
    order = np.argsort(-answered.confidence, kind="stable")
    sure, wrong = answered.confidence[order], np.cumsum(~answered.right[order])
    ends = np.flatnonzero(np.append(sure[1:] != sure[:-1], True))
    return (ends + 1) / len(sure), wrong[ends] / (ends + 1)


def _draw_errors(axes: Axes, drawn: DrawnDecisions) -> None:
    highest = 0.0
    for answered, colour, line in ((drawn.fitted, "0.55", DASHED), (drawn.tested, RIGHT, "-")):
        if not len(answered.right):  # so few images that no fold could answer
            continue
        shares, errors = errors_of(answered)
        axes.plot(shares, errors, color=colour, linestyle=line, label=answered.name)
        highest = max(highest, *errors[shares >= 0.1], errors[-1])
    if drawn.kept is not None and drawn.kept.any():
        share, error = drawn.kept.mean(), 1 - drawn.tested.right[drawn.kept].mean()
        axes.plot(
            [share], [error], "D", color=WRONG, markersize=7, zorder=5, clip_on=False,
            label=f"answered: {share:.3f}, error {error:.3f}",
        )  # fmt: skip
    axes.set_xlim(0, 1)
    # The error of a few answers says little: it may leave the picture.
    axes.set_ylim(0, max(1.15 * highest, 0.02))
    axes.set_title("The surest answers alone", loc="left", size=10)
    axes.set_xlabel("share of images that are answered", fontsize=9)
    axes.set_ylabel("error among these answers", fontsize=9)
    axes.legend(fontsize=8, frameon=False, loc="upper left")


def _draw_sizes(axes: Axes, drawn: DrawnDecisions) -> None:
    largest = int(drawn.sizes.max())
    step = -(-largest // _MOST_SIZES)  # sizes in a bar
    shares = np.bincount((drawn.sizes - 1) // step, minlength=min(largest, 3)) / len(drawn.sizes)
    middles = 1 + (step - 1) / 2 + step * np.arange(len(shares))
    axes.bar(middles, shares, width=0.8 * step, color=RIGHT)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("Classes that may be the true one", loc="left", size=10)
    held = f"{drawn.coverage:.3f} of the sets hold it\n({drawn.aimed_at:g} aimed at)"
    axes.text(0.97, 0.97, held, transform=axes.transAxes, ha="right", va="top", fontsize=8)
    axes.set_ylim(0, 1.25 * shares.max())  # room for these words
    axes.set_xlabel("classes in the set of an image", fontsize=9)
    axes.set_ylabel("share of test images", fontsize=9)


def _draw_p_values(axes: Axes, p_values: NDArray[np.float64]) -> None:
    bins = int(np.clip(len(p_values) // _IN_A_BIN, 4, _MOST_BINS))
    counts, edges = np.histogram(p_values, bins, (0, 1))
    width = 1 / bins
    chance = 1.96 * np.sqrt(width * (1 - width) / len(p_values))
    axes.bar(edges[:-1] + width / 2, counts / len(p_values), width=0.9 * width, color=RIGHT)
    axes.axhspan(
        max(width - chance, 0), width + chance, color="0.5", alpha=0.25, linewidth=0,
        label="if it is flat, 95 % of the bars end here",
    )  # fmt: skip
    axes.axhline(width, color="0.3", linewidth=1, linestyle=DASHED)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.3 * max(counts.max() / len(p_values), width + chance))
    axes.set_title("How usual the images are: flat is right", loc="left", size=10)
    axes.set_xlabel("p-value (small: unlike the training images)", fontsize=9)
    axes.set_ylabel("share of test images", fontsize=9)
    axes.legend(fontsize=8, frameon=False, loc="upper right")
