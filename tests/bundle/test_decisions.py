"""Decisions travel with a bundle as they were; what no training gives is refused by name."""

import dataclasses
import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load as load_tensors

from regraft.bundle.decisions import kept, most_bytes, read_decisions, record_of
from regraft.bundle.format import read_bundle
from regraft.bundle.manifest import DecisionsRecord
from regraft.bundle.predictor import Predictor
from regraft.decision.answers import Answers
from regraft.decision.costs import Costs
from regraft.decision.policy import Decisions, Levels
from regraft.errors import BundleError
from tiny_bundles import (
    CLASSES,
    N_UNITS,
    edit_manifest,
    edit_tensors,
    replace_file,
    some_decisions,
    tiny_model,
    write_tiny,
)

WIDTH = 96  # pooled features of the tiny network
COSTS = Costs(np.array([[0, 1, 2, 0.3], [1, 0, 1, 0.3], [4, 1, 0, 0.3]]), ("abstain",))
KINDS = {
    "neighbours": lambda: some_decisions(unknown=0.02, min_precision=0.9),
    "centre": lambda: some_decisions("centre", coverage=0.9),
    "mahalanobis": lambda: some_decisions("mahalanobis", coverage_by="class", costs=COSTS),
    "answers alone": lambda: dataclasses.replace(
        some_decisions("", coverage=0.8), class_weights=None, held_out=True
    ),
}


def same(first: Decisions, second: Decisions) -> bool:
    """Compare everything, arrays by value and by type."""
    a, b = first.tensors(), second.tensors()
    plain = [
        (each.n_units, each.held_out, dataclasses.replace(each.levels, costs=None),
         each.levels.costs and each.levels.costs.extra) for each in (first, second)
    ]  # fmt: skip
    return (
        plain[0] == plain[1]
        and a.keys() == b.keys()
        and all(a[k].dtype == b[k].dtype and np.array_equal(a[k], b[k]) for k in a)
    )


def unpacked(name: str, folder: Path) -> Path:
    with zipfile.ZipFile(Path(__file__).parent / name) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("decisions") / "bundle", None, some_decisions())


@pytest.fixture
def bundle(written, tmp_path):
    return shutil.copytree(written, tmp_path / "bundle")


def refused(folder: Path, message: str) -> None:
    with pytest.raises(BundleError) as caught:
        Predictor.load(folder, device="cpu")
    assert message in str(caught.value)


# --- a good bundle ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_decisions_are_read_as_they_were_written(tmp_path, kind):
    decisions = KINDS[kind]()
    predictor = Predictor.load(write_tiny(tmp_path / "bundle", None, decisions), device="cpu")
    assert same(predictor.decisions, decisions)


def test_a_bundle_without_decisions_has_none_and_no_file_for_them(tmp_path):
    folder = write_tiny(tmp_path / "bundle")
    assert read_bundle(folder).decisions is None
    assert not (folder / "decisions.safetensors").exists()


def test_the_golden_images_have_the_scores_that_the_typicality_gives_them(written):
    bundle = read_bundle(written)
    golden, typicality = bundle.golden, bundle.decisions.typicality
    assert golden.pooled.shape == (4, WIDTH)
    pooled = golden.features[:, -WIDTH:]  # the last block of the tiny network is the pooled one
    np.testing.assert_array_equal(golden.pooled, pooled)
    rows = typicality.scorer.rows.astype(float)
    image = (pooled[2] / pooled[2].max() * 127).round()
    distances = 1 - rows @ image / np.linalg.norm(rows, axis=1) / np.linalg.norm(image)
    near = np.argsort(distances)[:10]
    unlike = distances[near[4]] ** 2 / typicality.scorer.reach[near].mean()
    energy = -np.log(np.exp(golden.logits[2].astype(float)).sum())
    means, deviations = typicality.scale.T
    expected = (unlike - means[0]) / deviations[0] + (energy - means[1]) / deviations[1]
    assert golden.typicality[2] == pytest.approx(expected, rel=1e-5)


