"""Groups of settings: the headings of the help, with what the settings under each have in common.

Where a declaration gives a value itself, that value counts, and not the one of its group.
"""

from __future__ import annotations

from functools import partial

from regraft.config.declaration import Bounds, setting

network_setting = partial(setting, group="The network")
data_setting = partial(setting, group="The data")
head_setting = partial(setting, group="The head")
training_setting = partial(
    setting,
    group="Fine-tuning",
    strategies=("finetune", "scratch"),
    commands=("train", "compare", "lr-find"),
)
machine_setting = partial(setting, group="The machine")
#: The default of what a bundle knows.
AS_TRAINED = dict.fromkeys(("evaluate", "predict", "drift", "export"), "as in training")
decision_setting = partial(
    setting,
    group="Decisions",
    harmless=True,
    commands=("train", "compare", "evaluate", "predict", "export"),
    defaults=AS_TRAINED,
)
result_setting = partial(setting, group="The result", harmless=True)

# The commands that read a setting; without a declaration, train, compare, lr-find and race.
TRAIN_COMPARE = ("train", "compare")  # lr-find takes a few steps, and writes no run
TRAIN_COMPARE_RACE = (*TRAIN_COMPARE, "race")
ALL_BUT_PREDICT = ("train", "compare", "lr-find", "race", "evaluate", "show")
ALL_BUT_SHOW = ("train", "compare", "lr-find", "race", "evaluate", "predict", "drift")
ALL_BUT_PREDICT_SHOW = ("train", "compare", "lr-find", "race", "evaluate")
ALL_BUT_EVALUATE_PREDICT = ("train", "compare", "lr-find", "race", "show")
ALL_WITH_GROUPS = (*ALL_BUT_EVALUATE_PREDICT, "drift")
ALL_COMMANDS = ("train", "compare", "lr-find", "race", "evaluate", "predict", "drift", "show")

INSIDE = Bounds(0, 1, low_included=False, high_included=False)
BELOW_ONE = Bounds(0, 1, high_included=False)
