"""`regraft race`: one table, sums, one test, the same after a kill, and nothing lost by one."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import regraft
from conftest import CLASSES, make_photographs, texture
from regraft.backbones.image_size import at_image_size
from regraft.backbones.registry import load_backbone
from regraft.cli.main import main
from regraft.commands.race import race
from regraft.config.train_config import TrainConfig
from regraft.core.reporter import Reporter
from regraft.data.scan import scan
from regraft.errors import NOT_FINITE, BackboneError, ConfigError, DataError, InputError, RunError
from regraft.features.extractor import Extractor
from regraft.probe.fit import fit_probe
from regraft.probe.subset import share_of_each_class
from regraft.race import entrant, rounds
from regraft.race.clock import Clock
from regraft.race.rounds import shares_of_rounds

pytestmark = pytest.mark.filterwarnings("ignore::regraft.errors.SmallSampleWarning")

MODELS = ["timm/test_resnet", "timm/test_efficientnet", "minivgg"]
SETTINGS = {
    "weights": "none", "image_size": "32", "workers": 1, "precision": "float32", "taps": "last",
}  # fmt: skip


class Says(Reporter):
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Enough for two rounds: 54 images and 216 of them."""
    return make_photographs(tmp_path_factory.mktemp("images"), a_class=90)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Enough for one round."""
    return make_photographs(tmp_path_factory.mktemp("few"), a_class=15)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def raced(images, store, tmp_path_factory):
    """A race of three; read only."""
    says, folder = Says(), tmp_path_factory.mktemp("raced") / "race"
    config = TrainConfig(out=folder, cache_dir=store, **SETTINGS)
    return race(str(images), MODELS, config, says), says.lines


def by_name(record):
    return {each["name"]: each for each in record["candidates"]}


def test_networks_and_sums_stand_in_one_table_with_one_winner(raced):
    found, lines = raced
    rows = by_name(found.record)
    assert {*MODELS} <= {*rows}
    assert "timm/test_resnet+timm/test_efficientnet+minivgg" in rows
    assert len(rows) == 7
    assert [each["winner"] for each in rows.values()].count(True) == 1
    assert sum(line.startswith("round ") for line in lines) == 2
    for row in rows.values():
        assert row["name"] in found.text
        assert 0 <= row["accuracy"]["low"] <= row["accuracy"]["value"] <= row["accuracy"]["high"]
        assert row["latency"] > 0
        assert row["megabytes"] > 0
        assert row["reason"]
    both = rows["timm/test_resnet+minivgg"]
    for column in ("latency", "megabytes"):
        parts = (rows[name][column] for name in both["name"].split("+"))
        assert both[column] == pytest.approx(sum(parts))


def test_race_json_says_the_same_with_its_version(raced):
    found, _ = raced
    record = json.loads((found.folder / "race.json").read_text(encoding="utf-8"))
    assert record["schema_version"] == 1
    assert record["regraft"] == regraft.__version__
    assert record["candidates"] == found.record["candidates"]
    assert record["command"] in found.text
    assert record["asked"]["models"] == MODELS
    with Image.open(found.folder / "race.png") as drawn:
        assert min(drawn.size) > 400


def test_the_figures_are_those_of_a_probe_of_all_training_images(raced, images, store):
    """Fitted here by other calls: the out-of-fold answers of the network on the training part."""
    row = by_name(raced[0].record)["minivgg"]
    config = TrainConfig(model="minivgg", cache_dir=store, **SETTINGS)
    run = regraft.train(str(images), config.replace(out=raced[0].folder.parent / "run"))
    chosen = run.metrics["head"]["out_of_fold"]
    assert row["images"] == run.metrics["data"]["n"]["train"]
    assert row["log_loss"] == pytest.approx(chosen["calibrated_log_loss"], abs=1e-9)
    assert row["accuracy"]["value"] == pytest.approx(chosen["accuracy"])


def test_the_test_part_is_read_once_for_the_winner_and_the_default(raced, store):
    found, _ = raced
    winner = found.record["winner"]
    assert {*found.record["test"]} == {"n", winner, "embedded"}
    assert "gain" in found.record["test"]["embedded"]
    assert found.record["test"]["n"] == found.record["images"]["test"]


def test_the_command_trains_the_winner_and_gives_the_test_of_the_race(raced, capsys, tmp_path):
    found, _ = raced
    words = found.record["command"].split()
    assert words[:2] == ["regraft", "train"]
    assert "--precision" in words
    assert main([*words[1:], "--out", str(tmp_path / "run"), "--no-cache"]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["test"]["accuracy"] == found.record["test"][found.record["winner"]]["accuracy"]


def test_the_test_part_does_not_influence_the_race(images, store, tmp_path):
    """Other labels of test images, same table."""
    names = sorted(path for path in images.rglob("*.png"))
    labels = [path.parent.name for path in names]
    pixels = [np.asarray(Image.open(path)) for path in names]
    changed = list(labels)
    config = TrainConfig(cache_dir=store, **SETTINGS)
    parts = regraft.train(
        (pixels, labels), config.replace(model="minivgg", out=tmp_path / "run", taps="last")
    )
    tested = _tested(parts.folder)
    for k in tested:
        changed[k] = CLASSES[(CLASSES.index(labels[k]) + 1) % 3]
    split = config.replace(split=tmp_path / "run" / "split.csv")
    one, two = (
        race((pixels, each), MODELS[:2], split.replace(out=tmp_path / f"race-{k}"))
        for k, each in enumerate((labels, changed))
    )
    first, second = (
        {name: (row["log_loss"], row["accuracy"]) for name, row in by_name(each.record).items()}
        for each in (one, two)
    )
    assert first == second
    assert one.record["test"] != two.record["test"]


def _tested(folder):
    lines = (folder / "split.csv").read_text(encoding="utf-8").splitlines()
    columns = lines[0].split(",")
    rows = [dict(zip(columns, line.split(","), strict=False)) for line in lines[1:]]
    return [int(row["id"]) for row in rows if row["part"] == "test"]


def test_the_same_call_again_reads_and_fits_nothing(raced, images, store, monkeypatch):
    found, _ = raced
    fitted = []

    def counted(*arguments):
        fitted.append(arguments)
        return fit_probe(*arguments)

    monkeypatch.setattr("regraft.race.fits.fit_probe", counted)
    config = TrainConfig(out=found.folder, cache_dir=store, **SETTINGS)
    again = race(str(images), MODELS, config)
    assert not fitted
    assert again.text == found.text


def test_a_fit_that_was_changed_or_damaged_is_made_again(raced, images, store, tmp_path):
    found, _ = raced
    folder = tmp_path / "race"
    (folder / "fits").mkdir(parents=True)
    for path in (found.folder / "fits").iterdir():
        data = path.read_bytes()
        if b"losses" in data:
            record = json.loads(data)
            record["losses"].pop()
            data = json.dumps(record).encode() if len(data) % 2 else data[: len(data) // 2]
        (folder / "fits" / path.name).write_bytes(data)
    again = race(str(images), MODELS, TrainConfig(out=folder, cache_dir=store, **SETTINGS))
    assert figures(again.record) == figures(found.record)


def figures(record):
    """What no clock decides on."""
    return {
        each["name"]: (each["log_loss"], each["log_loss_se"], each["accuracy"], each["images"])
        for each in record["candidates"]
    }


KILLED = """
import os, signal, sys
from regraft.race import fits
real, count = fits.fit_probe, 0
def fit(*arguments):
    global count
    count += 1
    if count > {after}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)
