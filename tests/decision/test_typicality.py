"""Typicality: scores by slow exact arithmetic, p-values by counting, a level by simulation."""

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import special
from scipy.spatial import distance

from regraft.decision import scorers
from regraft.decision import typicality as typicality_module
from regraft.decision.scorers import (
    LEAST_UNITS,
    MOST_UNITS,
    SCORERS,
    Mahalanobis,
    Neighbours,
    as_integers,
    largest_integer,
    unit_rows,
)
from regraft.decision.typicality import (
    Typicality,
    energies_of,
    fit_mahalanobis,
    fit_neighbours,
    units_needed,
)
from regraft.errors import InputError


def features(seed, n, width=7, centre=1.0):
    return np.random.default_rng(seed).normal(centre, 1, (n, width)).astype(np.float32)


def integers_by_hand(row, limit):
    """The row as exact fractions, times what makes its largest the limit, to the nearest."""
    exact = [Fraction(float(value)) for value in row]
    most = max(map(abs, exact)) or Fraction(1)
    return [round(value / most * limit) for value in exact]


def inverse_length(row):
    return 1 / math.sqrt(sum(value * value for value in row) or 1)


def distances_by_hand(row, others):
    """One minus the cosines, of Python's integers, each at least 1e-4."""
    return [
        max(
            1
            - sum(a * b for a, b in zip(row, other, strict=True))
            * inverse_length(other)
            * inverse_length(row),
            1e-4,
        )
        for other in others
    ]


def score_by_hand(row, bank):
    """The fifth distance squared, over the mean fifth distance of the ten nearest rows."""
    found = distances_by_hand(row, bank)
    nearest = sorted(range(len(bank)), key=found.__getitem__)[:10]
    around = [sorted(distances_by_hand(bank[j], bank[:j] + bank[j + 1 :]))[4] for j in nearest]
    return sorted(found)[4] ** 2 * 10 / sum(around)


def test_scores_are_those_of_slow_exact_arithmetic():
    """Of a unit: those that it would have as a new image of a bank without it."""
    bank, new = features(0, 23), features(1, 9, centre=0)
    new[3] = 0
    integers = [integers_by_hand(row, 127) for row in bank]
    typicality = fit_neighbours(bank)
    own = [score_by_hand(row, integers[:i] + integers[i + 1 :]) for i, row in enumerate(integers)]
    np.testing.assert_allclose(typicality.scores, np.sort(own), rtol=1e-6)
    wanted = [score_by_hand(integers_by_hand(row, 127), integers) for row in new]
    got = typicality.score(new)
    np.testing.assert_allclose(np.delete(got, 3), np.delete(wanted, 3), rtol=1e-6)
    # Zeros are as far from each row as what has nothing in common with it: any rows are around.
    reach = np.sort(typicality.scorer.reach)
    assert 1 / reach[-10:].mean() - 1e-6 <= got[3] <= 1 / reach[:10].mean() + 1e-6


@pytest.mark.parametrize("fit", [fit_neighbours, fit_mahalanobis])
def test_fewer_than_twelve_units_measure_nothing(fit):
    assert LEAST_UNITS == 12
    assert fit(features(1, 11)) is None
    assert fit(features(1, 11), held_out=features(2, 40)) is None
    assert np.isfinite(fit(features(1, 12)).scores).all()


def test_of_no_held_out_images_all_are_like():
    held = fit_neighbours(features(0, 30), held_out=np.ones((0, 7), np.float32))
    assert (held.p_values(features(1, 2)).tolist(), held.least_level) == ([1, 1], 1)


def test_a_p_value_is_the_share_of_units_that_are_at_least_as_far():
    scores = np.array([0.1, 0.2, 0.2, 0.2, 0.7], np.float32)
    typicality = Typicality(Neighbours.of(np.ones((12, 2), np.int8)), scores)
    new = np.array([0.0, 0.1, 0.15, 0.2, 0.21, 0.7, 0.71, math.inf, math.nan])
    kept = new.astype(np.float32)
    counts = [1 + sum(not score < each for score in scores) for each in kept[:-1]]
    assert typicality.p_values_of(new).tolist() == [count / 6 for count in [*counts, 1]]
    assert counts == [6, 6, 5, 5, 2, 2, 1, 1]
    assert typicality.least_level == 1 / 6


