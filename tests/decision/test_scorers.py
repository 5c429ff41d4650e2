"""How unlike the training images are: by slow exact arithmetic, and with banks that lack a row."""

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.spatial import distance

from regraft.decision import scorers as scorers_module
from regraft.decision.scorers import (
    LEAST_UNITS,
    MOST_UNITS,
    SCORERS,
    Centre,
    Mahalanobis,
    Neighbours,
    as_integers,
    largest_integer,
    unit_rows,
)
from regraft.errors import InputError
from tiny_bundles import by_mahalanobis


def features(seed, n, width=7, centre=1.0):
    return np.random.default_rng(seed).normal(centre, 1, (n, width)).astype(np.float32)


def integers_by_hand(row, limit):
    """The row as exact fractions, times what makes its largest the limit, to the nearest."""
    exact = [Fraction(float(value)) for value in row]
    most = max(map(abs, exact)) or Fraction(1)
    return [round(value / most * limit) for value in exact]


def inverse_length(row):
    return 1 / math.sqrt(sum(value * value for value in row) or 1)


def nearest_by_hand(row, others):
    """Distance and number of each of the others, of Python's integers, the nearest first."""
    found = []
    for number, other in enumerate(others):
        product = sum(a * b for a, b in zip(row, other, strict=True))
        cosine = product * inverse_length(other) * inverse_length(row)
        found.append((max(1 - cosine, 1e-4), number))
    return sorted(found)


def reach_by_hand(rows):
    """Distance of each row from its fifth nearest other row."""
    return [nearest_by_hand(row, rows[:i] + rows[i + 1 :])[4][0] for i, row in enumerate(rows)]


def score_by_hand(row, bank):
    """The fifth distance squared, by the mean of the ten nearest rows' own fifth distances."""
    reach = np.float32(reach_by_hand(bank)).tolist()
    nearest = nearest_by_hand(row, bank)[:10]
    return nearest[4][0] ** 2 / math.fsum(reach[number] / 10 for _, number in nearest)


def test_scores_are_those_of_slow_exact_arithmetic():
    bank, new = features(0, 23), features(1, 9, centre=0)
    new[3] = 0
    integers = [integers_by_hand(row, 127) for row in bank]
    scorer = Neighbours.of(as_integers(bank))
    np.testing.assert_array_equal(scorer.reach, np.float32(reach_by_hand(integers)))
    wanted = [score_by_hand(integers_by_hand(row, 127), integers) for row in new]
    np.testing.assert_allclose(scorer.score(new), wanted, rtol=1e-15)


def test_scores_of_two_heaps_are_those_worked_out_by_hand():
    """Five rows along one axis and seven along the other: only the seven have five copies."""
    bank = np.repeat(np.array([[1, 0], [0, 1]], np.float32), [5, 7], axis=0)
    scorer, own = Neighbours.measured(as_integers(bank))
    assert scorer.reach.tolist() == [1] * 5 + [np.float32(1e-4)] * 7
    # Around an image of the five are four of them and six of the others, and so around the others.
    among = (4 * 1 + 6 * 1e-4) / 10
    np.testing.assert_allclose(own, [1 / among] * 5 + [1e-8 / among] * 7, rtol=1e-6)
    # Around a new one are five of each; one between is as near to all, and the first ten count.
    new = np.array([[2, 0], [3, 3]], np.float32)
    wanted = np.array([1e-8, (1 - math.sqrt(0.5)) ** 2]) / ((5 * 1 + 5 * 1e-4) / 10)
    np.testing.assert_allclose(scorer.score(new), wanted, rtol=1e-6)


def leave_one_out(rows):
    """Score of each row by a bank that is made of the others."""
    return [
        Neighbours.of(np.delete(rows, i, 0)).score(rows[i : i + 1].astype(np.float32))[0]
        for i in range(len(rows))
    ]


def banks():
    random = np.random.default_rng(40)
    rows = features(41, 60, 5, centre=0)
    clusters = rows + 6 * np.eye(5, dtype=np.float32)[random.integers(0, 3, 60)]
    copies = rows[random.integers(0, 20, 60)]
    coarse = random.integers(-1, 2, (60, 2)).astype(np.float32)  # zeros, copies, ties, opposites
    zeros = np.zeros((60, 3), np.float32)
    return {
        "rows": rows,
        "clusters": clusters,
        "copies": copies,
        "coarse": coarse,
        "equal rows": np.ones((60, 3), np.float32),
        "zeros": zeros,
        "a single row that is unlike": np.concatenate(
            [np.ones((59, 3), np.float32), -rows[:1, :3]]
        ),
        "the least": rows[:LEAST_UNITS],
    }


