import csv
import json
import warnings
from dataclasses import dataclass

import pytest

from regraft.cli.output import as_json, as_table, write_predictions
from regraft.errors import ImageError, InputError, visible


@dataclass
class Result:
    id: str
    top: tuple = ()
    error: ImageError | None = None

    @property
    def label(self):
        return self.top[0][0]

    @property
    def probability(self):
        return self.top[0][1]


RESULTS = [
    Result("a/daisy, 1.jpg", (("daisy", 0.75), ("Löwenzahn", 0.25))),
    Result("broken\n.jpg", error=ImageError("truncated", "ends after\n12 bytes")),
    Result("b.jpg", (("Löwenzahn", 0.5), ("daisy", 0.5))),
]


def test_lines_for_people(capsys):
    assert write_predictions(iter(RESULTS), csv=None, json=False) == 1
    out, err = capsys.readouterr()
    assert (
        out == "a/daisy, 1.jpg: daisy 0.750, Löwenzahn 0.250\nb.jpg: Löwenzahn 0.500, daisy 0.500\n"
    )
    assert err == "broken .jpg: truncated: ends after 12 bytes\n"


def test_lines_for_programs(capsys):
    assert write_predictions(iter(RESULTS[:1]), csv=None, json=True) == 0
    assert json.loads(capsys.readouterr().out) == {
        "id": "a/daisy, 1.jpg",
        "label": "daisy",
        "probability": 0.75,
        "top": [
            {"label": "daisy", "probability": 0.75},
            {"label": "Löwenzahn", "probability": 0.25},
        ],
        "error": None,
    }
    assert write_predictions(iter(RESULTS), csv=None, json=True) == 1
    _, middle, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert middle == {
        "id": "broken\n.jpg",
        "label": None,
        "probability": None,
        "top": [],
        "error": "truncated: ends after\n12 bytes",
    }
    assert (last["id"], last["error"]) == ("b.jpg", None)


def test_a_table_for_spreadsheets(tmp_path, capsys):
    path = tmp_path / "predictions.csv"
    path.write_text("old", encoding="utf-8")
    assert write_predictions(iter(RESULTS), csv=path, json=False) == 1
    with path.open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [
            ["id", "predicted", "probability", "predicted_2", "probability_2", "error"],
            ["a/daisy, 1.jpg", "daisy", "0.75", "Löwenzahn", "0.25", ""],
            ["broken\n.jpg", "", "", "", "", "truncated: ends after 12 bytes"],
            ["b.jpg", "Löwenzahn", "0.5", "daisy", "0.5", ""],
        ]
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.csv"]
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == f"{path}: 2 images, 1 refused"


def test_a_table_of_refused_images_has_its_heading_and_their_reasons(tmp_path, capsys):
    path = tmp_path / "predictions.csv"
    assert write_predictions(iter(RESULTS[1:2]), csv=path, json=False) == 1
    with path.open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row == {
        "id": "broken\n.jpg",
        "predicted": "",
        "probability": "",
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
    result = Result("a\x1b[2J.jpg", (("tulip\x1b]0;owned\x07\u202e", 1.0),))
    write_predictions([result], csv=None, json=as_lines)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert out[:-1].isprintable()
    if as_lines:
        assert json.loads(out)["label"] == result.label


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
        write_predictions([Result(name, (("daisy", 1.0),))], csv=path, json=False)
    with path.open(encoding="utf-8", newline="") as file:
        assert next(csv.DictReader(file))["id"] == name
    message = f"{path} has 1 name that a spreadsheet may run as a formula, such as {visible(name)}"
    assert [visible(str(each.message)) for each in caught] == runs * [
        f"{message}: import its columns as text"
    ]