def test_in_a_simulation_of_new_images_the_level_is_kept_and_used():
    """39 units and a new image of their kind; a level of 0.05, with four standard errors."""
    sets = 600
    drawn = features(6, 40 * sets, 4).reshape(sets, 40, 4)
    p_values = [fit_neighbours(rows[:-1]).p_values(rows[-1:])[0] for rows in drawn]
    rejected = np.mean(np.array(p_values) <= 0.05)
    assert 0.02 < rejected < 0.05 + 4 * math.sqrt(0.05 * 0.95 / sets)


def test_the_same_image_has_the_same_p_value_in_every_batch():
    bank, new = features(2, 131, 1280), features(3, 37, 1280, centre=0.3)
    scorer = fit_neighbours(bank).scorer
    together = scorer.score(new)
    for size in (1, 2, 3, 7, 36):
        parts = [scorer.score(new[start : start + size]) for start in range(0, 37, size)]
        np.testing.assert_array_equal(np.concatenate(parts), together)
    np.testing.assert_array_equal(scorer.score(new[::-1]), together[::-1])
    shuffled = np.random.default_rng(0).permutation(131)
    np.testing.assert_allclose(fit_neighbours(bank[shuffled]).scorer.score(new), together, 1e-12)


@pytest.mark.parametrize("at_once", [1, 7, 39, 40, 41])
def test_scores_do_not_depend_on_the_rows_of_one_product(monkeypatch, at_once):
    bank, new = features(4, 40, 3), features(5, 80, 3, centre=0)
    scorer = fit_neighbours(bank).scorer
    scores, own = scorer.score(new), Neighbours.measured(scorer.rows)[1]
    monkeypatch.setattr(scorers, "_AT_ONCE", at_once)
    np.testing.assert_array_equal(scorer.score(new), scores)
    np.testing.assert_array_equal(Neighbours.measured(scorer.rows)[1], own)


@pytest.mark.parametrize("width", [1, 2, 3, 512, 1040, 1041, 1280, 2048, 4096, 100_000])
def test_products_of_the_largest_integers_are_exact(width):
    limit = largest_integer(width)
    assert width * limit**2 <= 2**24
    assert limit == 127 or width * (limit + 1) ** 2 > 2**24
    random = np.random.default_rng(width)
    rows = np.full((3, width), limit, np.int64)
    rows[1] = random.choice([-limit, limit], width)
    rows[2] = random.integers(-limit, limit + 1, width)
    product = rows.astype(np.float32) @ rows.T.astype(np.float32)
    assert product.astype(np.int64).tolist() == (rows @ rows.T).tolist()


def test_integers_are_the_row_times_one_number():
    rows = features(7, 50, 2048, centre=0)
    rows[0], rows[1, 1:], rows[2] = 0, 0, 1e-45
    rows[3] *= np.float32(1e30)
    got = as_integers(rows)
    assert got.dtype == np.int8
    assert (np.abs(got[3:]).max(1) == 90).all()
    assert not got[0].any()
    assert got[1].tolist() == [90 * int(np.sign(rows[1, 0]))] + [0] * 2047
    exact = rows[3:].astype(np.float64) / np.abs(rows[3:]).max(1, keepdims=True) * 90
    assert np.abs(got[3:] - exact).max() < 0.5 + 1e-4
    np.testing.assert_array_equal(as_integers(rows * np.float32(0.25))[3:], got[3:])


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
    typicality = fit_neighbours(np.concatenate([many[:12], features(8, 50)[12:]]))
    np.testing.assert_array_equal(typicality.scores, np.sort(measured))


@pytest.mark.usefixtures("small_limits")
def test_of_few_rows_some_are_the_bank_where_others_are_held_out():
    rows, held = features(13, 20), features(12, 25)
    typicality = fit_neighbours(rows, held)
    np.testing.assert_array_equal(typicality.scorer.rows, as_integers(rows[:12]))
    measured = typicality.scorer.score(held[:20]).astype(np.float32)
    np.testing.assert_array_equal(typicality.scores, np.sort(measured))


@pytest.mark.usefixtures("small_limits")
def test_mahalanobis_measures_the_first_units():
    rows, held = features(18, 40, 3), features(19, 40, 3)
    typicality = fit_mahalanobis(rows, held)
    measured = typicality.scorer.score(held[:20]).astype(np.float32)
    np.testing.assert_array_equal(typicality.scores, np.sort(measured))
    whole = np.sort(loo_by_hand(rows)[:20])
    np.testing.assert_allclose(fit_mahalanobis(rows).scores, whole, rtol=2e-3)


