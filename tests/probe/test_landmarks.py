"""Weighing of blocks, projection on landmarks, the choice of the set, and ridge's closed form."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from regraft.backbones.registry import load_backbone
from regraft.core.machine import memory_limit
from regraft.core.reporter import Reporter
from regraft.errors import ConfigError, InputError
from regraft.features.taps import Block, select_blocks
from regraft.heads.fit import fit_head, sample_weights
from regraft.heads.ridge import fit_ridge
from regraft.heads.standardise import Standard
from regraft.probe.block_weights import block_weights
from regraft.probe.fit import report_candidates
from regraft.probe.landmarks import Landmarks, Projection, project_all
from regraft.probe.projection import span_of
from regraft.probe.selection import Candidate, paired_difference, smallest_within_one_error


def blocks_of(n=240, seed=0, n_classes=3, signal=2.0):
    """Three blocks: one that knows the classes, one of noise, one that knows a little."""
    generator = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    parts = []
    for width, strength in ((12, signal), (40, 0.0), (6, signal / 4)):
        means = strength * generator.normal(size=(n_classes, width))
        parts.append((generator.normal(size=(n, width)) + means[y]).astype(np.float32))
    return parts, y.astype(np.int64)


def kernels_of(parts):
    made = []
    for x in map(torch.from_numpy, parts):
        z = x - x.mean(0)
        kernel = z @ z.T
        made.append(kernel / kernel.diagonal().mean())
    return made


def test_a_block_weighs_what_it_knows():
    parts, y = blocks_of()
    shares = block_weights(kernels_of(parts), y, prior=[1, 1, 1])
    assert shares.sum() == pytest.approx(1)
    assert shares[0] > 0.6
    assert shares[0] > shares[2] > shares[1]


def test_the_order_of_blocks_and_of_images_changes_no_share():
    parts, y = blocks_of()
    shares = block_weights(kernels_of(parts), y, prior=[3, 1, 2])
    order = np.random.default_rng(1).permutation(len(y))
    other = block_weights(kernels_of([x[order] for x in parts[::-1]]), y[order], prior=[2, 1, 3])
    assert other[::-1] == pytest.approx(shares, abs=5e-3)


def test_a_handful_of_images_leaves_the_prior_nearly_where_it_is():
    parts, y = blocks_of(n=4, n_classes=2, signal=0.1)
    shares = block_weights(kernels_of(parts), y, prior=[5, 3, 2])
    assert (shares > 0.2 * np.array([0.5, 0.3, 0.2])).all()
    assert shares[0] == max(shares)


def test_one_block_needs_no_weighing():
    parts, y = blocks_of()
    assert block_weights(kernels_of(parts[:1]), y, prior=[7.0]).tolist() == [1.0]


def test_images_of_one_class_alone_leave_the_prior():
    """Of 2,000 images with two of another class, the first 800 are of one class in 36 %."""
    parts, y = blocks_of()
    kernels = kernels_of(parts)
    shares = block_weights(kernels, np.zeros_like(y), prior=[5, 3, 2])
    assert shares == pytest.approx([0.5, 0.3, 0.2])


def standard_of(x, widths):
    return Standard.measure(torch.from_numpy(x), widths)


@pytest.mark.parametrize("n", [30, 400])
def test_a_head_on_coordinates_is_the_head_on_weighted_features(n):
    """With no more images than landmarks the projection loses nothing: within 2e-3 of a logit."""
    parts, y = blocks_of(n)
    x, widths = np.concatenate(parts, 1), [12, 40, 6]
    seen = span_of(torch.from_numpy(x), standard_of(x, widths), widths, [0.7, 0.1, 0.2])
    assert seen.width == min(n, x.shape[1])
    folds = np.arange(n) // 3 % 5
    z = seen.apply(torch.from_numpy(x.copy())).numpy()
    on_z = fit_head(z, y, folds=folds, n_classes=3, standard=Standard.none(z.shape[1]))
    on_x = fit_head(x, y, folds=folds, n_classes=3, standard=seen.standard)
    new = np.concatenate(blocks_of(50, seed=7)[0], 1)
    carried = seen.to_features(on_z.head)
    with torch.inference_mode():
        rows = torch.from_numpy(new)
        assert torch.allclose(carried(rows), on_z.head(seen.apply(rows.clone())), atol=1e-4)
        if on_z.record["penalty"] == pytest.approx(on_x.record["penalty"], rel=1e-3):
            assert torch.allclose(carried(rows), on_x.head(rows), atol=0.02)
    assert on_z.record["out_of_fold"]["log_loss"] == pytest.approx(
        on_x.record["out_of_fold"]["log_loss"], abs=2e-3
    )


def test_shares_are_parts_of_a_row_s_squared_length():
    parts, _ = blocks_of(300)
    x, widths, shares = np.concatenate(parts, 1), [12, 40, 6], [0.7, 0.1, 0.2]
    seen = span_of(torch.from_numpy(x), standard_of(x, widths), widths, shares)
    z = seen.apply(torch.from_numpy(x.copy()))
    lengths = [float(part.square().sum(1).mean()) for part in torch.split(z, widths, dim=1)]
    assert np.asarray(lengths) / sum(lengths) == pytest.approx(shares, abs=1e-4)


def test_landmarks_that_are_copies_of_each_other_span_what_one_spans():
    parts, _ = blocks_of(20)
    x = np.concatenate([np.concatenate(parts, 1)] * 2)
    seen = span_of(torch.from_numpy(x), standard_of(x, [58]), [58], [1.0])
    z = seen.apply(torch.from_numpy(x.copy()))
    assert bool(z.isfinite().all())
    assert torch.allclose(z[:20], z[20:], atol=1e-3)


def test_features_that_are_not_finite_are_an_error_and_no_endless_search():
    x = torch.randn(20, 58, generator=torch.Generator().manual_seed(0))
    x[3, 5] = torch.inf
    with pytest.raises(InputError, match="features, or products of them, are not finite"):
        span_of(x, Standard.none(58), [58], [1.0])


@pytest.mark.parametrize("name", ["logistic", "ridge", "knn", "mean"])
def test_one_fold_of_all_leaves_nothing_to_fit(name):
    parts, y = blocks_of(30)
    with pytest.raises(InputError, match="all samples are in fold 2; a fit without it has none"):
        fit_head(parts[0], y, folds=np.full(30, 2), n_classes=3, name=name)


class _Rows:
    """Rows by index, as Features gives them."""

    def __init__(self, parts, views=()):
        self.views = tuple(views)
        names = ("early", "late", "pooled")
        self.blocks = tuple(Block(name) for name in names)
        self.parts = dict(zip(self.blocks, parts, strict=True))
        self.widths = {block: part.shape[1] for block, part in self.parts.items()}

    def matrix(self, indices, blocks):
        return np.concatenate([self.parts[block][indices] for block in blocks], 1)


def test_what_does_not_fit_into_memory_is_mapped_with_the_same_bits():
    """Scope: bits, on one machine, whatever --memory says; the fits then are the same too."""
    parts, y = blocks_of(5000)
    rows = _Rows(parts, views=[_Rows([2 * part for part in parts])])
    y = np.tile(y, 2)
    some = np.arange(0, 5000, 10)
    x = torch.from_numpy(rows.matrix(some, rows.blocks))
    projection = Landmarks(
        x, x[:800], y[some][:800], rows.blocks, tuple(rows.widths.values())
    ).project(rows.blocks)
    (held,) = project_all(rows, np.arange(5000), [projection], memory=2**30)
    (mapped,) = project_all(rows, np.arange(5000), [projection], memory=1000)
    assert isinstance(mapped, np.memmap)
    assert not isinstance(held, np.memmap)
    assert np.array_equal(held, mapped)
    for first, source in ((0, rows), (5000, rows.views[0])):  # the images, then their view
        x = torch.from_numpy(source.matrix(np.arange(2048), projection.blocks))
        assert np.array_equal(held[first : first + 2048], projection.basis.apply(x).numpy())
    weights = [
        fit_head(
            z,
            y,
            folds=np.tile(np.arange(5000) % 5, 2),
            n_classes=3,
            standard=Standard.none(z.shape[1]),
        )
        for z in (held, mapped)
    ]
    assert weights[0].head.weight.equal(weights[1].head.weight)


def test_blocks_that_say_nothing_leave_and_the_best_one_never_does():
    parts, y = blocks_of(600)
    rows = _Rows(parts)
    x = torch.from_numpy(rows.matrix(np.arange(600), rows.blocks))
    projection = Landmarks(x, x[:800], y[:800], rows.blocks, (12, 40, 6)).project(rows.blocks)
    assert isinstance(projection, Projection)
    assert rows.blocks[0] in projection.blocks
    assert sum(projection.shares) == pytest.approx(1)
    alone = Landmarks(x, x[:800], y[:800], rows.blocks, (12, 40, 6)).project(rows.blocks[1:2])
    assert alone.blocks == rows.blocks[1:2]


@pytest.mark.parametrize("given", ["much", "1e999", "nan", "-1"])
def test_memory_is_a_number_or_auto(given):
    message = f"memory is '{given}'; it must be auto or a number of GiB"
    with pytest.raises(InputError) as caught:
        memory_limit(given)
    assert str(caught.value).startswith(message)


def candidate(name, n_features, losses_up, parts, y):
    """Fit something, then make its out-of-fold logits worse by a known amount."""
    x = np.concatenate(parts, 1)
    fitted = fit_head(x, y, folds=np.arange(len(y)) // 3 % 5, n_classes=3)
    noise = np.random.default_rng(n_features).normal(size=fitted.oof_logits.shape)
    fitted.oof_logits[...] += losses_up * noise.astype(np.float32)
    return Candidate(name, n_features, fitted, 0.0)


def test_the_smaller_set_within_one_error_is_chosen():
    parts, y = blocks_of(300)
    small, large = (candidate(*given, parts, y) for given in (("small", 10, 0), ("large", 90, 0)))
    chosen, table = smallest_within_one_error([small, large], y, np.arange(300), np.ones(300))
    assert chosen == "small"
    assert [row["taps"] for row in table] == ["small", "large"]
    assert [row["chosen"] for row in table] == [True, False]
    worse = candidate("small", 10, 3, parts, y)
    chosen, table = smallest_within_one_error([worse, large], y, np.arange(300), np.ones(300))
    assert chosen == "large"
    assert table[0]["above_best"] > table[0]["above_best_se"] > 0


def test_classes_that_count_the_same_decide_and_the_table_says_which_figure_it_is():
    """The small set is right about the common class, and the large one about the rare one."""
    y = np.repeat([0, 1], [90, 10])
    small, large = (np.zeros((100, 2), np.float32) for _ in range(2))
    small[:, 0], large[:80, 0], large[80:, 1] = 2, 2, 2
    plain_fit = fit_head(
        np.eye(2, 3, dtype=np.float32)[y], y, folds=np.arange(100) % 5, n_classes=2
    )
    fits = [
        Candidate(name, n, dataclasses.replace(plain_fit, temperature=1.0, oof_logits=logits), 0.0)
        for name, n, logits in (("small", 10, small), ("large", 90, large))
    ]
    plain = smallest_within_one_error(fits, y, np.arange(100), np.ones(100))
    weights = sample_weights(y, 2, "balanced")
    chosen, table = smallest_within_one_error(fits, y, np.arange(100), weights)
    assert (plain[0], chosen) == ("small", "large")
    right, wrong = np.log1p(np.exp(-2)), np.log1p(np.exp(2))
    for row, of_common, of_rare in zip(table, (1, 80 / 90), (0, 1), strict=True):
        losses = [wrong + (right - wrong) * share for share in (of_common, of_rare)]
        assert row["accuracy"] == pytest.approx(0.9 * of_common + 0.1 * of_rare)
        assert row["log_loss"] == pytest.approx(0.9 * losses[0] + 0.1 * losses[1])
        assert row["balanced_log_loss"] == pytest.approx(np.mean(losses))
        error = (row["accuracy"] * (1 - row["accuracy"]) / 100) ** 0.5
        assert row["accuracy_se"] == pytest.approx(error)
    assert table[0]["above_best"] == pytest.approx(
        table[0]["balanced_log_loss"] - table[1]["balanced_log_loss"]
    )
    for rows, kind, figure in ((plain[1], "out-of-fold", "0.3269"), (table, "balanced", "1.1269")):
        recorder = Recorder()
        report_candidates(rows, recorder)
        assert f"   {kind} log-loss" in recorder.lines[0]
        _, _, loss, _, _, accuracy, *_ = recorder.lines[1].split()
        assert (loss, accuracy) == (figure, "0.9000")


def test_answers_that_are_all_right_have_no_error_of_zero():
    """Twenty right answers say nothing about how far the accuracy is from 1."""
    y = np.repeat([0, 1], 10)
    fitted = fit_head(np.eye(2, 3, dtype=np.float32)[y], y, folds=np.arange(20) % 5, n_classes=2)
    logits = np.where(np.eye(2)[y] > 0, 3, 0) * np.linspace(1, 2, 20)[:, None]
    fitted = dataclasses.replace(fitted, temperature=1.0, oof_logits=logits.astype(np.float32))
    fits = [Candidate(name, n, fitted, 0.0) for name, n in (("last", 10), ("all", 90))]
    _, table = smallest_within_one_error(fits, y, np.arange(20), np.ones(20))
    assert {row["accuracy_se"] for row in table} == {None}
    recorder = Recorder()
    report_candidates(table, recorder)
    assert [line.count("+-") for line in recorder.lines] == [0, 1, 1]
    assert [line.index("0.0 ") for line in recorder.lines[1:2]] == [
        recorder.lines[0].index("seconds") + 3
    ]
    fits = [dataclasses.replace(each, fitted=sure(each.fitted)) for each in fits]
    report_candidates(smallest_within_one_error(fits, y, np.arange(20), np.ones(20))[1], recorder)
    assert "+-" not in "".join(recorder.lines[3:])


def sure(fitted):
    """Return the fit with answers whose losses are below 5e-5."""
    return dataclasses.replace(fitted, oof_logits=10 * fitted.oof_logits)


def test_a_larger_set_is_never_preferred_for_being_as_good():
    parts, y = blocks_of(300)
    small, large = (candidate(*given, parts, y) for given in (("small", 10, 0), ("large", 90, 0)))
    large.fitted.oof_logits[...] *= np.float32(0.999)
    assert smallest_within_one_error([large, small], y, np.arange(300), np.ones(300))[0] == "small"


def test_candidates_are_compared_where_all_have_been_scored():
    """Fits of other folds: the log-loss of rows that nobody scored is that of chance."""
    parts, y = blocks_of(300)
    small, large = (candidate(*given, parts, y) for given in (("small", 10, 3), ("large", 90, 0)))
    large.fitted.oof_logits[150:] = 0
    fitted = dataclasses.replace(large.fitted, scored=np.arange(300) < 150)
    large = dataclasses.replace(large, fitted=fitted)
    chosen, table = smallest_within_one_error([small, large], y, np.arange(300), np.ones(300))
    assert chosen == "large"
    assert table[1]["log_loss"] < 0.9 * np.log(3)


def test_where_nothing_was_scored_no_figure_is_shown():
    """Two images of each class: no fold can hold any out. Zeros would be a perfect loss."""
    parts, y = blocks_of(6)
    nobody = np.zeros(6, bool)
    fits = [candidate(name, n, 0, parts, y) for name, n in (("small", 10), ("large", 90))]
    fits = [
        dataclasses.replace(fit, fitted=dataclasses.replace(fit.fitted, scored=nobody))
        for fit in fits
    ]
    chosen, table = smallest_within_one_error(fits, y, np.arange(6), np.ones(6))
    assert chosen == "small"
    assert {row["log_loss"] for row in table} == {row["accuracy"] for row in table} == {None}
    recorder = Recorder()
    report_candidates(table, recorder)
    assert recorder.lines == [
        "too few images to compare sets of features: the smallest is used, small"
    ]


class Recorder(Reporter):
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def test_images_of_one_group_are_one_observation():
    generator = np.random.default_rng(0)
    each = np.repeat(generator.normal(size=20), 10)
    _, by_image = paired_difference(each, np.zeros(200), np.arange(200), np.ones(200))
    _, by_group = paired_difference(each, np.zeros(200), np.repeat(np.arange(20), 10), np.ones(200))
    assert by_group == pytest.approx(by_image * 10**0.5)


@pytest.mark.parametrize("grouped", [False, True])
def test_ridge_predicts_each_row_as_a_fit_without_it_would(grouped):
    """Exact: against scikit-learn's Ridge fitted again without each row, or group of rows."""
    parts, y = blocks_of(36)
    x = np.concatenate(parts, 1)
    weights = np.random.default_rng(3).uniform(0.5, 2, len(y))
    folds = np.arange(len(y)) // 3 if grouped else np.arange(len(y))
    standard = standard_of(x, [58])
    fitted = fit_ridge(x, y, folds=folds, n_classes=3, weights=weights, standard=standard)
    z = ((torch.from_numpy(x) - standard.mean) * standard.scale).double().numpy()
    scale = fitted.record["scale"]
    alpha = fitted.record["penalty"] * weights.sum()
    for fold in np.unique(folds):
        kept, out = folds != fold, folds == fold
        model = Ridge(alpha=alpha).fit(z[kept], np.eye(3)[y[kept]], sample_weight=weights[kept])
        assert model.predict(z[out]) / scale == pytest.approx(fitted.oof_logits[out], abs=1e-3)
    whole = Ridge(alpha=alpha).fit(z, np.eye(3)[y], sample_weight=weights)
    with torch.inference_mode():
        logits = fitted.head(torch.from_numpy(x)).numpy()
    assert whole.predict(z) / scale == pytest.approx(logits, abs=1e-3)


