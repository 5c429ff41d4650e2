"""The scikit-learn estimator: scikit-learn's own checks, and images of every kind."""

# ruff: noqa: N803, N806, S301 - scikit-learn's names; pickles of our own

import dataclasses
import importlib
import inspect
import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted, validate_data

from conftest import CLASSES, texture
from regraft import Classifier, Predictor, TrainConfig
from regraft.errors import BundleError, EstimatorError, LevelWarning, RunError, SmallSampleWarning
from tiny_bundles import some_decisions

SMALL = {
    "model": "timm/test_resnet", "weights": "none", "image_size": 32, "taps": "last",
    "precision": "float32", "workers": 1, "cache": False,
}  # fmt: skip


class OfTables(Classifier):
    """Sees each row of a table as stripes: scikit-learn's checks have tables, and no images."""

    def fit(self, X, y, sample_weight=None):
        if y is None:
            return super().fit(X, y)
        X, y = validate_data(self, X, y)
        return super().fit(stripes(X), y, sample_weight)

    def predict_proba(self, X):
        check_is_fitted(self)
        return super().predict_proba(stripes(validate_data(self, X, reset=False)))


def stripes(X):
    levels = (128 + 127 * np.tanh(X / 4)).round().astype(np.uint8)
    return np.repeat(levels[:, None, np.arange(16) * X.shape[1] // 16], 16, 1)


NO_TABLES = "the check brings a table of numbers, which is no array of images; OfTables passes it"
NEVER = {
    "check_class_weight_classifiers": "weights are given as 'balanced', and not class by class",
    "check_array_api_input": "SCIPY_ARRAY_API is not set",
}
CLOSE = dict.fromkeys(
    ("check_methods_sample_order_invariance", "check_methods_subset_invariance"),
    "answers in another batch agree within 1e-4, and not within 1e-7",
) | {
    "check_sample_weight_equivalence_on_dense_data": "classes agree, probabilities within 0.05: "
    "temperature and path of penalties also depend on the number of images",
}
OF_TABLES = (
    "all_zero_sample_weights_error", "classifiers_one_label_sample_weights",
    "sample_weight_equivalence_on_dense_data", "sample_weights_list",
    "sample_weights_not_an_array", "sample_weights_not_overwritten", "sample_weights_shape",
    "classifier_data_not_an_array", "classifiers_classes", "classifiers_one_label",
    "classifiers_train", "dict_unchanged", "dont_overwrite_parameters", "dtype_object",
    "estimators_dtypes", "estimators_empty_data_messages", "estimators_fit_returns_self",
    "estimators_nan_inf", "estimators_overwrite_params", "estimators_pickle",
    "f_contiguous_array_estimator", "fit2d_1feature", "fit2d_1sample", "fit2d_predict1d",
    "fit_check_is_fitted", "fit_idempotent", "fit_score_takes_y",
    "methods_sample_order_invariance", "methods_subset_invariance", "n_features_in",
    "n_features_in_after_fitting", "pipeline_consistency", "positive_only_tag_during_fit",
    "readonly_memmap_input", "supervised_y_2d",
)  # fmt: skip


@parametrize_with_checks(
    [Classifier(**SMALL)],
    expected_failed_checks=lambda _: NEVER | {f"check_{name}": NO_TABLES for name in OF_TABLES},
)
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)


@parametrize_with_checks(
    [OfTables(**SMALL)], expected_failed_checks=lambda _: NEVER | CLOSE, xfail_strict=False
)
def test_checks_of_scikit_learn_on_tables(estimator, check):
    check(estimator)


def test_parameters_are_those_of_a_training():
    known = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    for name, parameter in inspect.signature(Classifier).parameters.items():
        assert name in known
        assert parameter.default == known[name] or name == "class_weight"


@pytest.fixture(scope="module")
def images():
    """Thirty pictures of three classes, and their labels."""
    pictures = np.stack([texture(CLASSES[n % 3], n) for n in range(30)])
    return pictures, np.array([CLASSES[n % 3] for n in range(30)])


@pytest.fixture(scope="module")
def fitted(images):
    return Classifier(image_size=64, taps="last", cache=False).fit(*images)


def encoded(picture):
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()


def test_it_learns_what_training_would(images, fitted):
    more = np.stack([texture(CLASSES[n % 3], 100 + n) for n in range(30)])
    assert list(fitted.classes_) == list(CLASSES)
    assert fitted.score(more, images[1]) > 0.7
    assert np.abs(fitted.predict_proba(more).sum(1) - 1).max() < 1e-5
    assert fitted.predictor_.predict(more[0]).label in CLASSES


def test_images_of_every_kind_are_the_same(images, fitted, tmp_path):
    """Arrays, encoded bytes, PIL images, paths as text and as Path, files, tensors."""
    pictures, labels = images
    kinds = [
        list(pictures),
        [encoded(picture) for picture in pictures],
        [Image.fromarray(picture) for picture in pictures],
        [str(tmp_path / f"{n}.png") for n in range(30)],
        np.array([tmp_path / f"{n}.png" for n in range(30)], dtype=object),
        np.array([str(tmp_path / f"{n}.png") for n in range(30)]),
        [io.BytesIO(encoded(picture)) for picture in pictures],
        torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255,
    ]
    for path, data in zip(kinds[4], kinds[1], strict=True):
        path.write_bytes(data)
    wanted = fitted.predict_proba(pictures)
    for kind in kinds:
        assert np.array_equal(fitted.predict_proba(kind), wanted)
    small = Classifier(**SMALL)
    wanted = small.fit(pictures, labels).predict_proba(pictures)
    for kind in (*kinds[1:4], *kinds[5:]):
        # Folds follow the hash of what was given, and with them the penalty.
        assert np.abs(small.fit(kind, labels).predict_proba(pictures) - wanted).max() < 0.5


def test_sets_have_the_answer_and_grow_with_the_coverage(images, fitted):
    pictures, _ = images
    probabilities = fitted.predict_proba(pictures)
    small, usual, large = (fitted.predict_set(pictures, share) for share in (0.5, 0.95, 0.96))
    assert np.array_equal(usual, fitted.predict_set(pictures))
    assert small[np.arange(30), probabilities.argmax(1)].all()
    assert not (small & ~usual).any()
    assert not (usual & ~large).any()
    assert small.sum() < large.sum()
    # All classes of one probability and above, or the best one alone: no other rule was asked for.
    least = probabilities[small & (small.sum(1) > 1)[:, None]].min(initial=1)
    assert (probabilities[~small] < least).all()


def test_columns_of_sets_are_those_of_probabilities(images, tmp_path):
    """Classes in the order of numbers: as text, 10 comes before 2."""
    classifier = Classifier(**SMALL).fit(images[0], np.array([10, 9, 2] * 10))
    sets = classifier.predict_set(images[0], 0.6)
    answers = classifier.predictor_.predict_many(images[0], coverage=0.6)
    shown = [tuple(classifier.classes_[row].tolist()) for row in sets]
    assert shown == [tuple(sorted(map(int, answer.set))) for answer in answers]
    assert len(set(shown)) > 1
    classifier.save(tmp_path / "saved")
    for again in (Classifier.load(tmp_path / "saved"), pickle.loads(pickle.dumps(classifier))):
        assert np.array_equal(again.predict_set(images[0], 0.6), sets)


def test_with_too_few_images_for_a_coverage_sets_have_every_class(images, fitted):
    """Thirty answers bear 0.96, and not 0.99, for which 99 are needed."""
    few = "a coverage of 0.99 cannot be aimed at with 30 answers: each set has all classes"
    with pytest.warns(LevelWarning, match=few):
        assert fitted.predict_set(images[0], 0.99).all()


def test_a_coverage_by_class_that_no_class_has_images_for_is_said(images, fitted):
    said = "3 classes have too few images for a coverage of 0.95: the threshold that all classes"
    with pytest.warns(LevelWarning, match=said):
        sets = fitted.predict_set(images[0], 0.95, "class")
    assert np.array_equal(sets, fitted.predict_set(images[0], 0.95))


@pytest.mark.parametrize("coverage", [0.0, 1.0, -1, float("nan"), "much", None])
def test_a_coverage_that_is_none_is_refused_as_scikit_learn_does(coverage, images, fitted):
    with pytest.raises(ValueError, match=r"^coverage is .*; it must be "):
        fitted.predict_set(images[0][:1], coverage)


def test_an_image_that_cannot_be_read_has_no_set(fitted):
    with pytest.raises(EstimatorError, match="image 1: "):
        fitted.predict_set([np.zeros((8, 8), np.uint8), b"no image"])


def test_balanced_classes_are_undone_by_the_weights_that_images_had(images):
    """So that the shares of the classes are those of the weights, as without balancing."""
    y, weights = np.array(["a", "b", "b"] * 10), np.linspace(1, 3, 30)
    classifier = Classifier(**SMALL, class_weight="balanced").fit(images[0], y, weights)
    in_all = np.array([weights[y == name].sum() for name in ("a", "b")])
    kept = classifier.predictor_.decisions.class_weights
    assert kept * in_all == pytest.approx([(kept * in_all).mean()] * 2)
    assert Classifier(**SMALL).fit(images[0], y, weights).predictor_.decisions.class_weights is None


@pytest.mark.parametrize("bank", [True, False])
def test_features_of_images_are_kept_only_where_they_may_be(bank, images, tmp_path):
    classifier = Classifier(**SMALL, bank=bank).fit(*images)
    classifier.save(tmp_path / "saved")
    kept = load_file(tmp_path / "saved" / "bundle" / "decisions.safetensors")
    assert ("rows" in kept) == bank
    assert ("centre" in kept) != bank
    assert Classifier.load(tmp_path / "saved").bank == bank
    assert 0 < classifier.predictor_.predict(images[0][0]).typicality <= 1


@pytest.mark.parametrize(
    "labels", [[10, 9, 2], ["b", "a\u0308", "10"], [True, False, True], [2.0, 1.0, 3.0]]
)
def test_labels_come_back_as_they_were(images, labels, tmp_path):
    y = np.array(labels * 10)
    classifier = Classifier(**SMALL).fit(images[0], y)
    assert np.array_equal(classifier.classes_, np.unique(y))
    assert classifier.predict(images[0]).dtype.kind == y.dtype.kind
    classifier.save(tmp_path / "saved")
    again = Classifier.load(tmp_path / "saved")
    assert again.get_params() == classifier.get_params()
    assert np.array_equal(again.classes_, classifier.classes_)
    assert np.array_equal(again.predict(images[0]), classifier.predict(images[0]))


def test_what_is_saved_is_a_bundle_and_no_pickle(images, fitted, tmp_path):
    fitted.save(tmp_path / "a")
    names = {path.name for path in (tmp_path / "a").rglob("*") if path.is_file()}
    assert {"classifier.json", "manifest.json", "head.safetensors"} <= names
    assert not {name for name in names if name.endswith((".pkl", ".pickle", ".joblib", ".pth"))}
    answer = Predictor.load(tmp_path / "a").predict(images[0][0])
    assert abs(answer.probability - fitted.predict_proba(images[0][:1]).max()) < 1e-4
    again = Classifier.load(tmp_path / "a")
    again.save(tmp_path / "b")
    for path in (tmp_path / "a").rglob("*"):
        if path.is_file() and path.name != "manifest.json":
            assert (
                tmp_path / "b" / path.relative_to(tmp_path / "a")
            ).read_bytes() == path.read_bytes()
    with pytest.raises(RunError, match="exists and is not a run") as caught:
        fitted.save(tmp_path / "a")
    assert caught.value.hint is None  # of train: "choose another folder with --out"


def test_hints_name_only_what_the_estimator_has(images):
    """They named ``strict`` and flags of the command line."""
    pictures = [*images[0][:5], b"not an image"]
    with pytest.raises(EstimatorError, match=r"^5: not an image: text$"):
        Classifier(cache=False).fit(pictures, [*"ababab"])
    with pytest.raises(EstimatorError) as caught:
        Classifier(tta=True).fit(pictures[:4], [*"abab"])
    assert caught.value.hint == "`views=4, tta=True`"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "missing required field"),
        ('{"schema_version":2,"parameters":{},"classes":["a"]}', "Invalid enum value 2"),
        ('{"schema_version":1,"parameters":{"hed":1},"classes":["a"]}', "Invalid parameter 'hed'"),
        (
            '{"schema_version":1,"parameters":{"batch_size":0},"classes":["a"]}',
            "batch_size is 0; it must be between 1 and 65536",
        ),
        ('{"schema_version":1,"parameters":{},"classes":["a","b"]}', "its classes are not those"),
    ],
)
def test_a_changed_record_is_refused(fitted, tmp_path, content, message):
    fitted.save(tmp_path / "saved")
    (tmp_path / "saved" / "classifier.json").write_text(content, encoding="utf-8")
    with pytest.raises(BundleError, match=message):
        Classifier.load(tmp_path / "saved")


