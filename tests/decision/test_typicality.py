"""Typicality: scores of two parts by hand, p-values by counting, levels by simulation."""

import math

import numpy as np
import pytest
from scipy.special import logsumexp

from regraft.decision import typicality as typicality_module
from regraft.decision.scorers import SCORERS, Neighbours, as_integers
from regraft.decision.typicality import (
    Typicality,
    energies_of,
    fit_centre,
    fit_neighbours,
    units_needed,
)
from regraft.errors import InputError
from tiny_bundles import by_mahalanobis


def features(seed, n, width=7, centre=1.0):
    return np.random.default_rng(seed).normal(centre, 1, (n, width)).astype(np.float32)


def some_bank(n=12, width=3):
    """A scorer, where only the scores count."""
    return Neighbours(np.ones((n, width), np.int8), np.ones(n, np.float32))


def test_a_p_value_is_the_share_of_units_that_are_at_least_as_far():
    scores = np.array([0.1, 0.2, 0.2, 0.2, 0.7], np.float32)
    typicality = Typicality(some_bank(), scores)
    new = np.array([0.0, 0.1, 0.15, 0.2, 0.21, 0.7, 0.71, math.inf, math.nan])
    kept = new.astype(np.float32)
    counts = [1 + sum(not score < each for score in scores) for each in kept[:-1]]
    assert typicality.p_values_of(new).tolist() == [count / 6 for count in [*counts, 1]]
    assert counts == [6, 6, 5, 5, 2, 2, 1, 1]
    assert typicality.least_level == 1 / 6


def logits_for(energies):
    """Logits of two classes whose energies these are: the second class counts for nothing."""
    return np.stack([-np.asarray(energies), np.full(len(energies), -1e4)], 1).astype(np.float32)


@pytest.mark.parametrize("with_energies", [False, True])
@pytest.mark.parametrize("kind", ["whole bank", "split bank", "held out"])
def test_in_a_simulation_of_new_images_the_level_is_kept_and_used(kind, with_energies, monkeypatch):
    """Clusters of unequal width, and energies that hang together with the features.

    99 units are measured and new images come from where they do: no more than the level may be
    called unlike, and not much fewer, within four standard errors over the sets.
    """
    sets, n, new, bank = 80, 99, 60, 60
    random = np.random.default_rng(6)
    if kind == "split bank":
        monkeypatch.setattr(typicality_module, "MOST_UNITS", n)
        monkeypatch.setattr(typicality_module, "BANK_ROWS", bank)
    shares = []
    for _ in range(sets):
        rows = random.normal(1, 1, (bank + n + new, 4))
        spread = random.choice([0.3, 1, 3], len(rows))
        rows[np.arange(len(rows)), random.integers(0, 3, len(rows))] += 4 * spread
        rows = rows.astype(np.float32)
        energies = rows[:, 0] / 2 + random.normal(0, 1, len(rows))
        own, others = slice(bank, bank + n), slice(bank + n, None)
        parts = {
            "whole bank": (rows[own], None, energies[own]),
            "split bank": (rows[: bank + n], None, energies[: bank + n]),
            "held out": (rows[:bank], rows[own], energies[own]),
        }
        pooled, held_out, known = parts[kind]
        typicality = fit_neighbours(pooled, held_out, known if with_energies else None)
        assert len(typicality.scores) == n
        p_values = typicality.p_values(rows[others], logits_for(energies[others]))
        shares.append((p_values <= 0.05).mean())
    error = np.std(shares) / math.sqrt(sets)
    assert 0.05 - 4 * error - 1 / n < np.mean(shares) < 0.05 + 4 * error


@pytest.mark.parametrize("n_classes", [2, 3, 1000])
def test_an_energy_is_minus_the_logarithm_of_the_summed_exponentials(n_classes):
    logits = features(44, 50, n_classes, centre=0) * np.float32(20)
    got = energies_of(logits)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, -logsumexp(logits.astype(np.float64), axis=1), rtol=1e-12)


def test_the_energy_of_huge_logits_is_finite_and_theirs():
    largest = np.finfo(np.float32).max
    logits = np.array(
        [[largest, -largest], [-largest, -largest], [1e4, 1e4], [-1e4, -1e4]], np.float32
    )
    wanted = [-float(largest), float(largest), -1e4 - math.log(2), 1e4 - math.log(2)]
    np.testing.assert_allclose(energies_of(logits), wanted, rtol=1e-15)


