"""The learning-rate finder: training images alone, the same bits by seed, one file written."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

import regraft
from conftest import make_photographs
from finetune_trials import make_trial
from regraft.cli.main import main
from regraft.core.reporter import Reporter
from regraft.data.scan import scan
from regraft.errors import DataError, DivergedError, RunError
from regraft.features.extractor import Extractor, load_networks
from regraft.finetune.rate_trial import HIGHEST, LOWEST, STEPS, _read
from regraft.finetune.train import try_rates_from
from regraft.probe.fit import fit_by
from regraft.splits.split import split, split_by_config

pytestmark = pytest.mark.filterwarnings("ignore::regraft.errors.SmallSampleWarning")

SMALL = {
    "strategy": "scratch", "model": "minivgg", "image_size": 16, "batch_size": 8,
    "test_fraction": 0.3, "val_fraction": 0.3, "precision": "float32", "seed": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    return make_trial(
        tmp_path_factory.mktemp("trial") / "x",
        model="minivgg",
        image_size="16",
        unfreeze="all",
        dropout=0.2,
    )


@pytest.fixture(scope="module")
def found(trial):
    return trial.rates()


def test_rates_rise_until_the_loss_runs_away(found):
    assert found.rates[0] == pytest.approx(LOWEST)
    assert (np.diff(found.rates) > 0).all()
    assert len(found.rates) == len(found.losses) == len(found.smooth) < STEPS
    assert found.smooth[-1] > 2 * found.smooth.min()
    assert found.suggestion == found.limit / 10
    assert found.limit < found.rates[-1] < HIGHEST
    assert found.default == 1e-4


def test_the_same_seed_gives_the_same_bits_with_other_workers(trial, found):
    again = trial.rates(workers=1, epochs=7, schedule="step", warmup=0.0, lr=0.3)
    assert np.array_equal(again.losses, found.losses)
    assert again.limit == found.limit
    assert not np.array_equal(trial.rates(seed=1).losses[:5], found.losses[:5])


def test_neither_the_network_nor_a_checkpoint_is_left(trial, found):
    assert not trial.folder.exists()
    assert not list(trial.folder.parent.iterdir())
    _, fitted = trial.run(epochs=1)
    assert fitted.record["best_epoch"] in {0, 1}  # the probe was not trained by the finder
    assert fitted.history[0]["val_loss"] < 2


def test_images_outside_the_training_part_are_not_read(trial, tmp_path):
    folder = make_photographs(tmp_path / "photographs", a_class=8)
    samples = scan(folder, trial.config)
    parts = split(samples, test_fraction=0.2, seed=0, val_fraction=0.3)
    assert len(parts.val) > 0
    assert len(parts.test) > 0
    for index in (*parts.val, *parts.test):
        (folder / samples.ids[index]).unlink()
    found = dataclasses.replace(trial, samples=samples, parts=parts).rates()
    assert len(found.losses) > 20


def test_a_loss_that_is_not_finite_at_once_is_an_error(trial):
    broken = {**trial.probe.head.tensors()}
    broken["bias"] = broken["bias"] * float("nan")
    head = type(trial.probe.head)(**broken)
    with pytest.raises(DivergedError, match="the loss is nan at step 1"):
        dataclasses.replace(trial, probe=dataclasses.replace(trial.probe, head=head)).rates()


# --- the suggestion -------------------------------------------------------------------------------

RATES = np.geomspace(LOWEST, HIGHEST, STEPS)


@pytest.mark.parametrize("start", [2.0, 0.02])
def test_the_limit_is_where_the_loss_begins_to_rise(start):
    """Of a curve that falls from 1e-4 on and rises from 1e-1 on, with noise; or of a flat one."""
    noise = np.random.default_rng(0).normal(0, start / 50, STEPS)
    falling = np.clip(np.log10(RATES) + 4, 0, 3) * (0.6 if start > 1 else 0.0)
    rising = np.clip(np.log10(RATES) + 1, 0, None) * 3
    found = _read(RATES, start - falling + rising + noise, 1e-4)
    assert 0.01 < found.limit < 0.3  # smoothing carries the rise a little to the left
    words = f"`lr={found.suggestion:.1e}`: a tenth of {found.limit:.1e}, above which the loss rose"
    assert found.summary().startswith(words)


def test_a_loss_that_never_rises_is_in_the_summary():
    found = _read(RATES, np.linspace(2, 1, STEPS), 1e-4)
    assert found.summary().splitlines() == [
        "`lr=1.0e+00`: the loss had not risen at 1.0e+01, the largest rate tried",
        "loss 1.9900 at first, 1.0100 at its lowest, 1.0000 at last, in 120 steps",
        "where no rate is given: 1.0e-04",
    ]


# --- from data to a picture -----------------------------------------------------------------------


def test_only_the_plot_is_written_and_by_seed_it_is_the_same(photographs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    assert main(["lr-find", str(photographs), "--no-cache", *words]) == 0
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == [
        *("regraft-runs", "regraft-runs/lr-find.png")
    ]
    plot = tmp_path / "regraft-runs" / "lr-find.png"
    first = plot.read_bytes()
    with Image.open(plot) as picture:
        assert min(picture.size) > 200
    found = regraft.find_rate(photographs, cache=False, **SMALL)
    assert plot.read_bytes() == first  # written again from Python: the same, by seed
    assert found.default == 2e-3


def rates_after_a_probe(data, config):
    """Return the same trial with a probe fitted first, as ``train`` does."""
    samples = scan(data, config)
    dataset = split_by_config(samples, config)
    with Extractor.for_samples(load_networks(config), samples, config) as extractor:
        probe = fit_by(extractor, extractor.read(dataset.only_train()), dataset)
        return try_rates_from(probe.model, dataset, extractor)


DRAWN = {**SMALL, "strategy": "finetune", "start": "random-head", "unfreeze": "all"}


@pytest.mark.parametrize(
    "settings",
    [SMALL, {**SMALL, "taps": "all"}, {**DRAWN, "taps": "last"}, {**DRAWN, "head": "mean"}],
    ids=["scratch", "scratch of all stages", "random head", "random head, no weights"],
)
def test_no_probe_is_fitted_where_it_decides_nothing(settings, photographs, tmp_path):
    store = tmp_path / "store"
    found = regraft.find_rate(photographs, out=tmp_path / "x.png", cache_dir=store, **settings)
    assert not store.exists()  # nothing was extracted
    expected = rates_after_a_probe(photographs, regraft.TrainConfig(cache=False, **settings))
    assert np.array_equal(found.losses, expected.losses)
    assert found.limit == expected.limit


@pytest.mark.parametrize("changes", [{"taps": "auto"}, {"start": "probe", "unfreeze": "1"}])
def test_a_probe_is_fitted_where_it_begins_or_chooses_the_blocks(changes, photographs, tmp_path):
    store = tmp_path / "store"
    settings = {**DRAWN, "taps": "last", **changes}
    reporter, lines = Reporter(), []
    reporter.say = lines.append
    regraft.find_rate(photographs, None, reporter, out=tmp_path / "x.png", cache_dir=store,
                      **settings)  # fmt: skip
    assert store.exists()
    stages = "block3" if "unfreeze" in changes else "block1, block2, block3"
    assert f"trying rates on {stages} and the head" in lines
    assert not any("cached-views" in line for line in lines)  # which lr-find does not take


def test_images_that_cannot_be_read_are_left_out_without_a_probe_too(tmp_path):
    data = make_photographs(tmp_path / "photographs", a_class=12)
    config = regraft.TrainConfig(cache=False, **SMALL)
    samples = scan(data, config)
    name = samples.ids[split_by_config(samples, config).train[0]]
    (data / name).write_bytes((data / name).read_bytes()[:-40])
    lines = []
    reporter = Reporter()
    reporter.say = lines.append
    regraft.find_rate(data, config, reporter, out=tmp_path / "x.png")
    assert "1 of 36 images refused (all are named in the ledger.json of a training):" in lines
    assert any(line.startswith(f"  {name}: ") for line in lines)
    with pytest.raises(DataError, match=name):
        regraft.find_rate(data, config, out=tmp_path / "y.png", strict=True)


def test_what_no_step_depends_on_is_no_flag(capsys):
    assert main(["lr-find", "x", "--epochs", "3"]) == 2
    assert "--epochs" in capsys.readouterr().err
    assert main(["lr-find", "--help"]) == 0
    out = capsys.readouterr().out
    assert "[default: finetune]" in " ".join(out.split())
    assert "--patience" not in out


def test_a_file_of_the_user_is_left_alone(tmp_path):
    plot = tmp_path / "plot.png"
    plot.write_bytes(b"old")
    with pytest.raises(RunError, match="exists; it is left alone"):
        regraft.find_rate(tmp_path / "nowhere", out=plot)
    assert plot.read_bytes() == b"old"
