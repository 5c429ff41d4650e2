"""The loop: what is frozen stays, what is held out is never learnt from, epoch 0 is the probe."""

import dataclasses
import itertools
import math
import re
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss
from sklearn.utils.class_weight import compute_sample_weight
from torch.nn.functional import cross_entropy

from conftest import make_photographs
from finetune_trials import equal, make_trial, rows, tensors
from regraft.backbones.registry import load_backbone
from regraft.core.reporter import Reporter
from regraft.data.scan import scan
from regraft.errors import (
    ConfigError,
    DataError,
    DivergedError,
    FrozenError,
    ImageError,
    RegraftError,
)
from regraft.features.compute import choose_compute
from regraft.features.extract import RowExtractor, extract
from regraft.features.extractor import Extractor
from regraft.features.features import Features
from regraft.features.store.store import temporary_store
from regraft.features.taps import TapReader, read_features, select_blocks
from regraft.finetune.batches import n_batches
from regraft.finetune.memory import activation_bytes, fit_memory
from regraft.finetune.mixing import draw_mixing
from regraft.finetune.network import TrainableNetwork, random_head, stage_of_modules
from regraft.finetune.state import State
from regraft.finetune.train import (
    Trained,
    build_loop,
    remove_checkpoints,
    train_network,
    trainable_network,
)
from regraft.heads.modules import KnnHead, LinearHead
from regraft.heads.temperature import fit_temperature
from regraft.images.render import normalise_pixels
from regraft.model import Model
from regraft.splits.split import split


class Notes:
    """Keep losses, moments and the loop itself."""

    def __init__(self):
        self.losses, self.moments = [], []

    def on_train_begin(self, loop):
        self.moments.append("train begins")
        self.loop = loop

    def on_batch_end(self, loop):
        self.moments.append("batch")
        self.losses.append(loop.batch_loss)

    def on_epoch_end(self, loop):
        self.moments.append(f"epoch {loop.state.progress.epoch}")

    def on_train_end(self, loop):  # noqa: ARG002 - callbacks are called with the loop
        self.moments.append("train ends")


def losses_of(trial, **changes):
    notes = Notes()
    trial.run(notes, **changes)
    return notes.losses


# --- epoch 0 and the predictor's path -------------------------------------------------------------


