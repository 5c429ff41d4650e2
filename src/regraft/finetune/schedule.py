"""The learning rate as a function of the step, and the parameter groups it is scaled for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from regraft.finetune.network import TrainableNetwork

#: Progress from 0 to 1 behind the warm-up, to a factor of the learning rate.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "step": lambda done: 0.1 ** min(int(3 * done), 2),  # a tenth after each third
    "constant": lambda _done: 1.0,
}

#: A step of Adam moves each of the head's weights by about the rate, and so a logit by that times
#: the number of standardised features: with 26,000 of them and a rate of 1e-4 by two at once.
_FEATURES = 2048


def rate_factor(step: int, *, total: int, warmup: int, schedule: str) -> float:
    """Return what the learning rate is multiplied by at a step.

    Parameters
    ----------
    step : int
        From 0 to ``total - 1``.
    total : int
        Steps of the whole training.
    warmup : int
        Steps over which the rate rises in a line; 0 to ``total``.
    schedule : str
        Key of ``SCHEDULES``.

    Returns
    -------
    float
        Above 0, at most 1. A function of its arguments: a resumed run needs no other state.

    References
    ----------
    Loshchilov and Hutter, SGDR, ICLR 2017 (cosine). Goyal et al., Accurate, Large Minibatch SGD,
    2017 (warm-up).

    Examples
    --------
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
    """Sort trained parameters by stage, and those that must not decay apart.

    Parameters
    ----------
    network : TrainableNetwork
        Tells which stage a parameter belongs to.
    weight_decay : float
        Of weights; biases, norms and whatever has one axis get none.
    layer_decay : float
        Each stage learns this many times as fast as the one behind it; the head at the full rate
        with up to 2,048 features, and slower in proportion with more.

    Returns
    -------
    list of dict
        "params", "weight_decay", "scale" (of the learning rate) and "names".

    References
    ----------
    Howard and Ruder, ULMFiT, ACL 2018 (rates by layer). He et al., Bag of Tricks, CVPR 2019 (no
    decay of biases and norms).
    """
    wide = min(1.0, _FEATURES / network.weight.shape[1])
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        stage, decays = network.stage_of[name], parameter.ndim > 1
        behind = network.n_stages - stage  # stages and the head that follow; 0: it is the head
        group = groups.setdefault(
            (stage, decays),
            {
                "params": [],
                "names": [],
                "weight_decay": weight_decay if decays else 0.0,
                "scale": wide if behind == 0 else layer_decay**behind,
            },
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return [groups[key] for key in sorted(groups)]


def make_optimizer(
    name: str, groups: list[dict[str, Any]], learning_rate: float
) -> torch.optim.Optimizer:
    """Make an optimiser over parameter groups.

    Parameters
    ----------
    name : str
        "adamw" or "sgd" (momentum 0.9).
    groups : list of dict
        From ``parameter_groups``.
    learning_rate : float
        Before any factor.

    Returns
    -------
    torch.optim.Optimizer
    """
    fused = all(p.device.type in {"cpu", "cuda"} for group in groups for p in group["params"])
    if name == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=0.9, fused=fused)
    return torch.optim.AdamW(groups, lr=learning_rate, fused=fused)


def set_rates(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give each group the learning rate times its scale."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["scale"]
