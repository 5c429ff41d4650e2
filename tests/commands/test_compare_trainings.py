"""Trainings side by side: the same parts for all, nothing trained twice, no result lost."""

import shutil

import pytest
from PIL import Image

from conftest import make_photographs
from regraft.cli.main import main
from regraft.commands.compare_trainings import compare_trainings
from regraft.commands.train import train
from regraft.config.train_config import TrainConfig
from regraft.core.reporter import Reporter
from regraft.errors import BackboneError, ConfigError, DataError, InputError, RunError
from regraft.runs.metrics_file import read_metrics
from regraft.splits.split_csv import read_split

pytestmark = pytest.mark.filterwarnings("ignore::regraft.errors.SmallSampleWarning")

MODELS, STRATEGIES = ["timm/test_resnet", "minivgg/gray"], ["probe", "finetune"]
NAMES = [
    *("timm-test_resnet-probe", "timm-test_resnet-finetune"),
    *("minivgg-gray-probe", "minivgg-gray-finetune"),
]
SMALL = TrainConfig(
    weights="none", image_size="32", taps="last", test_fraction=0.4, val_fraction=0.3, epochs=1,
    unfreeze="1", workers=1, precision="float32",
)  # fmt: skip


class Listener(Reporter):
    """Keeps the lines."""

    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_photographs(tmp_path_factory.mktemp("images"), a_class=12)


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """Two networks by two strategies; read only."""
    folder = tmp_path_factory.mktemp("whole") / "runs"
    store = tmp_path_factory.mktemp("store")
    config = SMALL.replace(out=folder, cache_dir=store)
    return folder, compare_trainings(images, MODELS, STRATEGIES, config)


@pytest.fixture
def copied(whole, tmp_path):
    return shutil.copytree(whole[0], tmp_path / "runs")


def written(folder):
    """When each run was written: one that is trained again has another time."""
    return {name: (folder / name / "metrics.json").stat().st_mtime_ns for name in NAMES}


def test_all_combinations_in_one_table_one_picture_and_a_line_a_pair(whole):
    folder, found = whole
    lines = found.text.splitlines()
    assert not found.failed
    assert [line.split()[0] for line in lines[2:6]] == NAMES
    assert [line.split()[2] for line in lines[2:6]] == ["logistic", "finetune"] * 2
    pairs = [line.partition(":")[0] for line in lines if "McNemar" in line]
    assert len(pairs) == 6
    assert pairs[0] == f"{NAMES[0]} - {NAMES[1]}"
    assert lines[-2:] == [f"picture: {folder / 'compare.png'}", f"run folders: {folder}"]
    with Image.open(folder / "compare.png") as drawn:
        assert min(drawn.size) > 400


def test_all_were_tested_on_the_same_images(whole):
    tests = [
        {row.sha256 for row in read_split(whole[0] / name / "split.csv") if row.part == "test"}
        for name in NAMES
    ]
    assert tests[0]
    assert tests.count(tests[0]) == len(NAMES)


def test_the_same_call_again_trains_nothing(images, whole, copied):
    before, listener = written(copied), Listener()
    config = SMALL.replace(out=copied, workers=2, save_every=5.0)  # neither changes a result
    found = compare_trainings(images, MODELS, STRATEGIES, config, listener)
    assert written(copied) == before
    assert sum(line.endswith(" is finished already") for line in listener.lines) == 4
    expected = whole[1].text.replace(str(whole[0]), str(copied))
    assert found.text == expected


def test_what_is_missing_alone_is_trained(images, whole, copied):
    before = written(copied)
    shutil.rmtree(copied / NAMES[2])
    config = SMALL.replace(out=copied)
    compare_trainings(images, MODELS, STRATEGIES, config)
    after = written(copied)
    assert [name for name in NAMES if after[name] != before[name]] == [NAMES[2]]
    again, first = (read_metrics(folder / NAMES[2])["test"] for folder in (copied, whole[0]))
    assert again == first


class _Stop:
    def on_train_end(self, _loop):
        raise KeyboardInterrupt


def test_what_was_stopped_goes_on(images, whole, tmp_path):
    """The callback stops it after its only epoch: what is left is to evaluate and to write."""
    folder, listener = tmp_path / "runs", Listener()
    shutil.copytree(whole[0] / NAMES[0], folder / NAMES[0])
    stopped = SMALL.replace(model=MODELS[0], strategy="finetune", out=folder / NAMES[1])
    with pytest.raises(KeyboardInterrupt):
        train(images, stopped, callbacks=[_Stop()])
    config = SMALL.replace(out=folder)
    compare_trainings(images, MODELS[:1], STRATEGIES, config, listener)
    assert any(line.startswith("resumed in epoch") for line in listener.lines)
    test, straight = (read_metrics(each / NAMES[1])["test"] for each in (folder, whole[0]))
    assert test == straight


