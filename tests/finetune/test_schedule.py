"""Learning rates: a function of the step, and of the stage."""

import pytest
import torch

from finetune_trials import make_trial
from regraft.errors import ConfigError
from regraft.finetune.network import TrainableNetwork, trained_stages
from regraft.finetune.schedule import (
    SCHEDULES,
    make_optimizer,
    parameter_groups,
    rate_factor,
    set_rates,
)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("total", "warmup"), [(1, 0), (1, 1), (10, 0), (10, 3), (7, 7), (300, 30)])
def test_factors_rise_in_a_line_then_never_again(name, total, warmup):
    found = [rate_factor(s, total=total, warmup=warmup, schedule=name) for s in range(total)]
    assert all(0 < factor <= 1 for factor in found)
    assert found[:warmup] == [(s + 1) / warmup for s in range(warmup)]
    behind = found[max(warmup - 1, 0) :]
    assert behind == sorted(behind, reverse=True)
    assert max(found) == 1


def test_cosine_ends_near_nothing_and_steps_are_tenths():
    cosine = [rate_factor(s, total=100, warmup=0, schedule="cosine") for s in range(100)]
    assert cosine[50] == pytest.approx(0.5)
    assert cosine[-1] < 0.001
    step = [rate_factor(s, total=9, warmup=0, schedule="step") for s in range(9)]
    assert step == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01])


def make_network(tmp_path, unfreeze="all", **changes):
    trial = make_trial(tmp_path, **changes)
    return TrainableNetwork(trial.probe, unfreeze=unfreeze, train_norms=False)


def test_groups_hold_each_trained_parameter_once_with_its_stage(tmp_path):
    network = make_network(tmp_path)
    groups = parameter_groups(network, weight_decay=0.1, layer_decay=0.5)
    names = [name for group in groups for name in group["names"]]
    wanted = {name for name, p in network.named_parameters() if p.requires_grad}
    assert len(names) == len(set(names))
    assert set(names) == wanted
    for group in groups:
        (stage,) = {network.stage_of[name] for name in group["names"]}
        assert group["scale"] == 0.5 ** (network.n_stages - stage)
        decays = {p.ndim > 1 for p in group["params"]}
        assert decays == {group["weight_decay"] > 0}
    assert network.stage_of["weight"] == network.n_stages
    assert network.stage_of["backbone.conv_stem.weight"] == 0
    assert network.stage_of["backbone.conv_head.weight"] == network.n_stages - 1


def test_a_head_of_many_features_learns_slower(tmp_path):
    for taps, scale in (("last", 1.0), ("blocks.3@4,blocks.4@4,pooled", None)):
        network = make_network(tmp_path, taps=taps)
        groups = parameter_groups(network, weight_decay=0.1, layer_decay=0.5)
        (head,) = [group for group in groups if "weight" in group["names"]]
        d = network.weight.shape[1]
        assert head["scale"] == (scale or 2048 / d) == min(1, 2048 / d)


def test_weights_decay_and_biases_and_norms_do_not(tmp_path):
    """One step without any gradient: what moves has decayed."""
    network = make_network(tmp_path)
    groups = parameter_groups(network, weight_decay=0.5, layer_decay=0.5)
    optimizer = make_optimizer("adamw", groups, 0.1)
    set_rates(optimizer, 0.1)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in network.named_parameters():
        rate = 0.1 * 0.5 ** (network.n_stages - network.stage_of[name])
        keep = 1 - rate * 0.5 if parameter.ndim > 1 else 1.0
        assert torch.allclose(parameter, before[name] * keep, rtol=1e-6), name


def test_unfreeze_is_a_number_all_or_names(tmp_path):
    backbone = make_trial(tmp_path).probe.backbone
    stages = [stage.name for stage in backbone.stages]
    assert len(stages) == 5
    assert trained_stages(backbone, "0") == ()
    assert trained_stages(backbone, "2") == (3, 4)
    assert trained_stages(backbone, "5") == trained_stages(backbone, "all") == (0, 1, 2, 3, 4)
    assert trained_stages(backbone, f"{stages[3]}, {stages[1]}") == (1, 3)
    with pytest.raises(
        ConfigError,
        match=r"unfreeze is 6; timm/test_efficientnet has 5 stages\n"
        r"hint: 0 to 5, all, or some of blocks.0, blocks.1",
    ):
        trained_stages(backbone, "6")
    with pytest.raises(
        ConfigError,
        match=r"has no stage 'block.4'\nhint: a number, all, or some "
        r"of .*blocks.4",
    ):
        trained_stages(backbone, "block.4")
