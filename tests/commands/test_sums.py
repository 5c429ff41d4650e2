"""Several networks side by side: one head, one bundle, the same answers everywhere."""

import csv
import json
import pickle

import numpy as np
import pytest

import regraft
from conftest import CLASSES, texture
from regraft.commands.compare_trainings import compare_trainings
from regraft.core.reporter import Reporter
from regraft.errors import BackboneError, BundleError, ConfigError
from regraft.runs.finished import read_finished
from tiny_bundles import edit_manifest, some_decisions, tiny_model, write_tiny

N = 60
IMAGES = [texture(CLASSES[k % 3], k, 40) for k in range(N)]
LABELS = [CLASSES[k % 3] for k in range(N)]
NAMES = ("timm/test_resnet", "timm/test_efficientnet")
SETTINGS = {"model": "+".join(NAMES), "weights": "none", "image_size": "32", "test_fraction": 0.4}

pytestmark = pytest.mark.filterwarnings("ignore::regraft.errors.SmallSampleWarning")


class Says(Reporter):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    says = Says()
    folder = tmp_path_factory.mktemp("runs") / "two"
    found = regraft.train((IMAGES, LABELS), out=folder, reporter=says, cache=False, **SETTINGS)
    return found, says.lines


def test_metrics_and_the_way_there_name_each_network_with_hash_and_licence(run):
    found, lines = run
    networks = [found.metrics["backbone"], *found.metrics["other_networks"]]
    assert [each["name"] for each in networks] == list(NAMES)
    for each in networks:
        assert any(
            line.startswith(f"{each['name']}, ") and each["weights_sha256"][:12] in line
            for line in lines
        )
    assert found.metrics["features"]["extracted"] == 2 * N
    assert any(block.startswith("2:") for block in found.metrics["head"]["blocks"])
    html = found._repr_html_()
    assert all(each["name"] in html for each in networks)


def test_the_bundle_gives_the_probabilities_of_the_training(run):
    """Decoded, rendered twice and read from memory: the same numbers as from stored rows."""
    found, _ = run
    predictor = regraft.Predictor.load(found.folder)
    with (found.folder / "predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    answers = predictor.predict_many([IMAGES[int(row["id"])] for row in rows])
    for row, answer in zip(rows, answers, strict=True):
        recorded = [float(row[f"p({name})"]) for name in CLASSES]
        assert answer.probabilities == pytest.approx(recorded, abs=2e-4)
    assert repr(predictor).endswith("timm/test_resnet at 32 + timm/test_efficientnet at 32 pixels)")


def test_evaluate_measures_both_networks(run, tmp_path):
    found, _ = run
    tested = {int(row) for row in _tested(found.folder)}
    some = sorted(tested)
    result = regraft.evaluate(
        found.folder, ([IMAGES[k] for k in some], [LABELS[k] for k in some]), cache=False
    )
    assert result["accuracy"]["value"] == found.metrics["test"]["accuracy"]["value"]


def _tested(folder):
    with (folder / "split.csv").open(encoding="utf-8") as file:
        return [row["id"] for row in csv.DictReader(file) if row["part"] == "test"]


@pytest.mark.parametrize(
    "more", [{"views": 2}, {"views": 2, "tta": True}, {"folds": 3}, {"head": "knn"}], ids=str
)
def test_views_folds_and_other_heads_read_both(tmp_path, more):
    found = regraft.train((IMAGES, LABELS), out=tmp_path / "run", cache=False, **SETTINGS | more)
    model = found.model
    assert [network.name for network in model.networks] == list(NAMES)
    answer = regraft.Predictor.load(found.folder).predict(IMAGES[0])
    assert answer.probabilities.sum() == pytest.approx(1)


def test_rows_of_each_network_are_those_of_a_training_with_it_alone(tmp_path, own_store):
    for name in NAMES:
        regraft.train((IMAGES, LABELS), out=tmp_path / name[5:], **SETTINGS | {"model": name})
    both = regraft.train((IMAGES, LABELS), out=tmp_path / "both", **SETTINGS)
    assert both.metrics["features"] == {"extracted": 0, "reused": 2 * N}


def test_the_configuration_of_a_run_names_the_sum(run):
    text = (run[0].folder / "config.yaml").read_text(encoding="utf-8")
    assert f"model: {'+'.join(NAMES)}" in text


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"strategy": "finetune"}, ConfigError, "only one network can be trained"),
        ({"model": "embedded+embedded"}, BackboneError, "a network is named twice"),
        ({"model": "embedded+"}, BackboneError, "there is no name before or after a +"),
        ({"model": "embedded+embeded"}, BackboneError, "unknown backbone embeded"),
        ({"taps": "3:pooled"}, ConfigError, "has no 3:pooled@1"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, more, error, message):
    with pytest.raises(error, match=message.replace("+", r"\+")):
        regraft.train((IMAGES, LABELS), out=tmp_path / "run", **SETTINGS | more)
    assert not (tmp_path / "run").exists()


