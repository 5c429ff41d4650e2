"""What is decided where several rules have a say, and levels that cannot be borne."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from regraft.decision.answers import Answers, plain
from regraft.decision.conformal import SetRule
from regraft.decision.costs import ABSTAINED, IS_UNKNOWN, Costs
from regraft.decision.policy import Decided, Decisions, Levels, Rules
from regraft.decision.promise import Promise
from regraft.decision.scorers import LEAST_UNITS, Neighbours
from regraft.decision.typicality import Typicality
from regraft.errors import ConfigError

#: Features of an image like those of the bank, and of one at a right angle to them.
LIKE, UNLIKE = [1.0, 0.0], [0.0, 1.0]


def typicality_of(n):
    """Of n units; unlike images get the least p-value, like ones get 1."""
    scores = np.linspace(0.1, 0.9, n, dtype=np.float32)
    bank = np.tile(np.array([[127, 0]], np.int8), (LEAST_UNITS, 1))
    return Typicality(Neighbours.of(bank), scores)


def answers_of(n=100, right=None, seed=0):
    random = np.random.default_rng(seed)
    right = np.ones(n, bool) if right is None else right
    confidence = random.permutation(np.linspace(0.4, 1, n)).astype(np.float32)
    labels = np.arange(n) % 3
    return Answers(labels, confidence, confidence, np.where(right, labels, (labels + 1) % 3))


def decisions_of(n_units=99, answers=None, **kept):
    typicality = typicality_of(n_units) if n_units is not None else None
    return Decisions(typicality, answers or answers_of(), n_units or 0, **kept)


SETS = SetRule(np.array([0.25, 0.25, 0.25]))


def rules(level=0.01, promise=None, costs=None, class_weights=None, n=99):
    return Rules(typicality_of(n), level, SETS, promise, costs, class_weights)


SURE, UNSURE = [0.9375, 0.0625, 0.0], [0.5, 0.375, 0.125]
#: A mistake costs 1 and no answer 0.25: below a probability of 0.75, no answer is cheaper.
ABSTAINING = Costs(np.column_stack([1 - np.eye(3), np.full(3, 0.25)]), ("abstain",))
ASKED = {
    "nothing": {},
    "a promise": {"promise": Promise(0.9, 0.75)},
    "costs with no answer": {"costs": ABSTAINING},
    "costs of classes alone": {"costs": Costs(1 - np.eye(3))},
}


@pytest.mark.parametrize(
    ("asked", "unsure", "unlike"),
    [
        ("nothing", 0, IS_UNKNOWN),
        ("a promise", ABSTAINED, IS_UNKNOWN),
        ("costs with no answer", ABSTAINED, IS_UNKNOWN),
        ("costs of classes alone", 0, 0),
    ],
)
def test_unknown_comes_before_no_answer_and_that_before_a_class(asked, unsure, unlike):
    """Only costs that are of classes alone get a class for each image."""
    probabilities = np.array([SURE, UNSURE, SURE, UNSURE], np.float32)
    pooled = np.array([LIKE, LIKE, UNLIKE, UNLIKE], np.float32)
    decided = rules(**ASKED[asked]).decide(probabilities, pooled)
    assert decided.actions.tolist() == [0, unsure, unlike, unlike]
    assert decided.p_values.tolist() == [1, 1, 0.01, 0.01]
    assert decided.unknown.tolist() == [False, False, True, True]
    assert decided.sets.tolist() == [[True, False, False], [True, True, False]] * 2
    if asked == "nothing":
        assert decided.abstained is None
    else:  # also of unknown images: what would be answered
        assert decided.abstained.tolist() == [False, unsure == ABSTAINED] * 2


def test_without_features_or_typicality_nothing_is_unknown():
    probabilities = np.array([SURE, UNSURE], np.float32)
    unlike = np.array([UNLIKE, UNLIKE], np.float32)
    for none, pooled in ((rules(), None), (Rules(None, None, SETS, None, None, None), unlike)):
        decided = none.decide(probabilities, pooled)
        assert decided.p_values is decided.unknown is decided.abstained is None
        assert decided.actions.tolist() == [0, 0]


def test_without_a_level_p_values_are_told_and_nothing_is_unknown():
    decided = rules(level=None).decide(np.array([SURE], np.float32), np.array([UNLIKE], np.float32))
    assert (decided.p_values.tolist(), decided.unknown) == ([0.01], None)
    assert decided.actions.tolist() == [0]


def test_a_p_value_at_the_level_is_unknown():
    probabilities, pooled = np.array([SURE], np.float32), np.array([UNLIKE], np.float32)
    for level, unknown in ((0.02, True), (0.01, True), (0.0099, False)):
        assert rules(level=level).decide(probabilities, pooled).unknown.tolist() == [unknown]


def test_an_answer_at_the_threshold_is_given_and_without_one_none_is():
    probabilities = np.array([[0.7, 0.3, 0], [0.69, 0.31, 0]], np.float32)
    threshold = float(np.float32(0.7))
    decided = rules(promise=Promise(0.9, threshold)).decide(probabilities, None)
    assert decided.actions.tolist() == [0, ABSTAINED]
    decided = rules(promise=Promise(0.9, None, "too few")).decide(probabilities, None)
    assert decided.actions.tolist() == [ABSTAINED, ABSTAINED]
    assert decided.abstained.tolist() == [True, True]


@pytest.mark.parametrize("weights", [None, np.array([0.4, 1.0, 6.0])])
def test_of_the_answers_out_of_fold_the_promised_share_is_answered(weights):
    """The rule that was fitted to answers decides about them as the fit did."""
    random = np.random.default_rng(7)
    probabilities = random.dirichlet(np.full(3, 0.2), 600).astype(np.float32)
    shares = plain(probabilities, weights)
    labels = np.array([random.choice(3, p=p / p.sum()) for p in shares.astype(np.float64)])
    answers = Answers.of(probabilities, labels, weights)
    levels = Levels(min_precision=0.8, coverage=0.9)
    found = Decisions(None, answers, 600, weights).rules(3, levels)
    decided = found.decide(probabilities, None)
    given = decided.actions != ABSTAINED
    assert 0.1 < given.mean() == found.promise.answered < 1
    assert (decided.actions == labels)[given].mean() > 0.8
    assert (decided.actions == probabilities.argmax(1))[given].all()
    assert decided.sets[np.arange(600), labels].sum() == math.ceil(0.9 * 601)


def test_costs_are_weighed_with_the_classes_own_shares():
    """A balanced fit gave the rare class nine times its share; by hand, it costs less to say so."""
    weights = np.array([1.0, 9.0])
    probabilities = np.array([[0.25, 0.75], [0.0625, 0.9375]], np.float32)
    costs = Costs(np.array([[0.0, 1.0], [1.0, 0.0]]))
    # 0.25 against 0.75 / 9, and 0.0625 against 0.9375 / 9
    for asked, wanted in ((None, [1, 1]), (weights, [0, 1])):
        found = Rules(None, None, SetRule(np.zeros(2)), None, costs, asked)
        assert found.decide(probabilities, None).actions.tolist() == wanted


def test_the_sets_and_the_class_that_is_answered_are_those_of_the_model_as_it_is():
    weights = np.array([1.0, 9.0, 1.0])
    probabilities = np.array([[0.375, 0.5, 0.125]], np.float32)
    decided = Rules(None, None, SETS, None, None, weights).decide(probabilities, None)
    assert decided.actions.tolist() == [1]
    assert decided.sets.tolist() == [[True, True, False]]


def test_levels_of_the_training_are_those_where_none_are_given():
    kept = Levels(unknown=0.2, coverage=0.5, min_precision=0.9)
    found = decisions_of(levels=kept)
    assert found.rules(3).level == 0.2
    assert found.rules(3).promise.precision == 0.9
    given = found.rules(3, Levels(unknown=0.1, costs=ABSTAINING))
    assert (given.level, given.promise, given.costs) == (0.1, None, ABSTAINING)
    assert found.rules(3).sets.thresholds[0] > given.sets.thresholds[0]
    assert decisions_of().rules(3).level == 0.01


def test_what_the_rules_take_from_the_bundle_stays_as_it_is():
    weights = np.array([1.0, 2.0, 3.0])
    found = decisions_of(class_weights=weights)
    assert found.rules(3).class_weights is weights
    assert found.rules(3).typicality is found.typicality
    assert found.rules(3).notes == ()


INDEPENDENT = "of images that do not depend on each other"


def test_too_few_units_for_the_usual_level_are_told():
    for n, there in ((98, "are 98"), (1, "is 1"), (0, "are 0")):
        found = decisions_of(n).rules(3)
        assert found.level is None
        reason = f"{INDEPENDENT}, a level of 0.01 needs 99, there {there}"
        assert found.notes == (f"no image is called unknown: {reason}",)
    assert decisions_of(99).rules(3).level == 0.01


@pytest.mark.parametrize(
    ("n", "level", "reason", "hint"),
    [
        (98, 0.01, "a level of 0.01 needs 99, there are 98", "0.011 or more can be had"),
        (19, 0.04, "a level of 0.04 needs 24, there are 19", "0.05 or more can be had"),
        (4000, 1e-4, "a level of 0.0001 needs 9,999, there are 4,000", "0.001 or more can be had"),
        (1, 0.3, "a level of 0.3 needs 3, there is 1", "0.5 or more can be had"),
        (0, 0.5, "a level of 0.5 needs 1, there are 0", None),
    ],
)
def test_a_level_that_the_units_cannot_bear_is_refused_with_one_that_they_can(
    n, level, reason, hint
):
    with pytest.raises(ConfigError) as refused:
        decisions_of(n).rules(3, Levels(unknown=level))
    assert refused.value.message == f"unknown_level is {level:g}: {INDEPENDENT}, {reason}"
    assert refused.value.hint == hint
    if hint:
        better = float(hint.split()[0])
        assert decisions_of(n).rules(3, Levels(unknown=better)).level == better


def test_a_level_that_can_just_be_borne_calls_the_least_p_value_unknown():
    for n in range(1, 120):
        level = 1 / (n + 1)
        found = decisions_of(n).rules(3, Levels(unknown=level))
        decided = found.decide(np.array([SURE], np.float32), np.array([UNLIKE], np.float32))
        assert decided.unknown.all()
        with pytest.raises(ConfigError):
            decisions_of(n).rules(3, Levels(unknown=np.nextafter(level, 0)))


@pytest.mark.parametrize(
    ("n", "why"),
    [
        (12, ""),  # the images were enough: it was left out
        (11, ": that needs 12 images, there are 11"),
        (1, ": that needs 12 images, there is 1"),
    ],
)
def test_where_nothing_measures_a_level_is_refused_and_too_few_images_are_told(n, why):
    found = dataclasses.replace(decisions_of(None), n_units=n)
    with pytest.raises(ConfigError) as refused:
        found.rules(3, Levels(unknown=0.05))
    reason = f"nothing tells how unlike an image is here{why}"
    assert str(refused.value) == f"unknown_level is 0.05, but {reason}"
    assert found.rules(3).notes == ((f"no image is called unknown: {reason}",) if why else ())


@pytest.mark.parametrize(
    ("n", "reason"),
    [
        (150, f"{INDEPENDENT}, a level of 0.006 needs 166, there are 150"),
        (None, "nothing tells how unlike an image is here: that needs 12 images, there are 0"),
    ],
)
def test_a_level_of_the_training_that_is_not_borne_is_no_level_and_never_the_usual_one(n, reason):
    kept = decisions_of(n, levels=Levels(unknown=0.006))
    again = Levels(unknown=0.006, coverage=0.5)  # as where a call gives another coverage
    for found in (kept.rules(3), kept.rules(3, again)):
        assert found.level is None
        assert found.notes == (f"no image is called unknown: {reason}",)
        decided = found.decide(np.array([SURE], np.float32), np.array([UNLIKE], np.float32))
        assert decided.unknown is None
    if n is not None:
        assert kept.rules(3, Levels()).level == 0.01  # which was asked for, by "auto"


@pytest.mark.parametrize(
    ("name", "given"),
    [("unknown_level", "unknown"), ("coverage", "coverage"), ("min_precision", "min_precision")],
)
@pytest.mark.parametrize("value", [0, 1, 1.0, -0.5, 2, math.nan, math.inf])
def test_a_share_that_is_none_is_refused(name, given, value):
    with pytest.raises(ConfigError) as refused:
        decisions_of().rules(3, Levels(**{given: value}))
    assert str(refused.value) == f"{name} is {value:g}; it must be between 0 and 1, both excluded"


@pytest.mark.parametrize("given", ["unknown", "coverage", "min_precision"])
def test_the_ends_of_the_levels_are_answered_or_refused_in_words(given):
    for value in (5e-324, 1e-12, np.nextafter(1, 0)):
        if given == "unknown" and value < 0.5:
            with pytest.raises(ConfigError, match=INDEPENDENT):
                decisions_of().rules(3, Levels(unknown=value))
        else:
            decisions_of().rules(3, Levels(**{given: value}))


BOTH = (
    "min_precision and costs both decide when no answer is given\n"
    "hint: give one of them; a column abstain in the costs says what no answer costs"
)


@pytest.mark.parametrize(
    ("levels", "n_classes", "message"),
    [
        (Levels(min_precision=0.9, costs=ABSTAINING), 3, BOTH),
        (Levels(coverage_by="classes"), 3, "coverage_by is 'classes'; it must be all or class"),
        (Levels(costs=ABSTAINING), 4, "the costs are of 3 classes, the model has 4"),
        (Levels(costs=Costs(np.zeros((1, 1)))), 2, "the costs are of 1 class, the model has 2"),
    ],
    ids=["both", "by", "classes", "class"],
)
def test_levels_that_contradict_each_other_or_the_model_are_refused(levels, n_classes, message):
    for found, given in ((decisions_of(levels=levels), None), (decisions_of(), levels)):
        with pytest.raises(ConfigError) as refused:
            found.rules(n_classes, given)
        assert str(refused.value) == message


def notes(n, **levels):
    return decisions_of(answers=answers_of(n)).rules(3, Levels(**levels)).notes


def test_a_coverage_that_the_answers_cannot_bear_is_told():
    assert notes(18, coverage=0.95) == (
        "a coverage of 0.95 cannot be aimed at with 18 answers: each set has all classes",
    )
    assert notes(1, coverage=0.9) == (
        "a coverage of 0.9 cannot be aimed at with 1 answer: each set has all classes",
    )
    assert notes(19, coverage=0.95) == notes(98, coverage=0.95) == ()


def test_a_coverage_by_class_tells_how_many_classes_have_no_threshold_of_their_own():
    """Images of the classes by turns: of 56, 19, 19 and 18."""
    common = "too few images for a coverage of 0.95: the threshold that all classes share is used"
    assert notes(57, coverage_by="class") == ()
    assert notes(56, coverage_by="class") == (f"1 class has {common}",)
    assert notes(55, coverage_by="class") == (f"2 classes have {common}",)
    assert notes(18, coverage_by="class") == notes(18)
    assert notes(19, coverage_by="class") == (f"3 classes have {common}",)


def test_answers_of_probability_zero_are_answers_too():
    """A threshold of 0 that comes from the answers is none that is missing."""
    answers = Answers.of(np.tile(np.array([[1, 0, 0]], np.float32), (60, 1)), np.arange(60) % 3)
    found = decisions_of(answers=answers).rules(3)
    assert (found.sets.thresholds.tolist(), found.notes) == ([0, 0, 0], ())


def test_a_promise_that_cannot_be_kept_is_told_and_nothing_is_answered():
    found = decisions_of(98, answers_of(180)).rules(3, Levels(min_precision=0.99))
    reason = "0.99 needs 299 right answers and no wrong one among them, and there are 180"
    assert found.notes[1:] == (
        f"no precision is promised, so nothing is answered: {reason}; 0.98 can be promised",
    )
    assert found.notes[0].startswith("no image is called unknown: ")
    decided = found.decide(np.array([SURE], np.float32), None)
    assert decided.actions.tolist() == [ABSTAINED]
    assert decisions_of(answers=answers_of(300)).rules(3, Levels(min_precision=0.99)).notes == ()


def test_decisions_of_several_models_are_joined_in_the_order_of_the_images():
    probabilities = np.array([SURE, UNSURE, SURE], np.float32)
    pooled = np.array([LIKE, LIKE, UNLIKE], np.float32)
    whole = rules(**ASKED["a promise"]).decide(probabilities, pooled)
    for order in map(list, itertools.permutations(range(3))):
        parts = [
            rules(**ASKED["a promise"]).decide(probabilities[order[a:b]], pooled[order[a:b]])
            for a, b in ((0, 1), (1, 3))
        ]
        joined = Decided.joined(parts, np.argsort(order))
        for name in ("actions", "sets", "p_values", "unknown", "abstained"):
            np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))
    parts = [rules(level=level).decide(probabilities, pooled) for level in (0.01, None)]
    joined = Decided.joined(parts, np.arange(6))
    assert joined.unknown is joined.abstained is None
    assert joined.p_values.tolist() == [1, 1, 0.01] * 2


def test_all_arrays_that_decide_are_kept():
    weights = np.array([1.0, 2.0, 3.0])
    whole = decisions_of(class_weights=weights, levels=Levels(costs=ABSTAINING))
    tensors = whole.tensors()
    answers = ["labels", "true", "confidence", "answered"]
    assert [*tensors] == [*answers, "rows", "reach", "scores", "class_weights", "costs"]
    assert tensors["class_weights"] is weights
    assert tensors["costs"] is ABSTAINING.table
    assert tensors["scores"] is whole.typicality.scores
    assert [*decisions_of(None).tensors()] == answers


def test_rules_know_what_was_asked_for():
    asked = Levels(coverage=0.75)
    assert decisions_of().rules(3, asked).levels is asked
    assert decisions_of(levels=asked).rules(3).levels is asked