UNLIKE, ENERGIES = np.array([1.0, 3, 5, 7]), np.array([-8.0, -2, -2, 0])
#: Means 4 and -3; mean squares from them 5 and 9.
BY_HAND = (UNLIKE - 4) / math.sqrt(5) + (ENERGIES + 3) / 3


def test_a_score_adds_both_parts_in_their_standard_deviations():
    typicality = Typicality.of(some_bank(), UNLIKE, ENERGIES)
    np.testing.assert_allclose(typicality.scale, [[4, math.sqrt(5)], [-3, 3]], rtol=1e-15)
    np.testing.assert_array_equal(typicality.scores, np.sort(BY_HAND).astype(np.float32))
    new = features(45, 4, 3)
    unlike = typicality.scorer.score(new)
    wanted = (unlike - 4) / math.sqrt(5) + (np.array([9.0, 0, -1, -7]) + 3) / 3
    got = typicality.score(new, logits_for([9.0, 0, -1, -7]))
    np.testing.assert_allclose(got, wanted, rtol=1e-12)
    np.testing.assert_array_equal(
        typicality.p_values(new, logits_for([9.0, 0, -1, -7])), typicality.p_values_of(got)
    )


def test_units_without_an_energy_are_not_measured():
    unlike, energies = np.insert(UNLIKE, [0, 2, 4], 99), np.insert(ENERGIES, [0, 2, 4], math.nan)
    typicality = Typicality.of(some_bank(), unlike, energies)
    whole = Typicality.of(some_bank(), UNLIKE, ENERGIES)
    np.testing.assert_array_equal(typicality.scores, whole.scores)
    np.testing.assert_array_equal(typicality.scale, whole.scale)


@pytest.mark.parametrize("energies", [None, np.full(4, math.nan)], ids=["none", "not one"])
def test_without_energies_a_score_is_the_distance_alone(energies):
    typicality = Typicality.of(some_bank(), UNLIKE[::-1], energies)
    assert typicality.scale is None
    assert typicality.scores.tolist() == UNLIKE.tolist()
    new = features(46, 5, 3)
    np.testing.assert_array_equal(typicality.score(new), typicality.scorer.score(new))
    np.testing.assert_array_equal(typicality.score(new, new), typicality.scorer.score(new))


def test_a_score_of_two_parts_needs_logits():
    with pytest.raises(ValueError, match="measured with logits"):
        Typicality.of(some_bank(), UNLIKE, ENERGIES).score(features(46, 5, 3))


def test_few_energies_do_not_count_and_all_units_are_measured_without():
    """Ten units; of more than 2,000, a thousand energies are enough."""
    energies = np.full(10, math.nan)
    energies[:4] = ENERGIES
    few = Typicality.of(some_bank(), np.arange(10.0), energies)
    assert few.scale is None
    assert few.scores.tolist() == [*range(10)]
    energies[9] = 1
    half = Typicality.of(some_bank(), np.arange(10.0), energies)
    assert len(half.scores) == 5
    unlike, energies = np.arange(5000.0), np.full(5000, math.nan)
    energies[:999] = unlike[:999]
    assert len(Typicality.of(some_bank(), unlike, energies).scores) == 5000
    energies[999] = 3
    assert len(Typicality.of(some_bank(), unlike, energies).scores) == 1000


@pytest.mark.parametrize("size", [1, 1000])
def test_energies_that_differ_by_rounding_alone_do_not_count(size):
    """As those of k-NN, whose logits are logarithms of probabilities."""
    shares = np.random.default_rng(0).dirichlet([0.3] * 4, 50).clip(1e-6)
    logits = np.log(shares / shares.sum(1, keepdims=True)) + size
    energies = energies_of(logits.astype(np.float32))
    assert 0 < energies.std() < 1e-6 * size
    typicality = Typicality.of(some_bank(), np.arange(50.0), energies)
    assert typicality.scale is None
    assert typicality.scores.tolist() == [*range(50)]


def test_of_units_that_are_all_alike_rounding_makes_no_new_one_unlike():
    """Copies of one image as units of their own: what differs in the last digits is no other."""
    typicality = Typicality.of(some_bank(), np.full(4, 0.1), ENERGIES)
    kept = Typicality.from_tensors("neighbours", typicality.tensors())
    assert kept.scale[0].tolist() == [0.1, 1e-6]
    parts = np.stack([np.full(4, 0.1) + 1e-14, ENERGIES])
    scores = (parts - kept.scale[:, :1]) / kept.scale[:, 1:]
    np.testing.assert_allclose(np.sort(scores.sum(0)), kept.scores, atol=1e-6)