def test_copies_answer_the_same(images, fitted):
    """joblib and deepcopy pickle estimators; the network travels as the bundle's files."""
    again = pickle.loads(pickle.dumps(fitted))
    assert np.abs(again.predict_proba(images[0]) - fitted.predict_proba(images[0])).max() < 1e-5
    assert not hasattr(clone(fitted), "predictor_")


def test_decisions_travel_with_copies_and_with_saved_classifiers(fitted, tmp_path):
    classifier = pickle.loads(pickle.dumps(fitted))
    width = classifier.predictor_.model.backbone.n_features
    decisions = classifier.predictor_.decisions = some_decisions(width=width)
    classifier.save(tmp_path / "saved")
    for again in (pickle.loads(pickle.dumps(classifier)), Classifier.load(tmp_path / "saved")):
        kept = again.predictor_.decisions.tensors()
        assert kept.keys() == decisions.tensors().keys()
        assert np.array_equal(kept["rows"], decisions.typicality.scorer.rows)
        assert np.array_equal(kept["confidence"], decisions.answers.confidence)


def test_tools_of_scikit_learn_work(images):
    scores = cross_val_score(Classifier(**SMALL), *images, cv=2)
    assert scores.shape == (2,)
    search = GridSearchCV(Classifier(**SMALL), {"head": ["mean", "knn"]}, cv=2).fit(*images)
    assert search.best_params_["head"] in {"mean", "knn"}
    paths = GridSearchCV(Classifier(**SMALL), {"head": ["mean"]}, cv=2)
    paths.fit([encoded(picture) for picture in images[0]], images[1])


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (np.zeros((4, 9)), "abab", r"X of shape \(4, 9\) is no array of images\nhint: give"),
        (np.full((4, 8, 8), 16.0), "abab", "floating point must be from 0 to 1; of values from 0"),
        ("photo.jpg", "ab", "X is a str; it must hold several images"),
        (["no.jpg", "nein.jpg"], "ab", "0: missing: there is no such file"),
        ([b"", b"\xff"], "ab", "0: "),
        (np.zeros((4, 8, 8), np.uint8), "aba", "there are 4 images in X and 3 labels in y"),
        (np.zeros((4, 8, 8), np.uint8), "aaaa", "one class"),
        (np.zeros((2, 8, 8), np.uint8), ["a", "b\x1b"], "control characters"),
        ([3, 4], "ab", "image 0 .*int is neither bytes, a file, a path nor pixels"),
        (io.BytesIO(b"x"), "ab", "X is a BytesIO; it must hold several images"),
        (np.zeros((2, 8, 8, 5), np.uint8), "ab", r"\(2, 8, 8, 5\); each must be .* \(RGBA\)"),
    ],
)
def test_wrong_images_and_labels_are_value_errors(X, y, message):
    with pytest.raises(EstimatorError, match=message) as caught:
        Classifier(**SMALL).fit(X, np.array(list(y)))
    assert isinstance(caught.value, ValueError)


