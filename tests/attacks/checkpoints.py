"""Hostile checkpoints, their hashes made right: each is passed over, refused, or can go on."""

from __future__ import annotations

import atexit
import copy
import hashlib
import json
import random
import shutil
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

import safetensors.torch
import torch

from attacks.watching import watched
from finetune_trials import make_trial
from regraft.errors import RunError
from regraft.finetune.checkpoint import SCHEMA_VERSION, Checkpoints
from regraft.finetune.loop import Loop, epoch_line
from regraft.finetune.resume import begin_or_resume
from regraft.finetune.state import quality

ODD = (
    None, True, -1, 0, 1, 2**70, 1.5, 1e308, float("inf"), float("nan"), "", "a" * 1_000, "\0",
    "../x", [], [[]], {}, {"a": 1}, [{"val_loss": 1.0}],
)  # fmt: skip


class _Stop(Exception):  # noqa: N818 - no error
    pass


class _Keep:
    """Keep the loop of a training when it begins, and after its first epoch."""

    loop: Loop

    def on_epoch_end(self, loop):
        if loop.state.progress.epoch == 1:
            self.loop = loop
            raise _Stop


@cache
def good() -> tuple[Loop, dict, dict[str, torch.Tensor]]:
    """Return the loop of a small training, and the record and tensors of its checkpoint."""
    folder = Path(tempfile.mkdtemp(prefix="regraft-attack-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    trial, kept = make_trial(folder / "run", ema=0.9, epochs=3), _Keep()
    with suppress(_Stop):
        trial.run(kept)
    loop = kept.loop
    loop.state.progress.next_epoch()
    loop._save()
    begin_or_resume(loop, resume=True, overwrite=False)  # what it imports is imported now
    saved, _ = loop.checkpoints.load()
    return loop, saved.state, saved.tensors


def _places(value: object, path: tuple = ()) -> list[tuple]:
    """Return the path of each value in a JSON value."""
    inner = sorted(value.items()) if isinstance(value, dict) else ()
    inner = enumerate(value) if isinstance(value, list) else inner
    return [path, *(place for key, each in inner for place in _places(each, (*path, key)))]


def _mutate_json(content: dict, chance: random.Random) -> None:
    """Replace, remove or add one value."""
    *path, last = chance.choice([place for place in _places(content) if place])
    inside = content
    for key in path:
        inside = inside[key]
    match chance.randrange(4):
        case 0:
            del inside[last]
        case 1 if isinstance(inside, dict):
            inside[chance.choice(("a", "", "epoch", "val_loss"))] = chance.choice(ODD)
        case _:
            inside[last] = chance.choice(ODD)


def _mutate_tensors(tensors: dict[str, torch.Tensor], chance: random.Random) -> None:
    """Remove, rename, add or change one tensor."""
    name = chance.choice(sorted(tensors))
    tensor = tensors[name]
    match chance.randrange(8):
        case 0:
            del tensors[name]
        case 1:
            tensors[name + chance.choice(("x", "/", "/..", "\u202e"))] = tensors.pop(name)
        case 2:
            added = chance.choice(("network/a", "a", "optimizer/exp_avg", "best/", "average/x"))
            tensors[added] = tensor
        case 3:
            tensors[name] = tensor.reshape(1, *tensor.shape)
        case 4:
            tensors[name] = tensor.reshape(-1)[:1].clone()
        case 5:
            others = (torch.float64, torch.int8, torch.bool, torch.complex64)
            tensors[name] = tensor.to(chance.choice(others))
        case 6:
            tensors[name] = torch.full(tensor.shape, chance.choice((float("nan"), float("inf"))))
        case 7:
            tensors[name] = torch.zeros((0,), dtype=tensor.dtype)


def attack(seed: int, number: int) -> str:
    """Resume from one hostile checkpoint, the only one in its folder."""
    chance = random.Random(f"checkpoint {seed} {number}")
    loop, state, tensors = good()
    state, tensors = copy.deepcopy(state), dict(tensors)
    content = {"fingerprint": dict(loop.checkpoints.fingerprint), "state": state}
    kind = chance.choice(("json", "json", "tensors", "tensors", "both", "outer"))
    if kind in {"json", "both"}:
        _mutate_json(content, chance)
    if kind in {"tensors", "both"}:
        _mutate_tensors(tensors, chance)
    data = safetensors.torch.save(
        {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    )
    return check(loop, data, _json(content, data, chance if kind == "outer" else None))


def _json(content: dict, data: bytes, chance: random.Random | None) -> bytes:
    """Return the JSON of a checkpoint with the hashes of what it holds now."""
    record = {
        "schema_version": SCHEMA_VERSION,
        "tensors": {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)},
        **content,
    }
    if chance is not None:
        _mutate_json(record, chance)
        record = chance.choice((record, record, record, [record], None, 7))
    text = json.dumps(record)
    seal = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps({"sha256": seal, "content": text}).encode()


def check(loop: Loop, data: bytes, record: bytes) -> str:
    """Resume; return "resumed" or the name of the typed error, and raise for anything else."""
    checkpoints: Checkpoints = loop.checkpoints
    for path in checkpoints.folder.iterdir():
        path.unlink()
    (checkpoints.folder / "00000001.safetensors").write_bytes(data)
    (checkpoints.folder / "00000001.json").write_bytes(record)
    with watched(checkpoints.folder):
        try:
            begin_or_resume(loop, resume=True, overwrite=False)
        except RunError as error:
            if len(str(error)) > 2_000:
                raise AssertionError(f"cannot be printed: {str(error)[:200]!r}") from error
            return "RunError"
    go_on(loop)
    return "resumed"


def go_on(loop: Loop) -> None:
    """Do with the state what the rest of a training does."""
    for _, parameter in loop.state.trained():
        parameter.grad = torch.zeros_like(parameter)
    loop.state.optimizer.step()
    loop.state.update_average(0.9)
    for row in loop.state.progress.history:
        quality(row)
        epoch_line(row, 3)
    loop._is_over()
    loop._images_left()