def test_the_views_of_a_bundle_are_averaged_in_its_pooled_features_too(tmp_path):
    folder = write_tiny(tmp_path / "bundle", tiny_model(views=2), some_decisions())
    golden = read_bundle(folder).golden
    assert golden.pixels[0].shape == (4, 3, 3, 32, 32)
    np.testing.assert_array_equal(golden.pooled, golden.features[:, -WIDTH:])
    assert Predictor.load(folder, device="cpu").decisions is not None


def test_a_bundle_of_version_3_as_it_was_first_written_decides_the_same(tmp_path):
    """Commit ae3eee4: timm/test_convnext at 32 pixels, weights of random sixteenths, a card."""
    folder = unpacked("written-by-ae3eee4.zip", tmp_path)
    predictor = Predictor.load(folder, device="cpu", precision="float32")
    answers = predictor.predict_many([folder / "golden/wide.jpg", folder / "golden/alpha.png"])
    assert [answer.label for answer in answers] == ["cat", "fish"]
    np.testing.assert_allclose(answers[0].probabilities, [0.5207, 0.0254, 0.4539], atol=1e-2)
    golden, decisions = read_bundle(folder).golden, predictor.decisions
    rules = decisions.rules(3)
    assert rules.level == 0.02
    np.testing.assert_allclose(rules.sets.thresholds, [0.35778, 0.143573, 0.054124], atol=1e-5)
    probabilities = predictor.model.probabilities(golden.features)
    decided = rules.decide(probabilities, golden.pooled, golden.logits)
    np.testing.assert_allclose(decided.p_values, [1 / 121, 1 / 121, 25 / 121, 1 / 121])
    assert decided.actions.tolist() == [-2, -2, -1, -2]
    assert decided.sets.sum(1).tolist() == [2, 1, 1, 2]
    assert (decisions.n_units, len(decisions.answers), decisions.held_out) == (130, 120, False)


def test_a_card_is_text_beside_the_bundle(bundle):
    replace_file(bundle, "README.md", "# The model: é\n".encode())
    assert Predictor.load(bundle, device="cpu").classes == CLASSES
    replace_file(bundle, "README.md", b"\xff\xfe")
    refused(bundle, "README.md: is no text in UTF-8: invalid start byte")
    replace_file(bundle, "README.md", b"a" * (2**20 + 1))
    refused(bundle, "README.md has 1,048,577 bytes; by the other fields it can have at most 1,048,")


# --- earlier bundles --------------------------------------------------------------------------


def test_a_bundle_of_version_2_has_no_decisions_and_the_fields_of_version_3(tmp_path):
    bundle = read_bundle(unpacked("written-by-900496f.zip", tmp_path))
    (network,) = bundle.manifest.networks
    assert (network.name, network.pixel_tolerance) == ("timm/test_convnext", 4)
    assert {block.network for block in bundle.manifest.blocks} == {0}
    assert bundle.decisions is None


def test_the_statistics_of_version_2_are_still_checked(tmp_path):
    folder = unpacked("written-by-900496f.zip", tmp_path)
    edit_tensors(folder, "statistics.safetensors", lambda t: {**t, "mean": torch.zeros(3)})
    refused(folder, "statistics.safetensors: mean is")


@pytest.mark.parametrize("name", ["README.md", "decisions.safetensors"])
def test_version_2_has_no_files_of_version_3(tmp_path, name):
    folder = unpacked("written-by-900496f.zip", tmp_path)
    replace_file(folder, name, b"a")
    refused(folder, f"these files are missing or unexpected: ['{name}']")


# --- what a writer refuses, and what it leaves out --------------------------------------------


