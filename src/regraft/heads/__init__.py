"""Heads: the map from features to class logits, and how each is fitted.

To add one, write a fitter as ``fit.Fitter`` describes, and name it in ``fit.FITTERS`` and in
``HeadName`` of the settings. If its head is not a ``LinearHead``, write a module as
``modules.Head`` describes, name it in ``modules.HEADS``, and say in bundle/FORMAT.md what it
computes.
"""
