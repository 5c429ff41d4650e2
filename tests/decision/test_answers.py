"""Answers out of fold: what is kept of them, and the prior of the fit undone."""

import math

import numpy as np
import pytest

from regraft.decision.answers import Answers, check_class_weights, plain
from regraft.errors import InputError


def rows(*values):
    return np.array(values, np.float32)


def test_of_each_image_the_probabilities_of_the_truth_and_of_the_answer_are_kept():
    probabilities = rows([0.5, 0.25, 0.25], [0.125, 0.75, 0.125], [0.0, 0.25, 0.75])
    answers = Answers.of(probabilities, np.array([0, 2, 2]))
    assert answers.labels.tolist() == [0, 2, 2]
    assert answers.true.tolist() == [0.5, 0.125, 0.75]
    assert answers.confidence.tolist() == [0.5, 0.75, 0.75]
    assert answers.right.tolist() == [True, False, True]
    assert len(answers) == 3


def test_the_answer_is_that_of_the_model_and_its_confidence_that_of_the_data():
    """A rare class, of which an image counted nine times, is answered with less confidence."""
    answers = Answers.of(rows([0.25, 0.75]), np.array([0]), np.array([1.0, 9.0]))
    assert answers.right.tolist() == [False]
    assert answers.true.tolist() == [0.25]
    # 0.75 / 9 against 0.25: a quarter
    assert answers.confidence[0] == pytest.approx(0.25)


def test_no_image_gives_no_answer():
    answers = Answers.of(np.zeros((0, 3), np.float32), np.zeros(0, np.int64))
    assert len(answers) == 0
    assert len(Answers.from_tensors(answers.tensors(), 3)) == 0


def test_without_weights_probabilities_stay_as_they_are():
    probabilities = rows([0.3, 0.7])
    assert plain(probabilities, None) is probabilities


def test_undone_weights_are_bayes_rule_with_other_priors():
    """Posteriors by hand, from densities of two classes at a point and the priors."""
    densities, priors = np.array([0.9, 0.2, 0.05]), np.array([0.7, 0.2, 0.1])
    weights = 1 / (3 * priors)  # balanced: each class counts a third
    balanced = densities * priors * weights
    wanted = densities * priors / (densities * priors).sum()
    got = plain(rows(balanced / balanced.sum()), weights)
    assert got[0] == pytest.approx(wanted, abs=1e-6)
    assert got.dtype == np.float32


def test_in_a_simulation_undone_weights_give_the_share_that_is_seen():
    """Of images at which a balanced fit says one half, the rare class has its own share."""
    random = np.random.default_rng(5)
    labels = random.random(200_000) < 0.1
    seen = random.random(200_000) < np.where(labels, 0.8, 0.3)  # a feature, yes or no
    weights = np.array([1 / (2 * 0.9), 1 / (2 * 0.1)])
    weighted = np.array([(seen & (labels == k)).sum() * weights[k] for k in (0, 1)])
    share = plain(rows(weighted / weighted.sum()), weights)[0, 1]
    assert share == pytest.approx(0.08 / (0.08 + 0.27), abs=0.005)


def test_a_common_factor_of_the_weights_changes_nothing():
    probabilities = np.random.default_rng(1).dirichlet(np.ones(4), 6).astype(np.float32)
    weights = np.array([0.5, 1.0, 3.0, 8.0])
    once, doubled = plain(probabilities, weights), plain(probabilities, 1024 * weights)
    np.testing.assert_array_equal(once, doubled)
    np.testing.assert_allclose(once.sum(1), 1, atol=1e-6)


def test_a_class_without_training_images_has_no_share():
    got = plain(rows([0.5, 0.25, 0.25]), np.array([2.0, 0.0, 1.0]))
    assert got.tolist() == [[0.5, 0.0, 0.5]]


@pytest.mark.parametrize("weights", [[0.0, 0.0], [0.0, 1.0]])
def test_where_nothing_is_left_probabilities_stay(weights):
    assert plain(rows([1.0, 0.0]), np.array(weights)).tolist() == [[1.0, 0.0]]


def test_weights_of_any_size_give_probabilities():
    got = plain(rows([0.25, 0.75]), np.array([5e-324, 1e308]))
    assert got.tolist() == [[1.0, 0.0]]


def kept():
    probabilities = rows([0.5, 0.5], [0.25, 0.75], [0.875, 0.125])  # sorted by value below
    return Answers.of(probabilities, np.array([0, 0, 1])).tensors()


def test_what_a_bundle_keeps_comes_back():
    tensors = kept()
    assert {name: str(array.dtype) for name, array in tensors.items()} == {
        "labels": "int32",
        "true": "float32",
        "confidence": "float32",
        "answered": "int32",
    }
    answers = Answers.from_tensors(tensors, 2)
    assert answers.labels.tolist() == [0, 0, 1]
    assert answers.true.tolist() == [0.25, 0.5, 0.125]
    assert answers.confidence.tolist() == [0.75, 0.5, 0.875]
    assert answers.right.tolist() == [False, True, False]
    kinds = [array.dtype.name for array in vars(answers).values()]
    assert kinds == ["int64", "float32", "float32", "int64"]


