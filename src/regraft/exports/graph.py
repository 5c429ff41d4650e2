"""A model as one function of tensors: rendered pixels to probabilities and decisions.

It computes what ``Predictor`` computes, in operations that ONNX has. Where numpy decides in
``regraft.decision``, the same arithmetic stands here in torch, with the same types: parity is then
measured on images, and not assumed.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

from regraft.decision.answers import prior_factors
from regraft.decision.costs import ABSTAIN, ABSTAINED, IS_UNKNOWN, UNKNOWN
from regraft.decision.scorers import (
    AROUND,
    LEAST_DISTANCE,
    NEAREST,
    Centre,
    Mahalanobis,
    Neighbours,
    largest_integer,
)
from regraft.features.fold import fold_norms
from regraft.features.taps import POOLED, Block, attach_hooks, pool_each
from regraft.heads.modules import KnnHead, votes_of
from regraft.images.render import normalise_pixels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from regraft.backbones.backbone import Backbone
    from regraft.decision.policy import Rules
    from regraft.decision.typicality import Typicality
    from regraft.model import Model

_LARGEST_HALF = float(np.finfo(np.float16).max)
_LARGEST_SCORE = float(np.finfo(np.float32).max)
_SMALLEST = float(np.finfo(np.float32).tiny)


class Graph(nn.Module):
    """A classifier with its decisions: ``forward`` is what an exported file computes."""

    def __init__(self, model: Model, rules: Rules | None) -> None:
        super().__init__()
        self.networks = nn.ModuleList(
            _Reading(network, [b.alone for b in model.blocks if b.network == k], pooled=k == 0)
            for k, network in enumerate(model.networks)
        )
        head = copy.deepcopy(model.head)
        self.head = _Knn(head) if isinstance(head, KnnHead) else head
        self.order = [_place(model.blocks, k) for k in range(len(model.blocks))]
        self.temperature = model.temperature
        self.policy = None if rules is None else _Policy(rules)

    def forward(self, *pixels: Tensor) -> dict[str, Tensor]:
        """Map rendered images to what a prediction says, by name.

        Parameters
        ----------
        *pixels : tensors of shape (N, 3, S, S) or (N, V, 3, S, S), uint8
            The same N images for each network, rendered for it.

        Returns
        -------
        dict of str to tensor
            ``probabilities`` (N, K) float32 first, ``logits`` (N, K) float32, ``features`` (N, D)
            float32. With decisions: ``decision`` (N,) int64, -1 for an abstention and -2 for an
            unknown; ``set`` (N, K) bool; and where the bundle has them ``typicality`` (N,) float32,
            ``unknown`` (N,) bool and ``abstained`` (N,) bool.
        """
        read = [network(each) for network, each in zip(self.networks, pixels, strict=True)]
        features = torch.cat([read[k][0][at] for k, at in self.order], 1)  # (N, D)
        logits = self.head(features)
        probabilities = (logits / self.temperature).softmax(1)
        answer = {"probabilities": probabilities, "logits": logits, "features": features}
        if self.policy is not None:
            answer |= self.policy(probabilities, read[0][1], logits)
        return answer


def _place(blocks: Sequence[Block], index: int) -> tuple[int, int]:
    """Return the network of a block, and its place among the blocks of that network."""
    own = [k for k, block in enumerate(blocks) if block.network == blocks[index].network]
    return blocks[index].network, own.index(index)


class _Reading(nn.Module):
    """One network: pixels to its blocks, each rounded as in the store, and the pooled features."""

    def __init__(self, backbone: Backbone, blocks: Sequence[Block], *, pooled: bool) -> None:
        super().__init__()
        self.preprocess = backbone.preprocess
        self.module = copy.deepcopy(backbone.module).eval()
        side = backbone.preprocess.image_size
        tapped = [stage.path for stage in backbone.stages]
        fold_norms(self.module, torch.zeros(1, 3, side, side), tapped)
        self.blocks, self.pooled = tuple(blocks), pooled
        # Each grid by itself, in plain operations: the products of ``pool_to`` are for speed here.
        self.found = _Found(attach_hooks(self.module, backbone.stages, self.blocks, pool_each))

    def forward(self, pixels: Tensor) -> tuple[list[Tensor], Tensor | None]:
        views = pixels.unbind(1) if self.preprocess.views else [pixels]
        seen = [self._read_one(view) for view in views]
        means = {block: torch.stack([each[block] for each in seen]).mean(0) for block in seen[0]}
        found = seen[0] if len(seen) == 1 else means
        pooled = round_as_stored(found[Block(POOLED)]) if self.pooled else None
        return [round_as_stored(found[block]) for block in self.blocks], pooled

    def _read_one(self, pixels: Tensor) -> dict[Block, Tensor]:
        rows = self.found.rows
        rows.clear()
        pooled = self.module(normalise_pixels(pixels, self.preprocess))
        read = rows | {Block(POOLED): pooled}
        rows.clear()
        return read


class _Found:
    """What the hooks of a network have read; an exporter takes no tensor in it for a buffer."""

    def __init__(self, rows: dict[Block, Tensor]) -> None:
        self.rows = rows


def round_as_stored(rows: Tensor) -> Tensor:
    """Round rows (N, D) as the store does: to float16 where the whole row fits in it."""
    fits = rows.abs().amax(1, keepdim=True) <= _LARGEST_HALF
    return torch.where(fits, rows.clamp(-_LARGEST_HALF, _LARGEST_HALF).half().float(), rows)


class _Knn(nn.Module):
    """``KnnHead`` in products and one TopK, whatever the size of the batch."""

    squares: Tensor  # (M,), of the lengths of the rows
    votes: Tensor  # (M, K)

    def __init__(self, head: KnnHead) -> None:
        super().__init__()
        self.head, self.k, self.n_classes = head, head.k, head.n_classes
        self.register_buffer("squares", head.features.square().sum(1))
        self.register_buffer("votes", one_hot(head.labels, head.n_classes).float())

    def forward(self, x: Tensor) -> Tensor:
        z = normalize((x - self.head.mean) * self.head.scale)  # (N, D)
        products = z @ self.head.features.T  # (N, M)
        squares = z.square().sum(1, keepdim=True) + self.squares - 2 * products
        near, indices = torch.topk(-squares, self.k)  # (N, k), the nearest first
        distances = (-near).clamp_min(0).sqrt()
        weights = votes_of(distances)  # (N, k)
        counted = (self.votes[indices] * weights[:, :, None]).sum(1) + 1 / self.n_classes
        return counted.log() - counted.sum(1, keepdim=True).log()


class _Policy(nn.Module):
    """``Rules.decide`` in operations of tensors."""

    thresholds: Tensor  # (K,) float64
    factors: Tensor  # (K,) float64
    costs: Tensor  # (K, A) float64

    def __init__(self, rules: Rules) -> None:
        super().__init__()
        self.rules = rules
        self.typicality = None if rules.typicality is None else _Typical(rules.typicality)
        self.register_buffer("thresholds", torch.from_numpy(rules.sets.thresholds))
        if rules.class_weights is not None:
            self.register_buffer("factors", torch.from_numpy(prior_factors(rules.class_weights)))
        if rules.costs is not None:
            self.register_buffer("costs", torch.from_numpy(_usable(rules.costs)))

    def forward(self, probabilities: Tensor, pooled: Tensor, logits: Tensor) -> dict[str, Tensor]:
        answer: dict[str, Tensor] = {}
        if self.typicality is not None:
            p_values = self.typicality(pooled, logits)
            answer["typicality"] = p_values.float()
            if self.rules.level is not None:
                answer["unknown"] = p_values <= self.rules.level
        most = probabilities.argmax(1)  # (N,)
        decision, abstained = self._action(probabilities, most)
        if abstained is not None:
            answer["abstained"] = abstained
            decision = torch.where(abstained, ABSTAINED, decision)
        costs = self.rules.costs
        if "unknown" in answer and not (costs and not costs.extra):
            decision = torch.where(answer["unknown"], IS_UNKNOWN, decision)
        best = one_hot(most, probabilities.shape[1]).bool()
        sets = (probabilities.double() >= self.thresholds) | best
        return {"decision": decision, "set": sets, **answer}

    def _action(self, probabilities: Tensor, most: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the class that is answered, and whether none is, where that can be."""
        if self.rules.costs is not None:
            expected = self._plain(probabilities).double() @ self.costs  # (N, A)
            action = expected.argmin(1)
            column = self.rules.costs.column(ABSTAIN)
            never = torch.zeros_like(action, dtype=torch.bool)
            return action, never if column is None else action == column
        if self.rules.promise is None:
            return most, None
        threshold = self.rules.promise.threshold
        if threshold is None:
            return most, torch.ones_like(most, dtype=torch.bool)
        sure = self._plain(probabilities).gather(1, most[:, None])[:, 0]
        return most, sure < float(np.float32(threshold))

    def _plain(self, probabilities: Tensor) -> Tensor:
        """Return probabilities (N, K) as they are where no class counts more than another."""
        if self.rules.class_weights is None:
            return probabilities
        shares = probabilities.double() * self.factors
        total = shares.sum(1, keepdim=True)
        kept = torch.where(total > 0, shares / total.clamp_min(1e-300), probabilities.double())
        return kept.float()