def test_the_score_of_the_largest_logits_is_one_that_float32_holds():
    largest = np.finfo(np.float32).max
    typicality = Typicality.of(some_bank(), UNLIKE, ENERGIES / 1000)
    logits = np.array([[largest, 0], [-largest, -largest]], np.float32)
    new = features(46, 2, 3)
    assert typicality.score(new, logits).astype(np.float32).tolist() == [-largest, largest]
    assert typicality.p_values(new, logits).tolist() == [1, 1 / 5]


@pytest.mark.parametrize("fit", [fit_neighbours, fit_centre])
def test_fewer_than_twelve_units_tell_nothing(fit):
    rows, held, energies = features(47, 12), features(48, 30), np.linspace(-9, 0, 30)
    for n in (0, 1, 11):
        assert fit(rows[:n], None, energies[:n]) is None
        assert fit(rows[:n], held, energies) is None
    assert len(fit(rows, None, energies[:12]).scores) == 12
    assert len(fit(rows, held, energies).scores) == 30


@pytest.mark.parametrize("fit", [fit_neighbours, fit_centre])
def test_no_unit_that_is_measured_gives_no_reason_to_call_anything_unlike(fit):
    held = fit(features(0, 30), np.ones((0, 7), np.float32), np.zeros(0))
    assert (held.p_values(features(1, 2)).tolist(), held.least_level) == ([1, 1], 1)


@pytest.mark.parametrize("fit", [fit_neighbours, fit_centre])
def test_each_unit_is_measured_with_its_own_energy(fit, monkeypatch):
    monkeypatch.setattr(typicality_module, "_kept", lambda s, _: np.sort(s.astype(np.float32)))
    rows, energies = features(49, 40), features(50, 40, 1)[:, 0].astype(np.float64)
    alone, both = fit(rows), fit(rows, None, energies)
    assert alone.scorer.score(rows[:1]) == both.scorer.score(rows[:1])
    # How far each unit is from the others is told by fits in which one energy stands out.
    marked = []
    for i in range(40):
        one = np.full(40, -1e6)
        one[i] = 1e6
        fitted = fit(rows, None, one)
        deviations = fitted.scores[-1] - (1e6 - fitted.scale[1, 0]) / fitted.scale[1, 1]
        marked.append(deviations * fitted.scale[0, 1] + fitted.scale[0, 0])
    np.testing.assert_allclose(np.sort(marked), alone.scores, rtol=1e-4, atol=1e-5)
    whole = Typicality.of(alone.scorer, np.array(marked), energies)
    np.testing.assert_allclose(both.scores, whole.scores, rtol=1e-3, atol=1e-4)


@pytest.fixture
def small_limits(monkeypatch):
    """Up to 30 units are all in the bank; else 12 rows are, and at most 20 are measured."""
    for name, value in (("MOST_UNITS", 30), ("BANK_ROWS", 12), ("MOST_MEASURED", 20)):
        monkeypatch.setattr(typicality_module, name, value)


@pytest.mark.usefixtures("small_limits")
def test_of_many_units_some_are_the_bank_and_the_others_are_measured():
    typicality = fit_neighbours(features(8, 30))
    assert len(typicality.scorer.rows) == len(typicality.scores) == 30
    many = features(9, 31)
    typicality = fit_neighbours(many)
    np.testing.assert_array_equal(typicality.scorer.rows, as_integers(many[:12]))
    measured = typicality.scorer.score(many[12:]).astype(np.float32)
    np.testing.assert_array_equal(typicality.scores, np.sort(measured))
    measured = typicality.scorer.score(features(8, 50)[12:32]).astype(np.float32)
    both = np.concatenate([many[:12], features(8, 50)[12:]])
    np.testing.assert_array_equal(fit_neighbours(both).scores, np.sort(measured))
    energies = np.linspace(-9, 0, 50)
    wanted = Typicality.of(typicality.scorer, typicality.scorer.score(both[12:32]), energies[12:32])
    found = fit_neighbours(both, None, energies)
    np.testing.assert_array_equal(found.scores, wanted.scores)
    np.testing.assert_array_equal(found.scale, wanted.scale)


