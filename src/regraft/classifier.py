"""The old import path of ``Classifier``, kept because users' pickles name it; see ``estimator``."""

from regraft.estimator import Classifier

__all__ = ["Classifier"]
