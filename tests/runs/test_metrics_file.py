"""metrics.json: readable by people and programs, whatever its strings and numbers."""

import csv

import pytest

from regraft.errors import RegraftWarning
from regraft.runs.metrics_file import read_metrics, write_csv, write_metrics


def test_a_list_of_numbers_is_one_line_and_everything_comes_back(tmp_path):
    """A confusion matrix of 800 classes, with a line for each number, was 7 MB."""
    value = {
        "matrix": [[1, 2], [3, -4]],
        "names": ["[\n1,\n2\n]", '"[', "1, 2"],
        "mixed": [1.5e-3, -2, None],
        "none": [],
        "one": [1.0],
        "inner": [{"low": [0.5, 1e300]}],
    }
    written = write_metrics(tmp_path, value)
    assert written == read_metrics(tmp_path) == {"schema_version": 1, **value}
    lines = (tmp_path / "metrics.json").read_text(encoding="utf-8").splitlines()
    assert [line.strip() for line in lines if line.strip().startswith("[")] == [
        "[1, 2],",
        "[3, -4]",
    ]
    assert '  "one": [1.0],' in lines
    assert '      "low": [0.5, 1e300]' in lines


def test_a_table_keeps_names_that_a_spreadsheet_would_run_and_says_so(tmp_path):
    rows = [["=1+1/a.jpg", "=1+1", -0.5], ["rose/b.jpg", "rose", 1]]
    path = tmp_path / "predictions.csv"
    message = "predictions.csv has 2 names that a spreadsheet may run as a formula, such as =1"
    with pytest.warns(RegraftWarning, match=message.replace("+", r"\+")):
        write_csv(path, ["id", "true", "gain"], iter(rows))
    with path.open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file))[1] == ["=1+1/a.jpg", "=1+1", "-0.5"]