def test_of_more_than_100_000_answers_the_same_are_kept_whatever_their_classes():
    def of(labels):
        n = len(labels)
        return Answers(
            labels, np.arange(n, dtype=np.float32) / n, np.ones(n, np.float32), labels % 2
        )

    first, again = (
        kept(Decisions(None, of(labels), 10**6), 3, [WIDTH]).answers
        for labels in (np.arange(100_500) % 3, np.arange(100_500) % 2)
    )
    assert len(first) == 100_000
    np.testing.assert_array_equal(first.true, again.true)
    assert (np.diff(first.true) > 0).all()
    left_out = np.setdiff1d(np.arange(100_500), np.rint(first.true * 100_500).astype(int))
    assert abs(left_out.mean() - 50_250) < 6 * 100_500 / np.sqrt(12 * 500)  # from all of them


def test_a_table_of_costs_for_many_classes_is_not_written():
    costs = Costs(np.zeros((1001, 1001)))
    decisions = Decisions(None, some_decisions("").answers, N_UNITS, levels=Levels(costs=costs))
    with pytest.raises(BundleError, match=r"costs has at most 1,000\nhint: train without costs"):
        kept(decisions, 1001, [WIDTH])


def test_what_cannot_be_read_again_is_not_written(tmp_path):
    with pytest.raises(BundleError, match="the typicality is of 95 features; the network has 96"):
        write_tiny(tmp_path / "bundle", None, some_decisions(width=95))
    with pytest.raises(BundleError, match=r"length <= 1000 - at `\$.classes"):
        write_tiny(
            tmp_path / "bundle", dataclasses.replace(tiny_model(), classes=("a" * 1001, "b"))
        )
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_the_tensors_of_decisions_take_no_more_bytes_than_follows_from_the_manifest(kind):
    decisions = KINDS[kind]()
    taken = sum(array.nbytes for array in decisions.tensors().values())
    assert taken <= most_bytes(record_of(decisions), 3, [WIDTH])


# --- what a reader refuses --------------------------------------------------------------------


