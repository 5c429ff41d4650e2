"""A probe made trainable: which tensors belong to which stage, what stays frozen, and the way back.

The pass is the one that ``TapReader`` reads: maps pooled inside hooks, blocks side by side, the
head's own standardisation. What differs is that gradients flow, that norms are not folded, and that
features are not rounded as the store rounds them.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
from typing import TYPE_CHECKING

import torch
from torch import nn

from regraft.backbones.freeze import state_hash
from regraft.core.keyed_random import torch_seeded
from regraft.errors import ConfigError
from regraft.features.taps import POOLED, Block, attach_hooks, pool_each
from regraft.finetune.frozen.cut_network import Activations, CutNetwork
from regraft.heads.modules import LinearHead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from regraft.backbones.backbone import Backbone
    from regraft.model import Model

_NORMS = (nn.modules.batchnorm._BatchNorm,)  # noqa: SLF001 - the common base of 1d, 2d, 3d and Sync


def stage_of_modules(backbone: Backbone) -> dict[str, int]:
    """Tell in which stage each module of a network is first entered.

    Parameters
    ----------
    backbone : Backbone
        Its module runs one black image in evaluation mode and is not changed.

    Returns
    -------
    dict of str to int
        Module's name to number of the stage, from 0. What comes before the first stage belongs to
        it, what comes behind the last one to that. A module that is never entered itself (a layer
        whose weights its parent reads) belongs where its parent does. All 0 without stages.
    """
    module, last = backbone.module, max(len(backbone.stages) - 1, 0)
    ends = {stage.path for stage in backbone.stages}
    entered: dict[str, int] = {}
    ended: set[str] = set()

    def enter(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: object) -> None:
            entered.setdefault(name, min(len(ended), last))

        return hook

    def leave(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: object, _output: object) -> None:
            ended.add(name)

        return hook

    handles = []
    for name, child in module.named_modules():
        handles.append(child.register_forward_pre_hook(enter(name)))
        if name in ends:
            handles.append(child.register_forward_hook(leave(name)))
    side = backbone.preprocess.image_size
    try:
        with torch.no_grad():
            module(torch.zeros(1, 3, side, side))
    finally:
        for handle in handles:
            handle.remove()
    for name, _ in module.named_modules():  # parents come before their children
        entered.setdefault(name, entered.get(name.rpartition(".")[0], 0))
    return entered


def trained_stages(backbone: Backbone, unfreeze: str) -> tuple[int, ...]:
    """Read ``--unfreeze``: which stages are trained.

    Parameters
    ----------
    backbone : Backbone
        Names the stages.
    unfreeze : str
        "all", a number of last stages, or names with commas between them.

    Returns
    -------
    tuple of int
        Ascending; a network without stages is one stage.

    Raises
    ------
    ConfigError
        Where there is no such stage; it lists the nearest ones.
    """
    names = [stage.name for stage in backbone.stages] or [POOLED]
    if unfreeze == "all":
        return tuple(range(len(names)))
    if unfreeze.isascii() and unfreeze.isdecimal():
        count = int(unfreeze[:9])
        if count > len(names):
            raise ConfigError(
                f"unfreeze is {unfreeze}; {backbone.name} has {len(names)} stages",
                hint=f"0 to {len(names)}, all, or some of {', '.join(names)}",
            )
        return tuple(range(len(names) - count, len(names)))
    wanted = {name.strip() for name in unfreeze.split(",")}
    unknown = sorted(wanted - set(names))
    if unknown:
        near = difflib.get_close_matches(unknown[0], names, n=3) or names
        raise ConfigError(
            f"unfreeze: {backbone.name} has no stage {unknown[0]!r}",
            hint=f"a number, all, or some of {', '.join(near)}",
        )
    return tuple(number for number, name in enumerate(names) if name in wanted)


class TrainableNetwork(nn.Module):
    """A model's backbone and linear head with gradients where they are wanted.

    Parameters
    ----------
    model : Model
        Copied, not changed; its head must be a ``LinearHead``.
    unfreeze : str
        As ``trained_stages`` takes it.
    train_norms : bool
        Whether BatchNorm of trained stages uses and updates batch statistics; its weights and
        biases are trained either way.
    dropout : float
        Share of the standardised features that is dropped in training.

    Attributes
    ----------
    trained : tuple of int
        Stages that are trained.
    n_stages : int
        At least 1.
    stage_of : dict of str to int
        Name of each parameter to its stage; the head's are ``n_stages``.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self, model: Model, *, unfreeze: str, train_norms: bool, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if not isinstance(model.head, LinearHead):
            raise ConfigError(
                f"a head of kind {getattr(model.head, 'kind', '?')} cannot be trained by gradient",
                hint="--head logistic",
            )
        backbone = model.backbone
        self._model = model
        self._train_norms = train_norms
        self._dropout = dropout
        self.trained = trained_stages(backbone, unfreeze)
        self.n_stages = max(len(backbone.stages), 1)
        self._stage_of_module = stage_of_modules(backbone)
        self.backbone = copy.deepcopy(backbone.module)
        self.register_buffer("mean", model.head.mean.clone())
        self.register_buffer("scale", model.head.scale.clone())
        self.weight = nn.Parameter(model.head.weight.clone())
        self.bias = nn.Parameter(model.head.bias.clone())
        self.stage_of = {"weight": self.n_stages, "bias": self.n_stages}
        for name, parameter in self.backbone.named_parameters():
            stage = self._stage_of_module[name.rpartition(".")[0]]
            self.stage_of[f"backbone.{name}"] = stage
            parameter.requires_grad_(stage in self.trained)
        self._read = attach_hooks(self.backbone, backbone.stages, model.blocks, pool_each)
        self._cut: CutNetwork | None = None
        self.train()

    @property
    def n_frozen(self) -> int:
        """Stages in front of the first one that is trained."""
        return min(self.trained, default=self.n_stages)

    @property
    def early(self) -> tuple[Block, ...]:
        """Blocks of the head that are pooled in frozen stages."""
        names = {stage.name for stage in self._model.backbone.stages[: self.n_frozen]}
        return tuple(block for block in self._model.blocks if block.tap in names)

    def cut(self) -> None:
        """Cut the network in front of the first stage that is trained, so that ``front`` can run.

        To be called where the network is on its device; it must have a frozen stage in front.
        """
        self._cut = self.cut_of(self.backbone)

    def cut_of(self, module: nn.Module) -> CutNetwork:
        """Cut a copy of the backbone at the same place; behind all of it if no stage is trained."""
        backbone = self._model.backbone
        path = backbone.stages[self.n_frozen - 1].path if self.trained else ""
        side = backbone.preprocess.image_size
        return CutNetwork(module, self._stage_of_module, self.n_frozen, path, side)

    @torch.no_grad()
    def front(self, images: torch.Tensor) -> Activations:
        """Run normalised images (N, 3, S, S) as far as the cut."""
        self._read.clear()
        kept = self._cut_network().front(images)
        return Activations((kept, *(self._read[block] for block in self.early)))

    def _cut_network(self) -> CutNetwork:
        if self._cut is None:
            raise RuntimeError("the network is not cut")
        return self._cut

    def train(self, mode: bool = True) -> TrainableNetwork:  # noqa: FBT001, FBT002 - torch's signature
        """Set each module's mode: frozen stages always evaluate, BatchNorm as it was asked for."""
        self.training = mode
        for name, module in self.backbone.named_modules():
            trains = mode and self._stage_of_module[name] in self.trained
            if isinstance(module, _NORMS):
                trains = trains and self._train_norms
            module.training = trains
        return self

    def forward(self, images: torch.Tensor | Activations) -> torch.Tensor:
        """Map normalised images (N, 3, S, S), or what ``front`` made of them, to logits (N, K)."""
        self._read.clear()
        if isinstance(images, Activations):
            kept, *early = images.tensors
            pooled = self._cut_network().back(kept)
            self._read.update(zip(self.early, early, strict=True))
        else:
            pooled = self.backbone(images)
        with torch.autocast(self.weight.device.type, enabled=False):
            self._read[Block(POOLED)] = pooled.float()
            x = torch.cat([self._read[block] for block in self._model.blocks], dim=1)  # (N, D)
            x = (x - self.mean) * self.scale
            x = nn.functional.dropout(x, self._dropout, self.training)
            return torch.addmm(self.bias, x, self.weight.T)

    def state(self) -> dict[str, torch.Tensor]:
        """Return what training changes, by name: not copies, but the tensors themselves.

        Parameters with a gradient, the running statistics of trained BatchNorms, and the head's
        standardisation, which stays as it is but which the head is nothing without.
        """
        names = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        names |= {"mean", "scale"}
        names |= {f"backbone.{name}" for name in self._trained_statistics()}
        every = self.state_dict(keep_vars=True)
        return {name: tensor for name, tensor in every.items() if name in names}

    def statistics(self) -> list[torch.Tensor]:
        """Return the running means and variances that training changes: the tensors themselves."""
        names = set(self._trained_statistics())
        buffers = self.backbone.named_buffers()
        return [b for name, b in buffers if name in names and b.is_floating_point()]

    @property
    def least_images(self) -> int:
        """Images that a forward pass needs: 2 where BatchNorm trains, else its variance is 0."""
        return 2 if any(True for _ in self._trained_statistics()) else 1

    def _trained_statistics(self) -> Iterator[str]:
        if not self._train_norms:
            return
        for name, module in self.backbone.named_modules():
            if isinstance(module, _NORMS) and self._stage_of_module[name] in self.trained:
                yield from (f"{name}.{entry}" for entry, _ in module.named_buffers(recurse=False))

    def frozen_names(self) -> list[str]:
        """Return the backbone's tensors, by its own names, that must not change."""
        changing = {name.removeprefix("backbone.") for name in self.state()}
        return [name for name in self.backbone.state_dict() if name not in changing]

    def to_model(self, state: Mapping[str, torch.Tensor], weights: str) -> Model:
        """Return a model with some state of this network.

        Parameters
        ----------
        state : mapping of str to tensor
            As ``state()`` gives it; on any device.
        weights : str
            Label of the backbone's weights.

        Returns
        -------
        Model
            Shares nothing with this network; temperature 1.
        """
        original = self._model.backbone
        module = copy.deepcopy(original.module)
        prefix = "backbone."
        whole = module.state_dict()
        for name, tensor in state.items():
            if name.startswith(prefix):
                whole[name.removeprefix(prefix)].copy_(tensor.detach())
        tensors = ("mean", "scale", "weight", "bias")
        head = LinearHead(**{name: state[name].detach().cpu().clone() for name in tensors})
        if self.trained:
            digest = state_hash(module)
            backbone = dataclasses.replace(
                original, module=module, weights=weights, weights_sha256=digest
            )
        else:
            backbone = original
        return dataclasses.replace(self._model, backbone=backbone, head=head, temperature=1.0)


def random_head(n_features: int, n_classes: int, seed: int) -> LinearHead:
    """Return a head as ``torch.nn.Linear`` begins: random weights, no standardisation.

    Parameters
    ----------
    n_features, n_classes : int
        Its shape.
    seed : int
        The global generator is left alone.

    Returns
    -------
    LinearHead

    Examples
    --------
    >>> random_head(4, 2, seed=0).weight.abs().max() <= 0.5
    tensor(True)
    """
    with torch_seeded(torch.device("cpu"), seed, "random head"):
        linear = nn.Linear(n_features, n_classes)
    weight, bias = linear.weight.detach(), linear.bias.detach()
    return LinearHead(torch.zeros(n_features), torch.ones(n_features), weight, bias)