fits.fit_probe = fit
from regraft.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("after", [2, 8])
def test_a_race_that_was_killed_goes_on_to_the_same_table(raced, images, tmp_path, after):
    found, _ = raced
    words = ["race", str(images), "--models", ",".join(MODELS), "--out", str(tmp_path / "race")]
    for name, value in SETTINGS.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    words += ["--cache-dir", str(tmp_path / "store")]
    code = KILLED.format(after=after)
    killed = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    finished = {path.name for path in (tmp_path / "race" / "fits").iterdir()}
    assert not (tmp_path / "race" / "race.json").exists()
    assert (
        sum(b"losses" in (tmp_path / "race" / "fits" / n).read_bytes() for n in finished) == after
    )
    assert main(words) == 0
    record = json.loads((tmp_path / "race" / "race.json").read_text(encoding="utf-8"))
    assert figures(record) == figures(found.record)
    assert finished <= {path.name for path in (tmp_path / "race" / "fits").iterdir()}


# --- who is left out --------------------------------------------------------------------------


def test_samples_grow_four_times_are_nested_and_keep_the_shares_of_classes(images):
    samples = scan(str(images), TrainConfig())
    everything = np.arange(len(samples))
    shares = shares_of_rounds(len(samples), 3)
    assert shares == [0.25, 1.0]
    before = set()
    for share in (1 / 64, *shares):
        chosen = share_of_each_class(everything, samples, share)
        assert before <= {*chosen.tolist()}
        before = {*chosen.tolist()}
        counts = np.bincount(samples.labels[chosen])
        assert counts.tolist() == [max(2, int(np.ceil(90 * share)))] * 3
    assert shares_of_rounds(199, 3) == [1.0]
    assert shares_of_rounds(200, 3) == [0.25, 1.0]
    assert shares_of_rounds(12_800, 102) == [0.25, 1.0]