@pytest.mark.parametrize("kind", banks())
def test_a_row_is_measured_as_by_a_bank_that_never_had_it(kind):
    rows = as_integers(banks()[kind])
    np.testing.assert_array_equal(Neighbours.measured(rows)[1], leave_one_out(rows))


def test_in_a_larger_bank_the_neighbours_are_those_of_a_sort():
    rows, new = as_integers(features(31, 400, 3)), features(32, 30, 3)
    units, own = unit_rows(rows).astype(np.float64), unit_rows(as_integers(new)).astype(np.float64)
    within, across = 1 - units @ units.T, 1 - own @ units.T
    within[np.diag_indices(400)] = 9
    reach = np.maximum(np.sort(within, axis=1)[:, 4], 1e-4)
    around = reach[np.argsort(across, axis=1)[:, :10]].mean(1)
    scorer = Neighbours.of(rows)
    np.testing.assert_allclose(scorer.reach, reach, atol=1e-6)
    wanted = np.maximum(np.sort(across, axis=1)[:, 4], 1e-4) ** 2 / around
    np.testing.assert_allclose(scorer.score(new), wanted, rtol=1e-3)


def test_the_same_image_has_the_same_score_in_every_batch():
    bank, new = features(2, 131, 512), features(3, 37, 512, centre=0.3)
    new[5], new[6] = 0, bank[3]
    bank[60:75] = bank[3]  # more rows are equally near than count
    scorer = Neighbours.of(as_integers(bank))
    together = scorer.score(new)
    for size in (1, 2, 3, 7, 36):
        parts = [scorer.score(new[start : start + size]) for start in range(0, 37, size)]
        np.testing.assert_array_equal(np.concatenate(parts), together)
    np.testing.assert_array_equal(scorer.score(new[::-1]), together[::-1])


def test_the_order_of_the_bank_does_not_matter():
    bank, new = features(2, 131, 40), features(3, 37, 40, centre=0.3)
    shuffled = np.random.default_rng(0).permutation(131)
    scores = [Neighbours.of(as_integers(each)).score(new) for each in (bank, bank[shuffled])]
    np.testing.assert_array_equal(*scores)


def test_of_rows_that_are_equally_near_the_first_count():
    """Twenty copies, whose reaches are told apart here: the ten that count are known."""
    reach = np.full(30, 0.5, np.float32)
    copies = np.arange(5, 25)
    reach[copies] = np.linspace(0.1, 0.29, 20)
    rows = np.full((30, 2), [0, 127], np.int8)
    rows[copies] = [127, 127]
    scorer = Neighbours(rows, reach)
    new = np.array([[1, 0], [3, 3]], np.float32)
    fifth = np.array([1 - math.sqrt(0.5), 1e-4])
    np.testing.assert_allclose(scorer.score(new), fifth**2 / reach[copies[:10]].mean(), rtol=1e-6)


@pytest.mark.parametrize("at_once", [1, 7, 39, 40, 41])
def test_scores_do_not_depend_on_the_rows_of_one_product(monkeypatch, at_once):
    bank, new = as_integers(features(4, 40, 3)), features(5, 80, 3, centre=0)
    scorer, own = Neighbours.measured(bank)
    scores = scorer.score(new)
    monkeypatch.setattr(scorers_module, "_AT_ONCE", at_once)
    again, own_again = Neighbours.measured(bank)
    np.testing.assert_array_equal(again.score(new), scores)
    np.testing.assert_array_equal(own_again, own)


def test_a_copy_of_a_training_image_is_not_divided_by_nothing():
    scorer = Neighbours.of(np.full((12, 3), 127, np.int8))
    assert scorer.reach.tolist() == [np.float32(1e-4)] * 12
    equal, opposite = scorer.score(np.array([[2, 2, 2], [-2, -2, -2]], np.float32))
    assert (equal, opposite) == pytest.approx((1e-4, 4 / 1e-4), rel=1e-6)


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


def centre_by_hand(pooled, step):
    return np.rint(unit_rows(pooled).astype(np.float64).mean(0) / step)


def step_by_hand(pooled):
    """Twenty-four standard errors of the mean, of a mean variance."""
    return 24 * math.sqrt(unit_rows(pooled).astype(np.float64).var(0).mean() / len(pooled))