def test_a_classifier_of_two_networks_is_copied_with_its_answers():
    made = regraft.Classifier(model="+".join(NAMES), weights="none", image_size="32")
    made.fit(IMAGES, LABELS)
    again = pickle.loads(pickle.dumps(made))  # noqa: S301 - our own
    assert np.allclose(made.predict_proba(IMAGES[:4]), again.predict_proba(IMAGES[:4]), atol=1e-6)


@pytest.mark.parametrize("views", [0, 2])
def test_a_bundle_of_two_networks_has_golden_pixels_and_tensors_of_each(tmp_path, views):
    model = tiny_model(two=True, views=views)
    decisions = some_decisions(width=model.backbone.n_features)
    folder = write_tiny(tmp_path / "bundle", model, decisions)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert [each["preprocess"]["image_size"] for each in manifest["networks"]] == [32, 48]
    assert {"network-1.safetensors", "network-2.safetensors"} <= set(manifest["files"])
    assert {block["network"] for block in manifest["blocks"]} == {0, 1}
    loaded = regraft.Predictor.load(folder)
    image = texture("blobs", 3)
    before = regraft.Predictor.of(model, loaded.compute).predict(image)
    after = loaded.predict(image)
    assert np.array_equal(before.probabilities, after.probabilities)


def test_weights_of_the_second_network_that_were_changed_are_found(tmp_path):
    folder = write_tiny(tmp_path / "bundle", tiny_model(two=True))
    first, second = (folder / f"network-{k}.safetensors" for k in (1, 2))
    second.write_bytes(first.read_bytes())
    with pytest.raises(BundleError, match=r"network-2\.safetensors"):
        regraft.Predictor.load(folder)


def test_networks_that_change_places_are_found(tmp_path):
    """The golden images find what hashes and shapes do not."""
    folder = write_tiny(tmp_path / "bundle", tiny_model(two=True))

    def swap(manifest):
        manifest["networks"].reverse()
        files = manifest["files"]
        one, two = (files[f"network-{k}.safetensors"] for k in (1, 2))
        files["network-1.safetensors"], files["network-2.safetensors"] = two, one
        for block in manifest["blocks"]:
            block["network"] = 1 - block["network"]

    edit_manifest(folder, swap)
    one, two = (folder / f"network-{k}.safetensors" for k in (1, 2))
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)
    with pytest.raises(BundleError, match=r"golden\.safetensors: pixels-1"):
        regraft.Predictor.load(folder)


def test_golden_features_of_another_network_are_named(tmp_path):
    model = tiny_model(two=True)
    folder = write_tiny(tmp_path / "bundle", model)

    def narrow(manifest):
        for network in manifest["networks"][1:]:
            network["feature_tolerance"] = {"float32": 0.0, "bfloat16": 0.0}
            network["preprocess"]["mean"] = [0.1, 0.1, 0.1]

    edit_manifest(folder, narrow)
    with pytest.raises(BundleError, match=r"the features of timm/test_efficientnet differ by"):
        regraft.Predictor.load(folder, precision="float32")


def test_a_sum_is_compared_with_a_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = ["timm/test_resnet", "test_resnet+test_efficientnet"]
    settings = {name: value for name, value in SETTINGS.items() if name != "model"}
    config = regraft.TrainConfig(taps="last", cache=False, out=tmp_path / "both", **settings)
    found = compare_trainings((IMAGES, LABELS), models=models, config=config)
    assert not found.failed
    assert f"{NAMES[0]}+{NAMES[1]}" in found.text.replace(" + ", "+")


def test_a_sum_that_would_be_trained_ends_a_comparison_before_any_work(tmp_path):
    config = regraft.TrainConfig(out=tmp_path / "both")
    with pytest.raises(ConfigError, match="only one network can be trained"):
        compare_trainings(
            tmp_path, models=["embedded+minivgg"], strategies=["probe", "finetune"], config=config
        )


def test_compare_names_both_networks(run):
    assert read_finished(run[0].folder, "two").network == "+".join(NAMES)