def test_a_network_that_cannot_win_is_not_read_whole(images, store, tmp_path, monkeypatch):
    """Of the worst one, only the first sample is extracted; of the others, all."""
    read = {}
    real = Extractor.read

    def counting(self, dataset, backbone=None):
        found = real(self, dataset, backbone)
        read.setdefault(self.backbone.name, []).append(len(dataset.train))
        return found

    monkeypatch.setattr(Extractor, "read", counting)
    names = ["embedded", "minivgg"]
    config = TrainConfig(
        out=tmp_path / "race", cache_dir=store, **SETTINGS | {"weights": "default"}
    )
    config = config.replace(weights="none", image_size="32")
    good = load_backbone("embedded")  # in place of random weights: one that is much better

    def networks(config, given=None):
        if config.model == "embedded":
            return (at_image_size(good, 64),)
        return (at_32(load_backbone(config.model, "none")),)

    def at_32(backbone):
        return at_image_size(backbone, 32)

    monkeypatch.setattr(entrant, "load_networks", networks)
    says = Says()
    found = race(str(images), names, config, says)
    rows = by_name(found.record)
    assert found.record["winner"] == "embedded"
    assert "left out: minivgg" in says.lines
    assert read["minivgg"] == [rows["minivgg"]["images"]]
    assert rows["minivgg"]["round"] == 1
    assert re.fullmatch(r"worse than embedded(\+minivgg)? \(p .*\)", rows["minivgg"]["reason"])
    assert "round 1: worse than embedded" in found.text
    assert rows["embedded"]["images"] == found.record["images"]["train"]


def test_the_table_begins_with_the_last_round_and_the_least_loss(raced):
    rows = [(-row["round"], row["log_loss"]) for row in raced[0].record["candidates"]]
    assert rows == sorted(rows)
    assert {row["round"] for row in raced[0].record["candidates"]} <= {1, 2}


def test_with_balanced_classes_the_loss_of_the_table_counts_them_the_same(few, store, tmp_path):
    """Fitted here by another call."""
    more = SETTINGS | {"class_weight": "balanced", "exclude": ("blobs/00*",), "cache_dir": store}
    found = race(str(few), MODELS[:2], TrainConfig(out=tmp_path / "race", **more))
    run = regraft.train(str(few), model=MODELS[0], out=tmp_path / "run", **more)
    chosen = run.metrics["head"]["out_of_fold"]
    row = by_name(found.record)[MODELS[0]]
    assert row["log_loss"] == pytest.approx(chosen["balanced_calibrated_log_loss"], abs=1e-9)
    assert "standard error of the least balanced log-loss" in found.text


