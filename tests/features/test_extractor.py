"""Views: training images are learnt from in several views, or all features are means over them."""

import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

import regraft
from conftest import make_photographs, texture
from regraft.backbones.image_size import at_image_size
from regraft.backbones.registry import load_backbone
from regraft.bundle.predictor import Predictor
from regraft.commands.train import train
from regraft.config.train_config import MAX_VIEWS, TrainConfig
from regraft.core.reporter import Reporter
from regraft.data.scan import scan
from regraft.errors import BundleError, ConfigError
from regraft.features.compute import Compute
from regraft.features.extract import RowExtractor, extract, feature_fingerprint
from regraft.features.extractor import Extractor
from regraft.features.store.store import FeatureStore
from regraft.features.taps import TapReader, padded, row_blocks
from regraft.heads.fit import fit_head
from regraft.heads.temperature import log_losses
from regraft.images.augment import AUGMENTATIONS, render_views
from regraft.probe.fit import ProbeSettings, fit_probe
from regraft.probe.score import calibrated_probabilities
from regraft.splits.split import all_for_training
from tiny_bundles import edit_manifest, tiny_model, write_tiny

pytestmark = pytest.mark.filterwarnings("ignore::regraft.errors.SmallSampleWarning")

QUICK = {
    "image_size": "32", "batch_size": 8, "test_fraction": 0.3, "taps": "last",
    "model": "minivgg", "weights": "none",
}  # fmt: skip


def with_views(preprocess, views, augment):
    return dataclasses.replace(preprocess, views=views, augment=augment)


def seen(data, **settings):
    """The backbone and the configuration that a training would take."""
    config = TrainConfig(**settings)
    backbone = at_image_size(load_backbone("timm/test_resnet", "none"), 32, crop=False)
    samples = scan(data, config)
    extractor = Extractor.for_samples([backbone], samples, config.replace(image_size="32"))
    return extractor.backbone, extractor.config


@pytest.fixture(scope="module")
def run(photographs, tmp_path_factory):
    config = TrainConfig(
        views=2,
        tta=True,
        out=tmp_path_factory.mktemp("runs") / "run",
        cache_dir=tmp_path_factory.mktemp("store"),
        **QUICK,
    )
    return train(photographs, config)


def test_the_bundle_answers_as_training_did(run, photographs):
    backbone = run.metrics["backbone"]
    assert (backbone["views"], backbone["augment"]) == (2, "light")
    predictor = Predictor.load(run.folder)
    lines = (run.folder / "predictions.csv").read_text(encoding="utf-8").splitlines()[1:]
    for line in lines[:5]:
        name, _, predicted, probability, *_ = line.split(",")
        answer = predictor.predict(photographs / name)
        assert answer.label == predicted
        assert abs(answer.probability - float(probability)) < 1e-4


def test_a_second_run_extracts_nothing_and_one_without_views_something_else(
    run, photographs, tmp_path
):
    settings = {"cache_dir": tmp_path / "store", **QUICK}
    views = {"views": 2, "tta": True}
    first = train(photographs, TrainConfig(out=tmp_path / "a", **views, **settings))
    again = train(photographs, TrainConfig(out=tmp_path / "b", **views, **settings))
    plain = train(photographs, TrainConfig(out=tmp_path / "c", **settings))
    assert first.metrics["test"] == again.metrics["test"] == run.metrics["test"]
    n = first.metrics["features"]["extracted"]
    assert n > 0
    assert again.metrics["features"] == {"extracted": 0, "reused": n}
    assert plain.metrics["features"] == {"extracted": n, "reused": 0}
    assert plain.metrics["test"] != first.metrics["test"]


def test_one_view_is_named_as_one(tmp_path):
    lines = []

    class Says(Reporter):
        def say(self, text):
            lines.append(text)

    data = make_photographs(tmp_path / "data", a_class=2)
    config = TrainConfig(views=1, tta=True)
    backbone = at_image_size(load_backbone("timm/test_resnet", "none"), 32, crop=False)
    Extractor.for_samples([backbone], scan(data, config), config, Says())
    assert "over each image and 1 view of it (augment light): 2 times slower" in "\n".join(lines)


def test_rows_are_means_of_what_each_view_gives(tmp_path):
    """Float32, the processor, one batch shape: within the rounding of rows to float16."""
    data = make_photographs(tmp_path / "data", a_class=4)
    backbone, config = seen(data, views=3, tta=True)
    compute, samples = Compute("cpu", "float32", 5), scan(data, config)
    store = FeatureStore(tmp_path / "store")
    indices = np.arange(len(samples))
    features = extract(RowExtractor(samples, backbone, compute, 2), indices, store)
    blocks = row_blocks(backbone)
    reader = TapReader(backbone, blocks, compute)
    rows = features.matrix(indices, blocks)
    for index, load in samples.stream(indices):
        image = np.asarray(Image.open(io.BytesIO(load())).convert("RGB"))
        views = render_views(image, backbone.preprocess)
        assert views.shape == (4, 3, 32, 32)
        assert len(np.unique(views.reshape(4, -1).numpy(), axis=0)) == 4  # no two are alike
        each = [reader(padded([view], 5)) for view in views]
        expected = np.mean([np.hstack([rows[b][0] for b in blocks]) for rows in each], axis=0)
        np.testing.assert_allclose(rows[index], expected, rtol=1e-3, atol=1e-4)
    store.close()


