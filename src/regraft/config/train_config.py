"""The one frozen configuration of a training run: every default with its unit and its reason.

The command line makes its flags from these fields, the run folder stores them as YAML, and Python
users pass them by name. This module imports neither numpy nor torch.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from regraft.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

HeadName = Literal["logistic", "ridge", "knn", "mean"]
ClassWeight = Literal["none", "balanced"]
Precision = Literal["auto", "bfloat16", "float32"]
Strategy = Literal["probe", "finetune", "scratch"]
Start = Literal["probe", "random-head"]
OptimizerName = Literal["adamw", "sgd"]
ScheduleName = Literal["cosine", "step", "constant"]
Augment = Literal["auto", "none", "light", "standard", "strong", "digits"]
Norms = Literal["auto", "frozen", "train"]

LOGS = ("tensorboard", "mlflow")

SCHEMA_VERSION = 1
MAX_VIEWS = 16  # all becomes so many times slower


def _setting(default: Any, text: str, **metadata: Any) -> Any:
    """Declare a field with the text that the command line and the docs show."""
    return field(default=default, metadata={"help": text, **metadata})


def unknown_setting(name: str, known: Iterable[str], place: str = "") -> ConfigError:
    """Return the error for a name that is none of the settings, with its nearest matches.

    Examples
    --------
    >>> print(unknown_setting("sed", ["seed", "head"]))
    unknown setting sed
    hint: did you mean seed?
    """
    near = difflib.get_close_matches(name, list(known), n=3)
    return ConfigError(
        f"{place}unknown setting {name}",
        hint=f"did you mean {' or '.join(near)}?" if near else "docs/settings.md has all",
    )


def _names_checked(cls: Any) -> Any:
    """Let a dataclass tell an unknown name as one of our errors, with the nearest names."""
    make = cls.__init__
    known = [each.name for each in dataclasses.fields(cls)]

    @functools.wraps(make)
    def checked(self: Any, **settings: Any) -> None:
        for name in settings:
            if name not in known:
                raise unknown_setting(name, known)
        make(self, **settings)

    cls.__init__ = checked
    return cls


@_names_checked
@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides what a run computes, and where it writes.

    Paths may be given as text, and numbers as numpy has them.

    Raises
    ------
    ConfigError
        Where a name is unknown, or a value is out of range; the message names field and value.

    Examples
    --------
    >>> TrainConfig(seed=1).replace(test_fraction=0.1).test_fraction
    0.1
    >>> TrainConfig(test_fraction=1.5)
    Traceback (most recent call last):
        ...
    regraft.errors.ConfigError: test_fraction is 1.5; it must lie between 0 and 1, both excluded
    """

    # --- the network -------------------------------------------------------------------------
    model: str = _setting(
        "embedded",  # the only weights that every installation has, without a network
        "Backbone: embedded, timm/NAME, torchvision/NAME, local-dir:PATH or hf-hub:OWNER/NAME.",
    )
    weights: str = _setting(
        "default", "Weights: default, none (random), a torchvision enum name, or a local file."
    )
    image_size: str = _setting(
        "auto",  # the backbone's own, except for small images (docs/design/decisions.md)
        "Side of the square the network sees, in pixels; auto follows the images.",
    )
    taps: str = _setting(
        "auto",  # what the training part says is best (docs/probe.md)
        "Features the head reads: auto (chosen on the training part), last (the pooled ones), all "
        "(every stage), all@2 (every stage in 2x2 cells), or names as in layer3@2,pooled.",
    )
    grids: str = _setting(
        "auto",  # 1,2,4 for --taps auto, else 1
        "Cells a side in which stages are read that name none: some of 1,2,4 with commas.",
    )
    views: int = _setting(
        0,  # docs/probe.md: what they bring, and that extraction takes so many times longer
        "Augmented views of each training image that a probe learns from besides the image itself; "
        "--augment says which kind.",
    )
    tta: bool = _setting(
        default=False,  # predictions take so many times longer, wherever the bundle goes
        text="Test-time augmentation: average the features of every image over its views, in "
        "training and in the bundle.",
    )
    # --- the data ----------------------------------------------------------------------------
    test_fraction: float = _setting(
        0.2, "Share of the images held out for testing, where the data bring no test part."
    )
    folds: int = _setting(
        0,  # for a few hundred images: a test part of sixty says little
        "Test every image once, in this many rounds of training without it; 0 is one test part. "
        "The bundle is then fitted on all images.",
    )
    split: Path | None = _setting(None, "A split.csv of an earlier run: same parts again.")
    group_by: str | None = _setting(
        None,  # images of one patient or burst in two parts make results too good
        "What must not straddle parts: parent, a path part's number (0 is the first), or a "
        "regular expression whose first group (or whole match) names the group.",
    )
    data_root: Path | None = _setting(None, "Where named datasets lie or are downloaded to.")
    strict: bool = _setting(default=False, text="Stop at the first image that cannot be used.")
    max_pixels: int = _setting(
        40_000_000,  # 120 MB decoded; most cameras' pictures, no bomb
        "Images of more pixels than this are refused before they are decoded.",
    )
    # --- the head ----------------------------------------------------------------------------
    head: HeadName = _setting("logistic", "What is fitted on the features.")
    class_weight: ClassWeight = _setting(
        "none",  # honest probabilities; "balanced" trades them for recall of rare classes
        "balanced: rare classes count as much as common ones in the fit.",
    )
    memory: str = _setting(
        "auto",  # half of what is free; beyond it the fit reads from a temporary file
        "GiB that the fit may hold.",
    )
    # --- fine-tuning -------------------------------------------------------------------------
    strategy: Strategy = _setting(
        "probe",
        "probe: a head on the frozen network; finetune: from the probe on, the last stages are "
        "trained too (--unfreeze); scratch: everything from random weights.",
    )
    unfreeze: str = _setting(
        "2", "Stages that are trained: a number of last ones (0: the head alone), all, or names."
    )
    start: Start = _setting(
        "probe",  # linear probing, then fine-tuning: Kumar et al., ICLR 2022
        "Head that fine-tuning starts from.",
        short="--from",
    )
    val_fraction: float = _setting(
        0.1, "Share of the training part that chooses the epoch, where the data bring none."
    )
    epochs: int = _setting(10, "Passes over the training part.")
    patience: int = _setting(
        0, "Stop after so many epochs without a better one; 0: never."
    )  # a cosine schedule is at its best at its end
    augment: Augment = _setting(
        "auto",  # a mirrored character is another one, or none
        "Random changes of training images: none, light (crop, mirror), standard and strong "
        "(TrivialAugment, erasing), or digits (small turns and moves, no mirror); auto: digits "
        "where every class is called by one character or a number, else light.",
    )
    cached_views: str = _setting(
        "auto",  # what changes no result: without augmentation every epoch sees the same images
        "Epochs that draw their own views, for later ones to use again: the frozen stages then run "
        "once a view, and the rest trains on what they gave. auto: 1 without augmentation, else 0: "
        "every epoch draws its own.",
    )
    lr: float | None = _setting(
        None,
        "Learning rate; where not given, it follows optimizer and strategy (docs/finetuning.md). "
        "`regraft lr-find` suggests one.",
    )
    optimizer: OptimizerName = _setting("adamw", "adamw, or sgd with momentum 0.9.")
    weight_decay: float = _setting(0.01, "Of weights; never of biases and norms.")
    layer_decay: float = _setting(
        0.8, "Each stage learns so many times as fast as the one behind it; 1: all the same."
    )
    schedule: ScheduleName = _setting("cosine", "How the learning rate falls.")
    warmup: float = _setting(1.0, "Epochs over which the learning rate rises.")
    accumulate: int = _setting(1, "Forward passes of --batch-size images in one step.")
    clip: float = _setting(1.0, "Longest gradient of a step; 0: any.")
    label_smoothing: float = _setting(0.0, "Share of each target that all classes divide.")
    mixup: float = _setting(0.0, "Beta parameter of blended image pairs; 0: off, 0.2 is usual.")
    cutmix: float = _setting(0.0, "Beta parameter of exchanged rectangles; 0: off, 1 is usual.")
    dropout: float = _setting(0.0, "Share of the head's features dropped in training.")
    ema: float = _setting(
        0.0, "Decay of the running average of weights that is kept instead; 0: off."
    )
    bn: Norms = _setting(
        "auto",  # the probe was fitted on the pretrained statistics; random ones mean nothing
        "BatchNorm of trained stages: frozen statistics, or train; auto: train from scratch only.",
    )
    resume: bool = _setting(default=False, text="Continue where the same command was stopped.")
    save_every: float = _setting(60.0, "Seconds between checkpoints; also after every epoch.")
    # --- the machine -------------------------------------------------------------------------
    seed: int = _setting(0, "Seed of the split, the folds and random weights.")
    device: str = _setting("auto", "auto, cpu, cuda, cuda:N or mps.")
    precision: Precision = _setting(
        "auto",  # bfloat16 is twice as fast where the processor has it, at the same accuracy
        "Of the forward pass: auto is bfloat16 where the hardware has it, else float32.",
    )
    batch_size: int = _setting(
        16,  # fastest on two cores (8 to 32 are within 5 %); fixed, so stored rows repeat
        "Images in one forward pass; through a frozen network more of them where they are small.",
        short="-b",
    )
    workers: int = _setting(
        0, "Threads that read and decode images; 0 is one per processor.", short="-j"
    )
    cache: bool = _setting(default=True, text="Keep features in the store for later runs.")
    cache_dir: Path | None = _setting(
        None, "The store's folder; else $REGRAFT_CACHE, else the platform's cache folder."
    )
    # --- the result --------------------------------------------------------------------------
    out: Path | None = _setting(
        None, "Run folder; else a new one under regraft-runs/, named after the data."
    )
    overwrite: bool = _setting(default=False, text="Replace the run that --out already holds.")
    log: str = _setting(
        "none", "Records beside the run folder's own: tensorboard, mlflow, or both with a comma."
    )

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            value = _converted(each.name, getattr(self, each.name), str(each.type))
            object.__setattr__(self, each.name, value)  # the one moment in which it may change

        def must(condition: bool, name: str, rule: str) -> None:  # noqa: FBT001 - reads as a sentence
            if not condition:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must {rule}")

        must(0 < self.test_fraction < 1, "test_fraction", "lie between 0 and 1, both excluded")
        must(self.folds == 0 or 2 <= self.folds <= 100, "folds", "be 0 or lie between 2 and 100")
        if self.folds and (self.strategy != "probe" or self.split is not None):
            other = "split" if self.split is not None else f"strategy {self.strategy}"
            raise ConfigError(
                f"folds is {self.folds}, and {other} is given: one of the two",
                hint="--folds tests every image by probes; splits and fine-tuning test one part",
            )
        must(0 <= self.views <= MAX_VIEWS, "views", f"lie between 0 and {MAX_VIEWS}")
        _check_views(self)
        must(1 <= self.batch_size <= 65_536, "batch_size", "lie between 1 and 65536")
        must(0 <= self.workers <= 1024, "workers", "lie between 0 and 1024")
        must(0 <= self.seed < 2**32, "seed", "lie between 0 and 4294967295")
        must(1 <= self.max_pixels <= 2**31, "max_pixels", "lie between 1 and 2147483648")
        must(0 < self.val_fraction < 1, "val_fraction", "lie between 0 and 1, both excluded")
        must(1 <= self.epochs <= 100_000, "epochs", "lie between 1 and 100000")
        must(0 <= self.patience <= 100_000, "patience", "lie between 0 and 100000")
        must(1 <= self.accumulate <= 65_536, "accumulate", "lie between 1 and 65536")
        must(self.lr is None or 0 < self.lr <= 1000, "lr", "lie above 0, at most 1000")
        must(0 < self.layer_decay <= 1, "layer_decay", "lie above 0, at most 1")
        must(0 <= self.ema < 1, "ema", "lie between 0 and 1, 1 excluded")
        for name in ("label_smoothing", "dropout"):
            must(0 <= getattr(self, name) < 1, name, "lie between 0 and 1, 1 excluded")
        for name in ("mixup", "cutmix", "weight_decay", "warmup", "clip"):
            must(0 <= getattr(self, name) < float("inf"), name, "be 0 or more")
        must(
            self.strategy != "scratch" or self.weights in {"default", "none"},
            "weights",
            "be default or none where strategy is scratch",
        )
        must(
            self.strategy != "finetune" or self.head != "knn",
            "head",
            "be one that weighs features where strategy is finetune",
        )
        must(
            self.log == "none" or set(self.logs) <= set(LOGS),
            "log",
            f"be none, or some of {', '.join(LOGS)} with commas",
        )
        must(1 <= self.save_every < float("inf"), "save_every", "be 1 second or more")
        views = self.cached_views
        must(
            views == "auto"
            or (views.isascii() and views.isdecimal() and int(views[:9]) <= 100_000),
            "cached_views",
            "be auto or a number from 0 to 100000",
        )
        if (self.mixup or self.cutmix) and views not in {"auto", "0"}:
            raise ConfigError(
                f"cached_views is {views}, and images are blended: one of the two",
                hint="mixup and CutMix blend pixels before the frozen stages see them",
            )
        must(
            self.image_size == "auto"
            or (
                self.image_size.isascii()
                and self.image_size.isdecimal()
                and 8 <= int(self.image_size[:9]) <= 4096
            ),
            "image_size",
            "be auto or a number of pixels between 8 and 4096, as far as the network takes it",
        )
        for name, kind in (
            ("head", HeadName),
            ("class_weight", ClassWeight),
            ("precision", Precision),
            ("strategy", Strategy),
            ("start", Start),
            ("optimizer", OptimizerName),
            ("schedule", ScheduleName),
            ("augment", Augment),
            ("bn", Norms),
        ):
            allowed = get_args(kind)
            must(getattr(self, name) in allowed, name, f"be one of {', '.join(allowed)}")

    @property
    def logs(self) -> tuple[str, ...]:
        """Names in ``log``, each once."""
        words = [] if self.log == "none" else self.log.split(",")
        return tuple(dict.fromkeys(word.strip() for word in words))

    def replace(self, **changes: Any) -> TrainConfig:
        """Return a copy with some fields changed, checked like a new one."""
        return dataclasses.replace(self, **changes)