def at(name, index, value):
    def change(tensors):
        tensors[name] = tensors[name].copy()
        tensors[name][index] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (at("rows", (3, 5), -128), "there may be 12 to 4,000 rows of integers up to 127"),
        (lambda t: t.update(rows=np.ones((4001, WIDTH), np.int8)), "there may be 12 to 4,000 rows"),
        (lambda t: t.update(rows=t["rows"][:, :95].copy()), "of 95 features; the network has 96"),
        (lambda t: t.update(rows=t["rows"].astype(np.int16)), "rows must be a table of int8"),
        (at("reach", 4, 0), "reach holds what is no distance"),
        (at("reach", 4, np.nan), "reach holds what is no distance"),
        (lambda t: t.update(reach=t["reach"][1:]), "reach must be float32, a number for each row"),
        (at("scale", (1, 1), 0), "scale must be two means, and two standard deviations above 0"),
        (at("scale", (0, 0), np.nan), "scale must be two means"),
        (at("scale", (0, 0), 1e13), "scale must be two means"),
        (lambda t: t.update(scale=t["scale"][0]), "scale must be float64 of shape (2, 2)"),
        (at("scores", 4, np.nan), "scores must be finite, ascending and at most 8,192"),
        (at("scores", -1, np.inf), "scores must be finite, ascending"),
        (at("scores", 0, 3), "scores must be finite, ascending"),
        (lambda t: t.update(scores=np.zeros(8193, np.float32)), "scores must be finite, asc"),
        (lambda t: t.update(scores=t["scores"][None]), "scores must be float32 in one row"),
        (lambda t: t.update(scores=t["scores"].astype(float)), "scores must be float32"),
        (lambda t: t.update(scores=t["scores"][1:]), "120 answers and 119 scores; the manifest"),
        (at("labels", 7, 3), "decisions.safetensors: labels "),
        (at("labels", 7, -1), "decisions.safetensors: labels "),
        (at("answered", 7, 3), "labels or answered hold what is no class"),
        (at("true", 7, 1.01), "decisions.safetensors: "),
        (at("confidence", 7, np.nan), "decisions.safetensors: "),
        (lambda t: t.update(true=t["true"][1:]), "true must be float32 of the length of labels"),
        (lambda t: t.update({k: t[k][1:] for k in ("labels", "true", "confidence", "answered")}),
         "has 119 answers and 120 scores; the manifest has 120 and 120"),
        (lambda t: t.pop("labels"), "there is no labels"),
        (at("class_weights", slice(None), 0), "class_weights must be finite, at least 0, and not"),
        (at("class_weights", 1, -1), "class_weights must be finite, at least 0, and not all 0"),
        (at("class_weights", 1, np.nan), "class_weights must be finite"),
        (at("class_weights", 1, np.inf), "class_weights must be finite"),
        (lambda t: t.update(class_weights=np.ones(2)), "class_weights must be 3 numbers of"),
        (lambda t: t.update(costs=np.zeros((3, 3))), "tensors that it should not have: costs"),
        (lambda t: t.update({"x" * 10**6: np.zeros(3)}), "tensors that it should not have: xxx"),
    ],
)  # fmt: skip
def test_tensors_that_no_training_gives_are_refused(change, message):
    decisions = some_decisions()
    tensors = decisions.tensors()
    change(tensors)
    with pytest.raises(BundleError) as caught:
        read_decisions(record_of(decisions), tensors, 3, [WIDTH])
    assert message in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (at("costs", (0, 1), -0.1), "costs must be from 0 to 1,000,000,000"),
        (at("costs", (0, 1), np.nan), "costs must be from 0 to 1,000,000,000"),
        (at("costs", (2, 3), 1.1e9), "costs must be from 0 to 1,000,000,000"),
        (lambda t: t.update(costs=t["costs"][:, :3]), "costs must be a table of float64"),
        (lambda t: t.pop("costs"), "costs must be a table of float64 of the shape (3, 4)"),
        (at("mean", 5, 1.5), "decisions.safetensors: mean"),
        (at("whitening", (5, 5), np.inf), "decisions.safetensors: mean"),
        (at("whitening", (5, 5), 1e30), "decisions.safetensors: mean"),
        (lambda t: t.update(whitening=t["whitening"][:5]), "must be (D,) and (D, D)"),
        (lambda t: t.pop("mean"), "mean and whitening are needed"),
    ],
)
def test_aggregates_and_costs_that_no_training_gives_are_refused(change, message):
    decisions = KINDS["mahalanobis"]()
    tensors = decisions.tensors()
    change(tensors)
    with pytest.raises(BundleError) as caught:
        read_decisions(record_of(decisions), tensors, 3, [WIDTH])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"typicality": {"kind": "neighbours", "network": 0, "n": 119}},
            "the manifest has 120 and",
        ),
        ({"typicality": {"kind": "mahalanobis", "network": 0, "n": 120}}, "mean and whitening are"),
        ({"typicality": None}, "tensors that it should not have: reach, rows, s"),
        ({"levels": {"min_precision": 0.9, "costs": {"extra": []}}}, "costs must be a table"),
    ],
)
def test_a_record_that_its_tensors_contradict_is_refused(change, message):
    decisions = some_decisions()
    record = msgspec.to_builtins(record_of(decisions))
    levels = record["levels"] | change.get("levels", {})
    record = msgspec.convert(record | change | {"levels": levels}, DecisionsRecord)
    with pytest.raises(BundleError) as caught:
        read_decisions(record, decisions.tensors(), 3, [WIDTH])
    assert message in str(caught.value)


def test_there_are_no_more_answers_and_scores_than_units():
    """Of images of the validation part there may be, since units are counted in the training's."""
    decisions = dataclasses.replace(some_decisions(), n_units=119)
    with pytest.raises(BundleError) as caught:
        kept(decisions, 3, [WIDTH])
    assert caught.value.message == (
        "manifest.json: decisions.n_units is 119, and there are 120 answers or scores, each of a "
        "unit"
    )
    assert kept(dataclasses.replace(decisions, held_out=True), 3, [WIDTH]).n_units == 119