@pytest.mark.parametrize(("n", "width"), [(90, 6), (60, 300), (200, 20)])
def test_scores_of_a_centre_are_cosines_and_those_of_units_are_without_each(n, width):
    rows, new = features(14, n, width, centre=2.5), features(15, 8, width)
    step = step_by_hand(rows)
    scorer, own = Centre.measured(rows)
    centre = centre_by_hand(rows, step)
    assert scorer.centre.dtype == np.int8
    assert scorer.centre.any()
    np.testing.assert_array_equal(scorer.centre, centre)
    wanted = [distance.cosine(row, centre) for row in as_integers(new).astype(float)]
    np.testing.assert_allclose(scorer.score(new), wanted, rtol=1e-9)
    for i, row in enumerate(as_integers(rows).astype(float)):
        others = centre_by_hand(np.delete(rows, i, 0), step)
        assert own[i] == pytest.approx(distance.cosine(row, others) if others.any() else 1)


def test_the_centre_of_many_units_is_that_of_few_but_for_its_steps(monkeypatch):
    monkeypatch.setattr(scorers_module, "_AT_ONCE", 7)
    rows = features(14, 40, 30)
    found = Centre.measured(rows)
    monkeypatch.undo()
    wanted = Centre.measured(rows)
    np.testing.assert_array_equal(found[0].centre, wanted[0].centre)
    np.testing.assert_array_equal(found[1], wanted[1])
    many = Centre.measured(features(16, 4000, 30))[0].centre
    assert many.min() >= 2
    assert wanted[0].centre.max() <= 1


@pytest.mark.parametrize("width", [1, 3, 2048])
def test_the_centre_of_equal_rows_is_as_fine_as_products_are_exact(width):
    rows = np.full((12, width), 2, np.float32)
    scorer, own = Centre.measured(rows)
    assert scorer.centre.tolist() == [largest_integer(width)] * width
    assert np.abs(own).max() < 1e-12
    assert scorer.score(-rows[:1]) == pytest.approx(2)
    again = Centre.from_tensors(scorer.tensors())
    np.testing.assert_array_equal(again.centre, scorer.centre)


def test_a_row_of_zeros_and_a_centre_of_zeros_are_at_a_right_angle_to_all():
    zeros = np.zeros((12, 3), np.float32)
    scorer, own = Centre.measured(zeros)
    assert own.tolist() == [1] * 12
    assert scorer.score(features(3, 4, 3)).tolist() == [1] * 4
    assert Centre(np.ones(3, np.int8)).score(zeros).tolist() == [1] * 12


def test_mahalanobis_is_the_squared_distance():
    rows, new = features(14, 40, 6), features(15, 8, 6)
    units = unit_rows(rows).astype(np.float64)
    covariance = np.cov(units.T, bias=True) + 0.01 * units.var(0).mean() * np.eye(6)
    inverse = np.linalg.inv(covariance)
    wanted = [distance.mahalanobis(row, units.mean(0), inverse) ** 2 for row in unit_rows(new)]
    np.testing.assert_allclose(by_mahalanobis(rows).scorer.score(new), wanted, rtol=1e-3)


def test_rows_of_unit_length_have_it_and_zeros_stay():
    rows = features(24, 5)
    rows[1], rows[2] = 0, rows[2] * np.float32(1e-30)
    got = unit_rows(rows)
    assert got.dtype == np.float32
    np.testing.assert_allclose(np.square(got[[0, 2, 3, 4]]).sum(1), 1, rtol=1e-5)
    assert not got[1].any()


@pytest.mark.parametrize("kind", SCORERS)
def test_what_a_bundle_keeps_of_a_scorer_comes_back(kind):
    rows, new = features(26, 30), features(25, 6)
    scorer = {
        "neighbours": Neighbours.of(as_integers(rows)),
        "centre": Centre.measured(rows)[0],
        "mahalanobis": by_mahalanobis(rows).scorer,
    }[kind]
    tensors = scorer.tensors()
    again = SCORERS[kind].from_tensors(tensors)
    assert type(again) is type(scorer)
    assert again.width == 7
    np.testing.assert_array_equal(again.score(new), scorer.score(new))
    assert again.score(new).dtype == np.float64


