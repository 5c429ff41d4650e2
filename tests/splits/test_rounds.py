"""--folds: every image is tested once, by a model that has not seen it."""

import csv
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from conftest import make_photographs
from listed_samples import images, samples_of
from regraft.commands.evaluate import evaluate
from regraft.commands.train import train
from regraft.config.train_config import TrainConfig
from regraft.data.dataset import Dataset
from regraft.data.scan import scan
from regraft.errors import ConfigError, DataError, RunError
from regraft.splits.clusters import clusters_of
from regraft.splits.folds import assign_folds
from regraft.splits.rounds import outer_folds
from regraft.splits.rounds import test_folds as folds_to_test
from regraft.splits.split import all_for_training

pytestmark = pytest.mark.filterwarnings("ignore::regraft.errors.SmallSampleWarning")
REAL = {"image_size": "64", "batch_size": 8}
SMALL = {"image_size": "32", "batch_size": 8, "model": "minivgg", "weights": "none"}


def test_every_image_is_tested_once_and_never_by_a_model_that_saw_it_or_its_copy(tmp_path):
    data = make_photographs(tmp_path / "data", a_class=12)
    copy = data / "blobs" / "copy.png"
    copy.write_bytes((data / "blobs" / "000.png").read_bytes())
    samples = scan(data, TrainConfig())
    rounds = outer_folds(samples, np.arange(len(samples)), 4, seed=0)
    tested = np.concatenate([parts.test for parts in rounds])
    assert sorted(tested) == list(range(len(samples)))
    cluster = clusters_of(samples)
    for parts in rounds:
        assert not set(cluster[parts.train]) & set(cluster[parts.test])
        assert len(parts.train) + len(parts.test) == len(samples)
        assert set(samples.labels[parts.train]) == {0, 1, 2}


def test_a_class_of_one_image_is_reported_and_never_tested(tmp_path):
    data = make_photographs(tmp_path / "data", a_class=6)
    (data / "alone").mkdir()
    (data / "blobs" / "000.png").rename(data / "alone" / "000.png")
    samples = scan(data, TrainConfig())
    rounds = outer_folds(samples, np.arange(len(samples)), 3, seed=0)
    assert len(np.concatenate([parts.test for parts in rounds])) == len(samples) - 1
    assert rounds[0].notes == ("never tested, since it is one image or group: class alone",)


@pytest.mark.parametrize("seed", range(8))
def test_each_round_tests_one_fold_of_the_images_that_are_given(seed):
    """A group or a copy may be among the others too: its fold is that of what is here."""
    rows = [{"label": "ab"[k % 2], "id": f"{k}", "group": f"g{k // 3}"} for k in range(30)]
    rows += [{"label": "a", "id": f"copy {k}", "content": f"{k}"} for k in range(3)]
    rows += [*images("alone", 1), {"label": "group", "id": "g", "group": "x"}]
    rows += [{"label": "group", "id": "h", "group": "x"}]
    samples = samples_of(rows)
    indices = np.flatnonzero(np.random.default_rng(seed).random(len(rows)) < 0.9)
    indices = np.union1d(indices, [33, 34, 35])
    keys = [samples.hashes[index] for index in indices]
    expected = assign_folds(samples.labels[indices], clusters_of(samples)[indices], 3, seed, keys)
    rounds = outer_folds(samples, indices, 3, seed)
    assert len(rounds) == 3
    for fold, parts in enumerate(rounds):
        assert parts.test.tolist() == indices[expected == fold].tolist()
        assert sorted([*parts.train, *parts.test]) == indices.tolist()
        assert (np.diff(parts.train) > 0).all()
        assert {33, 34, 35} <= set(parts.train.tolist())
        assert (parts.val.tolist(), parts.val.dtype, parts.left_out) == ([], np.int64, {})
        assert parts.notes == ("never tested, since it is one image or group: class alone, group",)


def test_a_fold_without_an_image_is_no_round():
    samples = samples_of(images("a", 3))
    rounds = outer_folds(samples, np.arange(3), 10, seed=0)
    assert sorted(parts.test.tolist() for parts in rounds) == [[0], [1], [2]]
    assert {parts.notes for parts in rounds} == {()}


def test_classes_of_one_image_or_group_alone_cannot_be_tested():
    rows = [*images("a", 1), *images("b", 3, group="all of them")]
    with pytest.raises(DataError, match="no image can be tested: every class is a single image"):
        outer_folds(samples_of(rows), np.arange(4), 5, seed=0)


def test_one_fold_alone_is_tested_where_the_rest_must_stay_in_training():
    """The group of patient x has all of class b; what else there is, is one fold."""
    rows = [*images("a", 2, group="y"), *images("b", 2, group="x"), *images("a", 1, 9, group="x")]
    (parts,) = outer_folds(samples_of(rows), np.arange(5), 2, seed=0)
    assert (parts.train.tolist(), parts.test.tolist()) == ([2, 3, 4], [0, 1])
    assert parts.notes == (
        "never tested, since it is one image or group: class b",
        "never tested, so that every round trains on every class: 1 image of tested classes",
    )