@pytest.mark.usefixtures("small_limits")
def test_of_few_rows_some_are_the_bank_where_others_are_held_out():
    rows, held = features(13, 20), features(12, 25)
    typicality = fit_neighbours(rows, held)
    np.testing.assert_array_equal(typicality.scorer.rows, as_integers(rows[:12]))
    measured = typicality.scorer.score(held[:20])
    np.testing.assert_array_equal(typicality.scores, np.sort(measured.astype(np.float32)))
    energies = np.linspace(-9, 0, 25)
    wanted = Typicality.of(typicality.scorer, measured, energies[:20])
    np.testing.assert_array_equal(fit_neighbours(rows, held, energies).scores, wanted.scores)


@pytest.mark.usefixtures("small_limits")
def test_the_centre_measures_the_first_units():
    rows, held, energies = features(18, 40, 3), features(19, 40, 3), np.linspace(-9, 0, 40)
    typicality = fit_centre(rows, held, energies)
    measured = typicality.scorer.score(held[:20])
    wanted = Typicality.of(typicality.scorer, measured, energies[:20])
    np.testing.assert_array_equal(typicality.scores, wanted.scores)
    found = fit_centre(rows, None, energies)
    np.testing.assert_array_equal(found.scale[1], wanted.scale[1])
    assert len(found.scores) == 20


def membership(rows, new, typicality):
    """The chance that a new image is more unlike than one of the training."""
    own, others = typicality.scorer.score(rows), typicality.scorer.score(new)
    return (own[:, None] < others).mean() + (own[:, None] == others).mean() / 2


