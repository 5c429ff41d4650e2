"""The heads of bundles: modules that hold only buffers and map features to logits.

Each head standardises its features first, by constants. To multiply these into the weights would
give the same logits, but later fine-tuning would be badly conditioned; only export does that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from regraft.core.text import shape_text
from regraft.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self

#: A neighbour at distance 0 counts at most this many times as much as the k-th neighbour.
_CLOSEST = 100.0
#: Distances in memory at once: 64 MiB.
_DISTANCES_AT_ONCE = 2**24


@runtime_checkable
class Head(Protocol):
    """What a module of ``HEADS`` has, beside being an ``nn.Module``.

    A head holds buffers only, no parameters: fine-tuning makes its own. It must not depend on other
    rows of a batch. What ``tensors`` returns is all that a bundle keeps.

    Attributes
    ----------
    kind : str
        Key in ``HEADS``, and the head's kind in a bundle's manifest. It never changes.
    n_features : int
        D, width of the features.
    n_classes : int
        K, number of logits.
    """

    kind: ClassVar[str]

    @property
    def n_features(self) -> int:
        """Width of the features."""

    @property
    def n_classes(self) -> int:
        """Number of logits."""

    def forward(self, x: Tensor) -> Tensor:
        """Map features to logits.

        Parameters
        ----------
        x : tensor of shape (N, D), float32
            Features as extracted, not standardised; N may be 0.

        Returns
        -------
        tensor of shape (N, K), float32
            Finite logits, before the temperature.
        """

    def tensors(self) -> dict[str, Tensor]:
        """Return the head as tensors on the CPU, contiguous, by name."""

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Make a head from the tensors of a bundle, which may be damaged or hostile.

        Parameters
        ----------
        tensors : mapping of str to tensor
            As ``tensors`` returns them, if nobody has changed them.

        Returns
        -------
        Head
            Gives the same logits, to the bit.

        Raises
        ------
        InputError
            Names the tensor that is missing, unknown, of another type or shape, or not finite.
        """


class LinearHead(nn.Module):
    """Standardise, then one linear map: ``((x - mean) * scale) @ weight.T + bias``.

    Examples
    --------
    >>> one = torch.ones(2)
    >>> head = LinearHead(mean=one, scale=one, weight=torch.eye(2), bias=torch.zeros(2))
    >>> head(torch.tensor([[3.0, 1.0]]))
    tensor([[2., 0.]])
    """

    kind: ClassVar[str] = "linear"
    mean: Tensor  # (D,), of the training features
    scale: Tensor  # (D,), 0 for a constant feature
    weight: Tensor  # (K, D), of standardised features
    bias: Tensor  # (K,)

    def __init__(self, mean: Tensor, scale: Tensor, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    @property
    def n_features(self) -> int:
        """Width of the features."""
        return self.weight.shape[1]

    @property
    def n_classes(self) -> int:
        """Number of logits."""
        return self.weight.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """Map features (N, D) float32 to logits (N, K) float32."""
        return torch.addmm(self.bias, (x - self.mean) * self.scale, self.weight.T)

    def folded(self) -> LinearHead:
        """Return the head that gives the same logits, within rounding, without mean and scale.

        A mean of few images tells who they were. These are inside the weights and the bias then.

        Examples
        --------
        >>> head = LinearHead(torch.ones(2), torch.full((2,), 2.0), torch.eye(2), torch.zeros(2))
        >>> head.folded().weight.tolist(), head.folded().bias.tolist()
        ([[2.0, 0.0], [0.0, 2.0]], [-2.0, -2.0])
        """
        weight = self.weight.double() * self.scale
        bias = self.bias.double() - weight @ self.mean.double()
        none = torch.zeros_like(self.mean)
        return LinearHead(none, torch.ones_like(none), weight.float(), bias.float())

    def tensors(self) -> dict[str, Tensor]:
        """Return the head as tensors; see ``Head``."""
        return _contiguous(self)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Make a head from tensors of any origin; see ``Head``."""
        _check_names(tensors, ("mean", "scale", "weight", "bias"))
        n_classes, n_features = _check(tensors, "weight", torch.float32, (None, None))
        _check(tensors, "bias", torch.float32, (n_classes,))
        _check_standardisation(tensors, n_features)
        return cls(**tensors)


class KnnHead(nn.Module):
    """Log of the smoothed, distance-weighted vote of the k nearest training samples.

    A neighbour at distance d counts ``d_k / d`` times, at most 100 times, where d_k is the distance
    of the k-th neighbour. One more vote is shared by all classes. Logits are between
    ``-log(K * (100 k + 1))`` and 0.

    Distances are between standardised features of unit length. Without the unit length, a few rows
    near the centre are neighbours of everything (hubness, Radovanovic et al. 2010): for photographs
    of three flowers, 34 a class, and k = 20, accuracy is 0.42 without it and 0.77 with it.

    Examples
    --------
    >>> rows, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), torch.tensor([0, 0, 1])
    >>> head = KnnHead(torch.zeros(2), torch.ones(2), rows, labels, k=2, n_classes=2)
    >>> head(torch.tensor([[5.0, 5.0]])).exp()
    tensor([[0.8333, 0.1667]])
    """

    kind: ClassVar[str] = "knn"
    mean: Tensor  # (D,), of the training features
    scale: Tensor  # (D,), 0 for a constant feature
    features: Tensor  # (M, D), of training samples, standardised and of unit length
    labels: Tensor  # (M,) int64, from 0 to K - 1

    def __init__(
        self, mean: Tensor, scale: Tensor, features: Tensor, labels: Tensor, k: int, n_classes: int
    ) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.register_buffer("features", features)
        self.register_buffer("labels", labels)
        self.k = k
        self.n_classes = n_classes

    @property
    def n_features(self) -> int:
        """Width of the features."""
        return self.features.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        """Map features (N, D) float32 to logits (N, K) float32, some rows at a time."""
        step = max(1, _DISTANCES_AT_ONCE // len(self.features))
        parts = [
            vote(*self._nearest(normalize((rows - self.mean) * self.scale)), self.n_classes)
            for rows in torch.split(x, step)
        ]
        return torch.cat(parts) if parts else x.new_zeros(0, self.n_classes)

    def _nearest(self, z: Tensor) -> tuple[Tensor, Tensor]:
        distances, indices = torch.cdist(z, self.features).topk(self.k, largest=False)
        return distances, self.labels[indices]

    def tensors(self) -> dict[str, Tensor]:
        """Return the head as tensors; see ``Head``."""
        return _contiguous(self) | {
            "k": torch.tensor(self.k),
            "n_classes": torch.tensor(self.n_classes),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Make a head from tensors of any origin; see ``Head``."""
        _check_names(tensors, ("mean", "scale", "features", "labels", "k", "n_classes"))
        n_rows, n_features = _check(tensors, "features", torch.float32, (None, None))
        _check(tensors, "labels", torch.int64, (n_rows,))
        _check_standardisation(tensors, n_features)
        k = _check_number(tensors, "k", n_rows)
        n_classes = _check_number(tensors, "n_classes", 2**20)
        labels = tensors["labels"]
        if int(labels.min()) < 0 or int(labels.max()) >= n_classes:
            raise InputError(f"labels must be between 0 and {n_classes - 1}")
        arrays = {name: tensors[name] for name in ("mean", "scale", "features", "labels")}
        return cls(**arrays, k=k, n_classes=n_classes)


