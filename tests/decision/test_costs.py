"""Tables of costs: what is read, what is refused and how, and the cheapest answer."""

import itertools
import os

import numpy as np
import pytest

from regraft.decision.costs import Costs, names_note, read_costs
from regraft.errors import ConfigError, InputError

CLASSES = ("daisy", "rose", "tulip")
TABLE = "true,daisy,rose,tulip\ndaisy,0,1,2\nrose,3,0,4.5\ntulip,5,6,0\n"
COSTS = [[0, 1, 2], [3, 0, 4.5], [5, 6, 0]]
FORM = (
    "a first row with the answers, such as true,daisy,rose,abstain, then one row for each true "
    "class: daisy, rose and 1 more"
)


def read(tmp_path, text, classes=CLASSES):
    path = tmp_path / "costs.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_costs(path, classes)


def refusal(tmp_path, text, classes=CLASSES):
    """Return the message, with "costs.csv" for the path, and the hint."""
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, text, classes)
    error = refused.value
    assert error.exit_code == 2
    assert "\n" not in error.message
    return error.message.replace(f"{tmp_path}{os.sep}", ""), error.hint


def edited(*pairs):
    text = TABLE
    for old, new in pairs:
        assert text.count(old) == 1
        text = text.replace(old, new)
    return text


WRITTEN = {
    "plain": TABLE,
    "no line break at the end": TABLE.rstrip(),
    "byte order mark": b"\xef\xbb\xbf" + TABLE.encode(),
    "byte order mark, first name quoted": b'\xef\xbb\xbf"true"' + TABLE[4:].encode(),
    "CRLF": TABLE.replace("\n", "\r\n"),
    "CR": TABLE.replace("\n", "\r"),
    "blank rows": "\n\n" + TABLE.replace("\n", "\n\n , ,\n"),
    "empty cells at the ends": TABLE.replace("\n", ",,\n"),
    "blanks around cells": TABLE.replace(",", " , "),
    "quoted": edited(("rose,3", '"rose","3"')),
    "no name for the classes": edited(("true", "")),
    "semicolons": TABLE.replace(",", ";"),
    "blank rows and semicolons": "\r\n\n" + TABLE.replace(",", ";"),
    "semicolons and decimal commas": TABLE.replace(",", ";").replace("4.5", "4,5"),
    "tabs": TABLE.replace(",", "\t"),
    "tabs, and no name for the classes": edited(("true", "")).replace(",", "\t"),
    "other numbers": edited(("4.5", "45e-1"), ("5,6", "5.0,+6")),
    "other orders": "true,tulip,daisy,rose\nrose,4.5,3,0\ntulip,0,5,6\ndaisy,2,0,1\n",
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_table_is_read_however_it_is_written(tmp_path, name):
    costs = read(tmp_path, WRITTEN[name])
    assert costs.table.tolist() == COSTS
    assert costs.extra == ()


def test_columns_for_no_answer_follow_the_classes_in_a_fixed_order(tmp_path):
    text = "true,unknown,rose,abstain,daisy\nrose,7,0,0.5,1\ndaisy,8,2,0.25,0\n"
    costs = read(tmp_path, text, ("daisy", "rose"))
    assert costs.extra == ("abstain", "unknown")
    assert costs.table.tolist() == [[0, 2, 0.25, 8], [1, 0, 0.5, 7]]
    assert (costs.column("abstain"), costs.column("unknown")) == (2, 3)
    only = read(tmp_path, "true,a,b,unknown\na,0,1,1\nb,1,0,1\n", ("a", "b"))
    assert (only.extra, only.column("abstain"), only.column("unknown")) == (("unknown",), None, 2)


def test_a_class_may_be_called_abstain(tmp_path):
    text = "true,abstain,unknown,rose\nabstain,0,2,1\nrose,3,4,0\n"
    costs = read(tmp_path, text, ("abstain", "rose"))
    assert costs.table.tolist() == [[0, 1, 2], [3, 0, 4]]
    assert (costs.extra, costs.column("abstain")) == (("unknown",), None)


@pytest.mark.parametrize("corner", ["true \\ predicted", "class", "predictable", "label", "\u2193"])
def test_what_stands_above_true_classes_may_be_anything_else(tmp_path, corner):
    assert read(tmp_path, edited(("true", corner))).table.tolist() == COSTS


def test_a_right_answer_may_cost_as_much_as_some_wrong_ones(tmp_path):
    text = "true,a,b,abstain\na,2,2,0\nb,3,1,0\n"
    assert read(tmp_path, text, ("a", "b")).table.tolist() == [[2, 2, 0], [3, 1, 0]]


def test_two_columns_of_a_class_that_has_the_name_of_a_decision(tmp_path):
    text = "true,unknown,rose,unknown\nunknown,0,1,2\nrose,1,0,2\n"
    assert refusal(tmp_path, text, ("rose", "unknown")) == (
        "costs: costs.csv has two columns for unknown",
        "unknown is a class here; rename it to give the decision unknown a cost",
    )


def test_classes_that_have_the_name_of_a_decision_are_named():
    assert names_note(["rose", "Unknown"]) == []
    tells = (
        "the fields abstained and unknown of an answer tell which is meant, and a column of this "
        "name in a table of costs is the class"
    )
    assert names_note(["rose", "unknown"]) == [
        f"1 class has the name of a decision: unknown; {tells}"
    ]
    assert names_note(["unknown", "abstain"]) == [
        f"2 classes have the name of a decision: abstain, unknown; {tells}"
    ]


def test_names_of_classes_are_found_in_any_normal_form_and_with_any_separator(tmp_path):
    text = 'true;"a, b, c, d";Ame\u0301lie\n"a, b, c, d";0;0,5\nAme\u0301lie;1;0\n'
    assert read(tmp_path, text, ("a, b, c, d", "Am\u00e9lie")).table.tolist() == [[0, 0.5], [1, 0]]
    text = 'true,"x;y;z;w",v\n"x;y;z;w",0,0.5\nv,1,0\n'
    assert read(tmp_path, text, ("x;y;z;w", "v")).table.tolist() == [[0, 0.5], [1, 0]]


@pytest.mark.parametrize("cell", ["0", "1000000000", "1e9", "1234.567", "0.125", "0.0001"])
def test_any_number_from_0_to_a_billion_is_a_cost(tmp_path, cell):
    for text in (edited(("4.5", cell)), edited(("4.5", cell)).replace(",", ";")):
        assert read(tmp_path, text).table[1, 2] == float(cell)


@pytest.mark.parametrize(
    "cell", ["-1", "-1e-9", "1e9.", "1000000001", "nan", "inf", "-inf", "x", "1 2", "1e400", "0x1"]
)
def test_what_is_no_cost_is_refused_with_its_place(tmp_path, cell):
    wanted = (
        f"costs: costs.csv: the cost of answering tulip for rose is '{cell}'; it must be a number "
        "from 0 to 1,000,000,000"
    )
    assert refusal(tmp_path, edited(("4.5", cell))) == (wanted, None)
    assert refusal(tmp_path, edited(("4.5", cell)).replace(",", ";")) == (wanted, None)


def test_thousands_in_quotes_are_refused(tmp_path):
    message, _ = refusal(tmp_path, edited(("4.5", '"1,000"')))
    assert message.startswith("costs: costs.csv: the cost of answering tulip for rose is '1,000'; ")
    text = edited(("4.5", "x")).replace(",", ";").replace("x", "1.000,50")
    message, _ = refusal(tmp_path, text)
    assert "is '1.000,50'; it must be a number" in message


@pytest.mark.parametrize("cell", ["1.000", "1,000", "12.345", "999,999"])
@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_cost_that_has_two_readings_is_refused(tmp_path, cell, delimiter):
    text = TABLE.replace(",", delimiter).replace("4.5", cell)
    message, hint = refusal(tmp_path, text)
    place = "costs: costs.csv: the cost of answering tulip for rose"
    assert message == f"{place} is '{cell}': thousands, or decimal places?"
    assert hint == "write it without a mark between thousands, and not with three decimal places"


@pytest.mark.parametrize("text", [edited((",4.5", ",")), edited((",0,4.5", ",0")),
                                  edited((",0,4.5", ",0, "))])  # fmt: skip
def test_a_missing_cost_is_refused_with_its_place(tmp_path, text):
    assert refusal(tmp_path, text) == (
        "costs: costs.csv: the cost of answering tulip for rose is missing",
        "0 where an answer costs nothing",
    )


def test_an_empty_cell_in_the_middle_is_missing(tmp_path):
    message, _ = refusal(tmp_path, edited(("3,0,4.5", "3,,4.5")))
    assert message == "costs: costs.csv: the cost of answering rose for rose is missing"


def test_more_costs_than_answers_are_refused_as_decimal_commas_give_them(tmp_path):
    assert refusal(tmp_path, edited(("4.5", "4,5"))) == (
        "costs: costs.csv: the row of rose has 4 costs for 3 answers",
        "a decimal comma needs semicolons between the cells, or write 0.5",
    )


NAMES = {
    "a column for a class is missing": (
        "true,daisy,tulip\ndaisy,0,2\nrose,3,4\ntulip,5,0\n",
        ("costs: costs.csv has no column for rose", FORM),
    ),
    "columns for classes are missing": (
        "true,abstain\ndaisy,0\n",
        ("costs: costs.csv has no column for daisy, rose, tulip", FORM),
    ),
    "a row for a class is missing": (
        edited(("tulip,5,6,0\n", "")),
        ("costs: costs.csv has no row for tulip", FORM),
    ),
    "an unknown column with a similar name": (
        edited(("rose,tulip", "rosa,tulip")),
        ("costs: costs.csv has a column for 'rosa', which is no class", "did you mean rose?"),
    ),
    "an answer that is none, with another case": (
        edited(("rose,tulip", "rose,tulip,Abstain")),
        ("costs: costs.csv has a column for 'Abstain', which is no class", "did you mean abstain?"),
    ),
    "an unknown row": (
        TABLE + "cathedral,1,1,1\n",
        ("costs: costs.csv has a row for 'cathedral', which is no class", FORM),
    ),
    "abstaining as a row": (
        TABLE + "abstain,1,1,1\n",
        ("costs: costs.csv has a row for 'abstain', which is no class", FORM),
    ),
    "a row without a name": (
        TABLE + ",1,1,1\n",
        ("costs: costs.csv has a row for '', which is no class", FORM),
    ),
    "a column without a name": (
        edited(("rose,tulip", "rose,,tulip")),
        ("costs: costs.csv has a column for '', which is no class", FORM),
    ),
    "a doubled column": (
        edited(("rose,tulip", "rose,tulip,rose")),
        ("costs: costs.csv has two columns for rose", "keep one of them"),
    ),
    "a doubled answer that is no class": (
        edited(("rose,tulip", "rose,tulip,abstain,abstain")),
        ("costs: costs.csv has two columns for abstain", "keep one of them"),
    ),
    "rows of answers": (
        edited(("true", "Predicted class")),
        (
            (
                "costs: costs.csv begins with 'Predicted class', as if each row were an answer; "
                "each row must be a true class, and each column an answer"
            ),
            "exchange rows and columns, or write true in the first cell if they are right",
        ),
    ),
    "gains": (
        "true,daisy,rose,tulip\ndaisy,0,1,1\nrose,0,1,1\ntulip,0.5,0,1\n",
        (
            (
                "costs: costs.csv: answering rose for rose, which is right, costs 1, more than "
                "answering daisy, 0"
            ),
            "0 for right answers, more than 0 for wrong ones: these are costs, not gains",
        ),
    ),
    "no differences": (
        "true,daisy,rose,tulip,abstain\ndaisy,0,0,0,1\nrose,2,2,2,0\ntulip,0,0,0,0\n",
        (
            (
                "costs: costs.csv: a wrong answer costs as much as the right one for each class, "
                "so that nothing can be chosen"
            ),
            "0 for right answers, more than 0 for wrong ones",
        ),
    ),
    "a doubled row": (
        TABLE + "daisy,0,1,2\n",
        ("costs: costs.csv has two rows for daisy", "keep one of them"),
    ),
    "no names of answers": (
        "daisy,0,1,2\nrose,3,0,4\ntulip,5,6,0\n",
        ("costs: costs.csv has a column for '0', which is no class", FORM),
    ),
    "names of other classes": (
        "true,x,y,z\ndaisy,0,1,2\nrose,3,0,4\ntulip,5,6,0\n",
        ("costs: costs.csv has a column for 'x', which is no class", FORM),
    ),
    "nothing": ("", ("costs: costs.csv has no rows", FORM)),
    "only blanks": (" \n,,\n\n", ("costs: costs.csv has no rows", FORM)),
    "only the first row": (
        "true,daisy,rose,tulip\n",
        ("costs: costs.csv has no rows", FORM),
    ),
    "text": (
        "What mistakes cost\nis hard to say\n",
        ("costs: costs.csv has no column for daisy, rose, tulip", FORM),
    ),
    "an open quote": (
        edited(("rose,3", '"rose,3')),
        ("costs: costs.csv is no CSV table: unexpected end of data", None),
    ),
    "a quote within a cell": (
        edited(("rose,3", '"rose"x,3')),
        ("costs: costs.csv is no CSV table: ',' expected after '\"'", None),
    ),
    "a table of a spreadsheet in UTF-16": (
        TABLE.encode("utf-16"),
        (
            "costs: costs.csv is not UTF-8 text: invalid start byte at byte 0",
            "save it as CSV in UTF-8",
        ),
    ),
    "a table in Latin 1": (
        edited(("rose,tulip", "ros\u00e9,tulip")).encode("latin-1"),
        (
            "costs: costs.csv is not UTF-8 text: invalid continuation byte at byte 14",
            "save it as CSV in UTF-8",
        ),
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_table_that_does_not_fit_the_classes_is_refused(tmp_path, name):
    text, wanted = NAMES[name]
    assert refusal(tmp_path, text) == wanted


def test_a_cell_of_any_length_is_refused_in_one_line(tmp_path):
    message, _ = refusal(tmp_path, "x" * 200_000 + "\n" + TABLE)
    assert message == "costs: costs.csv is no CSV table: field larger than field limit (131072)"


def test_a_file_that_cannot_be_read_is_one_line_with_its_name(tmp_path):
    with pytest.raises(ConfigError) as refused:
        read_costs(tmp_path / "no.csv", CLASSES)
    wanted = f"costs: {tmp_path / 'no.csv'} cannot be read: No such file or directory"
    assert str(refused.value) == wanted
    with pytest.raises(ConfigError) as refused:
        read_costs(tmp_path, CLASSES)
    assert str(refused.value).startswith(f"costs: {tmp_path} cannot be read: ")


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "costs.csv"
    with path.open("wb") as file:
        file.truncate(64 * 2**20 + 1)  # no block of it is written
    with pytest.raises(
        ConfigError, match=r"costs\.csv cannot be read: 67108865 bytes; at most 6710"
    ):
        read_costs(path, CLASSES)


@pytest.mark.parametrize("extra", [(), ("abstain",), ("unknown",), ("abstain", "unknown")])
def test_the_cheapest_answer_is_that_of_a_search(extra):
    random = np.random.default_rng(len(extra))
    table = random.choice([0.0, 1.0, 2.0, 5.0, 10.0], (4, 4 + len(extra)))
    table[:, 4:] = 1 + random.random((4, len(extra)))
    probabilities = random.dirichlet(np.ones(4), 60).astype(np.float32)
    answers = [a for a in range(4 + len(extra)) if a < 4 or extra[a - 4] != "unknown"]
    wanted = []
    for p in probabilities.astype(np.float64):
        expected = [sum(p[k] * table[k, a] for k in range(4)) for a in answers]
        wanted.append(answers[int(np.argmin(expected))])
    assert Costs(table, extra).cheapest(probabilities).tolist() == wanted
    assert len({*wanted}) > 1


def test_with_equal_costs_of_mistakes_the_most_probable_class_is_the_cheapest():
    probabilities = np.random.default_rng(1).dirichlet(np.ones(5), 40).astype(np.float32)
    assert (Costs(1 - np.eye(5)).cheapest(probabilities) == probabilities.argmax(1)).all()
    assert Costs(np.zeros((2, 2))).cheapest(np.zeros((0, 2), np.float32)).shape == (0,)


def test_abstaining_at_a_fixed_cost_is_chows_rule():
    """Where a mistake costs 1 and no answer c, an answer is given above a probability of 1 - c."""
    steps = np.arange(65, dtype=np.float32) / 64
    probabilities = np.stack([steps, 1 - steps], axis=1)
    for cost in (0.125, 0.25, 0.375):
        table = np.column_stack([1 - np.eye(2), np.full(2, cost)])
        cheapest = Costs(table, ("abstain",)).cheapest(probabilities)
        surest = probabilities.max(1)
        # an answer wins where both cost the same
        wanted = np.where(surest >= 1 - cost, probabilities.argmax(1), 2)
        assert cheapest.tolist() == wanted.tolist()


def test_decisions_by_expected_costs_are_the_cheapest_in_a_simulation():
    """Of all rules that follow the probabilities, none costs less than the cheapest answers."""
    random = np.random.default_rng(2)
    probabilities = random.dirichlet(np.full(3, 0.6), 5000).astype(np.float32)
    labels = (random.random((5000, 1)) > probabilities.cumsum(1)[:, :2]).sum(1)
    table = np.array([[0, 1, 5], [10, 0, 1], [2, 2, 0]], float)
    paid = table[labels, Costs(table).cheapest(probabilities)].mean()
    for factors in itertools.product((0.5, 1, 2), repeat=3):
        assert paid <= table[labels, (probabilities * factors).argmax(1)].mean() + 0.03


def test_a_table_for_more_classes_than_a_bundle_can_keep_is_refused(tmp_path):
    with pytest.raises(ConfigError) as caught:
        read_costs(tmp_path / "costs.csv", [f"{k:04}" for k in range(1001)])
    assert str(caught.value) == "costs: a table has at most 1,000 classes, there are 1,001"


def test_a_table_of_as_many_classes_as_a_bundle_can_keep_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("regraft.decision.costs.MOST_COSTLY", 3)
    assert read(tmp_path, TABLE).table.tolist() == COSTS
    message, _ = refusal(tmp_path, TABLE, (*CLASSES, "violet"))
    assert message == "costs: a table has at most 3 classes, there are 4"


def test_costs_are_told_in_a_few_words():
    assert repr(Costs(np.zeros((1, 1)))) == "1 class"
    assert repr(Costs(np.zeros((2, 4)), ("abstain", "unknown"))) == "2 classes, abstain, unknown"


@pytest.mark.parametrize("extra", [(), ("abstain",), ("unknown", "abstain")])
def test_a_table_that_a_bundle_kept_comes_back(extra):
    table = np.linspace(0, 1e9, 2 * (2 + len(extra))).reshape(2, -1)
    costs = Costs.from_tensor(table, list(extra), 2)
    assert costs.table.tolist() == table.tolist()
    assert costs.extra == extra


def test_a_damaged_table_of_a_bundle_is_refused():
    good = np.ones((2, 3))
    shape = "costs must be a table of float64 of the shape (2, 3)"
    ends = "costs must be from 0 to 1,000,000,000"
    others = [None, good.astype(np.float32), good.astype(">f8"), good[:, :2], np.ones((3, 3))]
    damaged = [(table, shape) for table in [*others, np.ones(6)]]
    for value in (-1e-300, 1.1e9, np.nan, np.inf):
        damaged += [(np.where(np.eye(2, 3), value, good), ends)]
    for table, message in damaged:
        with pytest.raises(InputError) as refused:
            Costs.from_tensor(table, ("abstain",), 2)
        assert str(refused.value) == message


def test_spaces_around_the_name_of_a_class_are_its_own(tmp_path):
    classes = (" a", "a", "b ")
    text = "true, a,a,b ,abstain \n a,0,1,2,3\na,4,0,5,6\nb ,7,8,0,9\n"
    costs = read(tmp_path, text, classes)
    assert costs.table.tolist() == [[0, 1, 2, 3], [4, 0, 5, 6], [7, 8, 0, 9]]
    assert costs.extra == ("abstain",)
    written = text.replace(",", ";").replace(";1;", ";1,5;")
    assert read(tmp_path, written, classes).table[0].tolist() == [0, 1.5, 2, 3]


def test_an_underscore_is_no_part_of_a_cost(tmp_path):
    message, _ = refusal(tmp_path, edited(("4.5", "4_5")))
    assert message == (
        "costs: costs.csv: the cost of answering tulip for rose is '4_5'; it must be a number from "
        "0 to 1,000,000,000"
    )