def _check_views(config: TrainConfig) -> None:
    """Refuse views that nothing would be made of."""
    if config.tta and not config.views:
        raise ConfigError("tta is given, and views is 0", hint="--views 4 --tta")
    others = {
        f"strategy {config.strategy}": config.strategy != "probe",
        "augment none": config.augment == "none",
        f"head {config.head}": config.head in ("knn", "mean") and not config.tta,
    }
    for other, given in others.items():
        if config.views and given:
            raise ConfigError(
                f"views is {config.views}, and {other} is given: one of the two",
                hint="views (--views 0: none) are for a probe whose head weighs features; "
                "fine-tuning augments every epoch by itself",
            )


#: By the text of an annotation: what may be given, what it becomes, how it is called.
_KINDS: dict[str, tuple[tuple[type, ...], Callable[[Any], Any], str]] = {
    "Path": ((str, os.PathLike), Path, "a path"),
    "str": ((str, Integral), str, "text"),  # image_size=224
    "int": ((Integral,), int, "a whole number"),
    "float": ((Real,), float, "a number"),
    "bool": ((bool,), bool, "True or False"),
}


def _converted(name: str, value: Any, kind: str) -> Any:
    """Return a value as its field's type has it; ``kind`` is the annotation's text."""
    kind, optional, _ = kind.partition(" | None")
    if kind not in _KINDS or (value is None and optional):
        return value  # one of a few words is told with those words
    given, convert, wanted = _KINDS[kind]
    if not isinstance(value, given) or (isinstance(value, bool) and kind != "bool"):
        raise ConfigError(f"{name} is {value!r}; it must be {wanted}")
    return convert(value)
