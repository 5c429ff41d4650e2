"""Heads that hardly fit anything: class shares, nearest class mean, k nearest neighbours."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import normalize

from regraft.core.keyed_random import generator
from regraft.heads.fitted import FittedHead, OutOfFoldScores, finish_fit
from regraft.heads.modules import KnnHead, LinearHead, vote
from regraft.heads.standardise import Rows, Standard
from regraft.heads.temperature import fit_temperature, log_losses

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

#: Numbers of neighbours that are tried.
_NEIGHBOURS = (1, 3, 5, 10, 20, 50)
#: Samples whose neighbours decide k and the temperature: enough for two digits of a log-loss.
_MOST_SCORED = 5_000
_ROWS_AT_ONCE = 256


def majority_baseline(
    labels_train: NDArray[np.int64], labels_test: NDArray[np.int64], n_classes: int
) -> NDArray[np.float32]:
    """Return the class shares of the training part for every test image, (N_test, K), read-only.

    Examples
    --------
    >>> majority_baseline(np.array([0, 1, 1, 1]), np.array([0, 0]), 2).tolist()
    [[0.25, 0.75], [0.25, 0.75]]
    """
    shares = np.bincount(labels_train, minlength=n_classes) / len(labels_train)
    return np.broadcast_to(shares.astype(np.float32), (len(labels_test), n_classes))


def fit_mean(
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    *,
    folds: NDArray[np.int64],
    n_classes: int,
    weights: NDArray[np.float64],
    standard: Standard,
) -> FittedHead:
    """Fit the nearest class mean: logits are minus half the squared distance, on one scale.

    The distance is linear in x up to a term that all classes share, so the head is linear. Weights
    count in the means and in the scores; see ``Fitter``.
    """
    began = time.perf_counter()
    rows = Rows(torch.from_numpy(x), standard)
    sums, counts = _sums_and_counts(rows, y, folds, weights, n_classes)
    total, all_counts = sums.sum(0), counts.sum(0)
    fits = []
    for fold in range(len(sums) - 1):
        left = all_counts - counts[fold + 1]
        left[left < 1e-9 * all_counts] = 0  # the rounding of weights, where no row is left
        fits.append(_nearest_mean(total - sums[fold + 1], left))
    logits = torch.zeros(len(x), n_classes)
    fold_of = torch.from_numpy(folds)
    for where, z in rows.chunks():
        for fold, (weight, bias) in enumerate(fits):
            mine = fold_of[where] == fold
            logits[where][mine] = torch.addmm(bias, z[mine], weight.T)
    scored = folds >= 0
    oof_logits = logits.numpy()
    # Squared distances add up over a thousand correlated features: the scale is far from 1.
    scale = fit_temperature(oof_logits[scored], y[scored], weights[scored], bounds=(1e-2, 1e5))
    if not scored.any():
        scale = float(x.shape[1])
    oof_logits /= np.float32(scale)
    weight, bias = _nearest_mean(total, all_counts)
    head = LinearHead(rows.standard.mean, rows.standard.scale, weight / scale, bias / scale)
    scores = _scores(oof_logits[scored], y[scored], weights[scored])
    history = [{"scale": scale, **scores.columns(), "seconds": _seconds(began), "chosen": True}]
    record = {"head": "mean", "scale": scale}
    return finish_fit(FittedHead(head, 1.0, oof_logits, scored, history, record), y, weights)


def _sums_and_counts(
    rows: Rows,
    y: NDArray[np.int64],
    folds: NDArray[np.int64],
    weights: NDArray[np.float64],
    n_classes: int,
) -> tuple[Tensor, Tensor]:
    """Return sum (folds + 1, K, D) and number (folds + 1, K) of weighted rows, fold -1 first."""
    n_folds = int(folds.max(initial=-1)) + 1
    cells = torch.from_numpy((folds + 1) * n_classes + y)  # (N,), one cell a fold and class
    sums = torch.zeros((n_folds + 1) * n_classes, rows.shape[1], dtype=torch.float64)
    share = torch.from_numpy(weights)[:, None]  # (N, 1)
    for where, z in rows.chunks():
        sums.index_add_(0, cells[where], z.double() * share[where])
    counts = torch.zeros(len(sums), dtype=torch.float64).index_add_(0, cells, share[:, 0])
    return sums.view(n_folds + 1, n_classes, -1), counts.view(n_folds + 1, n_classes)


def _nearest_mean(sums: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights (K, D) and biases (K,); the mean of a class without samples is the origin."""
    means = sums / torch.where(counts > 0, counts, torch.inf)[:, None]
    return means.float(), (-means.square().sum(1) / 2).float()