def test_images_that_stay_in_training_for_a_class_that_is_tested_are_counted():
    """Class c is in two groups of one fold: one of them is never tested, and the other is."""
    rows = [{"label": "a", "group": f"g{k}"} for k in range(20) for _ in range(3)]
    samples = samples_of([*rows, *({"label": "c", "group": f"g{k}"} for k in (0, 1, 2))])
    seen = set()
    for seed in range(20):
        rounds = outer_folds(samples, np.arange(63), 2, seed)
        tested = np.concatenate([parts.test for parts in rounds])
        n_never = 63 - len(tested)
        assert 1 in samples.labels[tested]
        note = f"never tested, so that every round trains on every class: {n_never} images of"
        assert rounds[0].notes == ((f"{note} tested classes",) if n_never else ())
        seen.add(n_never)
    assert seen == {0, 4}  # the group of four images


def test_without_rounds_the_test_part_is_the_one_that_is_there():
    samples = samples_of(images("a", 6))
    dataset = all_for_training(samples)
    assert [each is dataset for each in folds_to_test(dataset, 0, 7)] == [True]
    rounds = folds_to_test(dataset, 3, 7)
    expected = outer_folds(samples, np.arange(6), 3, 7)
    assert len(rounds) == len(expected) == 3
    for found, parts in zip(rounds, expected, strict=True):
        assert isinstance(found, Dataset)
        assert found.samples is samples
        assert found.test.tolist() == parts.test.tolist()
        assert found.train.tolist() == parts.train.tolist()
    part = Dataset(samples, rounds[0].parts)  # what is held out for another purpose stays so
    inner = folds_to_test(part, 2, 7)
    assert sorted(np.concatenate([each.test for each in inner])) == part.train.tolist()


def test_an_image_that_cannot_be_decoded_is_left_out_of_all_folds(tmp_path):
    """With folds there is no test part yet when images are read: it must not be missed."""
    data = make_photographs(tmp_path / "data", a_class=20)
    broken = data / "blobs" / "000.png"
    broken.write_bytes(broken.read_bytes()[:-300])
    config = TrainConfig(folds=2, taps="last", out=tmp_path / "run", **SMALL)
    run = train(data, config)
    assert run.metrics["data"]["refused"] == 1
    assert run.metrics["test"]["n"] == 59


def test_data_with_a_test_part_are_not_mixed(tmp_path):
    make_photographs(tmp_path / "data" / "train", a_class=4)
    make_photographs(tmp_path / "data" / "test", a_class=4, first=4)
    samples = scan(tmp_path / "data", TrainConfig())
    message = "folds tests every image, and these data have parts of their own"
    with pytest.raises(ConfigError, match=message):
        all_for_training(samples)


def test_folds_and_another_way_of_testing_exclude_each_other():
    with pytest.raises(ConfigError, match="folds is 5, and strategy finetune is given"):
        TrainConfig(folds=5, strategy="finetune")
    with pytest.raises(ConfigError, match="folds is 5, and split is given: one of the two"):
        TrainConfig(folds=5, split="split.csv")
    with pytest.raises(ConfigError, match="folds is 1; it must be 0 or between 2 and 100"):
        TrainConfig(folds=1)


def test_a_run_in_rounds_says_so_and_its_bundle_has_seen_all(photographs, tmp_path):
    run = train(photographs, TrainConfig(folds=3, out=tmp_path / "run", **SMALL))
    metrics = json.loads((run.folder / "metrics.json").read_text())
    assert metrics["test"]["n"] == metrics["data"]["n"]["train"] == 60
    assert metrics["protocol"].startswith("every image tested once, in 3 rounds")
    assert [each["n"]["test"] for each in metrics["rounds"]] == [20, 20, 20]
    assert set(metrics["baselines"]) == {"majority", "knn", "last_stage"}
    with (run.folder / "split.csv").open() as file:
        assert {row["part"] for row in csv.DictReader(file)} == {"train"}
    with (run.folder / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    assert Counter(row["round"] for row in rows) == {"1": 20, "2": 20, "3": 20}
    assert "60 images to train, 60 to test: every image tested once" in run.summary()
    with pytest.raises(RunError, match="was fitted on every image"):
        evaluate(run.folder, photographs)
    again = train(photographs, TrainConfig(folds=3, out=tmp_path / "again", **SMALL))
    assert again.metrics["test"] == metrics["test"]


def test_a_near_copy_that_was_learnt_from_in_a_round_is_reported(tmp_path):
    """Labels by chance, each photograph twice in two sizes: half of them seem to be learnt."""
    data = make_photographs(tmp_path / "data", a_class=8)
    for path in sorted(data.rglob("*.png")):
        with Image.open(path) as image:
            large = image.resize((128, 128))
        large.save(path)
        large.resize((80, 80)).save(path.with_name(f"copy of {path.name}"))
    run = train(data, TrainConfig(folds=4, out=tmp_path / "run", **REAL))
    (line,) = [note for note in run.metrics["data"]["notes"] if "nearly the same" in note]
    n_near = int(line.split()[0])
    assert 10 < n_near <= 48
    assert line.startswith(
        f"{n_near} of 48 test images are nearly the same as an image of training"
    )
    assert (run.folder / "duplicates.png").exists()


@pytest.mark.parametrize("settings", [{"head": "mean", "taps": "all"}, {"taps": "last"}])
def test_no_round_calls_another_model_the_last_stage(photographs, tmp_path, settings):
    """Where none was fitted beside, the model of all stages stood there under that name."""
    config = TrainConfig(folds=2, out=tmp_path / "run", **settings, **REAL)
    assert set(train(photographs, config).metrics["baselines"]) == {"majority", "knn"}
