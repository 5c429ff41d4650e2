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


@pytest.mark.parametrize("seed", range(4))
def test_every_block_is_measured_by_its_definition(seed):
    """In chunks of rows: some blocks have constant features, and one has nothing else."""
    chance = np.random.default_rng(seed)
    widths = [int(width) for width in chance.integers(1, 5, 4)]
    x = chance.normal(3, 1, (2100, sum(widths))) * 10 ** chance.uniform(-3, 3, sum(widths))
    x[:, chance.random(sum(widths)) < 0.2] = 7.3
    x[:, : widths[0]] = -0.1
    x = x.astype(np.float32)
    standard = Standard.measure(torch.from_numpy(x), widths)
    at = 0
    for width in widths:
        block = x[:, at : at + width].astype(np.float64)
        variance = block.var(0)
        constant = np.ptp(block, 0) == 0
        expected = np.where(constant, 0, (variance + 0.3 * variance.mean() + constant) ** -0.5)
        assert standard.mean[at : at + width].numpy() == pytest.approx(block.mean(0), rel=1e-6)
        assert standard.scale[at : at + width].numpy() == pytest.approx(expected, rel=1e-5)
        at += width


def test_a_feature_that_varies_by_less_than_a_ten_thousandth_of_its_mean_is_constant():
    x = np.tile(np.float64([[-1, -1], [1, 1]]), (50, 1)) * [0.8e-4, 1.25e-4]
    for mean in (1, -1):
        scale = Standard.measure(torch.from_numpy((1000 * (mean + x)).astype(np.float32))).scale
        assert (scale == 0).tolist() == [True, False]


def test_a_scale_that_float32_cannot_hold_is_its_largest():
    x = torch.tensor([[0.0], [1e-40]])
    scale = Standard.measure(x).scale
    assert scale.tolist() == [torch.finfo(torch.float32).max]


@pytest.mark.parametrize(
    ("mean", "scale", "same"),
    [([0, 0], [1, 1], True), ([0, 1], [1, 1], False), ([0, 0], [1, 0], False),
     ([0, -1], [2, 2], False)],
)  # fmt: skip
def test_rows_stay_the_same_for_a_mean_of_zero_and_a_scale_of_one_alone(mean, scale, same):
    standard = Standard(torch.tensor(mean).float(), torch.tensor(scale).float())
    assert standard.changes_nothing is same
    x = features(70, 2)
    expected = (x - standard.mean) * standard.scale
    assert torch.equal(all_rows(Rows(x, standard)), expected)
    assert Standard.none(2).changes_nothing


@pytest.mark.parametrize(
    ("width", "of_the_caller", "rows"),
    [(4, 1, 1024), (1024, 1, 1024), (2048, 1, 512), (4, 4096, 256), (40_000, 1, 32)],
)
def test_a_chunk_has_a_million_numbers_but_at_least_32_rows_and_at_most_1024(
    width, of_the_caller, rows
):
    n = rows + 5
    x = torch.zeros(1, width).expand(n, width)
    for standard in (Standard.none(width), Standard(torch.ones(width), torch.ones(width))):
        chunks = Rows(x, standard).chunks(of_the_caller)
        places = [(where.start, where.stop, len(z)) for where, z in chunks]
        assert places == [(0, rows, rows), (rows, n, 5)]
    if of_the_caller == 1:
        parts = Rows(x, standard).chunks_of(torch.arange(n))
        assert [len(z) for _, z in parts] == [rows, 5]


def test_some_rows_are_a_copy_with_the_same_mean_and_scale():
    x = features(20, 3)
    rows = Rows(x, Standard.measure(x))
    chosen = torch.tensor([3, 7, 19])
    expected = all_rows(rows)[chosen]
    few = rows.copy_of(chosen)
    x.zero_()
    assert few.shape == (3, 3)
    assert torch.equal(all_rows(few), expected)


def test_a_mean_far_below_its_features_does_not_cancel():
    x = torch.tensor([3e7 + 16, -3e7]).repeat_interleave(512)[:, None]
    assert Standard.measure(x).mean.tolist() == [8]


def test_all_chunks_have_one_memory():
    x = features(2500, 5)
    chunks = [z for _, z in Rows(x, Standard.measure(x)).chunks()]
    assert len(chunks) > 2
    assert len({z.data_ptr() for z in chunks}) == 1
