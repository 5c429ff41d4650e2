"""The one frozen configuration of a training: each setting is declared once, at its field.

``regraft.config.declaration`` says what a declaration holds; the command line makes its flags from
it, a run folder stores the values as YAML, and Python users pass them by name. This module imports
neither numpy nor torch.
"""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - the annotations are evaluated for their types
from typing import Any, Literal

from regraft.config.declaration import (
    AutoOrAmount,
    AutoOrNumber,
    AutoOrShare,
    Bounds,
    Limit,
    SomeOf,
    settings_of,
    split_words,
    unknown_setting,
)
from regraft.config.groups import (
    ALL_BUT_EVALUATE_PREDICT,
    ALL_BUT_PREDICT,
    ALL_BUT_PREDICT_SHOW,
    ALL_BUT_SHOW,
    ALL_COMMANDS,
    ALL_WITH_GROUPS,
    AS_TRAINED,
    BELOW_ONE,
    INSIDE,
    TRAIN_COMPARE,
    TRAIN_COMPARE_RACE,
    data_setting,
    decision_setting,
    head_setting,
    machine_setting,
    network_setting,
    result_setting,
    training_setting,
)
from regraft.errors import ConfigError

HeadName = Literal["logistic", "ridge", "knn", "mean"]
ClassWeight = Literal["none", "balanced"]
Precision = Literal["auto", "bfloat16", "float32"]
CoverageBy = Literal["all", "class"]
Strategy = Literal["probe", "finetune", "scratch"]
Start = Literal["probe", "random-head"]
OptimizerName = Literal["adamw", "sgd"]
ScheduleName = Literal["cosine", "step", "constant"]
Augment = Literal["auto", "none", "light", "standard", "strong", "digits"]
Norms = Literal["auto", "frozen", "train"]

LOGS = ("tensorboard", "mlflow")

SCHEMA_VERSION = 1
MAX_VIEWS = 16  # everything becomes this many times slower


class _ChecksNames(type):
    """Makes a dataclass raise our own error for an unknown name, with the nearest names.

    A metaclass, so that it holds for subclasses too: each has an ``__init__`` of its own, which
    ``dataclass`` makes after ``__init_subclass__`` was called.
    """

    def __call__(cls, **settings: Any) -> Any:
        known = [each.name for each in dataclasses.fields(cls)]  # type: ignore[arg-type]
        for name in settings:
            if name not in known:
                raise unknown_setting(name, known)
        return super().__call__(**settings)

    @property
    def __signature__(cls) -> inspect.Signature:
        """The parameters of ``__init__``; ``inspect`` would show those of ``__call__``."""
        made = inspect.signature(cls.__init__)  # type: ignore[misc]
        return made.replace(parameters=[*made.parameters.values()][1:])


