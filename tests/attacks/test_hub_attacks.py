"""Mutants of the hub's Parquet files; single files: tests/data/sources/test_hub.py."""

from attacks.hub import attack, check
from attacks.hunting import hunt
from image_trees import FLOWERS
from stand_ins import table


def test_mutants_end_in_samples_or_in_one_error():
    report = hunt(attack, 600, seed=0)
    assert not report.findings, str(report)
    assert report.cases == report.outcomes.total() == 600
    assert {"samples", "DataError"} <= set(report.outcomes)


def test_the_check_lets_good_files_pass(tmp_path):
    made = table(list(FLOWERS.values()), [0, 0, 1, 1], ["rose", "tulip"])
    (tmp_path / "train.parquet").write_bytes(made)
    assert check(tmp_path) == "samples"
