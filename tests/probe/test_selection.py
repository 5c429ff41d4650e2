"""The choice among sets of features: the smallest within one standard error of the best."""

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score, log_loss

from regraft.heads.fitted import FittedHead
from regraft.probe.selection import Candidate, paired_difference, smallest_within_one_error

N = 200
Y = np.arange(N) % 2
ALONE = np.arange(N)
ONES = np.ones(N)


def candidate(name, n_features, margins, *, scored=None, temperature=1.0):
    """Return a candidate whose logit of the right class is larger by ``margins``."""
    logits = np.zeros((N, 2), np.float32)
    logits[np.arange(N), Y] = margins
    scored = np.ones(N, np.bool_) if scored is None else scored
    return Candidate(name, n_features, FittedHead(None, temperature, logits, scored, [], {}), 1.0)


def losses(margins):
    return np.log1p(np.exp(-margins))


def pair(mean, spread):
    """Return margins of a small and of a large set, whose losses differ by about this."""
    noise = np.where(np.arange(N) // 2 % 2, spread, -spread)
    large = np.full(N, 1.5)
    wanted = losses(large) + mean + noise  # the loss of the small set
    return -np.log(np.expm1(wanted)), large


@pytest.mark.parametrize(("times", "chosen"), [(0.9, "small"), (1.1, "large"), (-0.5, "small")])
def test_the_smaller_set_is_taken_up_to_one_standard_error(times, chosen):
    spread = 0.1
    error = spread / np.sqrt(N)  # of differences of two values, each in half of the rows
    small, large = pair(times * error, spread)
    found, rows = smallest_within_one_error(
        [candidate("large", 20, large), candidate("small", 10, small)], Y, ALONE, ONES
    )
    assert found == chosen
    assert [(row["taps"], row["chosen"]) for row in rows] == [
        ("small", chosen == "small"), ("large", chosen == "large"),
    ]  # fmt: skip
    if times > 0:
        assert rows[0]["above_best"] == pytest.approx(times * error, rel=1e-4)
        assert rows[0]["above_best_se"] == pytest.approx(error, rel=1e-4)


def test_a_larger_set_is_not_taken_for_being_as_good():
    small, large = pair(0.0, 0.1)
    found, _ = smallest_within_one_error(
        [candidate("small", 10, large), candidate("large", 20, small)], Y, ALONE, ONES
    )
    assert found == "small"


def test_rows_of_one_group_count_once_in_the_error():
    small, large = pair(0.01, 0.1)
    groups = np.arange(N) // 2  # both rows of a group differ by the same
    difference = losses(small) - losses(large)
    mean, error = paired_difference(losses(small), losses(large), groups, ONES)
    sums = np.array([difference[groups == group].mean() for group in range(N // 2)])
    assert mean == pytest.approx(difference.mean())
    assert error == pytest.approx(sums.std() / np.sqrt(N // 2))
    assert error > 1.4 * paired_difference(losses(small), losses(large), ALONE, ONES)[1]


def test_the_columns_are_those_of_scored_rows_with_the_temperature():
    random = np.random.default_rng(0)
    margins, scored = random.normal(1, 2, N).astype(np.float32), random.random(N) < 0.7
    one = candidate("one", 10, margins, scored=scored, temperature=2.0)
    _, (row,) = smallest_within_one_error([one], Y, ALONE, ONES)
    right = one.fitted.oof_logits[scored]
    probabilities = np.exp(right / 2) / np.exp(right / 2).sum(1, keepdims=True)
    each = losses(margins[scored] / 2)
    accuracy = accuracy_score(Y[scored], right.argmax(1))
    assert row["log_loss"] == pytest.approx(log_loss(Y[scored], probabilities), rel=1e-6)
    assert row["log_loss_se"] == pytest.approx(each.std() / np.sqrt(scored.sum()), rel=1e-6)
    assert row["accuracy"] == pytest.approx(accuracy)
    assert row["accuracy_se"] == pytest.approx(
        np.sqrt(accuracy * (1 - accuracy) / scored.sum()), rel=1e-6
    )
    assert (row["above_best"], row["above_best_se"], row["chosen"]) == (0, 0, True)
    assert (row["taps"], row["features"]) == ("one", 10)


def test_without_a_scored_row_the_smallest_is_taken_and_nothing_is_claimed():
    none = np.zeros(N, np.bool_)
    found, rows = smallest_within_one_error(
        [candidate("large", 20, ONES, scored=none), candidate("small", 10, ONES, scored=none)],
        Y, ALONE, ONES,
    )  # fmt: skip
    assert found == "small"
    assert {row[name] for row in rows for name in ("log_loss", "accuracy", "above_best")} == {None}


def test_rows_of_unequal_weight_choose_by_the_weighted_loss_in_a_column_of_its_own():
    random = np.random.default_rng(1)
    weights = np.where(Y == 0, 0.4, 1.6)
    common, rare = random.normal(2, 0.1, N), random.normal(2, 0.1, N)
    common[Y == 1] -= 1.0  # worse on the class that weighs more
    rare[Y == 0] -= 1.2
    sets = [candidate("common", 20, common), candidate("rare", 30, rare)]
    chosen, rows = smallest_within_one_error(sets, Y, ALONE, weights)
    assert chosen == "rare"
    assert smallest_within_one_error(sets, Y, ALONE, ONES)[0] == "common"
    for row, margins in zip(rows, (common, rare), strict=True):
        each = losses(margins)
        mean = (weights * each).sum() / weights.sum()
        error = np.sqrt(np.square(weights * (each - mean)).sum()) / weights.sum()
        assert row["log_loss"] == pytest.approx(each.mean(), rel=1e-5)
        assert row["balanced_log_loss"] == pytest.approx(mean, rel=1e-5)
        assert row["balanced_log_loss_se"] == pytest.approx(error, rel=1e-5)
    above = rows[0]["balanced_log_loss"] - rows[1]["balanced_log_loss"]
    assert rows[0]["above_best"] == pytest.approx(above, rel=1e-6)
    difference = weights * (losses(common) - losses(rare) - above)
    error = np.sqrt(np.square(difference).sum()) / weights.sum()
    assert rows[0]["above_best_se"] == pytest.approx(error, rel=1e-5)
    (plain, _) = smallest_within_one_error(sets, Y, ALONE, 3 * ONES)[1]
    assert not {name for name in plain if name.startswith("balanced")}


def test_nothing_differs_where_there_are_no_rows():
    empty = np.zeros(0)
    assert paired_difference(empty, empty, empty.astype(int), empty) == (0, 0)


def mean_and_error(values, clusters, weights):
    """Return a weighted mean and its error, cluster by cluster."""
    mean = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    apart = dict.fromkeys(clusters, 0.0)
    for cluster, w, v in zip(clusters, weights, values, strict=True):
        apart[cluster] += w * (v - mean)
    return mean, sum(part**2 for part in apart.values()) ** 0.5 / sum(weights)


def random_candidates(chance, y):
    """Return sets of which some are equally large and all are about equally good."""
    common = chance.normal(size=(len(y), 3)) + 1.5 * np.eye(3)[y]
    sets = []
    for number in range(chance.integers(1, 6)):
        noise = chance.choice([0.2, 0.4]) * chance.normal(size=common.shape)
        logits, scored = (common + noise).astype(np.float32), chance.random(len(y)) < 0.9
        fitted = FittedHead(None, chance.uniform(0.5, 2), logits, scored, [], {})
        size, seconds = int(chance.integers(1, 4)) * 10, chance.uniform(0, 10)
        sets.append(Candidate(f"set {number}", size, fitted, seconds))
    return sets


@pytest.mark.parametrize("seed", range(25))
def test_the_choice_and_the_table_are_those_of_the_rule_in_plain_loops(seed):
    chance = np.random.default_rng(seed)
    n = 30
    y, clusters = chance.integers(0, 3, n), 7 * chance.integers(0, 15, n)
    weights = chance.uniform(0.2, 3, n) if seed % 2 else np.full(n, 0.7)
    sets = random_candidates(chance, y)
    rows = [i for i in range(n) if all(each.fitted.scored[i] for each in sets)]
    of = [
        np.array([
            -log_softmax(each.fitted.oof_logits[i].astype(float) / each.fitted.temperature)[y[i]]
            for i in rows
        ])
        for each in sets
    ]  # fmt: skip
    clusters_of, weights_of, once = clusters[rows], weights[rows], np.ones(len(rows))
    means = [mean_and_error(values, clusters_of, weights_of)[0] for values in of]
    best = means.index(min(means))
    above = [mean_and_error(values - of[best], clusters_of, weights_of) for values in of]
    within = [
        number
        for number, each in enumerate(sets)
        if each.n_features <= sets[best].n_features and above[number][0] <= above[number][1]
    ]
    expected = min(within, key=lambda number: (sets[number].n_features, number))

    chosen, table = smallest_within_one_error(sets, y, clusters, weights)
    assert chosen == sets[expected].name
    order = sorted(range(len(sets)), key=lambda number: (sets[number].n_features, number))
    assert [row["taps"] for row in table] == [sets[number].name for number in order]
    for row, number in zip(table, order, strict=True):
        right = [float(np.argmax(sets[number].fitted.oof_logits[i]) == y[i]) for i in rows]
        figures = {
            "log_loss": mean_and_error(of[number], clusters_of, once),
            "accuracy": mean_and_error(right, clusters_of, once),
            "above_best": above[number],
        }
        if seed % 2:
            figures["balanced_log_loss"] = mean_and_error(of[number], clusters_of, weights_of)
        wanted = {name: mean for name, (mean, _) in figures.items()}
        wanted |= {f"{name}_se": error for name, (_, error) in figures.items()}
        wanted |= {"features": sets[number].n_features, "seconds": round(sets[number].seconds, 3)}
        found = {name: row[name] for name in row if name not in ("taps", "chosen")}
        found["accuracy_se"] = found["accuracy_se"] or 0.0  # None where all answers are right
        assert found == pytest.approx(wanted, rel=1e-5, abs=1e-7)
        assert row["chosen"] == (number == expected)


def test_the_smaller_of_two_sets_with_the_same_answers_is_taken():
    margins = np.random.default_rng(0).normal(1, 1, N)
    sets = [candidate("large", 20, margins), candidate("small", 10, margins)]
    for given in (sets, sets[::-1]):
        found, rows = smallest_within_one_error(given, Y, ALONE, ONES)
        assert found == "small"
        assert [row["above_best"] for row in rows] == [0, 0]
