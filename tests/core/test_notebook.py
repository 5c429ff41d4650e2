"""What a notebook shows: escaped, small, without scripts, addresses or colours of its own."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from regraft.bundle.prediction import Prediction
from regraft.bundle.predictor import Predictor
from regraft.commands.evaluate import Evaluation
from regraft.core.notebook import html_bars, html_table
from regraft.errors import ImageError
from regraft.features.compute import Compute
from regraft.runs.run import Run
from tiny_bundles import tiny_model

HOSTILE = "<script>alert('x')</script>&\x1b[2J"
ESTIMATE = {"value": 0.915, "low": 0.894, "high": 0.932}
TEST = {"n": 863, "accuracy": ESTIMATE, "macro_f1": ESTIMATE, "log_loss": ESTIMATE}
METRICS = {
    "test": TEST,
    "baselines": {"knn": {"accuracy": ESTIMATE, "gain": {"value": 0.1, "low": 0, "high": 0.2}}},
    "data": {"classes": [HOSTILE, "rose"], "n": {"train": 1_000, "val": 0, "test": 863}},
    "backbone": {
        "name": "embedded",
        "image_size": 224,
        "weights": "w",
        "weights_sha256": "0" * 64,
        "licence": None,
    },
}


class Words(HTMLParser):
    """Collects the text of a page, and checks that every element is closed."""

    def __init__(self, page):
        super().__init__()
        self.words, self.open = [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        assert tag in {"div", "table", "tbody", "tr", "th", "td"}
        assert {name for name, _ in attributes} <= {"style"}
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.words.append(text)


def shown():
    model = tiny_model()
    yield Run("runs/" + HOSTILE, METRICS, model), ["0.915 (95 %: 0.894 to 0.932, n = 863)",
        "accuracy 0.915 (95 %: 0.894 to 0.932), gain +0.100 (+0.000 to +0.200)",
        "1,000 train, 863 test", "embedded at 224 pixels", "2 classes"]  # fmt: skip
    yield Predictor.of(model, Compute("cpu", "float32", 4)), ["3 classes", "cat, dog, fish"]
    top = ((HOSTILE, 0.75), ("rose", 0.25))
    yield Prediction("0", HOSTILE, 0.75, top, np.array([0.75, 0.25])), ["0.750", "0.250"]
    yield Prediction(HOSTILE, error=ImageError("missing", "no file")), ["missing: no file"]
    about = {"source": HOSTILE, "notes": ["3 images were left out"]}
    yield Evaluation({"run": "r", "data": about, **TEST}), ["3 images were left out", "macro F1"]
    yield model.backbone, ["timm/test_resnet", "licence"]


@pytest.mark.parametrize(("result", "texts"), list(shown()), ids=lambda each: type(each).__name__)
def test_results_show_themselves(result, texts):
    page = result._repr_html_()
    words = " ".join(Words(page).words)
    for text in texts:
        assert text in words
    if "alert" in page:
        assert "<script>alert('x')</script>&\\x1b[2J" in words
    assert len(page) < 6000
    assert not re.search(r"https?:|url\(|#[0-9a-f]{3}|(?<!-)color:(?!inherit)", page)


def test_bars_have_the_length_of_their_numbers():
    page = html_bars("a", [("x", 0.25), ("y", 1.5)])
    assert re.findall(r"width:([\d.]+)%", page) == ["25.0", "100.0"]


def test_a_long_text_is_cut():
    assert len(html_table("a", [("classes", "x" * 10_000)])) < 2000


def test_an_evaluation_is_a_dictionary():
    found = Evaluation({"n": 3})
    assert isinstance(found, dict)
    assert found == {"n": 3}