def of_five_classes(seed, n, width=600):
    """Features of images of five classes: above 0, and related, as those of a network are."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(99)
    means, directions = fixed.normal(1, 0.6, (5, width)), fixed.normal(0, 0.1, (30, width))
    own = rng.normal(0, 1, (n, 30)) @ directions + rng.normal(0, 0.2, (n, width))
    return np.abs(np.abs(means)[rng.integers(0, 5, n)] + own).astype(np.float32)


@pytest.mark.parametrize(("n", "most"), [(60, 0.7), (120, 0.62), (400, 0.56)])
def test_without_a_bank_the_score_hardly_tells_who_was_in_the_training(n, most):
    """A covariance told it for certain: members were at most n away, others many times that."""
    found = []
    for seed in range(5):
        rows, new = of_five_classes(seed, n), of_five_classes(seed + 50, 200)
        found.append(membership(rows, new, fit_centre(rows)))
    assert 0.45 < np.mean(found) < most
    assert membership(rows, new, by_mahalanobis(rows)) == 1


@pytest.mark.parametrize("level", [0.05, 0.2])
@pytest.mark.parametrize("with_energy", [False, True])
def test_without_a_bank_the_level_is_kept(level, with_energy):
    """Scores are rounded up, so that somewhat fewer are called unlike."""
    shares = []
    for seed in range(40):
        rows, new = of_five_classes(seed, 120, 60), of_five_classes(seed + 50, 200, 60)
        energies = np.random.default_rng(seed).normal(-4, 1, 320)
        own, others = (energies[:120], energies[120:]) if with_energy else (None, None)
        logits = None if others is None else logits_for(others)
        shares.append((fit_centre(rows, None, own).p_values(new, logits) <= level).mean())
    error = np.std(shares) / 40**0.5
    assert 0.75 * level - 3 * error < np.mean(shares) < level + 3 * error


def test_without_a_bank_several_units_have_the_same_score():
    """An exact score would tell who was measured."""
    rows = of_five_classes(0, 400)
    exact, kept = np.sort(fit_centre(rows).scorer.measured(rows)[1]), fit_centre(rows).scores
    step = exact.std() / 20
    assert ((kept > exact - 1e-6) & (kept < exact + step + 1e-6)).all()
    middle = kept[100:300]
    assert len(np.unique(middle)) < len(middle) / 5
    steps = np.diff(np.unique(kept)) / step
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)


def test_where_the_mean_is_rounded_to_nothing_no_image_is_unlike():
    rows = features(61, 12, 40, centre=0)
    typicality = fit_centre(rows)
    assert not typicality.scorer.centre.any()
    assert typicality.p_values(features(62, 50, 40)).tolist() == [1] * 50


@pytest.mark.parametrize(
    ("level", "needed"), [(0.5, 1), (0.05, 19), (0.01, 99), (0.001, 999), (0.3, 3), (1 / 3, 2)]
)
def test_a_level_can_be_borne_from_the_number_of_units_that_is_said(level, needed):
    assert units_needed(level) == needed
    scorer = some_bank()
    assert Typicality(scorer, np.zeros(needed, np.float32)).least_level <= level
    assert Typicality(scorer, np.zeros(needed - 1, np.float32)).least_level > level
    assert units_needed(1e-310) > 10**8


@pytest.mark.parametrize("fit", [fit_neighbours, fit_centre])
def test_new_images_are_like_and_others_unlike_with_either_scorer(fit):
    like, unlike = [], []
    for seed in range(30):
        rows = features(seed, 80, 16, centre=3)
        typicality = fit(rows[:60])
        like += typicality.p_values(rows[60:]).tolist()
        unlike += typicality.p_values(features(seed + 99, 5, 16, centre=0)).tolist()
    assert max(unlike) == 1 / 61
    assert np.mean(like) == pytest.approx(0.5, abs=0.06)
    assert typicality.scorer.width == 16
    assert SCORERS[typicality.scorer.kind] is type(typicality.scorer)


@pytest.mark.parametrize("fit", [fit_neighbours, fit_centre])
def test_scores_are_counted_in_float64_and_kept_in_float32(fit):
    typicality = fit(features(29, 19))
    assert typicality.scorer.score(features(30, 3)).dtype == np.float64
    assert typicality.scores.dtype == np.float32


@pytest.mark.parametrize("fit", [fit_neighbours, fit_centre])
@pytest.mark.parametrize("energies", [None, np.linspace(-9, 3, 30)], ids=["alone", "energies"])
def test_what_a_bundle_keeps_of_typicality_comes_back(fit, energies):
    new, logits = features(27, 6), features(51, 6, 4)
    typicality = fit(features(28, 30), None, energies)
    tensors = typicality.tensors()
    assert ("scale" in tensors) == (energies is not None)
    again = Typicality.from_tensors(typicality.scorer.kind, tensors)
    np.testing.assert_array_equal(again.scores, typicality.scores)
    np.testing.assert_array_equal(again.score(new, logits), typicality.score(new, logits))
    kept = sum(array.nbytes for name, array in tensors.items() if name not in ("scores", "scale"))
    assert kept <= type(typicality.scorer).most_bytes(7)


def kept_tensors(**changed):
    """What a bundle keeps of four units and a bank of twelve rows, but for what is given."""
    tensors = Typicality.of(some_bank(), UNLIKE, ENERGIES).tensors() | changed
    return {name: array for name, array in tensors.items() if array is not None}


def refusal(**changed):
    with pytest.raises(InputError) as refused:
        Typicality.from_tensors("neighbours", kept_tensors(**changed))
    return str(refused.value)


def test_damaged_scores_are_refused():
    good = np.array([0, 0.25, 0.25, 1], np.float32)
    for scores in (None, good.astype(np.float64), good[:, None], good[0].reshape(())):
        assert refusal(scores=scores) == "scores must be float32 in one row"
    unsorted, nan, infinite = (
        np.array([0, value, 1], np.float32) for value in (2, math.nan, -math.inf)
    )
    for scores in (unsorted, nan, infinite, np.zeros(8_193, np.float32)):
        assert refusal(scores=scores) == "scores must be finite, ascending and at most 8,192"
    for scores in (good, good[:0], good[:1], np.zeros(8_192, np.float32)):
        kept = Typicality.from_tensors("neighbours", kept_tensors(scores=scores))
        assert kept.scores.tolist() == scores.tolist()


GOOD = np.array([[4.0, 2.0], [-3.0, 3.0]])


@pytest.mark.parametrize(
    "scale", [GOOD.astype(np.float32), GOOD[:1], GOOD[None], GOOD.ravel(), GOOD.astype(np.int64)]
)
def test_a_scale_of_another_type_or_shape_is_refused(scale):
    assert refusal(scale=scale) == "scale must be float64 of shape (2, 2)"


NO_MEAN = (math.nan, math.inf, -math.inf, 1e13, -3e38)
NO_DEVIATION = (0, -1, 1e-320, 1e-9, 1e13, 3e38, math.inf, math.nan)


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize(
    ("column", "value"), [*((0, bad) for bad in NO_MEAN), *((1, bad) for bad in NO_DEVIATION)]
)
def test_a_scale_of_what_is_no_mean_or_deviation_is_refused(part, column, value):
    scale = GOOD.copy()
    scale[part, column] = value
    assert refusal(scale=scale) == "scale must be two means, and two standard deviations above 0"


def test_a_scale_is_taken_over_as_it_is_and_none_is_too():
    tensors = kept_tensors(scale=GOOD)
    np.testing.assert_array_equal(Typicality.from_tensors("neighbours", tensors).scale, GOOD)
    del tensors["scale"]
    assert Typicality.from_tensors("neighbours", tensors).scale is None
