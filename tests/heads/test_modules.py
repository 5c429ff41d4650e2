"""The modules of heads: what they compute, and which tensors they refuse."""

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from sklearn.neighbors import KNeighborsClassifier
from torch.nn.functional import normalize

from regraft.errors import InputError
from regraft.heads.modules import HEADS, KnnHead, LinearHead


def make(kind, n_features=4, n_classes=3):
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(n_features, generator=generator)
    scale = torch.rand(n_features, generator=generator)
    if kind == "linear":
        weight = torch.randn(n_classes, n_features, generator=generator)
        return LinearHead(mean, scale, weight, torch.randn(n_classes, generator=generator))
    features = normalize(torch.randn(30, n_features, generator=generator))
    return KnnHead(mean, scale, features, torch.arange(30) % n_classes, k=5, n_classes=n_classes)


@pytest.mark.parametrize("kind", sorted(HEADS))
class TestEveryHead:
    def test_comes_back_from_a_file_with_the_same_logits(self, kind):
        head = make(kind)
        again = HEADS[kind].from_tensors(load(save(head.tensors())))
        x = torch.randn(10, 4)
        assert torch.equal(head(x), again(x))
        assert (again.kind, again.n_features, again.n_classes) == (kind, 4, 3)

    def test_gives_float32_logits_for_any_number_of_rows(self, kind):
        head = make(kind)
        x = torch.randn(7, 4)
        assert head(x[:0]).shape == (0, 3)
        assert head(x).dtype == torch.float32
        torch.testing.assert_close(head(x)[:1], head(x[:1]))

    def test_has_nothing_to_train(self, kind):
        assert list(make(kind).parameters()) == []

    def test_constant_features_say_nothing(self, kind):
        tensors = make(kind).tensors()
        tensors["scale"][1] = 0
        if kind == "knn":
            tensors["features"][:, 1] = 0
        head = HEADS[kind].from_tensors(tensors)
        x = torch.randn(5, 4)
        moved = x.clone()
        moved[:, 1] += 1000
        assert torch.equal(head(x), head(moved))

    @pytest.mark.parametrize("name", ["mean", "scale"])
    def test_refuses_what_is_not_finite(self, kind, name):
        tensors = make(kind).tensors()
        tensors[name][0] = torch.nan
        with pytest.raises(InputError, match=f"^{name} holds a value that is not finite$"):
            HEADS[kind].from_tensors(tensors)

    @pytest.mark.parametrize(
        "change",
        [
            lambda t: t.half() if t.is_floating_point() else t.float(),
            lambda t: t[None],
            lambda t: t[:0] if t.ndim else t[None][:0],
        ],
        ids=["type", "dimensions", "empty"],
    )
    def test_refuses_another_type_or_shape_and_names_the_tensor(self, kind, change):
        for name, tensor in make(kind).tensors().items():
            tensors = make(kind).tensors() | {name: change(tensor)}
            with pytest.raises(InputError, match=r"; it must be (float32|int64) \("):
                HEADS[kind].from_tensors(tensors)

    def test_refuses_missing_and_unknown_tensors(self, kind):
        tensors = make(kind).tensors()
        with pytest.raises(InputError, match=r"the head's tensors are .*extra.*they must be mean"):
            HEADS[kind].from_tensors(tensors | {"extra": torch.zeros(1)})
        del tensors["mean"]
        with pytest.raises(InputError, match="they must be mean, scale"):
            HEADS[kind].from_tensors(tensors)

    def test_refuses_a_negative_scale(self, kind):
        tensors = make(kind).tensors()
        tensors["scale"][0] = -1
        with pytest.raises(InputError, match="scale holds a negative value"):
            HEADS[kind].from_tensors(tensors)


def test_the_message_says_what_is_and_what_must_be():
    tensors = make("linear").tensors() | {"bias": torch.zeros(2)}
    with pytest.raises(InputError, match=r"^bias is float32 \(2,\); it must be float32 \(3\)$"):
        LinearHead.from_tensors(tensors)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("k", torch.tensor(31), "k is 31; it must be between 1 and 30"),
        ("k", torch.tensor(0), "k is 0; it must be between 1 and 30"),
        ("n_classes", torch.tensor(2), "labels must be between 0 and 1"),
        ("n_classes", torch.tensor(2**40), "n_classes is 1099511627776; it must be between"),
    ],
)
def test_knn_refuses_numbers_out_of_range(name, value, message):
    with pytest.raises(InputError, match=message):
        KnnHead.from_tensors(make("knn").tensors() | {name: value})


def test_knn_refuses_negative_labels():
    tensors = make("knn").tensors()
    tensors["labels"][0] = -1
    with pytest.raises(InputError, match="labels must be between 0 and 2"):
        KnnHead.from_tensors(tensors)


def test_knn_agrees_with_scikit_learn_where_smoothing_does_not_matter():
    head = make("knn")
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
    theirs = KNeighborsClassifier(5, weights="distance")
    theirs.fit(head.features.numpy(), head.labels.numpy())
    z = normalize((x - head.mean) * head.scale).numpy()
    p = theirs.predict_proba(z)
    clear = np.diff(np.sort(p, 1)[:, -2:], axis=1)[:, 0] > 0.01
    assert clear.sum() > 100
    assert (head(x).numpy().argmax(1) == p.argmax(1))[clear].all()


def test_knn_logits_are_bounded_logs_of_probabilities_even_for_a_training_row():
    head = make("knn")
    x = head.features / head.scale + head.mean
    logits = torch.cat([head(x), head(1e6 * torch.randn(5, 4))])
    assert bool((logits <= 0).all())
    assert float(logits.min()) >= -np.log(3 * (100 * 5 + 1)) - 1e-5
    torch.testing.assert_close(logits.exp().sum(1), torch.ones(35))
    assert torch.equal(head(x).argmax(1), head.labels)


def test_knn_with_all_neighbours_at_one_place():
    head = KnnHead(
        torch.zeros(2), torch.ones(2), torch.zeros(4, 2), torch.tensor([0, 0, 0, 1]), 4, 2
    )
    torch.testing.assert_close(head(torch.zeros(1, 2)).exp(), torch.tensor([[3.5, 1.5]]) / 5)


def test_a_head_whose_mean_is_inside_its_weights_gives_the_same_logits():
    random = torch.Generator().manual_seed(2)
    mean, scale = 5 * torch.rand(40, generator=random), 3 * torch.rand(40, generator=random)
    scale[3] = 0  # a constant feature
    weight = torch.randn(4, 40, generator=random)
    head = LinearHead(mean, scale, weight, torch.randn(4, generator=random))
    folded = head.folded()
    assert not folded.mean.any()
    assert (folded.scale == 1).all()
    x = mean + torch.randn(50, 40, generator=random)
    assert torch.allclose(folded(x), head(x), atol=1e-4)