def test_wrong_settings_and_images_of_a_fitted_one(fitted):
    with pytest.raises(EstimatorError, match="head is hed; it must be one of"):
        Classifier(head="hed").fit(np.zeros((2, 8, 8), np.uint8), [0, 1])
    with pytest.raises(EstimatorError, match="image 1: "):
        fitted.predict([encoded(texture("blobs", 1)), b"broken"])


@pytest.mark.parametrize("head", ["logistic", "ridge", "mean"])
def test_whole_weights_are_repeated_images_and_zero_is_none(images, head):
    pictures, labels = images
    weights = np.random.default_rng(0).integers(0, 4, 30)
    given = [*pictures]
    given[int(np.flatnonzero(weights == 0)[0])] = b"no image"  # is not read

    def fit(X, y, sample_weight=None):
        return Classifier(**SMALL, head=head).fit(X, y, sample_weight).predict_proba(pictures)

    weighted = fit(given, labels, weights)
    repeated = fit(pictures.repeat(weights, axis=0), labels.repeat(weights))
    assert np.abs(weighted - repeated).max() < 0.1
    without = fit(pictures[weights > 0], labels[weights > 0])
    assert np.abs(weighted - without).max() > 2 * np.abs(weighted - repeated).max()
    assert np.array_equal(fit(given, labels, list(weights > 0)), without)


