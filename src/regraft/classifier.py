"""The module that pickles of ``Classifier`` made by version 0.1 name: it moved to ``estimator``."""

from regraft.estimator import Classifier

__all__ = ["Classifier"]