def fit_knn(
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    *,
    folds: NDArray[np.int64],
    n_classes: int,
    weights: NDArray[np.float64],
    standard: Standard,
) -> FittedHead:
    """Keep the rows, and choose the number of neighbours by out-of-fold log-loss.

    The head holds a copy of the features, standardised and of unit length. The neighbours of a
    sample are those outside its fold; of more than 5,000 samples, some are scored, drawn at random:
    every n-th could be of one kind. Weights count in the scores only, since a neighbour is a whole
    image; see ``Fitter``.
    """
    features = torch.from_numpy(x)
    z = torch.empty_like(features)
    for where, chunk in Rows(features, standard).chunks():
        z[where] = normalize(chunk)  # as KnnHead does with new rows
    labels = torch.from_numpy(y)
    queries = np.flatnonzero(folds >= 0)
    if len(queries) > _MOST_SCORED:
        chosen = generator("scored by neighbours", len(queries))
        queries = np.sort(chosen.choice(queries, _MOST_SCORED, replace=False))  # (Q,)
    scored = np.zeros(len(y), np.bool_)
    scored[queries] = True
    began = time.perf_counter()
    distances, neighbours = _neighbours(z, torch.from_numpy(folds), torch.from_numpy(queries))
    history: list[dict[str, Any]] = []
    oof_logits, k, least = np.zeros((len(y), n_classes), np.float32), min(5, len(y)), np.inf
    for tried in [n for n in _NEIGHBOURS if n <= distances.shape[1]] if len(queries) else []:
        logits = vote(distances[:, :tried], labels[neighbours[:, :tried]], n_classes).numpy()
        # A vote of few neighbours is too sure or too unsure: compare with its temperature.
        temperature = fit_temperature(logits, y[queries], weights[queries])
        calibrated = logits / np.float32(temperature)
        scores = _scores(calibrated, y[queries], weights[queries])
        history.append({"neighbours": tried, **scores.columns(), "seconds": _seconds(began)})
        if scores.criterion < least:
            least, k = scores.criterion, tried
            oof_logits[queries] = logits
        began = time.perf_counter()
    history = [row | {"chosen": row["neighbours"] == k} for row in history]
    head = KnnHead(standard.mean, standard.scale, z, labels, k, n_classes)
    record = {"head": "knn", "neighbours": k}
    return finish_fit(FittedHead(head, 1.0, oof_logits, scored, history, record), y, weights)


def _neighbours(z: Tensor, folds: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Return distances and numbers (Q, k) of the nearest rows outside each query's fold."""
    k = min(max(_NEIGHBOURS), len(z))
    found = []
    for some in torch.split(queries, _ROWS_AT_ONCE):
        distances = torch.cdist(z[some], z)
        distances[folds[some][:, None] == folds] = torch.inf
        found.append(distances.topk(k, largest=False))
    if not found:
        return torch.zeros(0, k), torch.zeros(0, k, dtype=torch.int64)
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def _scores(
    logits: NDArray[np.float32] | NDArray[np.float64],
    labels: NDArray[np.int64],
    weights: NDArray[np.float64],
) -> OutOfFoldScores:
    right = logits.argmax(1) == labels
    return OutOfFoldScores.of(log_losses(logits, labels), right, weights)


def _seconds(began: float) -> float:
    return round(time.perf_counter() - began, 3)