@pytest.mark.parametrize("taps", ["last", "all@2"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_validation_has_the_bits_of_extraction_and_store(tmp_path, taps, precision):
    """So epoch 0 is the probe: the same features from the store, the same product with the head."""
    trial = make_trial(tmp_path / "x", taps=taps, precision=precision)
    blocks = select_blocks((trial.probe.backbone,), taps)
    with temporary_store() as store:
        network = RowExtractor(trial.samples, trial.probe.backbone, trial.compute, 2)
        features = Features.of(extract(network, np.arange(len(trial.samples)), store))
        expected = trial.probe.logits(features.matrix(trial.parts.val, blocks))
    scores = trial.validation().score(trial.probe)
    assert np.array_equal(scores.logits, expected)
    _, fitted = trial.run()
    assert fitted.history[0]["val_loss"] == scores.log_loss
    assert fitted.history[0]["val_accuracy"] == scores.accuracy


def test_labels_follow_the_order_in_which_a_compressed_tar_is_read(tmp_path):
    """Its images come in the order of its members, which is not that of their names."""
    folder = make_photographs(tmp_path / "photographs", a_class=8)
    with tarfile.open(tmp_path / "photographs.tar.gz", "w:gz") as archive:
        for path in sorted(folder.glob("*/*.png"), key=lambda path: path.name, reverse=True):
            archive.add(path, path.relative_to(tmp_path).as_posix())
    trial = make_trial(tmp_path / "x")
    scores, fits = [], []
    for data in (folder, tmp_path / "photographs.tar.gz"):
        samples = scan(data, trial.config)
        parts = split(samples, test_fraction=0.2, seed=0, val_fraction=0.3)
        validation = trial.validation(samples=samples, parts=parts)
        scores.append(validation.score(trial.probe))
        fits.append(
            dataclasses.replace(trial.at(tmp_path / "y"), samples=samples, parts=parts).run()
        )
        remove_checkpoints(tmp_path / "y")
    of_folder, of_tar = scores
    assert len(of_tar.logits) > 3
    assert np.array_equal(of_tar.logits, of_folder.logits)
    assert (of_tar.log_loss, of_tar.accuracy) == (of_folder.log_loss, of_folder.accuracy)
    assert equal(fits[0][0], fits[1][0])
    assert fits[0][1].temperature == fits[1][1].temperature


def test_where_no_epoch_is_better_the_probe_itself_comes_back(tmp_path):
    """Validation labels as the probe predicts them, without a doubt: epoch 0 loses nothing."""
    trial = make_trial(tmp_path / "x", lr=1e-9)
    sure = {**trial.probe.head.tensors(), "weight": trial.probe.head.weight * 1e5}
    probe = dataclasses.replace(trial.probe, head=LinearHead(**sure), temperature=1.7)
    validation = trial.validation(probe)
    labels = trial.samples.labels.copy()
    labels[trial.parts.val] = validation.score(probe).logits.argmax(1)
    samples = dataclasses.replace(trial.samples, labels=labels)
    model, fitted = dataclasses.replace(trial, probe=probe, samples=samples).run()
    assert fitted.record["best_epoch"] == 0
    assert fitted.history[0]["chosen"]
    assert model is probe
    assert fitted.temperature == 1.7


@pytest.mark.parametrize(
    ("name", "size", "taps"),
    [
        ("minivgg", 28, "all@2"),
        ("timm/test_efficientnet", 64, "all@2"),
        ("torchvision/resnet18", 64, "all"),
        ("timm/test_vit", 160, "all"),
        ("torchvision/densenet121", 64, "all@2"),
    ],
)
def test_the_trainable_network_computes_what_the_reader_reads(name, size, taps):
    """Within rounding: norms are not folded and features not rounded, in float32."""
    backbone = load_backbone(name, "none", image_size=size)
    blocks = select_blocks((backbone,), taps)
    channels = {stage.name: stage.channels for stage in backbone.stages} | {
        "pooled": backbone.n_features
    }
    head = random_head(sum(channels[b.tap] * b.grid**2 for b in blocks), 4, 0)
    model = Model(backbone, blocks, head, 1.0, tuple("abcd"), 10**6)
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    expected = model.logits(
        read_features(TapReader(backbone, blocks, choose_compute("cpu", "float32", 2)), images)
    )
    network = TrainableNetwork(model, unfreeze="all", train_norms=False).eval()
    mean = torch.tensor(backbone.preprocess.mean).view(1, 3, 1, 1) * 255
    std = torch.tensor(backbone.preprocess.std).view(1, 3, 1, 1) * 255
    found = network((images - mean) / std).detach().numpy()
    scale = np.abs(expected).max()
    assert np.abs(found - expected).max() < 0.02 * scale
    assert equal(network.to_model(network.state(), "same"), model)


@pytest.mark.parametrize(
    "name", ["timm/test_vit", "timm/convnext_atto", "torchvision/resnet18", "timm/test_resnet"]
)
def test_every_tensor_has_a_stage_and_stages_come_in_order(name):
    backbone = load_backbone(name, "none")
    stages = stage_of_modules(backbone)
    assert stages.keys() == dict(backbone.module.named_modules()).keys()
    for number, stage in enumerate(backbone.stages):
        assert stages[stage.path] == number
    inside = [stages[module] for module in stages if module.startswith(backbone.stages[0].path)]
    assert set(inside) == {0}
    assert max(stages.values()) == len(backbone.stages) - 1


# --- frozen means frozen --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unfreeze", "bn"), [("0", "train"), ("1", "train"), ("2", "frozen"), ("all", "train")]
)
def test_only_the_trained_stages_change(tmp_path, unfreeze, bn):
    trial = make_trial(
        tmp_path / "x", unfreeze=unfreeze, bn=bn, lr=1e-2, augment="light", layer_decay=1.0
    )
    notes = Notes()
    trial.run(notes)
    before = trial.probe.backbone.module.state_dict()
    network = notes.loop.state.network
    after = network.backbone.state_dict()
    stages = stage_of_modules(trial.probe.backbone)
    for name, tensor in after.items():
        trained = stages[name.rpartition(".")[0]] in network.trained
        statistics = "running" in name or "num_batches" in name
        moves = trained and (bn == "train" if statistics else True)
        assert torch.equal(tensor, before[name]) != moves, name
    assert not torch.equal(network.weight, trial.probe.head.weight)
    assert torch.equal(network.mean, trial.probe.head.mean)
    modes = {
        module.training
        for name, module in network.backbone.named_modules()
        if stages[name] not in network.trained
    }
    assert modes <= {False}


def test_a_frozen_tensor_that_changes_is_an_error_that_names_it(tmp_path):
    class Tamper:
        def on_batch_end(self, loop):
            with torch.no_grad():
                loop.state.network.backbone.get_buffer("blocks.0.0.bn1.running_mean").add_(1)

    trial = make_trial(tmp_path / "x", unfreeze="1")
    with pytest.raises(FrozenError, match=r"1 frozen tensor has changed: blocks\.0\.0\.bn1"):
        trial.run(Tamper())


# --- what is held out -----------------------------------------------------------------------------


def reading(trial, read):
    """Return the trial with a source that notes which images are read."""

    def stream(indices):
        for index, load in trial.samples.source.stream(indices):

            def noted(index=index, load=load):
                read.append(index)
                return load()

            yield index, noted

    source = dataclasses.replace(trial.samples.source, stream=stream)
    samples = dataclasses.replace(trial.samples, source=source)
    return dataclasses.replace(trial, samples=samples)


def test_test_images_are_never_read_and_validation_images_never_learnt_from(tmp_path):
    trial = make_trial(tmp_path / "x")
    read, learnt = [], []
    original = TrainableNetwork.forward

    class Spy(Notes):
        def on_train_begin(self, loop):
            inner = loop.training_step.take

            def noted(batch):
                learnt.extend(batch.indices.tolist())
                return inner(batch)

            loop.training_step.take = noted

    reading(trial, read).run(Spy())
    assert TrainableNetwork.forward is original
    assert set(read) == {*trial.parts.train.tolist(), *trial.parts.val.tolist()}
    assert set(learnt) == set(trial.parts.train.tolist())
    assert len(learnt) == 2 * len(trial.parts.train)


def test_labels_of_validation_and_test_change_no_gradient(tmp_path):
    trial = make_trial(tmp_path / "x")
    notes = Notes()
    trial.run(notes)
    labels = trial.samples.labels.copy()
    held_out = np.concatenate([trial.parts.val, trial.parts.test])
    labels[held_out] = (labels[held_out] + 1) % 3
    other = dataclasses.replace(
        trial, samples=dataclasses.replace(trial.samples, labels=labels), folder=tmp_path / "y"
    )
    again = Notes()
    other.run(again)
    assert again.losses == notes.losses
    one, two = notes.loop.state.network.state(), again.loop.state.network.state()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_without_validation_images_nothing_is_trained(tmp_path):
    trial = make_trial(tmp_path / "x")
    parts = dataclasses.replace(trial.parts, val=np.empty(0, np.int64))
    with pytest.raises(DataError, match="no image can be held out for validation"):
        dataclasses.replace(trial, parts=parts).run()


# --- steps ----------------------------------------------------------------------------------------


def test_the_first_twenty_steps_repeat_exactly(tmp_path):
    changes = {"augment": "standard", "dropout": 0.2, "mixup": 0.2, "epochs": 10, "bn": "train"}
    first = losses_of(make_trial(tmp_path / "x", **changes, model="minivgg"))
    torch.manual_seed(99)
    second = losses_of(make_trial(tmp_path / "y", **changes, model="minivgg"))
    assert len(first) == 20
    assert first == second
    assert len(set(first)) == 20
    other = losses_of(make_trial(tmp_path / "z", **changes, model="minivgg", seed=1))
    assert other[0] != first[0]


@pytest.mark.parametrize(
    ("smoothing", "weight", "mixing"),
    [
        (0.2, "none", {}),
        (0.0, "balanced", {"mixup": 1.0}),
        (0.1, "balanced", {}),
        (0.1, "balanced", {"mixup": 1.0}),
        (0.1, "balanced", {"cutmix": 1.0}),
    ],
)
def test_an_image_s_weight_multiplies_its_whole_loss(tmp_path, smoothing, weight, mixing):
    """By hand, from torch's loss of each label alone: smoothed, weighted, by the label's share."""
    trial = make_trial(
        tmp_path, augment="none", unfreeze="all", batch_size=64, label_smoothing=smoothing,
        class_weight=weight, **mixing,
    )  # fmt: skip
    unbalanced = np.concatenate([trial.parts.train[:3], trial.parts.train[8:]])
    trial = dataclasses.replace(trial, parts=dataclasses.replace(trial.parts, train=unbalanced))
    loop = build_loop(trial.job(), trial.folder)
    network = TrainableNetwork(trial.probe, unfreeze="all", train_norms=False)
    with loop.batches.epoch(1, 1) as batches:
        (batch,) = batches
    x = normalise_pixels(batch.images, trial.probe.backbone.preprocess)
    mixed = draw_mixing(len(x), 32, seed=0, step=0, **{"mixup": 0.0, "cutmix": 0.0, **mixing})
    assert (mixed.share < 0.95) == bool(mixing)
    with torch.no_grad():
        logits = network(mixed.images(x, x[mixed.partners]))
    expected = 0.0
    for y, share in ((batch.labels, mixed.share), (batch.labels[mixed.partners], 1 - mixed.share)):
        own = torch.ones(len(y)) if weight == "none" else len(y) / (3 * y.bincount()[y])
        losses = cross_entropy(logits, y, label_smoothing=smoothing, reduction="none")
        expected += share * float((own * losses).sum()) / len(y)
    assert loop.training_step.take(batch) == pytest.approx(expected, rel=1e-5)


def test_accumulating_is_one_large_batch(tmp_path):
    """Within float32's rounding, where norms are frozen and nothing is dropped."""
    whole = losses_of(make_trial(tmp_path / "x", batch_size=6))
    pieces = losses_of(make_trial(tmp_path / "y", batch_size=2, accumulate=3))
    assert len(whole) == len(pieces) > 2
    assert np.allclose(whole, pieces, rtol=1e-4)
    assert whole != pieces


def test_smaller_pieces_keep_batch_and_schedule(tmp_path):
    """What running out of memory leads to: more passes for the same step."""

    class Halve(Notes):
        def on_train_begin(self, loop):
            loop.state.progress.micro = 2

    whole, halved = Notes(), Halve()
    trial = make_trial(tmp_path / "x", batch_size=8)
    trial.run(whole)
    _, fitted = trial.at(tmp_path / "y").run(halved)
    assert fitted.record["images_in_one_pass"] == 2
    assert np.allclose(whole.losses, halved.losses, rtol=1e-4)


def test_batches_are_neither_too_small_nor_larger_than_they_need_to_be():
    """Against a search of all numbers of batches; every image is in one of them."""
    for n, size, least in itertools.product(range(1, 30), range(1, 9), (1, 2, 4)):
        sizes = [len(part) for part in np.array_split(np.arange(n), n_batches(n, size, least))]
        assert sum(sizes) == n
        assert min(sizes) >= min(least, n)
        enough = [k for k in range(1, n + 1) if n // k >= least] or [1]
        within = [k for k in enough if -(-n // k) <= size]
        assert len(sizes) == (within[0] if within else enough[-1])


@pytest.mark.parametrize(
    ("n", "batch_size", "accumulate", "passes"),
    [(13, 4, 3, [4, 3, 3, 3]), (7, 2, 1, [3, 2, 2]), (7, 2, 2, [2, 2, 3]), (7, 6, 1, [4, 3])],
)
def test_batch_norm_never_trains_on_one_image(tmp_path, n, batch_size, accumulate, passes):
    """Each image of each epoch is in one pass; 13 in passes of 4 are not three and a single one."""
    sizes = []

    class Sizes:
        def on_train_begin(self, loop):
            network = loop.state.network
            network.register_forward_pre_hook(lambda _network, x: sizes.append(len(x[0])))

    trial = make_trial(tmp_path, strategy="scratch", batch_size=batch_size, accumulate=accumulate)
    parts = dataclasses.replace(trial.parts, train=trial.parts.train[:n])
    _, fitted = dataclasses.replace(trial, parts=parts).run(Sizes())
    assert sizes == 2 * passes
    assert fitted.record["steps"] == 2 * n_batches(n, batch_size * accumulate, 2)


def test_too_few_images_for_batch_norm_are_refused(tmp_path):
    message = "BatchNorm cannot train on one image at a time\nhint: `batch_size=2` or more"
    with pytest.raises(ConfigError, match=message):
        make_trial(tmp_path, bn="train", batch_size=1).run()
    trial = make_trial(tmp_path, bn="train")
    one = dataclasses.replace(trial.parts, train=trial.parts.train[:1])
    message = (
        "BatchNorm cannot train on 1 image\nhint: add images; `bn='frozen'` learns no statistics"
    )
    for start in ("run", "rates"):
        with pytest.raises(DataError, match=message):
            getattr(dataclasses.replace(trial, parts=one), start)()


def test_memory_is_estimated_before_the_start(tmp_path):
    """More images need more; what does not fit is halved, and one image too many is an error."""
    trial = make_trial(tmp_path / "x", bn="train", unfreeze="all")
    network = TrainableNetwork(trial.probe, unfreeze="all", train_norms=True)
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    one = activation_bytes(network, 32, trial.compute)
    assert 3.5 < activation_bytes(network, 64, trial.compute) / one < 4.5
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())
    frozen = TrainableNetwork(trial.probe, unfreeze="1", train_norms=True)
    assert 0 < activation_bytes(frozen, 32, trial.compute) < one / 2
    lines = []

    class Says(Reporter):
        def say(self, line):
            lines.append(line)

    fixed = 7 * sum(t.numel() * t.element_size() for t in network.state().values())
    for available, micro in (
        (10**12, 8),
        (fixed + int(1.2 * one) * 4, 4),
        (fixed + int(3.7 * one), 2),
    ):
        state = State.new(network, None, micro=8, average=False)
        fit_memory(state, 32, trial.compute, Says(), available)
        assert state.progress.micro == micro
    assert len(lines) == 2
    assert "4 images in one forward pass instead of 8; a step keeps its images" in lines[0]
    for available, free in ((10, "0.00"), (fixed + int(2.5 * one), "0.0")):
        state = State.new(network, None, micro=8, average=False)
        # A step of an odd number of images has one pass of three.
        message = f"training needs about .* with 3 images at a time; {re.escape(free)}"
        with pytest.raises(RegraftError, match=message):
            fit_memory(state, 32, trial.compute, Says(), available)


def test_a_loss_that_is_not_finite_stops_with_names_and_reaches_no_checkpoint(tmp_path):
    trial = make_trial(tmp_path / "x", lr=1e3, clip=0.0, optimizer="sgd", warmup=0.0, batch_size=1)
    with pytest.raises(
        DivergedError, match=r"(the loss|gradient's norm) is (nan|inf) at step \d+ \(epoch \d+\), "
                             r"learning rate \d+.*; images: \d+\nhint: try a smaller `lr`"
    ):  # fmt: skip
        trial.run()
    loop = build_loop(trial.job(), trial.folder)
    saved, _ = loop.checkpoints.load()
    for name, tensor in saved.tensors.items():
        assert not tensor.is_floating_point() or tensor.isfinite().all(), name
    assert all(math.isfinite(row["val_loss"]) for row in saved.state["progress"]["history"])


def test_patience_ends_early_and_keeps_the_best(tmp_path):
    trial = make_trial(tmp_path / "x", epochs=12, patience=2, lr=1e-9)
    notes = Notes()
    _, fitted = trial.run(notes)
    assert fitted.record["epochs"] == fitted.record["best_epoch"] + 2 < 12
    best = max(fitted.history, key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    assert best["chosen"]
    assert sum(row["chosen"] for row in fitted.history) == 1


def test_with_balanced_classes_an_epoch_that_finds_the_rare_one_is_kept(tmp_path):
    """Scores against scikit-learn's; the temperature has the same weights."""
    trial = make_trial(tmp_path, class_weight="balanced", epochs=1, lr=1e-2)
    labels = trial.samples.labels[trial.parts.val]
    kept = np.r_[np.flatnonzero(labels == 0)[:1], np.flatnonzero(labels > 0)]
    parts = dataclasses.replace(trial.parts, val=trial.parts.val[np.sort(kept)])
    trial = dataclasses.replace(trial, parts=parts)
    _, fitted = trial.run()
    y = trial.samples.labels[parts.val]
    chosen = next(row for row in fitted.history if row["chosen"])
    answers = fitted.oof_logits.argmax(1)
    weights = compute_sample_weight("balanced", y)
    assert chosen["val_accuracy"] == pytest.approx(accuracy_score(y, answers))
    assert chosen["val_balanced_accuracy"] == pytest.approx(balanced_accuracy_score(y, answers))
    assert chosen["val_balanced_loss"] == pytest.approx(
        log_loss(y, softmax(fitted.oof_logits, 1), sample_weight=weights), rel=1e-5
    )
    found = fitted.record["validation"]
    assert found["accuracy"] == chosen["val_accuracy"]
    assert found["balanced_accuracy"] == chosen["val_balanced_accuracy"]
    assert fitted.record["best_epoch"] == 1
    assert fitted.temperature == pytest.approx(fit_temperature(fitted.oof_logits, y, weights))
    state = State.new(trainable_network(trial.job()), None, micro=1, average=False)
    for common, rare, best in ((1.0, 0.0, 0), (0.7, 0.6, 1), (1.0, 0.0, 1), (0.8, 0.9, 3)):
        plain = {"val_accuracy": 0.9 * common + 0.1 * rare, "val_loss": 1.0}
        balanced = {"val_balanced_accuracy": (common + rare) / 2, "val_balanced_loss": 1.0}
        state.progress.history.append(plain | balanced)
        state.keep_if_best()
        state.progress.next_epoch()
        assert state.progress.best_epoch == best


def test_moments_come_in_order(tmp_path):
    notes = Notes()
    make_trial(tmp_path / "x").run(notes)
    assert notes.moments == [
        *("train begins", "epoch 0", "batch", "batch", "epoch 1", "batch", "batch", "epoch 2"),
        "train ends",
    ]


def test_the_average_is_what_is_measured_and_kept(tmp_path):
    notes = Notes()
    trial = make_trial(tmp_path / "x", ema=0.5, bn="train", lr=1e-2)
    trial.run(notes)
    state = notes.loop.state
    model = state.network.to_model(state.average, "average")
    scores = notes.loop.validation.score(model)
    assert state.progress.history[-1]["val_loss"] == scores.log_loss
    assert not torch.equal(state.average["weight"], state.network.weight)


def test_a_network_from_random_weights_learns(tmp_path):
    trial = make_trial(
        tmp_path / "x", a_class=24, model="minivgg", strategy="scratch", epochs=16, augment="none"
    )
    _, fitted = trial.run()
    assert fitted.record["trained_stages"] == ["block1", "block2", "block3"]
    assert fitted.history[-1]["train_loss"] < 0.6 * fitted.history[1]["train_loss"]
    assert max(row["val_accuracy"] for row in fitted.history) > 0.6


def test_only_linear_heads_can_be_trained(tmp_path):
    trial = make_trial(tmp_path / "x")
    d = trial.probe.backbone.n_features
    head = KnnHead(torch.zeros(d), torch.ones(d), torch.eye(3, d), torch.arange(3), 1, 3)
    probe = dataclasses.replace(trial.probe, head=head)
    with pytest.raises(
        ConfigError,
        match="a head of kind knn cannot be trained by gradient\nhint: `head='logistic'`",
    ):
        dataclasses.replace(trial, probe=probe).run()


def test_the_probe_is_not_touched(tmp_path):
    trial = make_trial(tmp_path / "x", unfreeze="all", bn="train", lr=1e-2)
    before = {name: tensor.clone() for name, tensor in tensors(trial.probe).items()}
    model, fitted = trial.run()
    assert all(torch.equal(tensors(trial.probe)[name], before[name]) for name in before)
    assert not any(p.requires_grad for p in model.backbone.module.parameters())
    assert not any(module.training for module in model.backbone.module.modules())
    assert rows(fitted)[0]["train_loss"] is None
    if fitted.record["best_epoch"]:
        assert model.backbone.weights == "none (seed 0), fine-tuned"
        assert model.backbone.weights_sha256 != trial.probe.backbone.weights_sha256


# --- after the last epoch -------------------------------------------------------------------------


def train_and_read_again(trial, refused=None):
    """Return what ``train_network`` returns, and the networks that were read again."""
    read = []

    class Reading(Extractor):
        def read(self, dataset, backbone=None):  # noqa: ARG002
            read.append(backbone)
            return SimpleNamespace(refused=refused or {})

    job = trial.job()
    extractor = Reading([job.probe.backbone], job.compute, job.config)
    start = Trained(job.probe, None, "the probe's features")
    return train_network(start, job.dataset, extractor, trial.folder), read


def test_features_are_read_again_where_the_network_has_changed(tmp_path):
    trial = make_trial(tmp_path / "x", unfreeze="all", bn="train", lr=1e-2)
    trained, read = train_and_read_again(trial)
    assert trained.fitted.record["best_epoch"] > 0
    assert read == [trained.model.backbone]
    assert trained.features.refused == {}
    assert list(trained.seconds) == ["train", "extract again"]
    head_alone = make_trial(tmp_path / "y", unfreeze="0", lr=1e-2)
    trained, read = train_and_read_again(head_alone)
    assert trained.features == "the probe's features"
    assert read == []
    assert list(trained.seconds) == ["train"]


def test_an_image_that_is_lost_after_the_training_is_an_error(tmp_path):
    trial = make_trial(tmp_path / "x", unfreeze="all", bn="train", lr=1e-2)
    name = trial.samples.ids[3]
    message = f"^{name} could be read when the run began and cannot be now: missing: no such file\n"
    with pytest.raises(DataError, match=message):
        train_and_read_again(trial, {3: ImageError("missing", "no such file")})