def test_a_penalty_chosen_on_fewer_images_is_taken_over_in_proportion():
    parts, y = blocks_of(300, signal=4)
    x = np.concatenate(parts, 1)
    given = {"folds": np.arange(300) // 3 % 5, "n_classes": 3}
    whole = fit_head(x, y, **given)
    half = fit_head(x[::2], y[::2], folds=given["folds"][::2], n_classes=3)
    near = fit_head(x, y, **given, near=half)
    assert [row["penalty"] for row in near.history] == [half.record["penalty"] / 2]
    assert near.record["penalty"] == half.record["penalty"] / 2
    assert near.record["out_of_fold"]["log_loss"] == pytest.approx(
        whole.record["out_of_fold"]["log_loss"], abs=3e-3
    )


def test_a_penalty_is_taken_over_where_nothing_can_be_scored():
    parts, y = blocks_of(300, signal=4)
    x = np.concatenate(parts, 1)
    half = fit_head(x[::2], y[::2], folds=np.arange(150) % 5, n_classes=3)
    fitted = fit_head(x, y, folds=np.full(300, -1), n_classes=3, near=half)
    assert fitted.record["converged"]
    assert fitted.record["penalty"] == half.record["penalty"] / 2
    assert (fitted.head(torch.from_numpy(x)).argmax(1).numpy() == y).mean() > 0.9


def test_grids_by_name(embedded_backbone):
    names = [str(block) for block in select_blocks((embedded_backbone,), "all", "2,4")]
    assert "blocks.3@1" not in names
    assert {"blocks.3@2", "blocks.3@4", "pooled@1"} <= set(names)
    assert {b.grid for b in select_blocks((embedded_backbone,), "auto")} == {1, 2, 4}
    assert {b.grid for b in select_blocks((embedded_backbone,), "auto", "1")} == {1}
    message = "grids is 1,3; '3' is none of 1, 2, 4\nhint: one or several of them, with commas"
    with pytest.raises(ConfigError, match=message):
        select_blocks((embedded_backbone,), "all", "1,3")


@pytest.fixture(scope="module")
def embedded_backbone():
    return load_backbone("embedded")