def _usable(costs: Any) -> NDArray[np.float64]:
    """Return the table (K, A) with costs for "unknown" that are never the least."""
    table: NDArray[np.float64] = costs.table.copy()
    if UNKNOWN in costs.extra:
        table[:, costs.column(UNKNOWN)] = 1e300
    return table


class _Typical(nn.Module):
    """``Typicality.p_values``: pooled features and logits to p-values (N,) float64."""

    scores: Tensor  # (n,) ascending

    def __init__(self, typicality: Typicality) -> None:
        super().__init__()
        self.scorer = UNLIKE[typicality.scorer.kind](typicality.scorer)
        self.scale = None if typicality.scale is None else typicality.scale.tolist()
        self.register_buffer("scores", torch.from_numpy(typicality.scores))

    def forward(self, pooled: Tensor, logits: Tensor) -> Tensor:
        score = self.scorer(pooled)
        if self.scale is not None:
            exact = logits.double()
            largest = exact.amax(1, keepdim=True)
            energy = -(largest[:, 0] + (exact - largest).exp().sum(1).log())
            (unlike, its_deviation), (usual, deviation) = self.scale
            score = (score - unlike) / its_deviation + (energy - usual) / deviation
        score = score.clamp(-_LARGEST_SCORE, _LARGEST_SCORE).float()
        n = len(self.scores)
        smaller = (self.scores < score[:, None]).sum(1)
        p_values: Tensor = (1 + n - smaller).double() / (n + 1)
        return p_values


