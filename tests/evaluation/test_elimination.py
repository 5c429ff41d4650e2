"""Who is left out of a race: against an independent computation, and how often wrongly."""

import numpy as np
import pytest
from scipy import stats

from regraft.evaluation.elimination import cheapest_within_one_error, find_left, find_worse

LEVEL = 0.05


def heavy(rng, m, n, spread=1.0):
    """Losses as networks have them: many near 0, a few large, and large for the same images."""
    image = rng.normal(0, 1.2, n)
    own = rng.normal(0, spread, (m, n))
    return np.log1p(np.exp(2 * (image + own) - 2))


def test_p_values_are_those_of_the_paired_test_of_scipy():
    losses = np.random.default_rng(0).gamma(1, 1, (5, 40)) + np.arange(5)[:, None] / 4
    found = find_worse(losses, np.arange(40), np.ones(40))
    for one in range(5):
        others = [k for k in range(5) if k != one]
        p = [stats.ttest_rel(losses[one], losses[k], alternative="greater").pvalue for k in others]
        if losses[one].mean() > losses[others].mean(axis=1).min():
            assert found.p[one] == pytest.approx(min(4 * min(p), 1))
            surest = others[int(np.argmin(p))] if found.p[one] < 1 else one
            assert found.than[one] == surest
        else:
            assert (found.p[one], found.than[one]) == (1, one)


def test_images_of_one_cluster_count_as_one():
    """Clusters of one size: the test of their means, whatever the order of the images."""
    rng = np.random.default_rng(1)
    losses = np.repeat(rng.gamma(1, 1, (2, 12)), 3, axis=1) + rng.normal(0, 0.1, (2, 36))
    losses[0] += 0.4
    clusters = np.repeat(rng.permutation(100)[:12], 3)
    means = losses.reshape(2, 12, 3).mean(axis=2)
    expected = stats.ttest_rel(*means, alternative="greater").pvalue
    order = rng.permutation(36)
    found = find_worse(losses[:, order], clusters[order], np.ones(36))
    assert found.p[0] == pytest.approx(expected)
    alone = find_worse(losses, np.arange(36), np.ones(36))
    assert alone.p[0] < found.p[0]


def test_weights_decide_which_images_count():
    losses = np.array([[0.0, 0.1, 0.0, 0.1, 9.0, 8.0], [1.0, 1.2, 1.1, 1.3, 0.0, 0.0]])
    few = np.array([1.0, 1.0, 1.0, 1.0, 1e-9, 1e-9])
    assert find_worse(losses, np.arange(6), few).p[1] < 0.01
    assert find_worse(losses, np.arange(6), np.ones(6)).p[1] == 1


@pytest.mark.parametrize(
    "losses", [np.ones((3, 5)), np.ones((1, 5)), np.array([[1.0], [2.0]]), np.ones((2, 0))]
)
def test_without_differences_or_images_none_is_worse(losses):
    n = losses.shape[1]
    found = find_worse(losses, np.arange(n), np.ones(n))
    assert found.p.tolist() == [1.0] * len(losses)
    assert found.than.tolist() == [*range(len(losses))]


def test_one_that_is_worse_by_the_same_on_every_image_is_left_out():
    losses = np.array([np.ones(5), np.full(5, 1.5)])
    assert find_worse(losses, np.arange(5), np.ones(5)).p.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("seed", range(20))
def test_the_least_loss_is_never_left_out(seed):
    rng = np.random.default_rng(seed)
    losses = rng.gamma(0.3, 3, (int(rng.integers(2, 9)), int(rng.integers(2, 40))))
    clusters = rng.integers(0, 10, losses.shape[1])
    found = find_worse(losses, clusters, np.ones(losses.shape[1]))
    assert found.p[losses.mean(axis=1).argmin()] == 1