def test_an_image_keeps_its_number_where_others_have_no_weight(images):
    pictures = [*images[0][:9], b"no image", *images[0][10:]]
    with pytest.raises(EstimatorError, match=r"^9: not an image"):
        Classifier(**SMALL, head="mean").fit(pictures, images[1], np.arange(30) % 4)


def test_weights_count_in_scores_and_are_routed(images, fitted):
    weights = np.arange(30) % 4
    right = fitted.predict(images[0]) == images[1][::-1]
    score = fitted.score(images[0], images[1][::-1], sample_weight=weights)
    assert score == pytest.approx(right @ weights / weights.sum())
    found = cross_val_score(
        Classifier(**SMALL, head="mean"), *images, cv=2, params={"sample_weight": weights}
    )
    assert found.shape == (2,)


@pytest.mark.parametrize(
    ("weights", "head", "message"),
    [
        ([1, 2], "mean", r"sample_weight of shape \(2,\) does not belong to 4 images"),
        ([1, 1, -1, 1], "mean", r"sample_weight of image 2 is -1\.0; a weight is a finite number"),
        ([1, 1, 1, np.nan], "mean", "sample_weight of image 3 is nan"),
        ([1, 1, 1, np.inf], "mean", "sample_weight of image 3 is inf"),
        (0, "mean", "sample_weight is zero for every image"),
        (list("abcd"), "mean", "sample_weight holds no numbers: could not convert"),
        ([1, 0, 1, 0], "mean", "one class"),
        ([1, 1, 1, 1], "knn", "head knn cannot use sample_weight: a neighbour is a whole image"),
    ],
)
def test_weights_that_cannot_be_used(weights, head, message):
    with pytest.raises(EstimatorError, match=message):
        Classifier(**SMALL, head=head).fit(np.zeros((4, 8, 8), np.uint8), list("abab"), weights)


