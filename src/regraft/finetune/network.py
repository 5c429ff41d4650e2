"""A probe as a network to train: the stage of each tensor, which are frozen, and back to a model.

The forward pass is that of ``TapReader``: maps are pooled inside hooks, blocks put side by side,
features standardised as the head does. But gradients flow, norms are not folded, and features are
not rounded as the store rounds them.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import nn

from regraft.backbones.freeze import state_hash
from regraft.core.keyed_random import torch_seeded
from regraft.core.text import counted, nearest
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
    """Return the number of the stage, from 0, in which each module of a network first runs.

    Modules before the first stage belong to it, and modules after the last stage to the last. A
    module that never runs itself (its parent reads its weights) has the stage of its parent. All
    are 0 in a network without stages. Found by a forward pass of one black image.
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
    """Return the numbers of the stages that the setting ``unfreeze`` trains, ascending.

    It is "all", a number of last stages, or names with commas; a network without stages is one
    stage. Raises ConfigError, with the nearest names, where there is no such stage.
    """
    names = [stage.name for stage in backbone.stages] or [POOLED]
    if unfreeze == "all":
        return tuple(range(len(names)))
    if unfreeze.isascii() and unfreeze.isdecimal():
        count = int(unfreeze[:9])
        if count > len(names):
            raise ConfigError(
                f"unfreeze is {unfreeze}; {backbone.name} has {counted(len(names), 'stage')}",
                hint=f"0 to {len(names)}, all, or some of {', '.join(names)}",
            )
        return tuple(range(len(names) - count, len(names)))
    wanted = {name.strip() for name in unfreeze.split(",")}
    unknown = sorted(wanted - set(names))
    if unknown:
        near = nearest(unknown[0], names) or names
        raise ConfigError(
            f"unfreeze: {backbone.name} has no stage {unknown[0]!r}",
            hint=f"a number, all, or some of {', '.join(near)}",
        )
    return tuple(number for number, name in enumerate(names) if name in wanted)