def test_a_run_of_other_settings_is_not_passed_off_as_this_one(images, copied):
    before = written(copied)
    config = SMALL.replace(out=copied, unfreeze="0")
    with pytest.raises(RunError) as raised:
        compare_trainings(images, MODELS, STRATEGIES, config)
    folder = copied / NAMES[1]  # a probe does not read the setting
    assert raised.value.message == f"{folder} holds a run with other settings: unfreeze (1, now 0)"
    assert raised.value.hint == "`out` names another folder; `overwrite=True` trains it again"
    assert written(copied) == before
    compare_trainings(images, MODELS[:1], STRATEGIES, config.replace(overwrite=True))
    after = written(copied)
    assert [name for name in NAMES if after[name] != before[name]] == [NAMES[1]]


def test_a_run_of_other_images_is_not_passed_off_as_this_one(images, copied, tmp_path):
    changed = shutil.copytree(images, tmp_path / "changed")
    first, second = sorted((changed / "blobs").iterdir())[:2]
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    with pytest.raises(RunError) as raised:
        compare_trainings(changed, MODELS, STRATEGIES, SMALL.replace(out=copied))
    assert raised.value.message == (
        f"{copied / NAMES[0]} holds a run with other images, or other parts of them"
    )
    (changed / "blobs" / "011.png").unlink()
    with pytest.raises(RunError, match="with other images"):
        compare_trainings(changed, MODELS, STRATEGIES, SMALL.replace(out=copied))


def test_one_that_fails_costs_the_others_nothing(images, copied, tmp_path, capsys):
    lost = f"local-dir:{tmp_path / 'nowhere'}"
    words = ["compare", str(images), "--models", f"{MODELS[0]},{lost}", "--out", str(copied)]
    words += ["--weights", "none", "--image-size", "32", "--taps", "last", "--workers", "1"]
    words += ["--test-fraction", "0.4", "--precision", "float32"]
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[2].startswith(NAMES[0])
    assert "McNemar" not in out
    (line,) = [line for line in out.splitlines() if line.startswith("not trained: ")]
    assert str(tmp_path / "nowhere") in line
    assert "nowhere-probe cannot be trained: " in err


def test_if_none_can_be_trained_the_first_error_is_raised(images, tmp_path):
    folder = tmp_path / "runs"
    lost = [f"local-dir:{tmp_path / name}" for name in ("this", "that")]
    with pytest.raises(BackboneError, match="this"):
        compare_trainings(images, lost, [], SMALL.replace(out=folder, weights="default"))
    assert not folder.exists()


def test_wrong_names_and_data_are_errors_before_any_work(images, tmp_path):
    config = SMALL.replace(out=tmp_path / "runs")
    with pytest.raises(InputError, match="one training only, and nothing to compare it with"):
        compare_trainings(images, MODELS[:1], ["probe"], config)
    with pytest.raises(InputError) as raised:
        compare_trainings(images, ["resnet18", "torchvision/resnet18"], [], config)
    assert raised.value.message == (
        "there are two trainings for one run folder, "
        f"{tmp_path / 'runs' / 'torchvision-resnet18-probe'}"
    )
    with pytest.raises(ConfigError, match="strategy is tune; it must be one of probe, "):
        compare_trainings(images, MODELS, ["probe", "tune"], config)
    with pytest.raises(BackboneError, match="unknown backbone resnet51"):
        compare_trainings(images, [*MODELS, "resnet51"], [], config)
    with pytest.raises(DataError, match="does not exist"):
        compare_trainings(str(tmp_path / "nothing"), MODELS, [], config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["one", "two", "--epochs", "3"],
            "settings change nothing of runs that are trained already",
        ),
        (
            ["one", "two", "--models", "embedded,resnet18"],
            "--models and --strategies train on one DATA, and 2 are given",
        ),
        (["--models", "embedded"], "--models and --strategies train on one DATA, and 0 are given"),
    ],
)
def test_the_command_line_distinguishes_runs_from_data(words, message, capsys):
    assert main(["compare", *words]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}\nhint: regraft compare ")