#: Kind in a bundle's manifest to class; each has what ``Head`` lists.
HEADS: dict[str, type[LinearHead | KnnHead]] = {head.kind: head for head in (LinearHead, KnnHead)}


def vote(distances: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Return the log of the smoothed, distance-weighted vote, (N, K).

    Distances (N, k) are ascending; an infinite one does not count. Labels (N, k) are int64.
    """
    weights = votes_of(distances)
    votes = distances.new_full((len(distances), n_classes), 1 / n_classes)
    votes.scatter_add_(1, labels, weights)
    return votes.log() - votes.sum(1, keepdim=True).log()


def votes_of(distances: Tensor) -> Tensor:
    """Return how much each neighbour counts, (N, k), by its distance; an infinite one does not."""
    finite = distances.isfinite()
    farthest = distances.where(finite, 0).amax(1, keepdim=True)
    near = distances.clamp_min(farthest / _CLOSEST)
    return (farthest / near).where(finite & (near > 0), finite.to(distances.dtype))


def _contiguous(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in module.named_buffers()}


def _check_names(tensors: Mapping[str, Tensor], names: tuple[str, ...]) -> None:
    if set(tensors) != set(names):
        found = ", ".join(sorted(tensors)) or "none"
        raise InputError(f"the head's tensors are {found}; they must be {', '.join(names)}")


def _check(
    tensors: Mapping[str, Tensor], name: str, dtype: torch.dtype, shape: tuple[int | None, ...]
) -> tuple[int, ...]:
    tensor = tensors[name]
    fits = tensor.ndim == len(shape) and all(
        size > 0 and expected in (None, size)
        for size, expected in zip(tensor.shape, shape, strict=True)
    )
    if tensor.dtype != dtype or not fits:
        expected = tuple("any" if size is None else size for size in shape)
        raise InputError(
            f"{name} is {_type(tensor.dtype)} {shape_text(tensor.shape)}; it must be "
            f"{_type(dtype)} ({', '.join(map(str, expected))})"
        )
    if dtype.is_floating_point and not bool(tensor.isfinite().all()):
        raise InputError(f"{name} holds a value that is not finite")
    return tuple(tensor.shape)


def _check_standardisation(tensors: Mapping[str, Tensor], n_features: int) -> None:
    for name in ("mean", "scale"):
        _check(tensors, name, torch.float32, (n_features,))
    if bool((tensors["scale"] < 0).any()):
        raise InputError("scale holds a negative value")


def _check_number(tensors: Mapping[str, Tensor], name: str, most: int) -> int:
    _check(tensors, name, torch.int64, ())
    value = int(tensors[name])
    if not 1 <= value <= most:
        raise InputError(f"{name} is {value}; it must be between 1 and {most}")
    return value


_type: Callable[[torch.dtype], str] = lambda dtype: str(dtype).removeprefix("torch.")  # noqa: E731
