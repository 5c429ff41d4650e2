"""Levels that a person gives in place of those of the training."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from regraft.decision.costs import Costs
from regraft.decision.levels import LEVELS, as_costs, levels_with
from regraft.decision.policy import Levels
from regraft.errors import ConfigError

CLASSES = ["a", "b"]
TABLE = Costs(np.array([[0.0, 1.0], [2.0, 0.0]]))
TRAINED = Levels(unknown=0.05, coverage=0.9, coverage_by="class", min_precision=0.8)


def chosen(levels=TRAINED, **choices):
    return levels_with(levels, CLASSES, choices)


def refusal(**choices):
    with pytest.raises(ConfigError) as refused:
        chosen(**choices)
    return str(refused.value)


def test_what_is_not_given_stays():
    assert chosen() == TRAINED
    for name, given, field in (
        ("unknown_level", 0.5, "unknown"),
        ("coverage", 0.5, "coverage"),
        ("coverage_by", "all", "coverage_by"),
        ("min_precision", 0.5, "min_precision"),
    ):
        assert chosen(**{name: given}) == dataclasses.replace(TRAINED, **{field: given})


def test_no_level_for_unknown_images_is_the_usual_one_and_no_precision_is_none():
    for given in (None, "auto"):
        assert chosen(unknown_level=given).unknown is None
    assert chosen(min_precision=None).min_precision is None
    assert chosen(Levels(costs=TABLE), costs=None).costs is None


def test_the_word_none_switches_a_precision_or_costs_off(tmp_path, monkeypatch):
    assert chosen(min_precision="none").min_precision is None
    monkeypatch.chdir(tmp_path)
    Path("none").write_text("a file of this name needs its folder", encoding="utf-8")
    for given in ("none", Path("none")):
        assert chosen(Levels(costs=TABLE), costs=given).costs is None
    assert refusal(costs=tmp_path / "none").startswith(f"costs: {tmp_path / 'none'} has no rows")
    assert refusal(coverage="none") == "coverage is 'none'; it must be a number"


def test_numbers_of_any_type_are_numbers():
    assert chosen(coverage="0.5").coverage == 0.5
    given = chosen(unknown_level=np.float32(0.25)).unknown
    assert (given, type(given)) == (0.25, float)


def test_a_precision_replaces_costs_and_costs_a_precision():
    priced = chosen(costs=TABLE)
    assert (priced.costs, priced.min_precision) == (TABLE, None)
    promised = chosen(priced, min_precision=0.7)
    assert (promised.costs, promised.min_precision) == (None, 0.7)
    assert chosen(priced, coverage=0.5, min_precision=None).costs is TABLE
    assert chosen(costs=None).min_precision == 0.8
    assert refusal(costs=TABLE, min_precision=0.7).startswith("min_precision and costs both decide")


def test_costs_may_be_a_file_or_a_table(tmp_path):
    path = tmp_path / "costs.csv"
    path.write_text("true,b,a,abstain\na,1,0,0.5\nb,0,2,0.25\n", encoding="utf-8")
    for given in (path, str(path)):
        costs = chosen(costs=given).costs
        assert (costs.table.tolist(), costs.extra) == ([[0, 1, 0.5], [2, 0, 0.25]], ("abstain",))
    for given in ([[0, 1], [2, 0]], np.array([[0, 1], [2, 0]], np.int8), ((0, 1e9), (0, 0))):
        costs = chosen(costs=given).costs
        assert costs.table.tolist() == np.array(given).tolist()
        assert (costs.table.dtype, costs.extra) == (np.float64, ())
    given = 1 - np.eye(2)
    table = as_costs(given, CLASSES).table
    given[:] = -1  # what the caller does later with the array is no matter
    assert table.tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("name", ["unknown_level", "coverage", "min_precision"])
@pytest.mark.parametrize("value", ["much", [0.5], 10**400])
def test_a_level_that_is_no_number_is_refused(name, value):
    assert refusal(**{name: value}) == f"{name} is {value!r}; it must be a number"


def test_a_level_that_cannot_be_left_out_is_refused():
    assert refusal(coverage=None) == "coverage is None; it must be a number"
    assert refusal(coverage="auto") == "coverage is 'auto'; it must be a number"
    assert refusal(min_precision="auto") == "min_precision is 'auto'; it must be a number"


def test_a_level_out_of_range_is_refused():
    for name in ("unknown_level", "coverage", "min_precision"):
        wanted = f"{name} is 1; it must be between 0 and 1, both excluded"
        assert refusal(**{name: 1}) == wanted
    assert refusal(coverage_by="each") == "coverage_by is 'each'; it must be all or class"


def test_a_level_with_another_name_is_refused_with_the_names_that_there_are():
    assert refusal(precision=0.9) == "unknown level precision\nhint: did you mean min_precision?"
    assert refusal(x=0.9) == f"unknown level x\nhint: one of {', '.join(LEVELS)}"
    assert LEVELS == ("unknown_level", "coverage", "coverage_by", "min_precision", "costs")


def test_costs_of_another_shape_are_refused():
    for given, shape in (([0, 1], "(2,)"), (np.zeros((2, 3)), "(2, 3)"), (1, "()")):
        assert refusal(costs=given) == (
            f"costs have the shape {shape}; they must be (2, 2)\n"
            "hint: a row for each true class, a column for each answer; a CSV file may have more"
        )


@pytest.mark.parametrize("value", [-1, np.nan, np.inf, 1.1e9])
def test_what_is_no_cost_is_refused(value):
    text = "costs hold what is no number from 0 to 1,000,000,000"
    assert refusal(costs=[[0, 1], [value, 0]]) == text


@pytest.mark.parametrize(
    "given", [[[0, 1], [2]], {"a": 1}, [["x", 1], [1, 0]], [[10**400] * 2] * 2]
)
def test_what_is_no_table_is_refused(given):
    assert refusal(costs=given) == (
        "costs are neither a file nor a table of numbers\n"
        "hint: a list or array of rows: one for each true class, a column for each answer"
    )


def test_a_table_of_gains_is_refused():
    assert refusal(costs=np.eye(2)).startswith(
        f"costs: answering {CLASSES[0]} for {CLASSES[0]}, which is right, costs 1, more than "
    )


@pytest.mark.parametrize("value", [-1, np.nan, np.inf, 1.1e9])
def test_costs_that_python_made_are_checked_as_a_table_is(value):
    wrong = Costs(np.array([[0.0, 1.0, 0.5], [1.0, 0.0, value]]), ("abstain",))
    assert refusal(costs=wrong) == "costs hold what is no number from 0 to 1,000,000,000"
    shape = refusal(costs=Costs(np.ones((2, 2)), ("abstain",))).partition("\n")[0]
    assert shape == "costs have the shape (2, 2); they must be (2, 3)"
    for extra in (("later",), ("abstain", "abstain")):
        assert refusal(costs=Costs(np.ones((2, 2 + len(extra))), extra)).startswith(
            f"costs have the columns {', '.join(extra)} after those of the classes"
        )
    assert chosen(costs=TABLE).costs is TABLE


def test_arrays_and_lists_are_no_levels():
    several = np.array([0.1, 0.2])
    for name in ("unknown_level", "coverage", "min_precision"):
        assert refusal(**{name: several}) == f"{name} is {several!r}; it must be a number"
    for by in (["class"], np.array(["all", "class"])):
        assert refusal(coverage_by=by) == f"coverage_by is {by!r}; it must be all or class"