class TrainableNetwork(nn.Module):
    """A copy of a model's backbone and linear head, with gradients for the stages to train."""

    mean: torch.Tensor  # (D,) of the head's standardisation, as is scale
    scale: torch.Tensor

    def __init__(
        self,
        model: Model,
        *,
        unfreeze: str,  # as for ``trained_stages``
        train_norms: bool,  # BatchNorm of trained stages uses and updates batch statistics
        dropout: float = 0.0,  # share of the standardised features
    ) -> None:
        super().__init__()
        if not isinstance(model.head, LinearHead):
            raise ConfigError(
                f"a head of kind {getattr(model.head, 'kind', '?')} cannot be trained by gradient",
                hint="`head='logistic'`",
            )
        self.model = model  # as it was before training
        self._train_norms = train_norms
        self._dropout = dropout
        self.trained = trained_stages(model.backbone, unfreeze)
        self.n_stages = max(len(model.backbone.stages), 1)
        self._stage_of_module = stage_of_modules(model.backbone)
        self.backbone = copy.deepcopy(model.backbone.module)
        self.register_buffer("mean", model.head.mean.clone())
        self.register_buffer("scale", model.head.scale.clone())
        self.weight = nn.Parameter(model.head.weight.clone())
        self.bias = nn.Parameter(model.head.bias.clone())
        self.stage_of = self._freeze()  # of each parameter; the head's is ``n_stages``
        self._pooled = attach_hooks(self.backbone, model.backbone.stages, model.blocks, pool_each)
        self._cut: CutNetwork | None = None
        self.train()

    def _freeze(self) -> dict[str, int]:
        """Let gradients flow into the trained stages alone; return the stage of each parameter."""
        stage_of = {"weight": self.n_stages, "bias": self.n_stages}
        for name, parameter in self.backbone.named_parameters():
            stage = self._stage_of_module[name.rpartition(".")[0]]
            stage_of[f"backbone.{name}"] = stage
            parameter.requires_grad_(stage in self.trained)
        return stage_of

    @property
    def trained_names(self) -> list[str]:
        """Names of the trained stages; a network without stages is one stage with its name."""
        backbone = self.model.backbone
        names = [stage.name for stage in backbone.stages] or [backbone.name]
        return [names[number] for number in self.trained]

    @property
    def n_frozen(self) -> int:
        """Number of stages before the first trained one."""
        return min(self.trained, default=self.n_stages)

    @property
    def early(self) -> tuple[Block, ...]:
        """Blocks of the head that are pooled in frozen stages."""
        names = {stage.name for stage in self.model.backbone.stages[: self.n_frozen]}
        return tuple(block for block in self.model.blocks if block.tap in names)

    def cut(self) -> None:
        """Cut the network before the first trained stage, for ``front``; it must be on its device.

        There must be a frozen stage before it.
        """
        self._cut = self.cut_of(self.backbone)

    def undo_cut(self) -> None:
        """Run as a whole again, as before ``cut``."""
        self._cut = None

    def cut_of(self, module: nn.Module) -> CutNetwork:
        """Cut a copy of the backbone at the same point; after all of it if no stage is trained."""
        backbone = self.model.backbone
        path = backbone.stages[self.n_frozen - 1].path if self.trained else ""
        side = backbone.preprocess.image_size
        return CutNetwork(module, self._stage_of_module, self.n_frozen, path, side)

    @torch.no_grad()
    def front(self, images: torch.Tensor) -> Activations:
        """Run normalised images (N, 3, S, S) up to the cut."""
        self._pooled.clear()
        kept = self._cut_network().front(images)
        return Activations((kept, *(self._pooled[block] for block in self.early)))

    def _cut_network(self) -> CutNetwork:
        if self._cut is None:
            raise RuntimeError("the network is not cut")
        return self._cut

    def train(self, mode: bool = True) -> TrainableNetwork:  # noqa: FBT001, FBT002 - torch's signature
        """Set each module's mode: frozen stages always evaluate, BatchNorm by ``train_norms``."""
        self.training = mode
        for name, module in self.backbone.named_modules():
            trains = mode and self._stage_of_module[name] in self.trained
            if isinstance(module, _NORMS):
                trains = trains and self._train_norms
            module.training = trains
        return self

    def forward(self, images: torch.Tensor | Activations) -> torch.Tensor:
        """Map normalised images (N, 3, S, S), or their outputs of ``front``, to logits (N, K)."""
        self._pooled.clear()
        if isinstance(images, Activations):
            kept, *early = images.tensors
            pooled = self._cut_network().back(kept)
            self._pooled.update(zip(self.early, early, strict=True))
        else:
            pooled = self.backbone(images)
        with torch.autocast(self.weight.device.type, enabled=False):
            self._pooled[Block(POOLED)] = pooled.float()
            x = torch.cat([self._pooled[block] for block in self.model.blocks], dim=1)  # (N, D)
            x = (x - self.mean) * self.scale
            x = nn.functional.dropout(x, self._dropout, self.training)
            return torch.addmm(self.bias, x, self.weight.T)

    def state(self) -> dict[str, torch.Tensor]:
        """Return the tensors that training changes, by name: not copies.

        They are the parameters with a gradient and the running statistics of trained BatchNorms.
        The head's standardisation is there too: it does not change, but the head needs it.
        """
        names = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        names |= {"mean", "scale"}
        names |= {f"backbone.{name}" for name in self._trained_statistics()}
        every = self.state_dict(keep_vars=True)
        return {name: tensor for name, tensor in every.items() if name in names}

    def statistics(self) -> list[torch.Tensor]:
        """Return the running means and variances that training changes: not copies."""
        names = set(self._trained_statistics())
        buffers = self.backbone.named_buffers()
        return [b for name, b in buffers if name in names and b.is_floating_point()]

    @property
    def least_images(self) -> int:
        """Least images in a forward pass: 2 where BatchNorm trains, because one has no variance."""
        return 2 if any(True for _ in self._trained_statistics()) else 1

    def _trained_statistics(self) -> Iterator[str]:
        if not self._train_norms:
            return
        for name, module in self.backbone.named_modules():
            if isinstance(module, _NORMS) and self._stage_of_module[name] in self.trained:
                yield from (f"{name}.{entry}" for entry, _ in module.named_buffers(recurse=False))

    def frozen_names(self) -> list[str]:
        """Return the names, in the backbone, of its tensors that must not change."""
        changing = {name.removeprefix("backbone.") for name in self.state()}
        return [name for name in self.backbone.state_dict() if name not in changing]

    def to_model(self, state: Mapping[str, torch.Tensor], weights: str) -> Model:
        """Return a model with a copy of tensors as ``state`` has them; its temperature is 1.

        ``weights`` is the label of its backbone's weights.
        """
        original = self.model.backbone
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
        return dataclasses.replace(self.model, backbone=backbone, head=head, temperature=1.0)


def random_head(n_features: int, n_classes: int, seed: int) -> LinearHead:
    """Return a head with the random weights of ``torch.nn.Linear``, without standardisation.

    torch's global generator stays as it is.
    """
    with torch_seeded(torch.device("cpu"), seed, "random head"):
        linear = nn.Linear(n_features, n_classes)
    weight, bias = linear.weight.detach(), linear.bias.detach()
    return LinearHead(torch.zeros(n_features), torch.ones(n_features), weight, bias)