def test_held_out_images_are_measured_where_there_are_some():
    bank, held = features(11, 60), features(12, 25)
    typicality = fit_neighbours(bank, held)
    scores = [score_by_hand(row, as_integers(bank).tolist()) for row in as_integers(held).tolist()]
    np.testing.assert_allclose(typicality.scores, np.sort(scores), rtol=1e-6)


@pytest.mark.parametrize(
    ("level", "needed"), [(0.5, 1), (0.05, 19), (0.01, 99), (0.001, 999), (0.3, 3), (1 / 3, 2)]
)
def test_a_level_can_be_borne_from_the_number_of_units_that_is_said(level, needed):
    assert units_needed(level) == needed
    scorer = Neighbours.of(np.ones((12, 1), np.int8))
    assert Typicality(scorer, np.zeros(needed, np.float32)).least_level <= level
    assert Typicality(scorer, np.zeros(needed - 1, np.float32)).least_level > level
    assert units_needed(1e-310) > 10**8


def distances(rows, mean, covariance):
    inverse = np.linalg.inv(covariance)
    return [distance.mahalanobis(row, mean, inverse) ** 2 for row in rows]


def moments(rows, shrinkage):
    """The mean and the covariance, of which the variances are made larger by some amount."""
    return rows.mean(0), np.cov(rows.T, bias=True) + shrinkage * np.eye(rows.shape[1])


def loo_by_hand(pooled):
    """Fitted again without each, with the shrinkage of all: the closed form takes it n/(n-1)."""
    rows = unit_rows(pooled).astype(np.float64)
    n, shrinkage = len(rows), 0.01 * rows.var(0).mean()
    found = []
    for i in range(n):
        others = moments(np.delete(rows, i, 0), shrinkage * n / (n - 1))
        found += distances(rows[i : i + 1], *others)
    return np.array(found)


@pytest.mark.parametrize("n", [12, 40])
def test_mahalanobis_scores_are_those_of_a_fit_without_each_unit(n):
    rows, new = features(14, n, 6), features(15, 8, 6)
    typicality = fit_mahalanobis(rows)
    np.testing.assert_allclose(typicality.scores, np.sort(loo_by_hand(rows)), rtol=2e-3)
    units = unit_rows(rows).astype(np.float64)
    wanted = distances(unit_rows(new), *moments(units, 0.01 * units.var(0).mean()))
    np.testing.assert_allclose(typicality.scorer.score(new), wanted, rtol=1e-3)


def test_mahalanobis_of_held_out_images_is_their_plain_distance():
    rows, held = features(16, 50, 4), features(17, 20, 4)
    typicality = fit_mahalanobis(rows, held)
    units = unit_rows(rows).astype(np.float64)
    wanted = distances(unit_rows(held), *moments(units, 0.01 * units.var(0).mean()))
    np.testing.assert_allclose(typicality.scores, np.sort(wanted), rtol=1e-3)


@pytest.mark.parametrize("n", [12, 20])
def test_equal_rows_have_a_finite_mahalanobis_distance_of_zero(n):
    typicality = fit_mahalanobis(np.full((n, 3), 2, np.float32))
    assert typicality.scores == pytest.approx(np.zeros(n), abs=1e-3)
    p_values = typicality.p_values(np.array([[5, 5, 5], [1, 2, 3], [0, 0, 0]], np.float32))
    assert p_values.tolist() == [1, 1 / (n + 1), 1 / (n + 1)]
    kept = Mahalanobis.from_tensors(typicality.scorer.tensors())
    np.testing.assert_array_equal(kept.whitening, typicality.scorer.whitening)


@pytest.mark.parametrize("fit", [fit_neighbours, fit_mahalanobis])
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


@pytest.mark.parametrize("fit", [fit_neighbours, fit_mahalanobis])
def test_scores_are_counted_in_float64_and_kept_in_float32(fit):
    typicality = fit(features(29, 19))
    assert typicality.scorer.score(features(30, 3)).dtype == np.float64
    assert typicality.scores.dtype == np.float32


def test_rows_of_unit_length_have_it_and_zeros_stay():
    rows = features(24, 5)
    rows[1], rows[2] = 0, rows[2] * np.float32(1e-30)
    got = unit_rows(rows)
    assert got.dtype == np.float32
    np.testing.assert_allclose(np.square(got[[0, 2, 3, 4]]).sum(1), 1, rtol=1e-5)
    assert not got[1].any()