class _Neighbours(nn.Module):
    """``Neighbours.score``: products of whole numbers, which float32 holds exactly."""

    rows: Tensor  # (B, D) int8
    reach: Tensor  # (B,)
    inverse: Tensor  # (B,) float64

    def __init__(self, scorer: Neighbours) -> None:
        super().__init__()
        self.register_buffer("rows", torch.from_numpy(scorer.rows))
        self.register_buffer("reach", torch.from_numpy(scorer.reach))
        self.register_buffer("inverse", _inverse_lengths(self.rows.float()))

    def forward(self, pooled: Tensor) -> Tensor:
        rows = _as_integers(pooled)  # (N, D)
        cosines = (rows @ self.rows.float().T).double() * self.inverse
        cosines = cosines * _inverse_lengths(rows)[:, None]
        near, indices = torch.topk(cosines, AROUND)  # (N, 10)
        distances = (1 - near).clamp_min(LEAST_DISTANCE)
        return distances[:, NEAREST - 1].square() / self.reach[indices].double().mean(1)


class _Centre(nn.Module):
    """``Centre.score``: the distance from a rounded mean."""

    centre: Tensor  # (D,)
    inverse: Tensor  # (1,) float64

    def __init__(self, scorer: Centre) -> None:
        super().__init__()
        centre = torch.from_numpy(scorer.centre).float()
        self.register_buffer("centre", centre)
        self.register_buffer("inverse", _inverse_lengths(centre[None]))

    def forward(self, pooled: Tensor) -> Tensor:
        rows = _as_integers(pooled)
        products = (rows * self.centre).double().sum(1)
        return 1 - products * _inverse_lengths(rows) * self.inverse


class _Mahalanobis(nn.Module):
    """``Mahalanobis.score``, of earlier bundles."""

    mean: Tensor  # (D,)
    whitening: Tensor  # (D, D)

    def __init__(self, scorer: Mahalanobis) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(scorer.mean))
        self.register_buffer("whitening", torch.from_numpy(scorer.whitening))

    def forward(self, pooled: Tensor) -> Tensor:
        lengths = pooled.double().square().sum(1, keepdim=True).sqrt()
        unit = (pooled.double() / lengths.clamp_min(1e-30)).float()
        return ((unit - self.mean) @ self.whitening).double().square().sum(1)


#: Kind of a scorer to its graph.
UNLIKE: dict[str, type[nn.Module]] = {
    "neighbours": _Neighbours,
    "centre": _Centre,
    "mahalanobis": _Mahalanobis,
}


def _as_integers(pooled: Tensor) -> Tensor:
    """Return rows (N, D) as whole numbers; ``decision.scorers.as_integers``, kept in float32."""
    largest = pooled.abs().amax(1, keepdim=True).clamp_min(_SMALLEST)
    return (pooled / largest * float(largest_integer(pooled.shape[1]))).round()


def _inverse_lengths(rows: Tensor) -> Tensor:
    """Return one over the lengths of rows (N, D), float64; 1 for a row of zeros."""
    return 1 / rows.double().square().sum(1).clamp_min(1).sqrt()