def test_a_level_that_the_scores_cannot_bear_is_kept_and_calls_no_image_unknown(tmp_path):
    """Near copies are found after the level was chosen."""
    predictor = Predictor.load(write_tiny(tmp_path / "b", None, some_decisions(unknown=0.001)))
    answer = predictor.predict(np.zeros((40, 40, 3), np.uint8))
    assert predictor.decisions.levels.unknown == 0.001
    assert (answer.unknown, answer.decision) == (None, answer.label)
    assert answer.typicality is not None
    assert predictor.rules().notes == (
        (
            "no image is called unknown: of images that do not depend on each other, a level of "
            "0.001 needs 999, there are 120"
        ),
    )


def test_a_promise_and_costs_contradict_each_other():
    decisions = KINDS["mahalanobis"]()
    levels = dataclasses.replace(decisions.levels, min_precision=0.9)
    with pytest.raises(BundleError, match="levels: min_precision and costs both decide"):
        kept(dataclasses.replace(decisions, levels=levels), 3, [WIDTH])


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("levels", "coverage"), 0, "> 0.0 - at `$.decisions.levels.coverage`"),
        (("levels", "coverage"), 1.0, "< 1.0 - at `$.decisions.levels.coverage`"),
        (("levels", "unknown"), 1, "< 1.0 - at `$.decisions.levels.unknown`"),
        (("levels", "min_precision"), -0.5, "> 0.0 - at `$.decisions.levels.min_precision`"),
        (("levels", "coverage_by"), "some", "Invalid enum value 'some'"),
        (("levels", "costs"), {"extra": ["abstain", "abstain"]}, "a column of the costs comes tw"),
        (("levels", "costs"), {"extra": ["cat"]}, "Invalid enum value 'cat'"),
        (("levels", "later"), 1, "unknown field `later`"),
        (("typicality", "kind"), "pickle", "there is no typicality 'pickle'"),
        (("typicality", "network"), 1, "<= 0 - at `$.decisions.typicality.network`"),
        (("typicality", "n"), 8193, "<= 8192 - at `$.decisions.typicality.n`"),
        (("answers", "n"), 100_001, "<= 100000 - at `$.decisions.answers.n`"),
        (("n_units",), -1, ">= 0 - at `$.decisions.n_units`"),
        (("held_out",), 1, "Expected `bool`, got `int` - at `$.decisions.held_out`"),
    ],
)  # fmt: skip
def test_a_wrong_record_is_refused(written, tmp_path, place, value, message):
    manifest = json.loads((written / "manifest.json").read_text(encoding="utf-8"))
    *outer, last = place
    record = manifest["decisions"]
    for key in outer:
        record = record[key]
    record[last] = value
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    refused(tmp_path, message)  # before any other file is read


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(networks=[]), "length >= 1 - at `$.networks`"),
        (lambda m: m.update(networks=m["networks"] * 5), "length <= 4 - at `$.networks`"),
        (lambda m: m.update(networks=m["networks"] * 2), "unexpected: ['network-2.safetensors']"),
        (lambda m: m["blocks"][0].update(network=1), "blocks name a tap twice, or an unknown tap"),
        (lambda m: m["blocks"][0].update(network=4), "<= 3 - at `$.blocks[0].network`"),
        (lambda m: m.update(decisions=None), "missing or unexpected: ['decisions.safetensors']"),
        (lambda m: m["files"].pop("decisions.safetensors"), "unexpected: ['decisions.s"),
        (lambda m: m.pop("decisions"), "missing required field `decisions`"),
        (lambda m: m["decisions"]["levels"].update(costs={"extra": []})
         or m.update(classes=[f"{k:04}" for k in range(1001)]),
         "there are costs, and 1,001 classes; a table of costs has at most 1,000"),
    ],
)  # fmt: skip
def test_a_manifest_whose_parts_do_not_fit_is_refused(written, tmp_path, change, message):
    manifest = json.loads((written / "manifest.json").read_text(encoding="utf-8"))
    change(manifest)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    refused(tmp_path, message)