# --- limits, and what fails -------------------------------------------------------------------


def test_what_is_too_slow_is_not_read(few, store, tmp_path, monkeypatch):
    slow = {"timm/test_resnet": 5.0, "minivgg": 1.0, "timm/test_efficientnet": 9.0}
    monkeypatch.setattr(entrant, "measure_latency", lambda e: slow[e.backbone.name])
    config = TrainConfig(out=tmp_path / "race", cache_dir=store, **SETTINGS)
    monkeypatch.setattr("regraft.commands.race.DEFAULT_NETWORK", "minivgg")
    found = race(str(few), MODELS, config, latency=5.5)
    assert {*by_name(found.record)} == {"timm/test_resnet", "minivgg"}  # the sum takes 6 ms
    assert found.record["missing"] == {"timm/test_efficientnet": "9.0 ms an image are too slow"}
    config = config.replace(out=tmp_path / "none")
    with pytest.raises(InputError) as raised:
        race(str(few), MODELS, config, latency=0.5)
    assert str(raised.value) == (
        "no network takes at most 0.5 ms an image: the fastest, minivgg, takes 1.0\n"
        "hint: a larger `latency`"
    )


def test_no_round_is_begun_that_does_not_fit(images, store, tmp_path, monkeypatch):
    class Short(Clock):
        allowed = iter([True] * 3 + [True] * 3 + [True] * 4 + [False] * 9)

        def allows(self, _expected):
            return next(self.allowed)

    monkeypatch.setattr("regraft.commands.race.Clock", Short)
    config = TrainConfig(out=tmp_path / "race", cache_dir=store, **SETTINGS)
    found = race(str(images), MODELS, config, seconds=60)
    assert {row["round"] for row in found.record["candidates"]} == {1}
    assert found.record["test"] is None
    assert not found.record["whole"]
    assert any(line.startswith("round 2 of 2 was not begun: it") for line in found.record["notes"])
    assert "the test part was not read: the winner has not seen all images" in found.text


def test_no_network_is_begun_that_does_not_fit(few, store, tmp_path, monkeypatch):
    taken = {"timm/test_resnet": 1e6, "minivgg": 1.0, "timm/test_efficientnet": 2.0}
    monkeypatch.setattr(entrant, "measure_latency", lambda e: taken[e.backbone.name])
    monkeypatch.setattr("regraft.commands.race.DEFAULT_NETWORK", "minivgg")
    config = TrainConfig(out=tmp_path / "race", cache_dir=store, **SETTINGS)
    found = race(str(few), MODELS, config, seconds=600)
    assert "timm/test_resnet" not in by_name(found.record)
    assert "not begun" in found.text
    taken |= dict.fromkeys(taken, 1e6)
    with pytest.raises(InputError, match="no network can be begun in the time: timm/test_resnet "):
        race(str(few), MODELS, config.replace(out=tmp_path / "none"), seconds=60)


def test_a_network_that_cannot_be_had_costs_the_others_nothing(few, store, tmp_path, capsys):
    lost = f"local-dir:{tmp_path / 'nowhere'}"
    words = ["race", str(few), "--models", f"minivgg,{lost},timm/test_resnet", "--weights", "none"]
    words += ["--image-size", "32", "--out", str(tmp_path / "race"), "--cache-dir", str(store)]
    assert main(words) == 0
    out, err = capsys.readouterr()
    (line,) = [each for each in out.splitlines() if each.startswith("not raced: ")]
    assert line in err
    assert line.startswith(f"not raced: {lost}: ")
    assert "winner: " in out
    with pytest.raises(BackboneError, match="nowhere"):
        race(str(few), [lost, f"{lost}2"], TrainConfig(out=tmp_path / "none", **SETTINGS))
    assert not (tmp_path / "none").exists()


