"""With few images, does it help to stay near the probe, by L2-SP or by averaging its weights?

    python benchmarks/bench_start.py DATA [--a-class 25] [--size 160] [--unfreeze 2] [--epochs 12]
        [--lr 3e-4] [--first 100] [--count 4] [--pulls 0,10,100] [--shares 0,0.25,0.5,0.75,1]

Draws --a-class training images of each class, and a fifth as many more that only choose the epoch.
For each pull, the network is trained with L2-SP: after each step, every weight moves back towards
its start by rate * pull * distance (decoupled, like the decay of AdamW). For each share, a network
between the probe and the last epoch is scored on the test part: (1 - share) * probe + share *
trained. Prints one JSON line: means over draws, and gains over the plain last epoch (pull 0, share
1) with their standard errors, paired by draw; share 0 is the probe itself.

References: Li et al., Explicit inductive bias for transfer learning, ICML 2018 (L2-SP). Wortsman et
al., Robust fine-tuning of zero-shot models, CVPR 2022 (averaging).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

from regraft.cli.tuning import tune_process

tune_process()

import numpy as np  # noqa: E402 - after the process was tuned
import torch  # noqa: E402

from regraft.config.train_config import TrainConfig  # noqa: E402
from regraft.core.machine import n_processors  # noqa: E402
from regraft.data.dataset import Dataset  # noqa: E402
from regraft.data.scan import scan  # noqa: E402
from regraft.features.extractor import Extractor, load_networks  # noqa: E402
from regraft.finetune.reader import ImageReader  # noqa: E402
from regraft.finetune.train import Job, run_loop  # noqa: E402
from regraft.finetune.validation import Validation  # noqa: E402
from regraft.heads.temperature import log_losses  # noqa: E402
from regraft.probe.fit import ProbeSettings, fit_probe  # noqa: E402
from regraft.splits.split import split  # noqa: E402


class Pull:
    """A callback for L2-SP that records the network before and after the training."""

    def __init__(self, strength: float):
        self.strength = strength

    def on_train_begin(self, loop):
        """Record the tensors at the start."""
        state = loop.state
        self.begin = {name: tensor.clone() for name, tensor in state.network.state().items()}

    @torch.no_grad()
    def on_batch_end(self, loop):
        """Move the weights back towards the start."""
        if not self.strength:
            return
        for group in loop.state.optimizer.param_groups:
            for name, parameter in zip(group["names"], group["params"], strict=True):
                parameter.lerp_(self.begin[name], min(1.0, group["lr"] * self.strength))

    def on_train_end(self, loop):
        """Record the tensors at the end."""
        self.network = loop.state.network
        self.end = {name: tensor.clone() for name, tensor in self.network.state().items()}

    def between(self, share: float):
        """Return the model at this share of the way from start to end."""
        tensors = {
            name: torch.lerp(start, self.end[name], share)
            if start.is_floating_point()
            else self.end[name]
            for name, start in self.begin.items()
        }
        return self.network.to_model(tensors, "in between")


def few(samples, train, a_class, seed):
    """Draw some training images of each class, and a fifth as many for validation."""
    order = np.random.default_rng(seed).permutation(train)
    of_class = [order[samples.labels[order] == k] for k in range(len(samples.classes))]
    more = a_class + max(1, a_class // 5)
    train = np.sort(np.concatenate([rows[:a_class] for rows in of_class]))
    return train, np.sort(np.concatenate([rows[a_class:more] for rows in of_class]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--a-class", type=int, default=25)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--unfreeze", default="2")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--first", type=int, default=100)
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--pulls", default="0,10,100")
    parser.add_argument("--shares", default="0,0.25,0.5,0.75,1")
    given = parser.parse_args()
    pulls = [float(word) for word in given.pulls.split(",")]
    shares = [float(word) for word in given.shares.split(",")]
    config = TrainConfig(
        strategy="finetune", unfreeze=given.unfreeze, epochs=given.epochs, lr=given.lr,
        image_size=given.size, augment="light",
    )  # fmt: skip
    samples = scan(given.data, config)
    chosen = Extractor.for_samples(load_networks(config), samples, config)
    backbone, compute = chosen.backbone, chosen.compute
    found = np.zeros((given.count, len(pulls), len(shares), 2))
    for draw, seed in enumerate(range(given.first, given.first + given.count)):
        config = chosen.config.replace(seed=seed)
        parts = split(samples, test_fraction=config.test_fraction, seed=seed)
        train, val = few(samples, parts.train, given.a_class, seed)
        parts = dataclasses.replace(parts, train=train, val=val)
        dataset = Dataset(samples, parts)
        with Extractor([backbone], compute, config) as extractor:
            features = extractor.read(Dataset(samples, dataclasses.replace(parts, test=val[:0])))
            probe = fit_probe(features, dataset, (backbone,), ProbeSettings.of(config))
        reader = ImageReader(samples, backbone.preprocess, n_processors())
        testing = Validation(reader, parts.test, compute)
        truth = samples.labels[parts.test]
        for i, strength in enumerate(pulls):
            pull = Pull(strength)
            with tempfile.TemporaryDirectory() as folder:
                place = Path(folder) / "run"
                run_loop(Job(probe.model, dataset, extractor), place, [pull])
            for j, share in enumerate(shares):
                logits = testing.score(pull.between(share)).logits
                right = (logits.argmax(1) == truth).mean()
                found[draw, i, j] = right, log_losses(logits, truth).mean()
    plain = found[:, [pulls.index(0)], [len(shares) - 1]][:, None]
    gain = found - plain
    error = gain.std(axis=0, ddof=1) / given.count**0.5
    rows = [
        {
            "pull": pulls[i],
            "share": shares[j],
            "accuracy": round(float(found[:, i, j, 0].mean()), 4),
            "log_loss": round(float(found[:, i, j, 1].mean()), 4),
            "gain": [round(float(gain[:, i, j, 0].mean()), 4), round(float(error[i, j, 0]), 4)],
        }
        for i in range(len(pulls))
        for j in range(len(shares))
    ]
    print(json.dumps({**vars(given), "n_test": len(truth), "found": rows}))


if __name__ == "__main__":
    main()
