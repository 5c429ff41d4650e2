"""Runs compared in one table and one picture, and what cannot be compared."""

import shutil

import pytest
from PIL import Image

from conftest import make_photographs
from regraft.cli.main import main
from regraft.commands.compare_runs import compare_runs
from regraft.commands.train import train
from regraft.errors import InputError, RunError
from regraft.runs.metrics_file import read_metrics, write_metrics

pytestmark = pytest.mark.filterwarnings("ignore::regraft.errors.SmallSampleWarning")

SMALL = {
    "model": "timm/test_resnet", "weights": "none", "image_size": "32", "taps": "last",
    "test_fraction": 0.4, "workers": 1, "precision": "float32",
}  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_photographs(tmp_path_factory.mktemp("images"), a_class=16)


@pytest.fixture(scope="module")
def runs(images, tmp_path_factory):
    """A probe, a fine-tuned network and nearest class means, of the same images."""
    folder, store = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("store")
    kinds = {
        "probe": {},
        "tuned": {"strategy": "finetune", "unfreeze": "1", "epochs": 1, "val_fraction": 0.3},
        "mean": {"head": "mean"},
    }
    for name, settings in kinds.items():
        train(images, out=folder / name, cache_dir=store, **SMALL, **settings)
    return folder


def test_runs_are_compared_in_one_table_one_picture_and_a_line_a_pair(
    runs, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(runs)
    picture = tmp_path / "compare.png"
    assert main(["compare", "probe", "tuned", "mean", "--out", str(picture)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("test images, the same for all")
    assert lines[1].split()[:3] == ["run", "network", "method"]
    assert [line.split()[0] for line in lines[2:5]] == ["probe", "tuned", "mean"]
    assert [line.partition(":")[0] for line in lines[6:9]] == [
        "probe - tuned",
        "probe - mean",
        "tuned - mean",
    ]
    assert all("McNemar p" in line and "Holm" in line for line in lines[6:9])
    assert lines[-1] == f"picture: {picture}"
    with Image.open(picture) as drawn:
        assert min(drawn.size) > 400


def test_a_run_that_says_the_same_is_no_better_and_the_smaller_is_taken(runs, tmp_path):
    other = shutil.copytree(runs / "probe", tmp_path / "larger")
    (other / "bundle" / "more.bin").write_bytes(bytes(3_000_000))
    (line,) = [
        line
        for line in compare_runs([other, runs / "probe"], tmp_path / "a.png").splitlines()
        if "McNemar" in line
    ]
    # Equal answers are no proof of equality: none of n differs, where z^2 / (n + z^2) may.
    most = 1.95996**2 / (read_metrics(runs / "probe")["test"]["n"] + 1.95996**2)
    assert f"+0.000 (95 %: -{most:.3f} to +{most:.3f}); alone right 0 and 0, McNemar p 1" in line
    assert f"no significant difference: take the cheaper, {runs / 'probe'} (" in line
    assert "Holm" not in line  # of one comparison there is nothing to correct


def test_a_probe_is_cheaper_than_what_was_trained_from_it_on(runs, tmp_path):
    """Its features came from the probe's run: fewer seconds are not its merit."""
    tuned = shutil.copytree(runs / "tuned", tmp_path / "tuned")
    metrics = read_metrics(tuned)
    metrics.pop("schema_version")
    write_metrics(tuned, {**metrics, "seconds": {"total": 0.0}})
    text = compare_runs([tuned, runs / "probe"], tmp_path / "a.png")
    assert f"no significant difference: take the cheaper, {runs / 'probe'} (" in text


def test_images_are_matched_by_content_and_not_by_name(images, runs, tmp_path):
    renamed = shutil.copytree(images, tmp_path / "renamed")
    for path in sorted(renamed.rglob("*.png")):
        path.rename(path.with_name(f"z{99 - int(path.stem)}.png"))
    train(renamed, out=tmp_path / "run", **SMALL)
    text = compare_runs([runs / "probe", tmp_path / "run"], tmp_path / "a.png")
    assert "alone right 0 and 0" in text


def test_what_was_tested_on_other_images_or_labels_is_not_compared(images, runs, tmp_path):
    probe = runs / "probe"
    train(images, out=tmp_path / "other", seed=1, **SMALL)
    with pytest.raises(RunError) as raised:
        compare_runs([probe, tmp_path / "other"])
    assert "were not tested on the same images: " in raised.value.message
    assert raised.value.hint == f"train on the same data with `split={str(probe / 'split.csv')!r}`"

    folds = train(images, out=tmp_path / "folds", folds=3, **SMALL)
    for pair in ([probe, folds.folder], [folds.folder, probe]):
        with pytest.raises(RunError) as raised:
            compare_runs(pair)
        assert raised.value.hint == (
            "one was tested by folds and the other was not: train both with `folds=3`, or both "
            "without, on the same data"
        )
    fewer = shutil.copytree(images, tmp_path / "fewer")
    next(fewer.rglob("*.png")).unlink()
    train(fewer, out=tmp_path / "twofold", folds=2, **SMALL)
    with pytest.raises(RunError) as raised:
        compare_runs([folds.folder, tmp_path / "twofold"])
    assert raised.value.hint == "folds test every image: train both on the same data"

    changed = shutil.copytree(probe, tmp_path / "changed")
    table = changed / "predictions.csv"
    lines = table.read_text(encoding="utf-8").splitlines()
    name, true, rest = lines[1].split(",", 2)
    other = "checks" if true != "checks" else "blobs"
    table.write_text("\n".join([lines[0], f"{name},{other},{rest}", *lines[2:]]), encoding="utf-8")
    with pytest.raises(RunError, match="have other labels of 1 test images"):
        compare_runs([probe, changed])


def test_other_folders_are_refused(runs, tmp_path, capsys):
    probe = runs / "probe"
    with pytest.raises(InputError, match="regraft compare needs RUNS, two or more"):
        compare_runs([probe])
    with pytest.raises(InputError, match="is given twice"):
        compare_runs([probe, runs / "tuned" / ".." / "probe"])
    with pytest.raises(RunError, match="is not a run"):
        compare_runs([probe, tmp_path], tmp_path / "a.png")
    cut = shutil.copytree(probe, tmp_path / "cut")
    (cut / "predictions.csv").write_text("id,label\na,b\n", encoding="utf-8")
    with pytest.raises(RunError, match="does not have the columns id, true, predicted"):
        compare_runs([probe, cut], tmp_path / "a.png")
    (cut / "predictions.csv").write_text("id,true,predicted\nx,b,b\n", encoding="utf-8")
    with pytest.raises(RunError, match="names x, which is not in"):
        compare_runs([probe, cut], tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
    assert main(["compare"]) == 2
    assert capsys.readouterr().err == (
        "error: regraft compare needs RUNS, two or more\nhint: regraft compare --help\n"
    )
