import csv
import json
import warnings
from dataclasses import dataclass

import pytest

from regraft.bundle.prediction import Prediction
from regraft.cli.output import as_json, as_table, write_predictions
from regraft.errors import ImageError, InputError, RegraftWarning, RunError, visible


def answered(name, *top, **decided):
    """Return an answer as a predictor gives it."""
    return Prediction(name, *top[0], top, decision=decided.pop("decision", top[0][0]), **decided)


RESULTS = [
    answered("a/daisy, 1.jpg", ("daisy", 0.75), ("Löwenzahn", 0.25)),
    Prediction("broken\n.jpg", error=ImageError("truncated", "ends after\n12 bytes")),
    answered("b.jpg", ("Löwenzahn", 0.5), ("daisy", 0.5)),
]
#: What a bundle of format 3 tells.
DECIDED = [
    answered(
        "c.jpg",
        ("daisy", 0.75),
        ("Löwenzahn", 0.25),
        typicality=0.0005,
        unknown=True,
        set=("daisy", "Löwenzahn"),
        abstained=True,
        decision="unknown",
    ),
    answered(
        "d.jpg",
        ("daisy", 0.75),
        typicality=0.5,
        unknown=False,
        set=("daisy",),
        abstained=False,
        decision="Löwenzahn",
    ),
]
UNDECIDED = {"typicality": None, "unknown": None, "set": None, "abstained": None}
COLUMNS = ["typicality", "unknown", "set", "abstained", "decision"]


def test_lines_for_people(capsys):
    assert write_predictions(iter(RESULTS), csv=None, json=False) == 1
    out, err = capsys.readouterr()
    assert (
        out == "a/daisy, 1.jpg: daisy 0.750, Löwenzahn 0.250\nb.jpg: Löwenzahn 0.500, daisy 0.500\n"
    )
    assert err == "broken .jpg: truncated: ends after 12 bytes\n"


def test_what_was_decided_stands_in_the_line_where_it_is_more_than_the_class(capsys):
    write_predictions(iter(DECIDED), csv=None, json=False)
    first, second = capsys.readouterr().out.splitlines()
    assert first == (
        "c.jpg: unknown (daisy 0.750, Löwenzahn 0.250); fits no class: unlike the training images, "
        "p 0.0005; no answer: not sure enough"
    )
    assert second == "d.jpg: Löwenzahn (daisy 0.750); costs least: Löwenzahn"


def test_lines_for_programs(capsys):
    assert write_predictions(iter(RESULTS[:1]), csv=None, json=True) == 0
    assert json.loads(capsys.readouterr().out) == {
        "schema_version": 1,
        "id": "a/daisy, 1.jpg",
        "label": "daisy",
        "probability": 0.75,
        "top": [
            {"label": "daisy", "probability": 0.75},
            {"label": "Löwenzahn", "probability": 0.25},
        ],
        **UNDECIDED,
        "decision": "daisy",
        "error": None,
    }
    assert write_predictions(iter(RESULTS), csv=None, json=True) == 1
    _, middle, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert middle == {
        "schema_version": 1,
        "id": "broken\n.jpg",
        "label": None,
        "probability": None,
        "top": [],
        **UNDECIDED,
        "decision": None,
        "error": "truncated: ends after\n12 bytes",
    }
    assert (last["id"], last["error"]) == ("b.jpg", None)