def test_a_network_that_fails_on_the_images_costs_the_others_nothing(
    few, store, tmp_path, monkeypatch
):
    real = rounds._read

    def fails(each, *arguments):
        if each.name == "minivgg":
            monkeypatch.setattr(each.extractor, "read", broken)
        return real(each, *arguments)

    def broken(*_):
        raise BackboneError("it does not run here")

    monkeypatch.setattr(rounds, "_read", fails)
    says = Says()
    config = TrainConfig(out=tmp_path / "race", cache_dir=store, **SETTINGS)
    found = race(str(few), MODELS, config, says)
    assert "minivgg is left out: it does not run here" in says.lines
    assert "minivgg" not in by_name(found.record)
    assert "minivgg: failed: it does not run here" in found.text


def test_a_network_with_infinite_features_is_left_out_and_costs_no_image(
    few, store, tmp_path, monkeypatch
):
    real = entrant.Entrant.read

    def infinite(self, dataset, kept):
        found = real(self, dataset, kept)
        if self.name != "minivgg":
            return found
        return dataclasses.replace(found, refused={int(dataset.train[0]): NOT_FINITE})

    monkeypatch.setattr(entrant.Entrant, "read", infinite)
    config = TrainConfig(out=tmp_path / "race", cache_dir=store, **SETTINGS)
    found = race(str(few), MODELS, config)
    assert "minivgg: failed: infinite or undefined features of 1 image" in found.text
    assert {row["images"] for row in found.record["candidates"]} == {
        found.record["images"]["train"]
    }


def test_an_image_that_cannot_be_read_is_missing_for_all(few, tmp_path):
    folder = tmp_path / "data"
    for path in few.rglob("*.png"):
        target = folder / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    broken = folder / "blobs" / "003.png"
    broken.write_bytes(broken.read_bytes()[:-400])
    config = TrainConfig(out=tmp_path / "race", **SETTINGS).replace(max_refused=0.2)
    found = race(str(folder), MODELS[:2], config)
    images = {row["images"] for row in found.record["candidates"]}
    assert len(images) == 1


@pytest.mark.parametrize(
    "more",
    [{"views": 1}, {"views": 1, "tta": True}, {"head": "ridge"}, {"head": "mean"},
     {"class_weight": "balanced"}, {"taps": "all"}],
    ids=str,
)  # fmt: skip
def test_settings_of_the_probe_hold(few, store, tmp_path, more):
    config = TrainConfig(out=tmp_path / "race", cache_dir=store, **SETTINGS | more)
    found = race(str(few), MODELS[:2], config)
    assert len(found.record["candidates"]) == 3
    assert all(np.isfinite(row["log_loss"]) for row in found.record["candidates"])
    for name, value in more.items():
        flag = f"--{name.replace('_', '-')}"
        assert flag in found.record["command"].split()
        assert value is True or str(value) in found.record["command"].split()