def test_what_a_bundle_keeps_of_a_scorer_comes_back():
    new = features(25, 6)
    for fit in (fit_neighbours, fit_mahalanobis):
        scorer = fit(features(26, 30)).scorer
        again = SCORERS[scorer.kind].from_tensors(scorer.tensors())
        np.testing.assert_array_equal(again.score(new), scorer.score(new))


@pytest.mark.parametrize(
    "rows",
    [
        None,
        np.ones((2, 3), np.uint8),
        np.ones((2, 3), np.float32),
        np.ones(3, np.int8),
        np.ones((2, 3, 1), np.int8),
        np.ones((0, 3), np.int8),
        np.ones((3, 0), np.int8),
    ],
    ids=str,
)
def test_a_bank_that_is_no_table_of_integers_is_refused(rows):
    tensors = {} if rows is None else {"rows": rows}
    with pytest.raises(InputError, match=r"^rows must be a table of int8$"):
        Neighbours.from_tensors(tensors)


def test_a_bank_of_too_many_rows_or_too_large_integers_is_refused():
    most = {"rows": np.full((MOST_UNITS, 1), -127, np.int8)}
    assert Neighbours.from_tensors({**most, "reach": np.ones(MOST_UNITS, np.float32)}).width == 1
    for rows, limit in (
        (np.ones((MOST_UNITS + 1, 1), np.int8), 127),
        (np.ones((LEAST_UNITS - 1, 1), np.int8), 127),
        (np.full((12, 2), -128, np.int8), 127),
        (np.full((12, 1280), 115, np.int8), 114),
        (np.full((12, 1280), -115, np.int8), 114),
    ):
        with pytest.raises(InputError) as refused:
            Neighbours.from_tensors({"rows": rows})
        assert str(refused.value) == f"there may be 12 to 4,000 rows of integers up to {limit}"


@pytest.mark.parametrize("reach", [None, np.ones(12), np.ones(11, np.float32)], ids=str)
def test_a_reach_of_another_form_is_refused(reach):
    tensors = {"rows": np.ones((12, 2), np.int8)} | ({} if reach is None else {"reach": reach})
    with pytest.raises(InputError, match=r"^reach must be float32, a number for each row$"):
        Neighbours.from_tensors(tensors)


@pytest.mark.parametrize("value", [0, 9e-5, 2.01, -1, math.nan, math.inf])
def test_a_reach_that_is_no_distance_is_refused(value):
    reach = np.full(12, 1e-4, np.float32)
    tensors = {"rows": np.ones((12, 2), np.int8), "reach": reach}
    reach[3] = 2
    Neighbours.from_tensors(tensors)
    reach[5] = value
    with pytest.raises(InputError, match=r"^reach holds what is no distance$"):
        Neighbours.from_tensors(tensors)


def test_energies_are_those_of_scipy_and_never_overflow():
    logits = np.array([[0, 1, 2], [90, -90, 89], [-1e30, -1e30, -1e30]], np.float32)
    wanted = -special.logsumexp(logits.astype(np.float64), axis=1)
    np.testing.assert_allclose(energies_of(logits), wanted, rtol=1e-9)


@pytest.mark.parametrize("fit", [fit_neighbours, fit_mahalanobis])
def test_with_energies_the_score_is_the_sum_of_both_in_standard_deviations(fit):
    rows, new = features(33, 40), features(34, 6)
    energies = np.random.default_rng(0).normal(-5, 2, 40)
    energies[[3, 9]] = math.nan  # not scored out of fold
    alone = fit(rows, held_out=rows)  # the scorer's own scores of rows that it has not seen
    held = fit(features(35, 30), rows, energies)
    unlike = held.scorer.score(rows)
    known = np.isfinite(energies)
    both = [unlike[known], energies[known]]
    wanted = sum((part - part.mean()) / part.std() for part in both)
    np.testing.assert_allclose(held.scores, np.sort(wanted), rtol=1e-5, atol=1e-6)
    logits = np.random.default_rng(1).normal(0, 3, (6, 4)).astype(np.float32)
    parts = [held.scorer.score(new), energies_of(logits)]
    score = sum((new - old.mean()) / old.std() for new, old in zip(parts, both, strict=True))
    np.testing.assert_allclose(held.score(new, logits), score, rtol=1e-9)
    with pytest.raises(ValueError, match="measured with logits"):
        held.score(new)
    assert alone.scale is None
    assert fit(rows, None, np.full(40, math.nan)).scale is None
    again = Typicality.from_tensors(held.scorer.kind, held.tensors())
    np.testing.assert_array_equal(again.p_values(new, logits), held.p_values(new, logits))


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (np.ones((2, 2), np.float32), "scale must be float64 of shape (2, 2)"),
        (np.ones(4), "scale must be float64 of shape (2, 2)"),
        (np.array([[0, 1], [0, 0.0]]), None),
        (np.array([[0, 1], [math.nan, 1]]), None),
        (np.array([[0, 1], [1.1e12, 1]]), None),
        (np.array([[0, 1], [1, 1.1e12]]), None),
        (np.array([[0, -1], [1, 1.0]]), None),
    ],
)
def test_a_damaged_scale_is_refused(scale, message):
    tensors = fit_neighbours(features(36, 20)).tensors()
    with pytest.raises(InputError) as refused:
        Typicality.from_tensors("neighbours", {**tensors, "scale": scale})
    wanted = message or "scale must be two means, and two standard deviations above 0"
    assert str(refused.value) == wanted


