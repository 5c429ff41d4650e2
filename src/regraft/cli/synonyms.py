"""What other tools call our commands and flags, for the hint where one is unknown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from regraft.core.text import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

#: Ours, with the words of others.
COMMANDS = {
    "train": "fit finetune fine-tune learn run embed extract features",
    "evaluate": "eval test val valid validate validation score measure",
    "predict": "infer inference classify detect apply label embed extract features",
    "drift": "shift monitor ood outliers novelty",
    "show": "view display plot explore inspect visualize visualise stats",
    "compare": "bench benchmark diff versus vs",
    "race": "search select choose best automl halving tournament leaderboard",
    "lr-find": "find-lr lr-finder lrfind tune",
    "recipes": "tutorials examples configs",
    "backbones": "models networks nets architectures archs zoo list",
    "datasets": "data download",
    "cache": "clean clear purge prune",
    "demo": "example quickstart try start",
    "doctor": "check info env diagnose status",
    "--help": "help man usage",
    "--version": "version",
}
FLAGS = {
    "--model": "arch architecture backbone network net encoder base-model",
    "--models": "model arch architecture backbone network backbones",
    "--weights": "pretrained checkpoint ckpt pretrained-weights",
    "--image-size": "imgsz img-size imsize input-size resolution size img",
    "--taps": "layers layer feature-layer features",
    "--views": "n-views num-views",
    "--test-fraction": "test-split test-size test-ratio",
    "--val-fraction": "val-split validation-split val-size val-ratio",
    "--folds": "cv kfold k-folds n-folds num-folds n-splits",
    "--group-by": "group groups group-column",
    "--seed": "random-state random-seed manual-seed rng",
    "--at-most": "limit max-images max-samples subset n-images",
    "--head": "classifier clf",
    "--class-weight": "class-weights balanced weighted",
    "--strategy": "mode method",
    "--strategies": "strategy mode method",
    "--unfreeze": "freeze unfreeze-layers trainable-layers",
    "--epochs": "epoch num-epochs n-epochs max-epochs nb-epochs ep",
    "--patience": "early-stopping early-stop",
    "--augment": "augmentation augmentations aug aa transform transforms",
    "--lr": "learning-rate lr0 rate max-lr base-lr",
    "--optimizer": "opt optim optimiser",
    "--weight-decay": "wd decay l2",
    "--schedule": "scheduler lr-scheduler sched lr-schedule",
    "--warmup": "warmup-epochs",
    "--accumulate": "grad-accum accumulation-steps gradient-accumulation-steps",
    "--clip": "clip-grad grad-clip max-norm gradient-clipping",
    "--label-smoothing": "smoothing",
    "--dropout": "drop drop-rate",
    "--ema": "model-ema",
    "--device": "gpu gpus cuda cpu accelerator",
    "--precision": "amp fp16 bf16 half dtype mixed-precision",
    "--batch-size": "bs batch batchsize",
    "--workers": "num-workers n-jobs jobs threads nproc n-workers",
    "--cache-dir": "cache-folder cache-path",
    "--data-root": "download-dir datasets-dir",
    "--out": "output output-dir outdir out-dir save-dir project run-dir dest destination save",
    "--csv": "output out save output-file",
    "--overwrite": "force exist-ok yes replace",
    "--seconds": "time timeout time-limit budget max-time",
    "--latency": "max-latency ms milliseconds",
    "--topk": "top top-k k",
    "--json": "jsonl format",
    "--log": "logger tensorboard mlflow wandb report-to",
    "--config": "cfg yaml settings",
}
#: Flags of others for what ours take without one.
POSITIONAL = {
    "RUN": {"run", "bundle", "model", "weights", "checkpoint", "ckpt", "model-path"},
    "PATHS": {"source", "images", "image", "input", "data", "path", "paths", "file", "files"},
    "DATA": {
        *("data", "dataset", "data-dir", "data-path", "input", "input-dir", "source", "images"),
        *("train-dir", "root", "path", "folder", "dir"),
    },
}


def suggest_command(name: str, known: Collection[str]) -> str:
    """Return a question with our name for a command of another tool, or with a similar one."""
    ours = _ours(name.lower().replace("_", "-"), COMMANDS, known)
    return _question(ours) or did_you_mean(name, known, cutoff=0.75)


def suggest_flag(name: str, known: Collection[str], command: str) -> str:
    """Return our flag for that of another tool, a similar one, or where it goes without a flag.

    ``known`` are the names of the command's flags and arguments, such as ``--lr`` and ``DATA``.
    """
    bare = name.lstrip("-").lower().replace("_", "-")
    if f"--{bare}" in known:
        return _question([f"--{bare}"])
    ours = _ours(bare, FLAGS, known)
    if ours:
        return _question(ours)
    for argument, words in POSITIONAL.items():
        if argument in known and bare in words:
            return f"{argument} is given without a flag: {command} --help"
    return did_you_mean(name, [each for each in known if each[:1] == "-"], cutoff=0.75)


def _ours(name: str, table: Mapping[str, str], known: Collection[str]) -> list[str]:
    return [ours for ours, words in table.items() if ours in known and name in words.split()]


def _question(names: list[str]) -> str:
    return f"did you mean {' or '.join(names)}?" if names else ""