def test_a_view_is_a_function_of_its_number_and_the_pixels():
    images = [texture("stripes", 1), texture("stripes", 2)]
    model = tiny_model()
    preprocess = with_views(model.backbone.preprocess, 4, "light")
    fewer = with_views(preprocess, 2, "light")
    for image in images:
        assert render_views(image, preprocess)[:3].equal(render_views(image, fewer))
        assert render_views(image.copy(), preprocess).equal(render_views(image, preprocess))


@pytest.mark.parametrize("augment", sorted(set(AUGMENTATIONS) - {"none"}))
def test_a_bundle_answers_alike_for_a_file_and_its_pixels(tmp_path, augment):
    model = tiny_model()
    preprocess = with_views(model.backbone.preprocess, 2, augment)
    backbone = dataclasses.replace(model.backbone, preprocess=preprocess)
    write_tiny(tmp_path / "bundle", dataclasses.replace(model, backbone=backbone))
    predictor = Predictor.load(tmp_path / "bundle")
    assert predictor.model.backbone.preprocess == preprocess
    image = texture("blobs", 3)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    pixels, file = predictor.predict(image), predictor.predict(buffer.getvalue())
    assert np.array_equal(pixels.probabilities, file.probabilities)
    plain = Predictor.of(model, Compute("cpu", "float32", 8))
    assert not np.array_equal(pixels.probabilities, plain.predict(image).probabilities)
    many = predictor.predict_many([image] * 3)
    for answer in many:  # as if it were alone, within 1e-4
        np.testing.assert_allclose(answer.probabilities, pixels.probabilities, atol=1e-4)


def test_keys_of_plain_rows_do_not_depend_on_views():
    """Of settings that change no plain row, none is part of its key."""
    backbone = tiny_model().backbone
    compute, blocks = Compute("cpu", "float32", 8), row_blocks(backbone)
    plain = feature_fingerprint(backbone, blocks, compute)
    named = dataclasses.replace(backbone, preprocess=with_views(backbone.preprocess, 0, "light"))
    viewed = dataclasses.replace(backbone, preprocess=with_views(backbone.preprocess, 1, "light"))
    assert feature_fingerprint(named, blocks, compute) == plain
    assert feature_fingerprint(viewed, blocks, compute) != plain


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("0", "1", "2"), "digits"),
        (("10", "11", "25"), "digits"),
        (("a", "B", "7"), "digits"),
        (("cat", "dog", "fish"), "light"),
    ],
)
def test_characters_are_never_mirrored(tmp_path, names, expected):
    data = make_photographs(tmp_path / "data", a_class=2)
    for name, folder in zip(names, sorted(data.iterdir()), strict=True):
        folder.rename(data / name)
    _, config = seen(data, views=1)
    assert config.augment == expected
    _, config = seen(data, views=1, augment="standard")  # who asks for it has it
    assert config.augment == "standard"
    assert not AUGMENTATIONS["digits"].flip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"views": 17}, f"views is 17; it must be between 0 and {MAX_VIEWS}"),
        ({"views": -1}, f"views is -1; it must be between 0 and {MAX_VIEWS}"),
        ({"tta": True}, "tta is given, and views is 0\nhint: `views=4, tta=True`"),
        (
            {"views": 2, "strategy": "finetune"},
            (
                "views is 2, and strategy finetune is given: one of the two\nhint: `views=0`: "
                "fine-tuning augments every epoch by itself"
            ),
        ),
        (
            {"views": 2, "augment": "none"},
            (
                "views is 2, and augment none is given: one of the two\nhint: `views=0`: views are "
                "augmented images"
            ),
        ),
        (
            {"views": 2, "head": "mean"},
            (
                "views is 2, and head mean is given: one of the two\nhint: `views=0`: knn and mean "
                "read views with `tta=True` only"
            ),
        ),
        (
            {"views": 2, "head": "knn"},
            (
                "views is 2, and head knn is given: one of the two\nhint: `views=0`: knn and mean "
                "read views with `tta=True` only"
            ),
        ),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ConfigError) as caught:
        TrainConfig(**settings)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"views": 17, "augment": "light"}, "Expected `int` <= 16"),
        (
            {"views": 2, "augment": "none"},
            "views and an augmentation need each other",
        ),
        (
            {"views": 0, "augment": "light"},
            "views and an augmentation need each other",
        ),
        ({"views": 2, "augment": "light"}, "golden.safetensors: pixels-1 is"),
    ],
)
def test_a_manifest_that_lies_about_views(tmp_path, change, message):
    write_tiny(tmp_path / "bundle")
    edit_manifest(
        tmp_path / "bundle", lambda manifest: manifest["networks"][0]["preprocess"].update(change)
    )
    with pytest.raises(BundleError) as caught:
        Predictor.load(tmp_path / "bundle")
    assert message in str(caught.value)


