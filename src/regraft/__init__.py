"""regraft: labelled images in, an honest and deployable image classifier out.

The public names are loaded when they are first used: ``import regraft`` alone costs a millisecond
and imports neither numpy nor torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from regraft.bundle.predictor import Predictor
    from regraft.classifier import Classifier
    from regraft.config import TrainConfig
    from regraft.deployment import evaluate, predict
    from regraft.errors import RegraftError, RegraftWarning
    from regraft.pipeline import Run, train
    from regraft.rate_finder import find_rate
    from regraft.report import Reporter

__all__ = [
    "Classifier",
    "Predictor",
    "RegraftError",
    "RegraftWarning",
    "Reporter",
    "Run",
    "TrainConfig",
    "__version__",
    "evaluate",
    "find_rate",
    "predict",
    "train",
]

_HOMES = {
    "Classifier": "regraft.classifier",
    "Predictor": "regraft.bundle.predictor",
    "RegraftError": "regraft.errors",
    "RegraftWarning": "regraft.errors",
    "Reporter": "regraft.report",
    "Run": "regraft.pipeline",
    "TrainConfig": "regraft.config",
    "evaluate": "regraft.deployment",
    "find_rate": "regraft.rate_finder",
    "predict": "regraft.deployment",
    "train": "regraft.pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'regraft' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
