"""The former module of ``Classifier``, which pickles name; the class is in ``estimator``."""

from regraft.estimator import Classifier

__all__ = ["Classifier"]
