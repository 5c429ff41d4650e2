"""``regraft.Classifier``: the probe as a scikit-learn estimator.

It has the steps of the main path but no split and no run folder: scikit-learn's own tools hold
images out, and ``fit`` trains on all images that it gets.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack

import msgspec
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from regraft.bundle.format import write_bundle
from regraft.bundle.predictor import Predictor
from regraft.config.train_config import TrainConfig
from regraft.core.files import read_bounded, write_atomic
from regraft.core.hints import only_remedies, remedies_with
from regraft.data.scan import scan
from regraft.data.sources.arrays import open_some
from regraft.data.sources.x_and_y import (
    as_text,
    check_labels,
    classes_and_names,
    several,
    warn_of_lost_classes,
)
from regraft.decision.policy import Levels
from regraft.errors import BundleError, EstimatorError, InputError
from regraft.features.extractor import Extractor, load_networks, split_model
from regraft.heads.fit import check_weights
from regraft.probe.decisions import Answered, DecisionSettings, fit_decisions
from regraft.probe.fit import ProbeSettings, fit_probe
from regraft.runs.reserve import reserve
from regraft.splits.split import all_for_training

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

    from regraft.backbones.backbone import Backbone
    from regraft.bundle.prediction import Prediction
    from regraft.data.sources.given import Images
    from regraft.decision.conformal import CoverageBy
    from regraft.decision.levels import LevelChoices


_FILE = "classifier.json"
_MAX_FILE = 64 * 2**20  # the names of 100,000 classes
_SCHEMA_VERSION: Literal[1] = 1


class _ClassifierRecord(msgspec.Struct, forbid_unknown_fields=True):
    """The parts of an estimator that are not in its bundle."""

    schema_version: Literal[1]
    parameters: dict[str, str | int | float | bool | None]
    classes: list[int | float | bool | str]  # with their types; a bundle has them as text


class Classifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Image classifier on a frozen pretrained network, for scikit-learn's tools.

    Parameters
    ----------
    model, weights, image_size, taps, views, tta, head, seed
        They decide what is learnt; as in ``regraft.TrainConfig``. ``model`` may also be a
        ``regraft.Backbone``.
    class_weight : {"balanced"} or None
        "balanced": rare classes count as much as common ones.
    bank : bool
        Whether features of training images may be kept, to tell how unlike an image is.
    device, precision, batch_size, workers, cache, cache_dir, max_pixels
        They decide how it is computed; as in ``regraft.TrainConfig``.

    Attributes
    ----------
    classes_ : array of shape (K,)
        The sorted labels, as from ``numpy.unique``.
    predictor_ : Predictor
        Classifies single images, files and streams.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> digits = load_digits()
    >>> images = (digits.images * 15).astype("uint8")  # (1797, 8, 8)
    >>> classifier = Classifier(image_size=32, cache=False)
    >>> classifier = classifier.fit(images[:200], digits.target[:200])
    >>> classifier.score(images[200:300], digits.target[200:300]) > 0.7
    True
    """

    predictor_: Predictor
    classes_: NDArray[Any]

    def __init__(  # noqa: PLR0913 - scikit-learn's form: every parameter by name
        self,
        *,
        model: str | Backbone = TrainConfig.model,
        weights: str = TrainConfig.weights,
        image_size: str | int = TrainConfig.image_size,
        taps: str = TrainConfig.taps,
        views: int = TrainConfig.views,
        tta: bool = TrainConfig.tta,
        head: str = TrainConfig.head,
        class_weight: str | None = None,
        bank: bool = TrainConfig.bank,
        seed: int = TrainConfig.seed,
        device: str = TrainConfig.device,
        precision: str = TrainConfig.precision,
        batch_size: int = TrainConfig.batch_size,
        workers: int = TrainConfig.workers,
        cache: bool = TrainConfig.cache,
        cache_dir: str | Path | None = TrainConfig.cache_dir,
        max_pixels: int = TrainConfig.max_pixels,
    ) -> None:
        self.model = model
        self.weights = weights
        self.image_size = image_size
        self.taps = taps
        self.views = views
        self.tta = tta
        self.head = head
        self.class_weight = class_weight
        self.bank = bank
        self.seed = seed
        self.device = device
        self.precision = precision
        self.batch_size = batch_size
        self.workers = workers
        self.cache = cache
        self.cache_dir = cache_dir
        self.max_pixels = max_pixels

    def fit(
        self,
        X: Images,  # noqa: N803 - scikit-learn's name
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Fit on all images; folds of them choose penalty and temperature.

        Parameters
        ----------
        X : array of shape (N, H, W) or (N, H, W, C), tensor, or list of N images
            In a list: paths, encoded bytes, files, PIL images, arrays or tensors, of any sizes, as
            ``Predictor.predict`` takes them.
        y : array of shape (N,)
            Labels: whole numbers, text or anything that numpy can sort.
        sample_weight : array of shape (N,), optional
            How much each image counts, at least 0: in the fit, the choice of blocks and penalty and
            the temperature, not in decisions. Only ratios matter. An image of weight 0 is not read.
            With ``class_weight="balanced"`` the weights of each class add up to the same.

        Returns
        -------
        Classifier
            Itself.

        Raises
        ------
        EstimatorError
            An image, a label or a weight cannot be used; an image is named by its position in the
            list. ``head="knn"`` takes no weights. The error is also a ValueError.
        """
        with _as_value_errors():
            config, labels, images = self._config(), check_labels(y), several(X)
            if len(images) != len(labels):
                raise EstimatorError(
                    f"there are {len(images)} images in X and {len(labels)} labels in y"
                )
            weights = check_weights(sample_weight, len(labels), config.head)
            counted = np.flatnonzero(weights > 0)
            classes, names = classes_and_names(labels[counted])
            warn_of_lost_classes(labels, classes)
            samples = scan(open_some(images, counted, names, config.max_pixels), config)
            if sample_weight is not None:
                samples = replace(samples, weights=weights[counted])
            dataset = all_for_training(samples)
            networks = load_networks(config, split_model(self.get_params())[0])
            with Extractor.for_samples(networks, samples, config) as extractor:
                features = extractor.read(dataset)
                for index, error in features.refused.items():
                    raise EstimatorError(f"image {samples.ids[index]}: {error}")
                settings = ProbeSettings.of(extractor.config)
                probe = fit_probe(features, dataset, extractor.networks, settings)
                deciding = DecisionSettings(Levels(), config.bank, config.class_weight)
                answered = Answered(probe.fitted, probe.rows)
                decisions = fit_decisions(answered, features, dataset, deciding)
            self._set(Predictor.of(probe.model, extractor.compute, decisions), classes)
        return self

    def _config(self) -> TrainConfig:
        # Strict: without a refused image, the rows of X would no longer match those of y.
        parameters = split_model(self.get_params())[1]
        parameters["class_weight"] = parameters["class_weight"] or "none"
        return TrainConfig(strict=True, **parameters)

    def _set(self, predictor: Predictor, classes: NDArray[Any]) -> None:
        columns = {as_text(name): column for column, name in enumerate(classes.tolist())}
        self.predictor_, self.classes_ = predictor, classes
        self._order = np.array([columns[name] for name in predictor.classes])

    def predict_proba(self, X: Images) -> NDArray[np.float32]:  # noqa: N803
        """Return calibrated probabilities.

        Parameters
        ----------
        X : array or list of N images
            As for ``fit``.

        Returns
        -------
        array of shape (N, K), float32
            Columns in the order of ``classes_``.

        Raises
        ------
        EstimatorError
            An image cannot be read.
        """
        answers = self._answers(X)
        result = np.empty((len(answers), len(self.classes_)), np.float32)
        for row, answer in zip(result, answers, strict=True):
            row[self._order] = answer.probabilities
        return result

    def predict_set(
        self,
        X: Images,  # noqa: N803
        coverage: float = TrainConfig.coverage,
        coverage_by: CoverageBy = TrainConfig.coverage_by,
    ) -> NDArray[np.bool_]:
        """Return for each image the classes that are aimed to hold the true one.

        Parameters
        ----------
        X : array or list of N images
            As for ``fit``.
        coverage, coverage_by
            Share of images whose set is to hold the true class; as in ``regraft.TrainConfig``.

        Returns
        -------
        array of shape (N, K), bool
            Columns in the order of ``classes_``: ``classes_[sets[0]]`` is the first set. With too
            few images for the coverage, a ``LevelWarning`` says which sets these are.

        Raises
        ------
        EstimatorError
            An image cannot be read, or the coverage is no share.
        """
        answers = self._answers(X, coverage=coverage, coverage_by=coverage_by)
        columns = dict(zip(self.predictor_.classes, self._order.tolist(), strict=True))
        result = np.zeros((len(answers), len(self.classes_)), bool)
        for row, answer in zip(result, answers, strict=True):
            row[[columns[name] for name in answer.set or ()]] = True
        return result

    def _answers(self, images: Images, **levels: Unpack[LevelChoices]) -> list[Prediction]:
        """Return the answer for each image; none of them has an error."""
        check_is_fitted(self)
        with _as_value_errors():
            answers = self.predictor_.predict_many(list(several(images)), **levels)
            for answer in answers:
                if answer.error is not None:
                    raise EstimatorError(f"image {answer.id}: {answer.error}")
            return answers

    def predict(self, X: Images) -> NDArray[Any]:  # noqa: N803
        """Return the most probable class of each image.

        Parameters
        ----------
        X : array or list of N images
            As for ``fit``.

        Returns
        -------
        array of shape (N,)
            Entries of ``classes_``.

        Raises
        ------
        EstimatorError
            An image cannot be read.
        """
        best: NDArray[np.intp] = self.predict_proba(X).argmax(1)
        predicted: NDArray[Any] = self.classes_[best]
        return predicted

    def save(self, path: str | Path) -> None:
        """Write the fitted classifier into a new folder, as a bundle: data that run no code.

        Parameters
        ----------
        path : str or Path
            Must not exist. ``regraft predict`` takes it too.

        Raises
        ------
        RunError
            The path exists, or it cannot be written.
        BundleError
            No bundle can hold the network: see ``Backbone.no_bundle``. A pickle can.
        """
        check_is_fitted(self)
        with (
            only_remedies(()),
            reserve(Path(path), None, overwrite=False) as reserved,
            reserved.new_folder() as folder,
        ):
            self._write(folder)

    def _write(self, folder: Path) -> None:
        predictor = self.predictor_
        write_bundle(folder / "bundle", predictor.model, predictor.compute, predictor.decisions)
        plain = {
            name: value if isinstance(value, str | int | float | None) else str(value)
            for name, value in split_model(self.get_params())[1].items()
        }
        record = _ClassifierRecord(_SCHEMA_VERSION, plain, self.classes_.tolist())
        write_atomic(folder / _FILE, msgspec.json.format(msgspec.json.encode(record), indent=2))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Load what ``save`` wrote, and check that this machine computes the same answers.

        Parameters
        ----------
        path : str or Path
            Folder that ``save`` wrote.

        Returns
        -------
        Classifier
            Fitted; no code from the folder is run.

        Raises
        ------
        BundleError
            The folder is damaged or altered, or this machine computes other answers.
        """
        return cls()._read(Path(path))  # noqa: SLF001 - its own class

    def _read(self, folder: Path) -> Self:
        if not (folder / _FILE).is_file():
            raise BundleError(
                f"{folder} holds no Classifier: it has no {_FILE}",
                hint="regraft.Predictor.load(path) loads a run or its bundle",
            )
        try:
            record = msgspec.json.decode(
                read_bounded(folder / _FILE, _MAX_FILE), type=_ClassifierRecord
            )
            self.set_params(**record.parameters)
            predictor = self._load_predictor(folder)
        except BundleError:
            raise
        except (InputError, ValueError) as error:  # msgspec's and scikit-learn's are ValueErrors
            raise BundleError(f"{folder / _FILE} is not of a Classifier: {error}") from error
        if sorted(map(as_text, record.classes)) != list(predictor.classes):
            raise BundleError(f"{folder / _FILE}: its classes are not those of the bundle")
        self._set(predictor, np.array(record.classes))
        return self

    def _load_predictor(self, folder: Path) -> Predictor:
        config = self._config()
        return Predictor.load(
            folder, device=config.device, precision=config.precision, batch_size=config.batch_size
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return the files of the bundle instead of the network: joblib pickles estimators."""
        state = dict(self.__dict__)
        predictor = state.pop("predictor_", None)
        if predictor is not None and predictor.model.no_bundle is not None:
            # The user's own class as it is.
            state["_model"] = predictor.model, predictor.compute, predictor.decisions
        elif predictor is not None:
            with tempfile.TemporaryDirectory(prefix="regraft-") as name:
                self._write(folder := Path(name))
                paths = filter(Path.is_file, sorted(folder.rglob("*")))
                state["_files"] = {str(p.relative_to(folder)): p.read_bytes() for p in paths}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        files, model = state.pop("_files", {}), state.pop("_model", None)
        state.pop("_statistics", None)  # of earlier versions
        self.__dict__.update({"bank": False} | state)  # earlier versions had no bank
        if model is not None:
            self.predictor_ = Predictor.of(*model)
        if files:
            with tempfile.TemporaryDirectory(prefix="regraft-") as name:
                for path, data in files.items():
                    target = Path(name, path)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(data)
                self.predictor_ = self._load_predictor(Path(name))


@contextmanager
def _as_value_errors() -> Iterator[None]:
    """Raise each InputError as an EstimatorError, which is a ValueError as scikit-learn expects."""
    try:
        yield
    except EstimatorError:
        raise
    except InputError as error:
        hint = remedies_with(error.hint, Classifier._get_param_names())  # noqa: SLF001 - scikit-learn's
        raise EstimatorError(error.message, hint=hint) from error
