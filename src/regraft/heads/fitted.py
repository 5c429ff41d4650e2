"""What every fit returns, and the out-of-fold scores that all fits share."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.heads.temperature import fit_temperature, log_losses

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn


@dataclass(frozen=True)
class FittedHead:
    """A head, and how it scored on samples that it had not seen.

    Parameters
    ----------
    head : nn.Module
        One of ``regraft.heads.modules.HEADS``.
    temperature : float
        Logits are divided by it before the softmax.
    oof_logits : array of shape (N, K), float32
        Logits of each scored sample by a fit that had not seen its fold, before the temperature.
    scored : array of shape (N,), bool
        Which rows of ``oof_logits`` hold such logits.
    history : list of dict
        What was tried, one row each: for history.csv.
    record : dict
        Ready for JSON: head, chosen settings, n (rows), d (features), temperature, out-of-fold
        scores, and how the fit ended.
    """

    head: nn.Module
    temperature: float
    oof_logits: NDArray[np.float32]
    scored: NDArray[np.bool_]
    history: list[dict[str, Any]]
    record: dict[str, Any]


@dataclass(frozen=True)
class OutOfFoldScores:
    """Scores of samples by fits that had not seen them."""

    log_loss: float  # mean, in nats
    log_loss_se: float  # its standard error
    accuracy: float
    #: Mean with the weights of the rows and its error, where they differ: classes count the same.
    balanced_log_loss: float | None = None
    balanced_log_loss_se: float | None = None

    @classmethod
    def of(
        cls, losses: NDArray[np.float64], right: NDArray[np.bool_], weights: NDArray[np.float64]
    ) -> OutOfFoldScores:
        """Return the scores of n samples; NaN without samples."""
        mean, error = weighted_mean(losses, np.ones(len(losses)))
        accuracy = float(right.mean()) if len(right) else float("nan")
        balanced = weighted_mean(losses, weights) if differ(weights) else (None, None)
        return cls(mean, error, accuracy, *balanced)

    @property
    def criterion(self) -> float:
        """What choices are made by: the least is the best."""
        return self.log_loss if self.balanced_log_loss is None else self.balanced_log_loss

    def columns(self) -> dict[str, float]:
        """Return the columns of a row of history.csv."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def differ(weights: NDArray[np.float64]) -> bool:
    """Return whether some rows weigh more than others."""
    return bool(len(weights)) and bool(weights.min() < weights.max())


def weighted_mean(values: NDArray[np.float64], weights: NDArray[np.float64]) -> tuple[float, float]:
    """Return a weighted mean and its standard error; NaN without values."""
    total = weights.sum()
    if not total > 0:
        return float("nan"), float("nan")
    mean = float(weights @ values / total)
    return mean, float(np.sqrt(np.square(weights * (values - mean)).sum()) / total)


def finish_fit(
    fitted: FittedHead, y: NDArray[np.int64], weights: NDArray[np.float64]
) -> FittedHead:
    """Return the fit with its temperature, and with the scores before and after it in its record.

    ``y`` and ``weights``, (N,), are those of the fit.
    """
    scored = fitted.scored
    logits, labels, share = fitted.oof_logits[scored], y[scored], weights[scored]
    temperature = fit_temperature(logits, labels, share)
    right = logits.argmax(1) == labels
    before = OutOfFoldScores.of(log_losses(logits, labels), right, share)
    after = OutOfFoldScores.of(log_losses(logits / np.float32(temperature), labels), right, share)
    out_of_fold = {
        "n": int(scored.sum()),
        **before.columns(),  # a temperature changes no ranking, and so no accuracy
        "calibrated_log_loss": after.log_loss,
    }
    if after.balanced_log_loss is not None:
        out_of_fold["balanced_calibrated_log_loss"] = after.balanced_log_loss
    record = {
        **fitted.record,
        "n": len(y),
        "d": fitted.head.n_features,
        "temperature": temperature,
        "out_of_fold": out_of_fold if scored.any() else None,
    }
    return replace(fitted, temperature=temperature, record=record)