@dataclass(frozen=True, kw_only=True)
class TrainConfig(metaclass=_ChecksNames):
    """Everything that decides what a run computes, and where it writes.

    Paths may be given as text, and numbers as numpy has them.

    Parameters
    ----------
    **settings
        Each with its unit, bounds, default and the reason for it: docs/settings.md.

    Raises
    ------
    ConfigError
        A name is unknown, or a value is not allowed; the message names setting and value.

    Examples
    --------
    >>> TrainConfig(seed=1).replace(test_fraction=0.1).test_fraction
    0.1
    >>> TrainConfig(test_fraction=1.5)
    Traceback (most recent call last):
        ...
    regraft.errors.ConfigError: test_fraction is 1.5; it must be between 0 and 1, both excluded
    """

    # --- the network -------------------------------------------------------------------------
    model: str = network_setting(
        "embedded",
        "Backbone: embedded, embedded-1, embedded-2, timm/NAME, torchvision/NAME, local-dir:PATH "
        "or hf-hub:OWNER/NAME; A+B reads two side by side (probe only).",
        why="Only these weights are part of every installation; they need no network connection.",
        placeholder="NAME",
        commands=("train", "lr-find"),
    )
    weights: str = network_setting(
        "default",
        "Weights: default, none (random), a torchvision enum name, or a local file.",
        why="Pretrained weights need far fewer images than random ones.",
        placeholder="NAME|FILE",
    )
    image_size: str = network_setting(
        "auto",
        "Side of the square the network sees, in pixels; auto follows the images.",
        why="The network's own size, except for small images (docs/design/decisions.md).",
        unit="pixels",
        rule=AutoOrNumber(8, 4096),
        placeholder="PIXELS|auto",
        commands=ALL_BUT_EVALUATE_PREDICT,
    )
    taps: str = network_setting(
        "auto",
        "Features the head reads: auto (chosen on the training part), last (the pooled ones), all "
        "(every stage), all@2 (every stage in 2x2 cells), or names as in layer3@2,pooled.",
        why="Folds of the training part show which are best (docs/probe.md).",
        placeholder="NAMES",
    )
    grids: str = network_setting(
        "auto",
        "Grids in which stages are read if --taps names none for them, in cells per side: one or "
        "more of 1,2,4 with commas.",
        why="1,2,4 for --taps auto, which chooses among them; else 1, the fewest features.",
        unit="cells per side",
        rule=SomeOf(("1", "2", "4"), alone="auto"),
        placeholder="NUMBERS",
    )
    views: int = network_setting(
        0,
        "Augmented views of each training image that a probe learns from besides the image itself; "
        "--augment says which kind.",
        why="The features take that many times longer; docs/probe.md shows what they gain.",
        unit="views of an image",
        rule=Bounds(0, MAX_VIEWS),
        commands=TRAIN_COMPARE_RACE,
    )
    tta: bool = network_setting(
        default=False,
        text="Test-time augmentation: average the features of every image over its views, in "
        "training and in the bundle.",
        why="Every prediction takes that many times longer, also after deployment.",
        commands=TRAIN_COMPARE_RACE,
    )
    # --- the data ----------------------------------------------------------------------------
    test_fraction: float = data_setting(
        0.2,
        "Share of the images held out for testing, unless the data have a test part.",
        why="A fifth, as is usual: most images remain for learning.",
        unit="share of the images",
        rule=INSIDE,
        placeholder="SHARE",
    )
    folds: int = data_setting(
        0,
        "Test every image once: each of this many rounds trains without the images that it tests. "
        "The bundle is then fitted on all images. 0: one test part.",
        why="Rounds take that many times longer. They pay for a few hundred images, where a test "
        "part of sixty says little.",
        unit="rounds",
        rule=Bounds(2, 100, or_zero=True),
        commands=TRAIN_COMPARE,
    )
    split: Path | None = data_setting(
        None,
        "The split.csv of an earlier run: known images keep their parts, and new ones go where "
        "their group is, or by hash.",
        why="The seed decides on the parts, and equal images give equal parts. Where a class has "
        "few images or groups, new ones may move old ones; with the file, none moves.",
    )
    group_by: str | None = data_setting(
        None,
        "Which images belong together, always in one part: parent (those of a folder), a path "
        "part's number (0 is the first), a regular expression whose first group (or whole match) "
        "names the group, or none: folders inside class folders mean nothing.",
        why="Only you know. Images of one patient or burst in two parts make results too good.",
        placeholder="RULE",
        commands=ALL_WITH_GROUPS,
    )
    exclude: tuple[str, ...] = data_setting(
        (),
        "Leave out classes, folders or files by name, with * and ? (trash, '*_mask.png', "
        "rose/blurred); may be given several times.",
        why="Every folder is a class as long as nobody says that it is none.",
        placeholder="PATTERN",
        commands=ALL_BUT_PREDICT,
    )
    classes: tuple[str, ...] = data_setting(
        (),
        "Use these classes alone, with commas between them; may be given several times.",
        why="All classes that the data have.",
        placeholder="NAMES",
        commands=ALL_BUT_PREDICT,
    )
    at_most: str | None = data_setting(
        None,
        "Use so many images, chosen by a hash of their paths with each class's share kept, or as "
        "in 50/class so many of each class. The others are not read.",
        why="A first try of large data takes minutes; the result is that of all images.",
        unit="images",
        rule=Limit(),
        placeholder="N|N/class",
        commands=ALL_BUT_PREDICT,
    )
    image_root: Path | None = data_setting(
        None,
        "Folder where the relative paths of a table begin; absolute ones must be below it.",
        why="The table's own folder: a table then reaches no file outside of it.",
        commands=ALL_BUT_PREDICT,
        harmless=True,
    )
    data_root: Path | None = data_setting(
        None,
        "Folder where named datasets are, or are downloaded to.",
        why="The platform's cache folder: one download serves all projects.",
        commands=ALL_BUT_PREDICT,
        harmless=True,
    )
    strict: bool = data_setting(
        default=False,
        text="Stop at the first image that cannot be used.",
        why="One broken file need not stop a training; every refused image is listed.",
        commands=ALL_BUT_PREDICT,
    )
    max_refused: float = data_setting(
        0.05,
        "Largest share of the images that may be unreadable; a whole class never may be.",
        why="With more, the result would be about other data than yours.",
        unit="share of the images",
        rule=Bounds(0, 1),
        placeholder="SHARE",
        commands=(*ALL_BUT_PREDICT, "drift"),
    )
    max_pixels: int = data_setting(
        40_000_000,
        "Images of more pixels than this are refused before they are decoded.",
        why="120 MB decoded: more than most cameras' pictures, and no decompression bomb.",
        unit="pixels",
        rule=Bounds(1, 2**31),
        commands=ALL_COMMANDS,
        defaults=AS_TRAINED,
    )
    # --- the head ----------------------------------------------------------------------------
    head: HeadName = head_setting(
        "logistic",
        "Classifier that is fitted on the features.",
        why="Its probabilities are the most useful ones; the others are fast or simple baselines.",
    )
    class_weight: ClassWeight = head_setting(
        "none",
        "balanced: rare classes count as much as common ones, in the fit and in choices "
        "(of knn: in choices alone).",
        why="Probabilities stay honest; balanced gives them up to find more of the rare classes.",
    )
    memory: str = head_setting(
        "auto",
        "Memory that the fit may use, in GiB; auto: half of what is free.",
        why="Other programs keep the other half; if it is too little, a temporary file helps out.",
        unit="GiB",
        rule=AutoOrAmount(),
        placeholder="GIB",
    )
    # --- fine-tuning -------------------------------------------------------------------------
    strategy: Strategy = training_setting(
        "probe",
        "probe: a head on the frozen network; finetune: from the probe on, the last stages are "
        "trained too (--unfreeze); scratch: everything from random weights.",
        why="A probe takes seconds to minutes without a GPU, and is hard to beat with few images.",
        commands=("train", "lr-find"),
        strategies=("probe", "finetune", "scratch"),
        defaults={"lr-find": "finetune"},  # a probe takes no steps
    )
    unfreeze: str = training_setting(
        "2",
        "Stages that are trained: a number of last ones (0: the head alone), all, or names.",
        why="On flowers not measurably worse than all stages, and faster (docs/finetuning.md).",
        unit="stages",
        placeholder="N|all|NAMES",
        strategies=("finetune",),
    )
    start: Start = training_setting(
        "probe",
        "Head that fine-tuning starts from.",
        why="Linear probing, then fine-tuning: Kumar et al., ICLR 2022.",
        short="--from",
        strategies=("finetune",),
    )
    val_fraction: float = training_setting(
        0.1,
        "Share of the training part that chooses the epoch, unless the data have a validation "
        "part.",
        why="Enough to compare epochs; the network does not learn from these images.",
        unit="share of the training part",
        rule=INSIDE,
        placeholder="SHARE",
    )
    epochs: int = training_setting(
        10,
        "Passes over the training part.",
        why="Few are enough for a network that starts from the probe.",
        unit="epochs",
        rule=Bounds(1, 100_000),
        commands=TRAIN_COMPARE,
    )
    patience: int = training_setting(
        0,
        "Stop after so many epochs without a better one; 0: never.",
        why="A cosine schedule is at its best at its end.",
        unit="epochs",
        rule=Bounds(0, 100_000),
        commands=TRAIN_COMPARE,
    )
    augment: Augment = training_setting(
        "auto",
        "Random changes of training images: none, light (crop, mirror), standard and strong "
        "(TrivialAugment, erasing), or digits (small turns and moves, no mirror); auto: digits "
        "where every class is called by one character or a number, else light.",
        why="A mirrored character is another character, or none.",
        commands=("train", "compare", "lr-find", "race"),
        read_with="views",
        unread_hint="`views=2` shows a probe augmented views; `strategy='finetune'` draws some "
        "each epoch",
    )
    cached_views: str = training_setting(
        "auto",
        "Number of first epochs that draw their own views; later epochs use these views again, so "
        "that the frozen stages run once a view. auto: 1 without augmentation, else 0: every epoch "
        "draws its own.",
        why="It changes no result: without augmentation every epoch sees the same images.",
        rule=AutoOrNumber(0, 100_000),
        placeholder="K|auto",
        commands=TRAIN_COMPARE,
    )
    lr: float | None = training_setting(
        None,
        "Learning rate; if not given, it follows optimizer and strategy (docs/finetuning.md). "
        "`regraft lr-find` suggests one.",
        why="AdamW takes 1e-4 (2e-3 from scratch), SGD 5e-3 (5e-2).",
        rule=Bounds(0, 1000, low_included=False),
        placeholder="RATE",
        commands=TRAIN_COMPARE,
    )
    optimizer: OptimizerName = training_setting(
        "adamw",
        "Optimizer: adamw, or sgd with momentum 0.9.",
        why="It depends less on the learning rate than SGD.",
    )
    weight_decay: float = training_setting(
        0.01,
        "Weight decay of weights; biases, norms, class tokens and learnt positions have none.",
        why="The usual value for AdamW, as in PyTorch.",
        rule=Bounds(0),
        placeholder="DECAY",
    )
    layer_decay: float = training_setting(
        0.8,
        "Learning rate of each stage as a factor of the rate of the stage after it; 1: all equal.",
        why="Early stages see edges and textures, which change least from data to data.",
        unit="factor per stage",
        rule=Bounds(0, 1, low_included=False),
        placeholder="FACTOR",
    )
    schedule: ScheduleName = training_setting(
        "cosine",
        "How the learning rate falls.",
        why="It ends near 0 without a number to choose (Loshchilov and Hutter, ICLR 2017).",
        commands=TRAIN_COMPARE,
    )
    warmup: float = training_setting(
        1.0,
        "Epochs in which the learning rate rises.",
        why="The averages that AdamW keeps say little in the first steps.",
        unit="epochs",
        rule=Bounds(0),
        placeholder="EPOCHS",
        commands=TRAIN_COMPARE,
    )
    accumulate: int = training_setting(
        1,
        "Forward passes of --batch-size images in one step.",
        why="More serve larger steps where memory is short.",
        unit="forward passes",
        rule=Bounds(1, 65_536),
    )
    clip: float = training_setting(
        1.0,
        "Largest norm of the gradient of a step; 0: no limit.",
        why="One unusual batch cannot undo what was learnt.",
        rule=Bounds(0),
        placeholder="NORM",
    )
    label_smoothing: float = training_setting(
        0.0,
        "Share of each target that is divided among all classes.",
        why="It changes what the probabilities mean.",
        unit="share of a target",
        rule=BELOW_ONE,
        placeholder="SHARE",
    )
    mixup: float = training_setting(
        0.0,
        "Beta parameter of blended image pairs; 0: off, 0.2 is usual.",
        why="Blended images make the frozen stages run in every epoch.",
        rule=Bounds(0),
        placeholder="ALPHA",
    )
    cutmix: float = training_setting(
        0.0,
        "Beta parameter of exchanged rectangles; 0: off, 1 is usual.",
        why="Blended images make the frozen stages run in every epoch.",
        rule=Bounds(0),
        placeholder="ALPHA",
    )
    dropout: float = training_setting(
        0.0,
        "Share of the head's features dropped in training.",
        why="The head starts from a fitted probe, whose penalty was chosen already.",
        unit="share of the features",
        rule=BELOW_ONE,
        placeholder="SHARE",
    )
    ema: float = training_setting(
        0.0,
        "Decay of a running average of the weights, which is kept instead of them; 0: off.",
        why="The average of few steps lags; for a few hundred steps take 0.99.",
        unit="share per step",
        rule=BELOW_ONE,
        placeholder="DECAY",
        commands=TRAIN_COMPARE,
    )
    bn: Norms = training_setting(
        "auto",
        "BatchNorm of trained stages: frozen statistics, or train; auto: train from scratch only.",
        why="The probe was fitted on the pretrained statistics; those of random weights mean "
        "nothing.",
    )
    resume: bool = training_setting(
        default=False,
        text="Continue where the same command was stopped.",
        why="A new run never takes over another one's state unasked.",
        commands=("train",),
        strategies=("probe", "finetune", "scratch"),  # with nothing to resume it just begins
        harmless=True,
    )
    save_every: float = training_setting(
        60.0,
        "Seconds between checkpoints; also after every epoch.",
        why="A stopped run loses a minute at most, and writing takes little of one.",
        unit="seconds",
        rule=Bounds(1),
        placeholder="SECONDS",
        commands=TRAIN_COMPARE,
        harmless=True,
    )
    # --- the data again: in config.yaml, the seed stands between fine-tuning and the machine --
    seed: int = data_setting(
        0,
        "Seed of the split, the folds and random weights.",
        why="A fixed one: the same command gives the same run.",
        rule=Bounds(0, 2**32 - 1),
        commands=ALL_BUT_EVALUATE_PREDICT,
    )
    # --- decisions ---------------------------------------------------------------------------
    unknown_level: str = decision_setting(
        "auto",
        "Share of images of the training's kind that may be called unknown, so that others are; "
        "auto: 0.01, if the images are enough for it.",
        why="One false alarm in a hundred; 99 images that do not depend on each other bear it.",
        rule=AutoOrShare(),
        placeholder="SHARE|auto",
        commands=("train", "compare", "evaluate", "predict", "drift", "export"),
    )
    coverage: float = decision_setting(
        0.95,
        "Share of images whose set of classes is to hold the true one.",
        why="As usual; docs/decisions.md says what it promises and what it does not.",
        rule=INSIDE,
        placeholder="SHARE",
    )
    coverage_by: CoverageBy = decision_setting(
        "all",
        "Whether --coverage is aimed at over all images, or in each class that has enough.",
        why="Sets are smallest; class also holds for rare classes, with larger sets.",
    )
    min_precision: float | None = decision_setting(
        None,
        "Share of the answers that are to be right: no answer is given where that cannot be "
        "promised; none: all are given.",
        why="Only you know what a wrong answer means.",
        rule=INSIDE,
        placeholder="SHARE|none",
        or_none=True,
    )
    costs: Path | None = decision_setting(
        None,
        "CSV table of what an answer (column) costs for a true class (row). The answer of least "
        "expected cost is taken; a column abstain has the cost of no answer, a column unknown that "
        "of an image that is called unknown. none: the most probable class.",
        why="Only you know what a mistake costs.",
        placeholder="FILE|none",
        or_none=True,
    )
    bank: bool = decision_setting(
        default=True,
        text="Keep features of training images in the bundle, to tell how unlike an image is; "
        "without, a roughly rounded mean is kept, which tells it less well.",
        why="Nothing tells it better. Who has the bundle can ask whether an image was in the "
        "training; without, the score hardly tells, but a head may (docs/trust.md).",
        commands=TRAIN_COMPARE,
    )
    # --- the machine -------------------------------------------------------------------------
    device: str = machine_setting(
        "auto",
        "Where networks run: auto, cpu, cuda, cuda:N or mps.",
        why="A GPU if there is one, else the processor.",
        placeholder="NAME",
        commands=ALL_BUT_SHOW,
    )
    precision: Precision = machine_setting(
        "auto",
        "Precision of the forward pass: auto is bfloat16 where the hardware has it, else float32.",
        why="bfloat16 is twice as fast where the processor has it, at the same accuracy.",
        commands=ALL_BUT_SHOW,
    )
    batch_size: int = machine_setting(
        16,
        "Images in one forward pass; through a frozen network more of them if they are small.",
        why="The fastest on two cores (8 to 32 are within 5 %). It is fixed, so that features are "
        "found in the store again.",
        unit="images",
        rule=Bounds(1, 65_536),
        short="-b",
        commands=ALL_BUT_SHOW,
    )
    workers: int = machine_setting(
        0,
        "Threads that read and decode images; 0 is one per processor.",
        why="Decoding then takes all processors that this process may use.",
        unit="threads",
        rule=Bounds(0, 1024),
        short="-j",
        commands=ALL_COMMANDS,
        harmless=True,
    )
    cache: bool = machine_setting(
        default=True,
        text="Keep features in the store for later runs.",
        why="Computing features takes most of the time of a probe.",
        commands=ALL_BUT_PREDICT_SHOW,
        harmless=True,
    )
    cache_dir: Path | None = machine_setting(
        None,
        "Folder of the store; if not given, $REGRAFT_CACHE, else the platform's cache folder.",
        why="All projects of a user then share one store.",
        commands=ALL_BUT_PREDICT_SHOW,
        harmless=True,
    )
    # --- the result --------------------------------------------------------------------------
    out: Path | None = result_setting(
        None,
        "Run folder; if not given, a new one under regraft-runs/, named after the data.",
        why="A new run never replaces an old one.",
        commands=("train",),
    )
    overwrite: bool = result_setting(
        default=False,
        text="Replace the run that is already in --out.",
        why="A run is only lost if you ask for it.",
        commands=("train",),
    )
    log: str = result_setting(
        "none",
        "Records beside the run folder's own: tensorboard, mlflow, or both with a comma.",
        why="The run folder has the same figures; both need a package more.",
        rule=SomeOf(LOGS),
        placeholder="NAMES",
        commands=TRAIN_COMPARE,
    )

    def __post_init__(self) -> None:
        for name, each in settings_of(type(self)).items():
            value = each.checked(getattr(self, name))
            object.__setattr__(self, name, value)  # a frozen dataclass allows no other way
        self._check_folds()
        self._check_views()
        self._check_weights()
        self._check_head()
        self._check_cached_views()
        self._check_promises()

    def _check_folds(self) -> None:
        """Refuse folds with what has one test part."""
        if self.folds and (self.strategy != "probe" or self.split is not None):
            other = "split" if self.split is not None else f"strategy {self.strategy}"
            raise ConfigError(
                f"folds is {self.folds}, and {other} is given: one of the two",
                hint="`folds` tests every image by probes; splits and fine-tuning test one part",
            )

    def _check_views(self) -> None:
        """Refuse views that nothing would read."""
        if self.tta and not self.views:
            raise ConfigError("tta is given, and views is 0", hint="`views=4, tta=True`")
        if not self.views:
            return
        if self.strategy != "probe":
            other, hint = f"strategy {self.strategy}", "fine-tuning augments every epoch by itself"
        elif self.augment == "none":
            other, hint = "augment none", "views are augmented images"
        elif self.head in {"knn", "mean"} and not self.tta:
            other, hint = f"head {self.head}", "knn and mean read views with `tta=True` only"
        else:
            return
        raise ConfigError(
            f"views is {self.views}, and {other} is given: one of the two",
            hint=f"`views=0`: {hint}",
        )

    def _check_weights(self) -> None:
        """Refuse trained weights where training begins with random ones."""
        if self.strategy == "scratch" and self.weights not in {"default", "none"}:
            raise ConfigError(
                f"weights is {self.weights}; it must be default or none where strategy is scratch"
            )

    def _check_head(self) -> None:
        """Refuse to train a head that has no weights."""
        if self.strategy == "finetune" and self.head == "knn":
            raise ConfigError(
                "head is knn; it must be logistic, ridge or mean where strategy is finetune",
                hint="steps change weights, and knn has none",
            )

    def _check_cached_views(self) -> None:
        """Refuse to use views of images again that are blended."""
        if (self.mixup or self.cutmix) and self.cached_views not in {"auto", "0"}:
            raise ConfigError(
                f"cached_views is {self.cached_views}, and images are blended: one of the two",
                hint="mixup and CutMix blend pixels before the frozen stages see them",
            )

    def _check_promises(self) -> None:
        """Refuse two settings that say when no answer is given."""
        if self.min_precision is not None and self.costs is not None:
            raise ConfigError(
                f"min_precision is {self.min_precision:g}, and costs is given: one of the two",
                hint="both say when no answer is given; a column abstain in the costs says what "
                "that costs",
            )

    @property
    def logs(self) -> tuple[str, ...]:
        """Names in ``log``, each once."""
        return () if self.log == "none" else tuple(split_words(self.log))

    def replace(self, **changes: Any) -> TrainConfig:
        """Return a copy with some fields changed, checked like a new one."""
        return dataclasses.replace(self, **changes)
