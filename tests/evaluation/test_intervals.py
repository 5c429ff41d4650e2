"""Intervals agree with other formulas for the same thing, and cover as often as they claim."""

import numpy as np
import pytest
from scipy import optimize, special, stats

from regraft.evaluation.intervals import (
    ClassCounts,
    of_difference,
    of_f1,
    of_macro_f1,
    of_mean,
    of_mean_share,
    wilson,
)
from regraft.evaluation.metrics import accuracy_gain, measure_classification
from regraft.evaluation.paired import compare_pairs

Z = 1.959963984540054


def scipys(successes, n):
    found = stats.binomtest(int(successes), int(n)).proportion_ci(0.95, method="wilson")
    return found.low, found.high


@pytest.mark.parametrize("n", [1, 2, 17, 863])
def test_wilson_and_the_mean_of_one_share_are_scipys(n):
    successes = np.unique(np.linspace(0, n, 9).astype(int))
    low, high = wilson(successes / n, np.full(len(successes), float(n)))
    for k, *ends in zip(successes, low, high, strict=True):
        assert ends == pytest.approx(scipys(k, n), abs=1e-12)
        assert of_mean_share(np.array([k]), np.array([n])) == pytest.approx(ends, abs=1e-9)


def test_no_success_and_no_failure_have_an_exact_end():
    trials = np.arange(1, 200)
    assert not wilson(np.zeros(199), trials.astype(float))[0].any()
    assert (wilson(np.ones(199), trials.astype(float))[1] == 1).all()
    for n in (trials[:1], trials[:2], trials[40:], np.array([1, 100_000])):
        assert of_mean_share(0 * n, n)[0] == 0
        assert of_mean_share(n, n)[1] == 1


def test_a_mean_of_equal_shares_is_nearly_one_share_of_all():
    """Where all classes have the same share, the sum of their counts is binomial."""
    hits, n = np.full(10, 36), np.full(10, 40)
    assert of_mean_share(hits, n) == pytest.approx(scipys(360, 400), abs=1e-3)
    low, high = of_mean_share(n, n)
    assert (low, high) == pytest.approx(scipys(400, 400), abs=2e-3)
    one_of_each = np.repeat([0, 1], [60, 240]), np.ones(300, dtype=np.int64)
    assert of_mean_share(*one_of_each) == pytest.approx(scipys(240, 300), abs=2e-3)


def mean_share_by_definition(hits, n, sign):
    """Move the logits until the observed mean is Z standard errors away."""
    shares = (hits + (hits.sum() + 0.5) / (n.sum() + 1)) / (n + 1)  # one more image of each class
    # Of p (1 - p), smoothed shares of n images and one more have this part on average.
    kept = 1 - n / (n + 1) ** 2 * (1 - 1 / len(n))

    def distance(t):
        moved = special.expit(special.logit(shares) + sign * t / n)
        variance = (moved * (1 - moved) / kept / n).sum() / len(n) ** 2
        return sign * (moved.mean() - (hits / n).mean()) - Z * variance**0.5

    t = optimize.brentq(distance, 0, 500 * n.max(), xtol=1e-9)
    return special.expit(special.logit(shares) + sign * t / n).mean()


def test_a_mean_of_shares_has_the_interval_of_its_definition():
    random = np.random.default_rng(0)
    for n_classes in [1, 1, 2, 2, 3, 3, 4, 5, 9, 30]:
        n = np.round(2 ** random.uniform(0, 9, n_classes)).astype(np.int64)
        hits = random.binomial(n, random.choice([0.1, 0.5, 0.9], n_classes))
        low, high = of_mean_share(hits, n)
        if hits.any():
            assert low == pytest.approx(mean_share_by_definition(hits, n, -1))
        if (hits < n).any():
            assert high == pytest.approx(mean_share_by_definition(hits, n, 1))
        wrong = of_mean_share(n - hits, n)  # the same in terms of wrong answers
        assert (1 - wrong[1], 1 - wrong[0]) == pytest.approx((low, high))


def test_the_f1_of_a_class_is_a_binomial_share_in_other_words():
    """Of u images of the class or predicted as it, h are both: F1 = 2 h / (u + h)."""
    counts = ClassCounts(np.array([0, 2, 30, 5]), np.array([3, 4, 40, 5]), np.array([0, 3, 35, 5]))
    low, high = of_f1(counts)
    for k, (h, actual, predicted) in enumerate(zip(*counts, strict=True)):
        ends = [2 * end / (1 + end) for end in scipys(h, actual + predicted - h)]
        assert (low[k], high[k]) == pytest.approx(ends, abs=1e-9)
        assert low[k] < high[k]