def test_the_most_bytes_are_those_of_the_largest_tensors():
    whole = Neighbours(np.zeros((MOST_UNITS, 7), np.int8), np.ones(MOST_UNITS, np.float32))
    square = Mahalanobis(np.zeros(7, np.float32), np.eye(7, dtype=np.float32))
    for scorer in (whole, square, Centre(np.ones(7, np.int8))):
        kept = sum(array.nbytes for array in scorer.tensors().values())
        assert type(scorer).most_bytes(7) == kept


def bank_tensors(rows=None, reach=None):
    """Arrays of a bank of thirteen rows that are all right, but for what is given."""
    rows = np.full((13, 3), 5, np.int8) if rows is None else rows
    reach = np.full(len(rows), 0.25, np.float32) if reach is None else reach
    return {"rows": rows, "reach": reach}


@pytest.mark.parametrize(
    "rows",
    [
        np.ones((13, 3), np.uint8),
        np.ones((13, 3), np.float32),
        np.ones(13, np.int8),
        np.ones((13, 3, 1), np.int8),
        np.ones((0, 3), np.int8),
        np.ones((13, 0), np.int8),
    ],
    ids=str,
)
def test_a_bank_that_is_no_table_of_integers_is_refused(rows):
    for tensors in (bank_tensors(rows), {"reach": bank_tensors()["reach"]}):
        with pytest.raises(InputError, match=r"^rows must be a table of int8$"):
            Neighbours.from_tensors(tensors)


def test_a_bank_of_too_few_or_too_many_rows_or_of_too_large_integers_is_refused():
    for n in (LEAST_UNITS, MOST_UNITS):
        rows = np.full((n, 1), -127, np.int8)
        assert Neighbours.from_tensors(bank_tensors(rows)).width == 1
    for rows, limit in (
        (np.ones((LEAST_UNITS - 1, 1), np.int8), 127),
        (np.ones((MOST_UNITS + 1, 1), np.int8), 127),
        (np.full((13, 2), -128, np.int8), 127),
        (np.full((13, 1280), 115, np.int8), 114),
        (np.full((13, 1280), -115, np.int8), 114),
    ):
        with pytest.raises(InputError) as refused:
            Neighbours.from_tensors(bank_tensors(rows))
        assert str(refused.value) == f"there may be 12 to 4,000 rows of integers up to {limit}"


def test_a_reach_that_is_not_a_number_for_each_row_is_refused():
    good = bank_tensors()["reach"]
    for reach in (good[:12], good[:, None], good[0], good.astype(np.float64), good.astype(int)):
        with pytest.raises(InputError, match=r"^reach must be float32, a number for each row$"):
            Neighbours.from_tensors(bank_tensors(reach=reach))
    with pytest.raises(InputError, match=r"^reach must be float32"):
        Neighbours.from_tensors({"rows": bank_tensors()["rows"]})


@pytest.mark.parametrize("value", [0, -1, 0.9e-4, 2.01, 3e38, math.nan, math.inf, -math.inf])
def test_a_reach_that_is_no_distance_is_refused(value):
    for number in (0, 12):
        reach = bank_tensors()["reach"]
        reach[number] = value
        with pytest.raises(InputError, match=r"^reach holds what is no distance$"):
            Neighbours.from_tensors(bank_tensors(reach=reach))


@pytest.mark.parametrize("row", [[127, 127], [0, 0], [-127, 1]])
def test_the_smallest_and_the_largest_reach_come_back(row):
    """Of copies, of rows of zeros, of which none is near another, and of opposite rows."""
    rows = np.full((12, 2), row, np.int8)
    rows[0] *= -1
    tensors = Neighbours.of(rows).tensors()
    np.testing.assert_array_equal(Neighbours.from_tensors(tensors).reach, tensors["reach"])


@pytest.mark.parametrize(
    ("centre", "message"),
    [
        (None, "centre must be a row of int8"),
        (np.ones(3, np.float32), "centre must be a row of int8"),
        (np.ones((3, 1), np.int8), "centre must be a row of int8"),
        (np.ones(0, np.int8), "centre must be a row of int8"),
        (np.full(3, -128, np.int8), "centre must be of integers up to 127"),
        (np.full(2048, 91, np.int8), "centre must be of integers up to 90"),
    ],
)
def test_damaged_centres_are_refused(centre, message):
    with pytest.raises(InputError) as refused:
        Centre.from_tensors({} if centre is None else {"centre": centre})
    assert str(refused.value) == message
    assert Centre.from_tensors({"centre": np.full(2048, -90, np.int8)}).width == 2048


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