def test_programs_get_what_was_decided(capsys):
    write_predictions(iter(DECIDED), csv=None, json=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [{name: line[name] for name in COLUMNS} for line in lines] == [
        {
            "typicality": 0.0005,
            "unknown": True,
            "set": ["daisy", "Löwenzahn"],
            "abstained": True,
            "decision": "unknown",
        },
        {
            "typicality": 0.5,
            "unknown": False,
            "set": ["daisy"],
            "abstained": False,
            "decision": "Löwenzahn",
        },
    ]


def test_a_table_for_spreadsheets(tmp_path, capsys):
    path = tmp_path / "predictions.csv"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(RunError, match="exists; it is left alone"):  # another call was faster
        write_predictions(iter(RESULTS), csv=path, json=False)
    assert path.read_text(encoding="utf-8") == "old"
    capsys.readouterr()
    assert write_predictions(iter(RESULTS), csv=path, json=False, overwrite=True) == 1
    undecided = [""] * 4  # a bundle of an earlier format tells nothing of it
    with path.open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [
            ["id", "predicted", "probability", "predicted_2", "probability_2", *COLUMNS, "error"],
            ["a/daisy, 1.jpg", "daisy", "0.75", "Löwenzahn", "0.25", *undecided, "daisy", ""],
            ["broken\n.jpg", *[""] * 9, "truncated: ends after 12 bytes"],
            ["b.jpg", "Löwenzahn", "0.5", "daisy", "0.5", *undecided, "Löwenzahn", ""],
        ]
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.csv"]
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == f"{path}: 2 images, 1 refused"


def test_a_table_has_what_was_decided_and_a_set_as_a_json_list(tmp_path):
    path = tmp_path / "predictions.csv"
    write_predictions(iter(DECIDED), csv=path, json=False)
    with path.open(encoding="utf-8", newline="") as file:
        first, second = ([row[name] for name in COLUMNS] for row in csv.DictReader(file))
    assert first == ["0.0005", "true", '["daisy", "Löwenzahn"]', "true", "unknown"]
    assert second == ["0.5", "false", '["daisy"]', "false", "Löwenzahn"]


def test_a_table_of_refused_images_has_its_heading_and_their_reasons(tmp_path, capsys):
    path = tmp_path / "predictions.csv"
    assert write_predictions(iter(RESULTS[1:2]), csv=path, json=False) == 1
    with path.open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row == {
        "id": "broken\n.jpg",
        "predicted": "",
        "probability": "",
        **dict.fromkeys(COLUMNS, ""),
        "error": "truncated: ends after 12 bytes",
    }
    assert capsys.readouterr().err.endswith(f"{path}: 0 images, 1 refused\n")


def test_a_table_and_lines_for_programs(tmp_path, capsys):
    """Of both, both: the file for later, the lines for who reads on."""
    path = tmp_path / "predictions.csv"
    assert write_predictions(iter(RESULTS), csv=path, json=True) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["label"] for line in lines] == ["daisy", None, "Löwenzahn"]
    with path.open(encoding="utf-8", newline="") as file:
        assert [row["predicted"] for row in csv.DictReader(file)] == ["daisy", "", "Löwenzahn"]


@pytest.mark.parametrize("as_lines", [True, False])
def test_names_from_files_do_not_steer_a_terminal(as_lines, capsys):
    steering = "tulip\x1b]0;owned\x07\u202e"
    result = answered(
        "a\x1b[2J.jpg", ("rose", 1.0), set=("rose", steering), abstained=False, decision=steering
    )
    write_predictions([result], csv=None, json=as_lines)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert out[:-1].isprintable()
    if as_lines:
        assert json.loads(out)["set"] == ["rose", steering]
    else:
        assert out.count("tulip") == 3  # as the decision, as its reason and in the set


def test_a_table_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        write_predictions(iter(RESULTS), csv=tmp_path / "missing" / "p.csv", json=False)


def test_an_interrupted_table_leaves_the_old_one(tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text("old", encoding="utf-8")

    def results():
        yield RESULTS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_predictions(results(), csv=path, json=False)
    assert path.read_text(encoding="utf-8") == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_json_has_no_nan():
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_json({"value": float("nan")})


@dataclass
class Row:
    name: str
    images: int | None
    download: int


def test_tables_align_numbers_and_name_bytes():
    rows = [Row("mnist", 60000, 12_000_000), Row("kmnist", None, 1_500_000_000)]
    assert as_table(rows) == (
        "name    images  download\n"
        "mnist   60,000     12 MB\n"
        "kmnist          1,500 MB"
    )  # fmt: skip
    assert as_table([]) == ""


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        *(("=1+1", True), ("+1+1", True), ("-1+1", True), ("@SUM(1)", True), ("\t=1", True)),
        *(("\r=1", True), (" =1", True), ("a;=1", True), ("\uff1d1", True)),  # a full-width =
        *(("-5", False), ("+1.5e3", False), ("a=1", False), ("rose-1.jpg", False), ("", False)),
    ],
)
def test_names_that_a_spreadsheet_would_run_stay_and_are_told(name, runs, tmp_path):
    """To the byte: a program joins tables by them."""
    path = tmp_path / "p.csv"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        write_predictions([answered(name, ("daisy", 1.0))], csv=path, json=False)
    with path.open(encoding="utf-8", newline="") as file:
        assert next(csv.DictReader(file))["id"] == name
    message = f"{path} has 1 name that a spreadsheet may run as a formula, such as {visible(name)}"
    assert [visible(str(each.message)) for each in caught] == runs * [
        f"{message}: import its columns as text"
    ]


def test_a_decision_that_a_spreadsheet_would_run_is_told_too(tmp_path):
    """The answer that costs least need not be among the most probable ones."""
    result = answered("a.jpg", ("rose", 1.0), abstained=False, decision="=1+1")
    with pytest.warns(RegraftWarning, match=r"1 name that .* such as =1\+1: import its columns"):
        write_predictions([result], csv=tmp_path / "p.csv", json=False)