def test_pickles_of_earlier_versions_find_their_class():
    """They name the module ``regraft.classifier``, where the class was."""
    earlier = importlib.import_module("regraft.classifier")
    assert earlier.Classifier is Classifier


@pytest.mark.parametrize("module", ["regraft.bundle.format", "regraft.model"])
def test_pickles_with_the_statistics_of_earlier_versions_are_read(fitted, module):
    """They hold mean and covariance of the training features, which are dropped."""
    statistics = pickle.loads(f"c{module}\nStatistics\n)\x81}}X\1\0\0\0nK\3sb.".encode("latin-1"))
    assert vars(statistics) == {"n": 3}
    again = Classifier()
    state = {name: value for name, value in fitted.__getstate__().items() if name != "bank"}
    again.__setstate__(state | {"_statistics": statistics})
    assert again.get_params() == fitted.get_params() | {"bank": False}  # theirs have none
    assert again.classes_.tolist() == fitted.classes_.tolist()
    assert "_statistics" not in again.__getstate__()


def test_a_class_whose_images_all_have_weight_0_is_left_out_with_a_warning(images):
    pictures, labels = images
    message = "all images of blobs have weight 0: the model does not know the class"
    with pytest.warns(SmallSampleWarning, match=message):
        classifier = Classifier(**SMALL, head="mean").fit(pictures, labels, labels != "blobs")
    assert classifier.classes_.tolist() == ["checks", "stripes"]


def test_a_folder_without_a_classifier_says_what_loads_it(tmp_path):
    with pytest.raises(BundleError) as caught:
        Classifier.load(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} holds no Classifier: it has no classifier.json\n"
        "hint: regraft.Predictor.load(path) loads a run or its bundle"
    )
