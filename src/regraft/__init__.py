"""regraft: labelled images in, an honest and deployable image classifier out.

The public names are loaded when they are first used: ``import regraft`` alone takes a millisecond
and imports neither numpy nor torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from regraft.core.version import __version__

if TYPE_CHECKING:
    from regraft.backbones.backbone import Backbone
    from regraft.bundle.predictor import Predictor
    from regraft.commands.drift import drift
    from regraft.commands.evaluate import evaluate
    from regraft.commands.export import export
    from regraft.commands.find_rate import find_rate
    from regraft.commands.predict import predict
    from regraft.commands.train import train
    from regraft.config.train_config import TrainConfig
    from regraft.core.reporter import Reporter
    from regraft.errors import RegraftError, RegraftWarning
    from regraft.estimator import Classifier
    from regraft.images.render import Preprocess
    from regraft.runs.run import Run

__all__ = [
    "Backbone",
    "Classifier",
    "Predictor",
    "Preprocess",
    "RegraftError",
    "RegraftWarning",
    "Reporter",
    "Run",
    "TrainConfig",
    "__version__",
    "drift",
    "evaluate",
    "export",
    "find_rate",
    "predict",
    "train",
]

_HOMES = {
    "Backbone": "regraft.backbones.backbone",
    "Classifier": "regraft.estimator",
    "Predictor": "regraft.bundle.predictor",
    "Preprocess": "regraft.images.render",
    "RegraftError": "regraft.errors",
    "RegraftWarning": "regraft.errors",
    "Reporter": "regraft.core.reporter",
    "Run": "regraft.runs.run",
    "TrainConfig": "regraft.config.train_config",
    "drift": "regraft.commands.drift",
    "evaluate": "regraft.commands.evaluate",
    "export": "regraft.commands.export",
    "find_rate": "regraft.commands.find_rate",
    "predict": "regraft.commands.predict",
    "train": "regraft.commands.train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'regraft' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value  # found there by the next access
    return value


def __dir__() -> list[str]:
    return sorted(__all__)  # the module's own helpers are nobody's business
