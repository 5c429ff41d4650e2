"""Mean and scale of features, and the order of standardised rows."""

import numpy as np
import pytest
import torch

from regraft.heads.standardise import SHRINKAGE, Rows, Standard


def features(n, d, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.gamma(0.5, size=(n, d)) * np.geomspace(0.1, 10, d) + generator.normal(size=d)
    return torch.from_numpy(x.astype(np.float16).astype(np.float32))


def all_rows(rows, **options):
    return torch.cat([z.clone() for _, z in rows.chunks(**options)])


def test_mean_and_scale_are_those_of_float64():
    x = features(3000, 7)
    standard = Standard.measure(x)
    x64 = x.double()
    variance = x64.var(0, correction=0)
    torch.testing.assert_close(standard.mean, x64.mean(0).float(), rtol=1e-6, atol=1e-6)
    expected = (variance + SHRINKAGE * variance.mean()).rsqrt().float()
    torch.testing.assert_close(standard.scale, expected, rtol=1e-6, atol=0)


def test_a_variance_far_below_the_mean_does_not_cancel():
    x = 1000 + 10 * features(2000, 1)
    variance = x.double().var(0, correction=0)
    expected = (variance * (1 + SHRINKAGE)).rsqrt().float()
    torch.testing.assert_close(Standard.measure(x).scale, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.1, 60000.0, 6e-8])
def test_a_constant_feature_is_switched_off(value):
    x = features(500, 3)
    x[:, 1] = torch.tensor(value).half()
    standard = Standard.measure(x)
    assert (standard.scale == 0).tolist() == [False, True, False]
    assert bool(standard.mean.isfinite().all())


def test_one_row_and_nothing_but_constants():
    assert Standard.measure(features(1, 4)).scale.tolist() == [0, 0, 0, 0]
    assert Standard.measure(torch.ones(10, 4)).scale.tolist() == [0, 0, 0, 0]


def test_blocks_are_shrunk_towards_their_own_variance():
    x = features(400, 6)
    apart = [Standard.measure(x[:, :2].contiguous()), Standard.measure(x[:, 2:].contiguous())]
    together = Standard.measure(x, [2, 4])
    torch.testing.assert_close(together.scale, torch.cat([s.scale for s in apart]))
    assert not torch.allclose(together.scale, Standard.measure(x).scale)


def test_chunks_are_the_standardised_rows_in_order():
    x = features(2500, 5)
    rows = Rows(x, Standard.measure(x))
    expected = (x - rows.standard.mean) * rows.standard.scale
    assert torch.equal(all_rows(rows), expected)
    assert torch.equal(all_rows(rows, width=10_000), expected)
    assert torch.equal(torch.cat([x[where] for where, _ in rows.chunks()]), x)
    chosen = torch.arange(3, 2500, 7)
    some = list(rows.chunks_of(chosen))
    assert torch.equal(torch.cat([z for _, z in some]), expected[chosen])
    assert torch.equal(torch.cat([numbers for numbers, _ in some]), chosen)


def test_rows_that_need_no_standardising_are_not_copied():
    x = features(2500, 5)
    rows = Rows(x, Standard.none(5))
    assert torch.equal(all_rows(rows), x)
    assert {z.untyped_storage().data_ptr() for _, z in rows.chunks()} == {x.data_ptr()}
