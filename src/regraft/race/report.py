"""What a race has found: a table, lines, and the same for race.json."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from regraft.backbones.lists import forbids_commerce
from regraft.config.declaration import settings_of
from regraft.config.settings import read_by
from regraft.core.text import columns, counted
from regraft.evaluation.metrics import share_estimate
from regraft.runs.summary import interval

if TYPE_CHECKING:
    from collections.abc import Mapping

    from regraft.race.rounds import Contender, Standing


@dataclass(frozen=True)
class Found:
    """The result of a race."""

    standing: Standing
    missing: dict[str, str]  # networks that could not be raced, with the reason
    test: dict[str, Any] | None  # figures by name, and n; None if the test part was not read
    command: str  # to type next
    threads: int
    balanced: bool


def as_record(found: Found) -> dict[str, Any]:
    """Return what race.json holds, but for its version."""
    standing = found.standing
    return {
        "images": {"train": len(standing.dataset.train), "test": len(standing.dataset.test)},
        "rounds": standing.n_rounds,
        "whole": standing.whole,
        "balanced": found.balanced,  # whether log_loss counts each class the same
        "threads": found.threads,
        "candidates": [_row(each, standing) for each in ranked(standing)],
        "missing": found.missing | _unmeasured(standing),
        "winner": _winner(standing).name,
        "notes": standing.notes,
        "test": found.test,
        "command": found.command,
    }


def ranked(standing: Standing) -> list[Contender]:
    """Return the candidates that were measured: of the last round first, then by their loss."""
    some = [each for each in standing.candidates.values() if each.round]
    return sorted(some, key=lambda each: (-each.round, each.log_loss))


def _unmeasured(standing: Standing) -> dict[str, str]:
    """Return the networks that were in the race and have no figures, with the reason."""
    some = standing.candidates.values()
    return {each.name: each.reason for each in some if not each.round}


def _winner(standing: Standing) -> Contender:
    return next(each for each in standing.candidates.values() if each is standing.winner)


def _row(candidate: Contender, standing: Standing) -> dict[str, Any]:
    """Return the figures of a candidate."""
    fit = candidate.fit
    licences = [each.network.licence or "not stated" for each in candidate.members]
    return {
        "name": candidate.name,
        "images": candidate.images,
        "round": candidate.round,
        "log_loss": candidate.log_loss,
        "log_loss_se": candidate.log_loss_se,
        "accuracy": share_estimate(sum(fit.right), sum(fit.scored)),
        "seconds": candidate.fit_seconds + sum(each.seconds for each in candidate.members),
        "megabytes": sum(each.megabytes for each in candidate.members),
        "licences": licences,
        "non_commercial": any(map(forbids_commerce, licences)),
        "latency": candidate.latency,
        "winner": candidate is standing.winner,
        "reason": candidate.reason,
    }


def as_text(record: Mapping[str, Any]) -> str:
    """Return what is printed of a record of a race."""
    images, rounds = counted(record["images"]["train"]), counted(record["rounds"], "round")
    lines = [
        f"{images} of the training part by folds, {rounds}, {counted(record['threads'], 'thread')}",
        _table(record),
        *(f"not raced: {name}: {reason}" for name, reason in record["missing"].items()),
        *record["notes"],
    ]
    limited = [each["name"] for each in record["candidates"] if each["non_commercial"]]
    if limited:
        lines.append(f"the licence forbids commercial use: {', '.join(limited)}")
    winner = next(each for each in record["candidates"] if each["winner"])
    lines.append(
        f"winner: {winner['name']}, the fastest within one standard error of the least "
        f"{_loss_name(record)}"
    )
    return "\n".join([*lines, *_test_lines(record), f"next: {record['command']}"])


def _table(record: Mapping[str, Any]) -> str:
    loss = _loss_name(record)
    header = ["network", "images", loss, "accuracy", "seconds", "MB", "licence", "ms", "result"]
    cells = [
        [
            row["name"],
            f"{row['images']:,}",
            f"{row['log_loss']:.4f} +- {row['log_loss_se']:.4f}",
            interval(row["accuracy"]),
            f"{row['seconds']:,.1f}",
            f"{row['megabytes']:,.1f}",
            ", ".join(dict.fromkeys(row["licences"])),
            f"{row['latency']:,.1f}",
            _result(row, record["rounds"]),
        ]
        for row in record["candidates"]
    ]
    return columns(header, cells, right={1, 4, 5, 7})


def _loss_name(record: Mapping[str, Any]) -> str:
    return "balanced log-loss" if record["balanced"] else "log-loss"


def _result(row: Mapping[str, Any], n_rounds: int) -> str:
    if row["round"] == n_rounds or not row["reason"]:
        return str(row["reason"])
    return f"round {row['round']}: {row['reason']}"


def _test_lines(record: Mapping[str, Any]) -> list[str]:
    test = record["test"]
    if test is None:
        return []
    lines = []
    for name, figures in test.items():
        if name == "n":
            continue
        gain = figures.get("gain")
        told = ""
        if gain:
            told = (
                f"; the winner's gain {gain['value']:+.3f} "
                f"({gain['low']:+.3f} to {gain['high']:+.3f})"
            )
        lines.append(f"test {name}: accuracy {interval(figures['accuracy'], test['n'])}{told}")
    return lines


def command_for(data: object, config: Any, model: str) -> str:
    """Return the command that trains the winner with the settings of the race."""
    kind: type = type(config)
    declared = settings_of(kind)
    words = [
        "regraft",
        "train",
        str(data) if isinstance(data, str) else "DATA",
        declared["model"].flag,
        model,
    ]
    for name in [*read_by("race"), "folds"]:
        value = getattr(config, name)
        if value == declared[name].default:
            continue
        flag = declared[name].flag
        if isinstance(value, bool):
            words.append(flag if value else f"{flag[:2]}no-{flag[2:]}")
        elif isinstance(value, tuple):
            words += [word for each in value for word in (flag, each)]
        else:
            words += [flag, str(value)]
    return shlex.join(words)