def test_the_estimator_has_views_too(tmp_path):
    images = np.stack([texture(name, n) for n in range(15) for name in ("blobs", "stripes")])
    labels = ["blobs", "stripes"] * 15
    classifier = regraft.Classifier(views=1, tta=True, image_size=64, cache=False).fit(
        images, labels
    )
    classifier.save(tmp_path / "saved")
    manifest = json.loads((tmp_path / "saved" / "bundle" / "manifest.json").read_text())
    assert manifest["networks"][0]["preprocess"]["views"] == 1
    again = regraft.Classifier.load(tmp_path / "saved")
    np.testing.assert_allclose(
        again.predict_proba(images[:4]), classifier.predict_proba(images[:4]), atol=1e-4
    )


# --- views that are learnt from ---------------------------------------------------------------


def test_each_training_image_has_views_of_its_own_in_the_store_and_no_test_image_has(
    photographs, tmp_path
):
    settings = {"cache_dir": tmp_path / "store", "views": 3, **QUICK}
    run = train(photographs, TrainConfig(out=tmp_path / "run", **settings))
    n = run.metrics["data"]["n"]
    assert run.metrics["features"]["extracted"] == n["train"] + n["test"] + 3 * n["train"]
    head = run.metrics["head"]
    assert (head["n"], head["rows"]) == (n["train"], 4 * n["train"])  # images, and views of them
    assert run.metrics["backbone"]["views"] == 0  # nothing of them is in the bundle
    again = train(photographs, TrainConfig(out=tmp_path / "again", **settings))
    assert again.metrics["features"]["extracted"] == 0
    assert again.metrics["test"] == run.metrics["test"]
    fewer = TrainConfig(out=tmp_path / "fewer", **settings | {"views": 2})
    assert train(photographs, fewer).metrics["features"]["extracted"] == 0


@pytest.mark.parametrize("head", ["logistic", "ridge"])
def test_no_score_of_an_image_comes_from_its_own_views(tmp_path, head):
    """Classes at random: who sees views of what he is tested on is right; who does not guesses."""
    data = make_photographs(tmp_path / "data", a_class=20)
    rng = np.random.default_rng(0)
    samples = scan(data, TrainConfig())
    labels = rng.permutation(samples.labels)
    samples = dataclasses.replace(samples, labels=labels)
    config = TrainConfig(views=3, head=head, **QUICK)
    config = config.replace(cache_dir=tmp_path / "store", precision="float32")
    backbone = at_image_size(load_backbone("embedded"), 64, crop=False)
    dataset, every = all_for_training(samples), np.arange(len(samples))
    with Extractor.for_samples([backbone], samples, config) as extractor:
        features = extractor.read(dataset)
        assert len(features.views) == 3
        settings = ProbeSettings.of(extractor.config)
        probe = fit_probe(features, dataset, extractor.networks, settings)
        record = probe.fitted.record["out_of_fold"]
        assert record["n"] == len(samples)  # views are learnt from, and say nothing of their own
        assert record["accuracy"] < 0.55  # a third by chance
        right = calibrated_probabilities(probe.model, features, every).argmax(1) == labels
    assert right.mean() > 0.4  # although it has seen them all


def test_views_of_training_images_are_different_from_image_to_image():
    image, preprocess = texture("stripes", 1), tiny_model().backbone.preprocess
    preprocess = dataclasses.replace(preprocess, view=1, augment="light")
    one, other = (render_views(image, preprocess, content) for content in (b"one", b"other"))
    assert not one.equal(other)
    assert one.equal(render_views(image, preprocess, b"one"))
    second = dataclasses.replace(preprocess, view=2)
    assert not one.equal(render_views(image, second, b"one"))


def test_rounds_of_testing_every_image_have_views_too(photographs, tmp_path):
    settings = {"out": tmp_path / "run", "folds": 2, "views": 1, "cache": False, **QUICK}
    run = train(photographs, TrainConfig(**settings))
    head = run.metrics["head"]
    assert run.metrics["test"]["n"] == head["n"] == head["rows"] / 2


@pytest.mark.parametrize("head", ["logistic", "ridge"])
def test_copies_that_are_not_scored_make_no_head_surer(head):
    """Thirty right answers are thirty, however many views of them were learnt from."""
    x = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    y = np.arange(30) % 2
    x[:, 0] = 6 * y
    options = {"folds": np.arange(30) // 2 % 5, "n_classes": 2, "name": head}
    alone = fit_head(x, y, **options)
    options["folds"] = np.tile(options["folds"], 9)
    many = fit_head(np.tile(x, (9, 1)), np.tile(y, 9), scored=np.arange(270) < 30, **options)
    assert many.scored.sum() == alone.scored.sum() == 30
    assert many.record["out_of_fold"]["n"] == 30
    wrong = 1 - np.exp(-log_losses(many.oof_logits[:30] / many.temperature, y)).mean()
    assert 1 / 100 < wrong < 1 / 10  # one in 32 is expected