def test_the_ends_of_what_may_be_kept_are_kept():
    tensors = kept()
    tensors["true"][:2], tensors["confidence"][1:] = (0, 1), (0, 1)
    tensors["labels"][:], tensors["answered"][:] = (0, 1, 0), (1, 1, 0)
    answers = Answers.from_tensors(tensors, 2)
    assert answers.true.tolist() == [0, 1, 0.125]
    assert answers.confidence.tolist() == [0.75, 0, 1]
    assert answers.right.tolist() == [False, True, True]


@pytest.mark.parametrize("name", ["labels", "true", "confidence", "answered"])
def test_an_array_that_is_missing_or_of_another_form_is_refused_by_name(name):
    tensors = kept()
    array = tensors[name]
    del tensors[name]
    with pytest.raises(InputError, match=f"^there is no {name}$"):
        Answers.from_tensors(tensors, 2)
    others = [
        array.astype(np.float64),
        array.astype(array.dtype.newbyteorder(">")),
        array[:, None],
        np.tile(array, (2, 1)),
        array[0].reshape(()),
    ]
    for damaged in others:
        if damaged.dtype == array.dtype and damaged.shape == array.shape:
            continue  # a byte has no order
        with pytest.raises(InputError, match=f"^{name} must be {array.dtype.name} of the length "):
            Answers.from_tensors({**tensors, name: damaged}, 2)
    with pytest.raises(InputError, match=r" of the length of labels$"):
        Answers.from_tensors({**tensors, name: array[:2]}, 2)


def test_arrays_of_no_dimension_are_refused():
    tensors = {name: array[0].reshape(()) for name, array in kept().items()}
    with pytest.raises(InputError, match=r"^labels must be int32 of the length of labels$"):
        Answers.from_tensors(tensors, 2)


@pytest.mark.parametrize(
    ("name", "value"), [("labels", -1), ("labels", 2), ("answered", 2), ("answered", -1)]
)
def test_numbers_that_are_no_class_are_refused(name, value):
    tensors = kept()
    tensors[name][1] = value
    with pytest.raises(InputError, match=r"^labels or answered hold what is no class$"):
        Answers.from_tensors(tensors, 2)


@pytest.mark.parametrize("name", ["true", "confidence"])
@pytest.mark.parametrize("value", [-1e-6, 1.000001, math.nan, math.inf])
def test_what_is_no_probability_is_refused(name, value):
    tensors = kept()
    tensors[name][2] = value
    with pytest.raises(InputError, match=r"^true or confidence hold what is no probability$"):
        Answers.from_tensors(tensors, 2)


def test_of_more_answers_than_are_kept_some_are_drawn_without_looking_at_them():
    n = 500
    positions = np.arange(n)
    answers = Answers(positions, rows(positions)[0] / n, rows(positions)[0] / n, positions // 2 * 2)
    assert answers.at_most(n) is answers
    drawn = answers.at_most(200)
    chosen = drawn.labels
    assert len({*chosen.tolist()}) == len(drawn) == 200
    assert (np.diff(chosen) > 0).all()
    assert drawn.true.tolist() == answers.true[chosen].tolist()
    assert drawn.confidence.tolist() == answers.confidence[chosen].tolist()
    assert drawn.right.tolist() == answers.right[chosen].tolist()
    others = Answers(positions[::-1], answers.true[::-1], answers.confidence, positions)
    assert others.at_most(200).labels.tolist() == positions[::-1][chosen].tolist()
    # by chance: as many of each half, within four standard errors
    assert abs((chosen < n / 2).sum() - 100) < 4 * (200 * 0.25 * 300 / 499) ** 0.5


def test_class_weights_come_back():
    for weights in ([0.0, 1.0, 2.5], [5e-324, 0.0, 1e308]):
        assert check_class_weights(np.array(weights), 3).tolist() == weights


@pytest.mark.parametrize("weights", [[1.0], [[1.0], [1.0]], 1.0, [1.0, 1.0, 1.0]])
def test_class_weights_of_another_shape_or_type_are_refused(weights):
    for damaged in (np.array(weights), np.ones(2, np.float32), np.ones(2, ">f8")):
        with pytest.raises(InputError, match=r"^class_weights must be 2 numbers of float64$"):
            check_class_weights(damaged, 2)


@pytest.mark.parametrize("weights", [[0, 0], [-1, 1], [math.nan, 1], [1, math.inf], [-5e-324, 1]])
def test_what_are_no_class_weights_is_refused(weights):
    with pytest.raises(InputError, match=r"^class_weights must be finite, at least 0, and not all"):
        check_class_weights(np.array(weights, float), 2)


def test_answers_are_sorted_by_value_whatever_the_order_of_the_images():
    random = np.random.default_rng(3)
    p = random.dirichlet(np.ones(3), 40).astype(np.float32)
    labels, other = random.integers(0, 3, 40), random.permutation(40)
    one, two = Answers.of(p, labels), Answers.of(p[other], labels[other])
    for name in ("labels", "true", "confidence", "answered"):
        assert np.array_equal(getattr(one, name), getattr(two, name))
    assert (np.diff(one.labels) >= 0).all()
