"""The learning rate of each step, and the parameter groups with a rate of their own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from regraft.finetune.network import TrainableNetwork

#: Progress after the warm-up, from 0 to 1, to a factor of the learning rate.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "step": lambda done: 0.1 ** min(int(3 * done), 2),  # a tenth after each third
    "constant": lambda _done: 1.0,
}

#: A step of Adam changes each of the head's weights by about the rate, and so a logit by the rate
#: times the number of standardised features: with 26,000 features and a rate of 1e-4 by about two.
_FEATURES = 2048


@dataclass(frozen=True)
class Schedule:
    """Steps and their learning rates, for one number of training images."""

    learning_rate: float  # before any factor
    batch: int  # most images in a step
    steps: int  # batches in an epoch
    rate: Callable[[int], float]  # of a step, from 0


def rate_factor(step: int, *, total: int, warmup: int, schedule: str) -> float:
    """Return the factor of the learning rate at a step, above 0 and at most 1.

    It depends on its arguments alone, so a resumed run needs no other state. ``total`` counts all
    steps, ``warmup`` those over which the rate rises linearly. Loshchilov and Hutter, SGDR, ICLR
    2017 (cosine); Goyal et al., Accurate, Large Minibatch SGD, 2017 (warm-up).

    >>> [rate_factor(s, total=10, warmup=2, schedule="constant") for s in (0, 1, 2, 9)]
    [0.5, 1.0, 1.0, 1.0]
    >>> [round(rate_factor(s, total=4, warmup=0, schedule="cosine"), 2) for s in range(4)]
    [1.0, 0.85, 0.5, 0.15]
    """
    if step < warmup:
        return (step + 1) / warmup
    return SCHEDULES[schedule]((step - warmup) / max(total - warmup, 1))


def parameter_groups(
    network: TrainableNetwork, *, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Group trained parameters by stage and by whether they decay.

    Each stage has the rate of the stage after it times ``layer_decay``. The head has the full rate
    with up to 2,048 features, and a lower one in proportion with more. Biases, norms and other
    parameters with one axis do not decay, nor do those that a network of timm excepts: class and
    register tokens, positions. Howard and Ruder, ULMFiT, ACL 2018 (rates by layer); He et al., Bag
    of Tricks, CVPR 2019 (no decay of biases and norms).
    """
    of_network = getattr(network.backbone, "no_weight_decay", set)
    excepted = {f"backbone.{name}" for name in of_network()}
    of_head = min(1.0, _FEATURES / network.weight.shape[1])
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        stage = network.stage_of[name]
        decays = parameter.ndim > 1 and name not in excepted
        after = network.n_stages - stage  # stages and the head that follow; 0 is the head itself
        group = groups.setdefault(
            (stage, decays),
            {
                "params": [],
                "names": [],
                "weight_decay": weight_decay if decays else 0.0,
                "scale": of_head if after == 0 else layer_decay**after,  # of the learning rate
            },
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return [groups[key] for key in sorted(groups)]


def make_optimizer(
    name: str, groups: list[dict[str, Any]], learning_rate: float
) -> torch.optim.Optimizer:
    """Return AdamW, or SGD with momentum 0.9 for "sgd", for groups of ``parameter_groups``."""
    fused = all(p.device.type in {"cpu", "cuda"} for group in groups for p in group["params"])
    if name == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=0.9, fused=fused)
    return torch.optim.AdamW(groups, lr=learning_rate, fused=fused)


def set_rates(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give each group the learning rate times its scale."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["scale"]
