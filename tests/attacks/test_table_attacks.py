"""Mutants of tables; single cells and rows: tests/data/sources/test_table.py."""

import pytest

from attacks.archives import images
from attacks.hunting import hunt
from attacks.tables import attack, check
from image_trees import write_tree

FILES = {"rose/0.png": images()[0], "tulip/1.png": images()[1]}
GOOD = "path,label\nrose/0.png,rose\ntulip/1.png,tulip\n"


def test_mutants_end_in_samples_or_in_an_error_that_names_the_row():
    report = hunt(attack, 1_500, seed=0)
    assert not report.findings, str(report)
    assert report.cases == report.outcomes.total() == 1_500
    assert set(report.outcomes) == {"samples", "TableError", "DataError"}


@pytest.mark.parametrize("mark", ["\ufeff", ""])
def test_the_check_lets_good_tables_pass(tmp_path, mark):
    write_tree(tmp_path, {**FILES, "good.csv": (mark + GOOD).encode()})
    assert check(tmp_path / "good.csv") == "samples"


def test_the_check_finds_errors_without_a_row(tmp_path):
    with pytest.raises(AssertionError, match="names no row"):
        check(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("cell", "outcome"),
    [("../secret.png", "TableError"), ("a\0b", "TableError"), ("x" * 140_000, "TableError")],
)
def test_the_check_counts_what_is_refused(tmp_path, cell, outcome):
    write_tree(tmp_path, {**FILES, "odd.csv": f"{GOOD}{cell},rose\n".encode()})
    assert check(tmp_path / "odd.csv") == outcome