NEEDED = "mean and whitening are needed"
SHAPES = "mean and whitening must be (D,) and (D, D)"
FINITE = "mean and whitening must be finite float32"
UNIT = "mean and whitening are not those of rows of unit length"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mean": None}, NEEDED),
        ({"whitening": None}, NEEDED),
        ({"mean": np.zeros((2, 1), np.float32)}, SHAPES),
        ({"mean": np.float32(0).reshape(())}, SHAPES),
        ({"mean": np.zeros(3, np.float32)}, SHAPES),
        ({"whitening": np.ones((2, 3), np.float32)}, SHAPES),
        ({"mean": np.zeros(0, np.float32), "whitening": np.ones((0, 0), np.float32)}, SHAPES),
        ({"mean": np.zeros(2)}, FINITE),
        ({"whitening": np.eye(2, dtype=np.float16)}, FINITE),
        ({"mean": np.array([0, math.nan], np.float32)}, FINITE),
        ({"whitening": np.array([[1, 0], [0, math.inf]], np.float32)}, FINITE),
        ({"mean": np.array([0, -1.5], np.float32)}, UNIT),
        ({"whitening": np.array([[1, 0], [-3e38, 1]], np.float32)}, UNIT),
    ],
)
def test_damaged_mahalanobis_arrays_are_refused(changed, message):
    tensors = {"mean": np.zeros(2, np.float32), "whitening": np.eye(2, dtype=np.float32)}
    for mean in ([0, 0], [1, -1]):
        Mahalanobis.from_tensors({**tensors, "mean": np.array(mean, np.float32)})
    tensors = {name: array for name, array in {**tensors, **changed}.items() if array is not None}
    with pytest.raises(InputError) as refused:
        Mahalanobis.from_tensors(tensors)
    assert str(refused.value) == message


def test_what_a_bundle_keeps_of_typicality_comes_back():
    new = features(27, 6)
    for fit in (fit_neighbours, fit_mahalanobis):
        typicality = fit(features(28, 30))
        tensors = typicality.tensors()
        again = Typicality.from_tensors(typicality.scorer.kind, tensors)
        np.testing.assert_array_equal(again.p_values(new), typicality.p_values(new))
        kept = sum(array.nbytes for name, array in tensors.items() if name != "scores")
        assert kept <= type(typicality.scorer).most_bytes(7)
    assert Mahalanobis.most_bytes(7) == kept
    assert Neighbours.most_bytes(7) == MOST_UNITS * (7 + 4)


BANK = {"rows": np.ones((12, 3), np.int8), "reach": np.ones(12, np.float32)}


def test_damaged_scores_are_refused():
    def refusal(scores):
        tensors = {**BANK} | ({} if scores is None else {"scores": scores})
        with pytest.raises(InputError) as refused:
            Typicality.from_tensors("neighbours", tensors)
        return str(refused.value)

    good = np.array([0, 0.25, 0.25, 1], np.float32)
    for scores in (None, good.astype(np.float64), good[:, None], good[0].reshape(())):
        assert refusal(scores) == "scores must be float32 in one row"
    unsorted, nan, infinite = (
        np.array([0, value, 1], np.float32) for value in (2, math.nan, -math.inf)
    )
    for scores in (unsorted, nan, infinite, np.zeros(8_193, np.float32)):
        assert refusal(scores) == "scores must be finite, ascending and at most 8,192"
    for scores in (good, good[:0], good[:1], np.zeros(8_192, np.float32)):
        kept = Typicality.from_tensors("neighbours", {**BANK, "scores": scores})
        assert kept.scores.tolist() == scores.tolist()
