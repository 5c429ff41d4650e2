"""Groups of settings: the headings of the help, with what the settings under each have in common.

The words of a declaration replace those of its group.
"""

from __future__ import annotations

from functools import partial

from regraft.config.declaration import Bounds, setting

network_setting = partial(setting, group="The network")
data_setting = partial(setting, group="The data")
head_setting = partial(setting, group="The head")
training_setting = partial(setting, group="Fine-tuning", strategies=("finetune", "scratch"))
machine_setting = partial(setting, group="The machine")
result_setting = partial(setting, group="The result", harmless=True)

# Commands that read a setting, where these are not just those that train.
WHOLE_TRAININGS = ("train", "compare")  # lr-find takes a few steps, and writes no run
READING = ("train", "compare", "lr-find", "evaluate", "show")
COMPUTING = ("train", "compare", "lr-find", "evaluate", "predict")
STORING = ("train", "compare", "lr-find", "evaluate")
DRAWING = ("train", "compare", "lr-find", "show")
ALL = ("train", "compare", "lr-find", "evaluate", "predict", "show")

INSIDE = Bounds(0, 1, low_included=False, high_included=False)
BELOW_ONE = Bounds(0, 1, high_included=False)