@pytest.mark.parametrize(
    ("models", "more", "error", "message", "hint"),
    [
        (["minivgg"], {}, InputError, "there is one network only, and nothing to race it with",
         "give two or more `models`, or a list: offline, small, medium, large"),
        ([""], {}, InputError, "there are no networks only, and nothing to race", None),
        (["minivgg", "minivgg"], {}, InputError, "there is one network only, and", None),
        (["minivgg", "resnet51"], {}, BackboneError, "unknown backbone resnet51", None),
        (["minivgg", "tiny"], {}, BackboneError, "unknown backbone tiny", None),
        (["minivgg+embedded", "minivgg"], {}, InputError, "minivgg+embedded is a sum: a race",
         "give `models` one by one, with commas between them"),
        (MODELS, {"latency": 0}, ConfigError, "latency is 0; it must be above 0 and finite", None),
        (MODELS, {"latency": -1.5}, ConfigError, "latency is -1.5; it must be above 0", None),
        (MODELS, {"latency": float("nan")}, ConfigError, "latency is nan; it must be", None),
        (MODELS, {"seconds": 0}, ConfigError, "seconds is 0; it must be above 0 and finite", None),
        (MODELS, {"seconds": float("inf")}, ConfigError, "seconds is inf; it must be above", None),
        (MODELS, {"folds": 5}, ConfigError, "folds is 5: a race needs images that its choice does",
         "leave `folds` out, and test the winner by folds"),
        (MODELS, {"strategy": "finetune"}, ConfigError, "strategy is finetune: networks are raced",
         "race first, and train the winner with that strategy"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_any_work(tmp_path, models, more, error, message, hint):
    with pytest.raises(error) as raised:
        race(str(tmp_path / "no data"), models, out=tmp_path / "race", **more)
    assert raised.value.message.startswith(message)
    if hint is not None:
        assert raised.value.hint == hint
    assert not [*tmp_path.iterdir()]


def test_data_without_enough_images_are_refused(tmp_path):
    two = ([texture(CLASSES[k % 2], k) for k in range(3)], ["a", "b", "a"])
    with pytest.raises((DataError, InputError)):
        race(two, MODELS, out=tmp_path / "race", cache=False, **SETTINGS)
    four = ([texture(CLASSES[k % 2], k) for k in range(4)], ["a", "b", "a", "b"])
    with pytest.raises(InputError) as raised:
        race(four, MODELS, out=tmp_path / "race", cache=False, **SETTINGS)
    assert str(raised.value) == (
        "the training part has too few images to compare networks by its folds\n"
        "hint: each class needs several images that do not depend on each other"
    )
    with pytest.raises(DataError, match="does not exist"):
        race(str(tmp_path / "nothing"), MODELS, out=tmp_path / "race")


def test_a_folder_with_anything_else_is_left_alone(raced, few, images, tmp_path):
    config = TrainConfig(out=tmp_path, **SETTINGS)
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(RunError) as raised:
        race(str(few), MODELS, config)
    assert str(raised.value) == (
        f"{tmp_path} is not empty, and holds no race; it is left alone\n"
        "hint: `out` names another folder"
    )
    with pytest.raises(RunError, match=r"thesis\.txt is no folder"):
        race(str(few), MODELS, config.replace(out=tmp_path / "thesis.txt"))
    with pytest.raises(RunError, match="would be in the data"):
        race(str(few), MODELS, config.replace(out=few / "race"))
    assert not (few / "race").exists()
    folder = raced[0].folder
    with pytest.raises(RunError) as raised:
        race(str(images), MODELS, config.replace(out=folder, seed=3))
    assert raised.value.message == f"{folder} holds a race with other seed, parts"
    assert raised.value.hint == "`out` names another folder; `overwrite=True` replaces it"


def test_the_licence_against_commerce_is_named(few, store, tmp_path, monkeypatch):
    real = entrant.load_networks

    def networks(config, given=None):
        (network,) = real(config, given)
        licence = "cc-by-nc-4.0" if network.name == "minivgg" else "mit"
        return (dataclasses.replace(network, licence=licence),)

    monkeypatch.setattr(entrant, "load_networks", networks)
    config = TrainConfig(out=tmp_path / "race", cache_dir=store, **SETTINGS)
    found = race(str(few), ["minivgg", "timm/test_resnet"], config)
    (line,) = [each for each in found.text.splitlines() if each.startswith("the licence forbids")]
    assert {*line.partition(": ")[2].split(", ")} == {"minivgg", "minivgg+timm/test_resnet"}


def test_the_time_that_is_left():
    clock = Clock(0.05)
    assert clock.allows(0.01)
    time.sleep(0.06)
    assert not clock.allows(0)
    assert Clock(None).left == float("inf")
    assert os.environ.get("REGRAFT_CACHE")
