"""The hash of a network: it depends on every parameter and buffer, and on nothing else."""

import pytest
import torch
from torch import nn

from regraft.backbones.freeze import frozen, state_hash
from regraft.errors import FrozenError


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def test_hash_ignores_memory_format_and_mode_only():
    module = network()
    first = state_hash(module)
    assert state_hash(network()) == first
    assert state_hash(network().to(memory_format=torch.channels_last).eval()) == first
    assert state_hash(network().bfloat16()) != first
    renamed = nn.Sequential(*reversed(list(network())))
    assert state_hash(renamed) != first


@pytest.mark.parametrize("name", list(network().state_dict()))
def test_a_change_of_any_tensor_changes_the_hash_and_is_named(name):
    module = network()
    first = state_hash(module)
    with (
        pytest.raises(FrozenError, match=rf"^1 frozen tensor has changed: {name}$"),
        frozen(module),
    ):
        module.state_dict()[name].view(-1)[0].add_(1)
    assert state_hash(module) != first


def test_training_mode_moves_batchnorm_statistics_and_is_noticed():
    module = network().train()
    with (
        torch.no_grad(),
        pytest.raises(FrozenError, match=r"1\.num_batches_tracked, 1\.running_mean"),
        frozen(module),
    ):
        module(torch.randn(2, 3, 8, 8))


def test_evaluation_leaves_everything_as_it_was():
    module = network().eval()
    with torch.no_grad(), frozen(module):
        module(torch.randn(2, 3, 8, 8))


def test_many_changes_are_counted_and_an_error_inside_is_not_hidden():
    module = nn.ModuleList(nn.Linear(1, 1) for _ in range(8))
    with pytest.raises(FrozenError, match=r"^16 frozen tensors .* and 6 more$"), frozen(module):
        module.load_state_dict({name: t + 1 for name, t in module.state_dict().items()})
    with pytest.raises(ZeroDivisionError), frozen(module):
        module[0].weight.data.add_(1 / int(module[0].bias.isnan().any()))