def test_with_many_images_macro_f1_has_the_interval_of_resampled_images():
    random = np.random.default_rng(0)
    shares = random.dirichlet(np.full(25, 0.4)).reshape(5, 5) + 0.1 * np.eye(5)
    confusion = random.multinomial(20_000, shares.ravel() / shares.sum()).reshape(5, 5)
    drawn = random.multinomial(20_000, confusion.ravel() / 20_000, size=4000).reshape(-1, 5, 5)
    hits = np.diagonal(drawn, axis1=1, axis2=2)
    f1 = (2 * hits / (drawn.sum(1) + drawn.sum(2))).mean(1)
    golden = np.quantile(f1, [0.025, 0.975])
    assert of_macro_f1(confusion) == pytest.approx(golden, abs=0.06 * (golden[1] - golden[0]))


def macro_f1_of(matrix, present):
    hits = np.diagonal(matrix)
    return (2 * hits[present] / (matrix.sum(0) + matrix.sum(1))[present]).mean()


def macro_f1_by_definition(confusion):
    """Return Wilson's ends of as many images as have the variance of a smoothed, dense matrix."""
    hits, actual, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    present = actual > 0
    # One image more in each row, right as often as all are; the row keeps its sum.
    right = (hits.sum() + 0.5) / (actual.sum() + 1)
    more = np.tile((predicted + 0.5) / (predicted + 0.5).sum(), (len(confusion), 1))
    np.fill_diagonal(more, 0)
    more *= (1 - right) / more.sum(1, keepdims=True)
    np.fill_diagonal(more, right)
    smoothed = (confusion + more) * (actual / (actual + 1))[:, None]
    # The delta method for multinomial counts, with the slope by each cell from a complex step.
    slopes = np.zeros(confusion.shape)
    for cell in np.ndindex(confusion.shape):
        moved = smoothed.astype(complex)
        moved[cell] += 1e-30j
        slopes[cell] = macro_f1_of(moved, present).imag / 1e-30
    variance = (smoothed * slopes**2).sum() - (smoothed * slopes).sum() ** 2 / actual.sum()
    n = actual[present]
    variance *= np.mean(1 / (1 - n / (n + 1) ** 2 * (1 - 1 / len(n))))
    share = macro_f1_of(smoothed, present)
    size = share * (1 - share) / variance
    # F1 is f(J) = 2 J / (1 + J), f'' is -4 / (1 + J)^3; an estimate is -f'' / 2 var(J) too low.
    union = (actual + predicted - hits)[present]
    both = hits[present] / union
    too_low = 2 / (1 + both) ** 3 * both * (1 - both) / np.maximum(union - 1, 1)
    value = (2 * both / (1 + both)).mean()
    ends = np.ravel(wilson(np.array([value + too_low.mean()]), np.array([size])))
    return min(ends[0], value), max(ends[1], value)


@pytest.mark.parametrize("n_classes", [2, 3, 5, 8])
def test_macro_f1_of_a_few_images_has_the_interval_of_its_definition(n_classes):
    random = np.random.default_rng(n_classes)
    for n in (1, 2, 5, 20, 200):
        cells = random.dirichlet(np.full(n_classes**2, 0.3))
        for kind in (cells, np.eye(n_classes).ravel() / n_classes):  # and all answers are right
            confusion = random.multinomial(n, kind).reshape(n_classes, n_classes)
            assert of_macro_f1(confusion) == pytest.approx(macro_f1_by_definition(confusion))


def test_many_equal_losses_have_students_interval():
    values = np.random.default_rng(0).uniform(4, 6, size=2000)
    reference = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert of_mean(values, most=9) == pytest.approx((reference.low, reference.high), rel=1e-4)
    assert of_mean(values[:1], most=9) is None
    assert of_mean(np.full(50, 0.7), most=9) is None
    values = np.array([0.7, 0.7 + 2e-12, 0.7 + 4e-12])  # as from rounding
    assert of_mean(values, most=9) is None
    assert of_mean(values, most=0.9) == pytest.approx((0.7, 0.7))


@pytest.mark.parametrize("n", [2, 3, 5, 40])
def test_a_mean_of_skewed_losses_has_halls_interval(n):
    """The root of his cubic, g(T) = t: T = (mean - m) / error is where the transformed one is t."""
    values = 20 + np.random.default_rng(1).exponential(size=n)
    mean, error = values.mean(), values.std(ddof=1) / np.sqrt(n)
    a = stats.skew(values) / np.sqrt(n)
    ends = []
    for t in stats.t.ppf([0.975, 0.025], n - 1):
        root = optimize.brentq(
            lambda x, t=t: x + a * x**2 / 3 + a**2 * x**3 / 27 + a / 6 - t, -50, 50
        )
        ends.append(mean - root * error)
    assert of_mean(values, most=90) == pytest.approx(ends)
    assert of_mean(values, most=ends[1] - 0.001)[1] == ends[1] - 0.001
    assert of_mean(90 - values, most=90) == pytest.approx((90 - ends[1], 90 - ends[0]))
    low, high = of_mean(np.array([0.0, 0, 0, 0, 2]), most=2)
    assert (low, high) == (0, 2)  # never beyond what is possible