def left_out_wrongly(m, n, draws=800, *, clustered=False, sums=False):
    """Return how often the first of m is left out, when all are equally good: the hardest case."""
    rng, count = np.random.default_rng([m, n]), 0
    for _ in range(draws):
        if clustered:
            losses, clusters = np.repeat(heavy(rng, m, n // 3), 3, axis=1), np.arange(n) // 3
        else:
            losses, clusters = heavy(rng, m, n), np.arange(n)
        members = np.eye(m, dtype=bool)
        if sums:  # of the three that look best, and no better than these are: more to lose against
            first = np.argsort(losses.mean(axis=1))[:3]
            pairs = [first[[0, 1]], first[[0, 2]], first[[1, 2]], first]
            made = [rng.permuted(losses[each], axis=0)[0] for each in pairs]
            losses = np.vstack([losses, made])
            members = np.vstack([members, [np.isin(np.arange(m), each) for each in pairs]])
        prices = members.sum(axis=1).tolist()
        found = find_left(losses, clusters, np.ones(n), members, prices, LEVEL)
        count += not found.networks[0]
    return count / draws


@pytest.mark.parametrize(
    ("m", "n", "how"),
    [
        (2, 50, {}), (2, 800, {}), (4, 50, {}), (8, 60, {}), (8, 240, {}),
        (4, 150, {"clustered": True}), (6, 60, {"sums": True}),
    ],
)  # fmt: skip
def test_the_best_is_left_out_at_most_as_often_as_the_level_says(m, n, how):
    allowed = LEVEL + 3 * np.sqrt(LEVEL * (1 - LEVEL) / 800)
    assert left_out_wrongly(m, n, **how) <= allowed


def test_one_that_is_much_worse_is_nearly_always_left_out():
    rng, count = np.random.default_rng(3), 0
    for _ in range(200):
        losses = heavy(rng, 4, 240)
        losses[1] += 0.5 * losses[1].mean()
        found = find_worse(losses, np.arange(240), np.ones(240))
        count += found.p[1] < LEVEL
    assert count > 150


def test_the_cheapest_within_one_error_of_the_least_loss_is_taken():
    rng = np.random.default_rng(0)
    base = rng.gamma(1, 1, 400)
    losses = np.array([base + rng.normal(0.001, 0.3, 400), base, base + rng.normal(0.2, 0.3, 400)])
    for prices, expected in (([1, 2, 0], 0), ([3, 2, 0], 1), ([2, 2, 0], None)):
        chosen = cheapest_within_one_error(losses, np.arange(400), np.ones(400), prices)
        least = losses.mean(axis=1).argmin()
        assert chosen == (least if expected is None else expected)


def test_by_clusters_an_error_is_larger_and_more_are_within_it():
    base = np.zeros(40)
    losses = np.array([base + np.tile([0.9, -0.5], 20).repeat(1), base])
    alone = cheapest_within_one_error(losses, np.arange(40), np.ones(40), [1, 2])
    halves = cheapest_within_one_error(losses, np.arange(40) % 2, np.ones(40), [1, 2])
    assert (alone, halves) == (1, 0)


# --- sums: which networks are read on -------------------------------------------------------------

ALONE_AND_BOTH = np.array([[True, False], [False, True], [True, True]])


def read_on(losses, members=ALONE_AND_BOTH, level=LEVEL):
    n = losses.shape[1]
    prices = members.sum(axis=1).tolist()
    return find_left(losses, np.arange(n), np.ones(n), members, prices, level).networks.tolist()


def test_a_network_that_is_worse_and_helps_no_sum_is_not_read_on():
    """The sum with it is as good as the other network alone, and never significantly worse."""
    rng = np.random.default_rng(0)
    good = rng.gamma(1, 0.2, 200)
    noise = rng.normal(0, 0.01, 200)
    both = good + noise - noise.mean()
    assert read_on(np.array([good, good + rng.gamma(1, 1, 200), both])) == [True, False]


def test_a_network_that_is_worse_and_helps_a_sum_is_read_on():
    rng = np.random.default_rng(0)
    good = rng.gamma(1, 0.4, 200)
    both = 0.5 * good + rng.normal(0, 0.01, 200)
    assert read_on(np.array([good, good + rng.gamma(1, 1, 200), both])) == [True, True]


def test_a_network_whose_sums_cannot_win_is_not_read_on():
    """Two help each other; the third alone is as good as each of these, but helps neither."""
    rng = np.random.default_rng(0)
    alone = rng.gamma(1, 1, (3, 300))
    sums = [alone[:2].min(axis=0) * 0.5, alone[0], alone[1], alone[:2].min(axis=0) * 0.5]
    members = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1], [1] * 3])
    assert read_on(np.vstack([alone, sums]), members.astype(bool)) == [True, True, False]


@pytest.mark.parametrize("seed", range(20))
def test_some_network_is_always_left_at_any_level(seed):
    rng = np.random.default_rng(seed)
    k = int(rng.integers(1, 6))
    members = np.vstack([np.eye(k, dtype=bool), rng.random((4, k)) < 0.6])
    members = members[members.any(axis=1)]
    losses = rng.gamma(0.3, 3, (len(members), int(rng.integers(1, 40))))
    for level in (1e-9, 0.05, 1.0):
        assert any(read_on(losses, members, level))
