"""How sure answers are, how large sets are, how typical images are: decisions.png."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.ticker import MaxNLocator
from scipy import special

from regraft.plots.figure import DASHED, DOTTED, RIGHT, WRONG, new_figure, style_axes, write_figure

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_PANEL, _HEIGHT, _BELOW = 3.7, 4.2, 1.3  # inches: a panel's width, the height, that of the legends
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
    answered : pair of float, optional
        Share of the test images that are answered, and the error among these answers, if a
        precision or costs were asked for; NaN for the error if there is no answer.
    promised : float, optional
        Precision that was asked for.
    sizes : array of shape (n,), int64
        Classes in the set of each test image.
    held : str
        Words: how many of these sets hold the true class, and what was aimed at.
    p_values : array of shape (n,), optional
        Of the test images.
    level : float, optional
        Images with a p-value of at most this are unknown.
    """

    tested: KnownAnswers
    fitted: KnownAnswers
    answered: tuple[float, float] | None
    promised: float | None
    sizes: NDArray[np.int64]
    held: str
    p_values: NDArray[np.float64] | None
    level: float | None


def draw_decisions(path: Path, drawn: DrawnDecisions) -> None:
    """Draw error against share answered, the sizes of sets and the p-values, side by side."""
    n_panels = 2 if drawn.p_values is None else 3
    width = _PANEL * n_panels
    figure = new_figure(width, _HEIGHT)
    panels = figure.subplots(1, n_panels)
    figure.subplots_adjust(
        left=0.65 / width, right=1 - 0.2 / width, top=1 - 0.32 / _HEIGHT, bottom=_BELOW / _HEIGHT,
        wspace=0.28,
    )  # fmt: skip
    _draw_errors(panels[0], drawn)
    _draw_sizes(panels[1], drawn)
    if drawn.p_values is not None:
        _draw_p_values(panels[2], drawn.p_values, drawn.level)
    for axes in panels:
        style_axes(axes)
        axes.set_axisbelow(True)  # no grid lines across bars
        axes.legend(  # below the panel, where it covers nothing
            fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(-0.03, -0.17),
            borderaxespad=0,
        )  # fmt: skip
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
    for answers, colour, line in ((drawn.fitted, "0.55", DASHED), (drawn.tested, RIGHT, "-")):
        n = len(answers.right)
        if not n:  # so few images that no fold could answer
            continue
        shares, errors = errors_of(answers)
        axes.plot(
            shares, errors, color=colour, linestyle=line, label=f"{answers.name}, n = {n:,}"
        )  # fmt: skip
        highest = max(highest, *errors[shares >= 0.1], errors[-1])
    if drawn.promised is not None:
        aim = 1 - drawn.promised
        axes.axhline(
            aim,
            color="0.3",
            linewidth=1,
            linestyle=DOTTED,
            label=f"error that is aimed at: {aim:.3g}",
        )
        highest = max(highest, aim)
    if drawn.answered is not None:
        share, error = drawn.answered
        told = f"answered: {share:.3f}, error {error:.3f}" if share else "no image is answered"
        axes.plot(
            [share], [error], "D", color=WRONG, markersize=7, zorder=5, clip_on=False, label=told
        )
    axes.set_xlim(0, 1)
    # The error of a few answers says little: it may leave the picture.
    axes.set_ylim(0, max(1.05 * highest, 0.02))
    axes.set_title("The surest answers alone", loc="left", size=10)
    axes.set_xlabel("share of images that are answered", fontsize=9)
    axes.set_ylabel("error among these answers", fontsize=9)


def _draw_sizes(axes: Axes, drawn: DrawnDecisions) -> None:
    largest, n = int(drawn.sizes.max()), len(drawn.sizes)
    step = -(-largest // _MOST_SIZES)  # sizes in a bar
    shares = np.bincount((drawn.sizes - 1) // step, minlength=min(largest, 3)) / n
    middles = 1 + (step - 1) / 2 + step * np.arange(len(shares))
    label = f"test images, n = {n:,}"
    axes.bar(middles, shares, width=0.8 * step, color=RIGHT, label=label)
    axes.plot([], [], " ", label=drawn.held)  # words in the legend
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("Classes that may be the true one", loc="left", size=10)
    axes.set_xlabel("classes in the set of an image", fontsize=9)
    axes.set_ylabel("share of test images", fontsize=9)


def _draw_p_values(axes: Axes, p_values: NDArray[np.float64], level: float | None) -> None:
    n = len(p_values)
    bins = int(np.clip(n // _IN_A_BIN, 4, _MOST_BINS))
    counts, edges = np.histogram(p_values, bins, (0, 1))
    width = 1 / bins
    # So wide that by chance alone one of all bars leaves it in 5 of 100 pictures.
    chance = special.ndtri(1 - 0.025 / bins) * np.sqrt(width * (1 - width) / n)
    axes.axhspan(
        max(width - chance, 0), width + chance, color="0.88", linewidth=0, zorder=0.4,
        label="by chance, all bars end in here (95 of 100 times)",
    )  # fmt: skip
    label = f"test images, n = {n:,}"
    axes.bar(edges[:-1] + width / 2, counts / n, width=0.9 * width, color=RIGHT, label=label)
    axes.axhline(
        width,
        color="0.3",
        linewidth=1,
        linestyle=DASHED,
        label="expected of images like those of the training",
    )
    if level is not None:
        label = f"level {level:g}: left of it, images are unknown"
        axes.axvline(level, color=WRONG, linewidth=1.5, label=label)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.05 * max(counts.max() / n, width + chance))
    axes.set_title("How typical the test images are", loc="left", size=10)
    axes.set_xlabel("p-value (small: unlike the training images)", fontsize=9)
    axes.set_ylabel("share of test images", fontsize=9)
