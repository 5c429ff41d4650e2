"""Transformers are trained like other networks: rates by layer, frozen stages, whole trainings."""

import itertools

import pytest
import torch

from finetune_trials import equal, make_trial, rows
from regraft.core.torchvision_shim import load_timm
from regraft.finetune.frozen import prefix
from regraft.finetune.network import TrainableNetwork
from regraft.finetune.schedule import parameter_groups
from small_transformers import CASES, OTHERS, Case, few_channels

TWO_STEPS = {"unfreeze": "2", "augment": "none", "epochs": 2, "batch_size": 16}
every = pytest.mark.parametrize("case", [*CASES, *OTHERS], ids=lambda case: case.name)


@pytest.fixture(scope="module", autouse=True)
def _small():
    with few_channels(depth=4):  # one in a stage
        yield


class Last:
    """Keeps the parameters after the last step, whichever epoch is the best."""

    def on_train_end(self, loop):
        named = loop.state.network.named_parameters()
        self.parameters = {name: tensor.detach().clone() for name, tensor in named}


def trial_of(case: Case, folder, **changes):
    side = case.side if case in CASES else 64
    return make_trial(folder, 4, side, model=case.full, image_size=str(side), **changes)


def network_of(case, folder, unfreeze):
    model = trial_of(case, folder).probe
    return TrainableNetwork(model, unfreeze=unfreeze, train_norms=False)


def layers_by_timm(module):
    """Return the number of the layer of each parameter, as timm orders them."""
    group = load_timm().models.group_parameters
    return group(module, module.group_matcher(coarse=False), reverse=True)


@every
def test_each_parameter_has_one_rate_and_no_rate_falls_towards_the_head(case, tmp_path):
    network = network_of(case, tmp_path, "all")
    groups = parameter_groups(network, weight_decay=0.1, layer_decay=0.5)
    names = [name for group in groups for name in group["names"]]
    assert sorted(names) == sorted(name for name, _ in network.named_parameters())
    assert len(set(names)) == len(names)
    rates = {name: group["scale"] for group in groups for name in group["names"]}
    layers = layers_by_timm(network.backbone)
    assert len(layers) == len(names) - 2  # without the head's
    in_order = sorted(layers, key=lambda name: layers[name])
    for one, other in itertools.pairwise(in_order):
        assert rates[f"backbone.{one}"] <= rates[f"backbone.{other}"], (one, other)
    assert rates["weight"] == rates["bias"] == 1.0
    assert {rates[f"backbone.{name}"] for name in layers} == {0.5, 0.25, 0.125, 0.0625}
    lowest = {name for name, rate in rates.items() if rate == 0.0625}
    assert {name for name in rates if "embed" in name or "token" in name} <= lowest


@every
def test_tokens_and_positions_do_not_decay(case, tmp_path):
    """As timm lists them; besides, no parameter with one axis decays."""
    network = network_of(case, tmp_path, "all")
    kept = {f"backbone.{name}" for name in getattr(network.backbone, "no_weight_decay", set)()}
    for group in parameter_groups(network, weight_decay=0.1, layer_decay=0.5):
        for name, parameter in zip(group["names"], group["params"], strict=True):
            decays = parameter.ndim > 1 and name not in kept
            assert group["weight_decay"] == (0.1 if decays else 0.0), name


@every
def test_only_the_stages_that_are_named_learn(case, tmp_path):
    """Two steps of the last two stages; the frozen ones are cut off, with the same logits."""
    trial = trial_of(case, tmp_path, **TWO_STEPS)
    network = TrainableNetwork(trial.probe, unfreeze="2", train_norms=False)
    kept, why = prefix._cut_and_compare(network, trial.compute)
    assert kept is not None, why
    last = Last()
    _, fitted = trial.run(last)
    assert [row["epoch"] for row in fitted.history] == [0, 1, 2]
    moved = [
        name
        for name, tensor in network.named_parameters()
        if not torch.equal(last.parameters[name], tensor)
    ]
    assert {network.stage_of[name] for name in moved} == {2, 3, 4}  # 4 is the head


@pytest.mark.parametrize("number", [0, 6, 8], ids=lambda number: CASES[number].name)
def test_a_training_with_its_frozen_stages_cut_off_is_the_same_to_the_bit(number, tmp_path):
    """Learnt positions, and two kinds of rotated ones: blocks of both sides read the angles."""
    trial = trial_of(CASES[number], tmp_path, **TWO_STEPS)
    cut, fitted = trial.at(tmp_path / "cut").run()
    whole, fitted_whole = trial.at(tmp_path / "whole").run(cached_views="0")
    assert equal(cut, whole)
    assert rows(fitted) == rows(fitted_whole)


@every
def test_a_step_moves_every_stage(case, tmp_path):
    """All stages are trained: each parameter gets a gradient that is not zero everywhere."""
    network = network_of(case, tmp_path, "all")
    side = network.model.backbone.preprocess.image_size
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    torch.autograd.backward(network(images).logsumexp(1).sum())
    still = [name for name, p in network.named_parameters() if p.grad is None]
    assert not still
    stages = {
        network.stage_of[name] for name, p in network.named_parameters() if bool(p.grad.any())
    }
    assert stages == set(range(network.n_stages + 1))