@pytest.mark.parametrize(
    ("b", "c", "n"),
    [
        *[(12, 4, 50), (3, 0, 20), (0, 0, 30), (1, 0, 2), (0, 5, 5), (1, 1, 3), (0, 0, 1)],
        *[
            (1, 0, 1),
            (5, 5, 10),
            (300, 260, 900),
            (2, 0, 4000),
            (7, 3, 10),
            (1, 9, 11),
            (0, 14, 31),
        ],
    ],
)
def test_the_interval_of_a_difference_is_the_score_interval(b, c, n):
    """At an end, the observed difference is 1.96 standard errors away, with likeliest shares."""

    def score(difference):
        def loss(share):  # of the images that the second alone has right
            both = np.array([share + difference, share, 1 - 2 * share - difference])
            return -(np.array([b, c, n - b - c]) * np.log(np.maximum(both, 1e-300))).sum()

        bounds = (max(0.0, -difference), (1 - difference) / 2)
        share = optimize.minimize_scalar(
            loss, bounds=bounds, method="bounded", options={"xatol": 1e-12}
        ).x
        error = np.sqrt((2 * share + difference - difference**2) / n)
        return ((b - c) / n - difference) / error

    low, high = of_difference(b, c, n)
    assert -1 <= low <= (b - c) / n <= high <= 1
    assert low < high
    for end, sign in ((low, 1), (high, -1)):
        if abs(end) < 1:
            assert score(end) == pytest.approx(sign * Z, abs=1e-4)
    assert (-high, -low) == pytest.approx(of_difference(c, b, n))


def test_a_difference_may_be_as_large_as_can_be():
    """Where the first alone is right on all three, it is at least w - (1 - w), for Wilson's w."""
    least = scipys(3, 3)[0]
    assert of_difference(3, 0, 3) == pytest.approx((least - (1 - least), 1))
    assert of_difference(0, 3, 3)[0] == -of_difference(3, 0, 3)[1] == -1  # and not nearly


REPEATS = 120
#: If an interval covers in 93 of 100 cases, fewer than this happens once in 10,000 tests.
LEAST = stats.binom.ppf(1e-4, REPEATS, 0.93) / REPEATS


def one_hot(predicted, n_classes):
    return np.eye(n_classes, dtype=np.float32)[predicted]


@pytest.mark.parametrize(
    ("rows", "classes", "n", "name"),
    [
        ([0.99, 0.99], [0.5, 0.5], 100, "macro_f1"),
        ([0.9, 0.9], [0.95, 0.05], 100, "macro_recall"),
        ([0.975, 0.825], [0.95, 0.05], 40, "macro_precision"),
        ([0.6] * 60, [1 / 60] * 60, 300, "macro_f1"),  # F1 of few images is biased
    ],
)
def test_intervals_of_macro_averages_cover_the_truth(rows, classes, n, name):
    """Simulated: classes by their shares, answers right by the rows' shares, else at random."""
    random, k = np.random.default_rng(0), len(rows)
    cells = (1 - np.array(rows)[:, None]) / (k - 1) * np.ones(k)
    np.fill_diagonal(cells, rows)
    cells *= np.array(classes)[:, None]
    hits = np.diag(cells)
    covered = 0
    for draw in random.multinomial(n, cells.ravel(), size=REPEATS):
        truth, predicted = np.divmod(np.repeat(np.arange(k * k), draw), k)
        present = np.isin(np.arange(k), truth)
        of = {"macro_recall": cells.sum(1), "macro_precision": cells.sum(0)}
        expected = hits / of.get(name, (cells.sum(0) + cells.sum(1)) / 2)
        found = measure_classification(one_hot(predicted, k), truth, [str(i) for i in range(k)])
        covered += found[name]["low"] <= expected[present].mean() <= found[name]["high"]
    assert covered / REPEATS >= LEAST


@pytest.mark.parametrize("shares", [(0.02, 0.02), (0.05, 0.01), (0.3, 0.1)])
def test_intervals_of_differences_cover_the_truth(shares):
    random, n = np.random.default_rng(0), 30
    truth = np.zeros(n, dtype=np.int64)
    covered = gains = 0
    for first, second in random.multinomial(n, [*shares, 1 - sum(shares)], size=REPEATS)[:, :2]:
        wrong = np.zeros((2, n), dtype=np.int64)
        wrong[1, :first] = wrong[0, n - second :] = 1
        (found,) = compare_pairs(wrong == 0)
        gain = accuracy_gain(one_hot(wrong[0], 2), one_hot(wrong[1], 2), truth)
        covered += found.low <= shares[0] - shares[1] <= found.high
        gains += gain["low"] <= shares[0] - shares[1] <= gain["high"]
    assert covered / REPEATS >= LEAST
    assert gains / REPEATS >= LEAST