@pytest.mark.skipif(sys.platform == "win32", reason="a file of a terabyte is not sparse there")
def test_a_huge_file_of_decisions_is_not_read(bundle):
    edit_manifest(bundle, lambda m: m["files"]["decisions.safetensors"].update(bytes=2**40))
    os.truncate(bundle / "decisions.safetensors", 2**40)
    refused(bundle, "decisions.safetensors has 1,099,511,627,776 bytes; by the other fields")


def test_scores_of_golden_images_that_differ_are_refused(bundle):
    def change(tensors):
        tensors["typicality"][1] *= 1.001

    edit_tensors(bundle, "golden.safetensors", change)
    refused(bundle, "golden/rotated.jpg: from the same features the typicality differs by 0.001")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.int64])
def test_kinds_of_numbers_that_decisions_do_not_have_are_refused(bundle, dtype):
    """The first two are none of numpy's: they were a TypeError."""
    edit_tensors(bundle, "decisions.safetensors", lambda t: {**t, "true": t["true"].to(dtype)})
    refused(bundle, f"decisions.safetensors: true is {dtype}")


def test_another_bank_is_noticed_by_the_golden_images(bundle):
    edit_tensors(bundle, "decisions.safetensors", lambda t: {**t, "rows": t["rows"].flip(1)})
    refused(bundle, "from the same features the typicality differs by")


def test_golden_pooled_features_that_differ_are_refused(bundle):
    """Their scores agree: typicality measures directions. Only the network tells."""
    edit_tensors(bundle, "golden.safetensors", lambda t: {**t, "pooled": t["pooled"] * 2})
    refused(bundle, "golden/wide.jpg: the pooled features differ by 0.5 of their norm in float32")


def test_another_centre_is_noticed_by_the_golden_images(tmp_path):
    folder = write_tiny(tmp_path / "bundle", None, some_decisions("centre"))
    half = (torch.arange(WIDTH) % 2).to(torch.int8)
    edit_tensors(folder, "decisions.safetensors", lambda t: {**t, "centre": t["centre"] * half})
    refused(folder, "from the same features the typicality differs by")
    edit_tensors(folder, "decisions.safetensors", lambda t: {**t, "centre": t["centre"][:95]})
    refused(folder, "the typicality is of 95 features; the network has 96")


def test_scores_of_aggregates_may_differ_in_a_later_digit_only(tmp_path):
    folder = write_tiny(tmp_path / "bundle", None, some_decisions("mahalanobis"))

    def scaled(factor):
        edit_tensors(
            folder, "golden.safetensors", lambda t: {**t, "typicality": t["typicality"] * factor}
        )

    scaled(1 + 5e-4)
    assert read_bundle(folder).decisions is not None
    scaled(1 + 5e-3)
    refused(folder, "the typicality differs by 0.005")


@pytest.mark.parametrize(("kind", "kept"), [("neighbours", True), ("centre", False), ("", False)])
def test_a_bundle_without_rows_of_images_keeps_no_mean_of_features_in_its_head(
    tmp_path, kind, kept
):
    model = tiny_model()
    folder = write_tiny(tmp_path / "bundle", model, some_decisions(kind))
    tensors = load_tensors((folder / "head.safetensors").read_bytes())
    assert tensors["mean"].any() == kept
    assert (tensors["scale"] == 1).all() != kept
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    predictor = Predictor.load(folder)
    before = Predictor.of(model, predictor.compute).predict(image).probabilities
    assert predictor.predict(image).probabilities == pytest.approx(before, abs=1e-5)
