"""The graph of a model: the same answers as the predictor, in torch and as an ONNX file."""

import dataclasses

import numpy as np
import pytest
import torch

from regraft.backbones.image_size import at_image_size
from regraft.backbones.registry import load_backbone
from regraft.bundle.predictor import Predictor
from regraft.decision.costs import Costs
from regraft.exports.graph import Graph, round_as_stored
from regraft.exports.onnx_file import example_pixels, input_name, make_onnx
from regraft.features.compute import Compute
from regraft.features.taps import block_widths, round_rows, select_blocks
from regraft.heads.modules import KnnHead, LinearHead
from regraft.model import Model
from tiny_bundles import CLASSES, N_UNITS, some_decisions, tiny_model

onnxruntime = pytest.importorskip("onnxruntime")

COSTS = np.array([[0.0, 1.0, 2.0, 0.2, 0.1], [1.5, 0.0, 1.0, 0.2, 0.1], [3.0, 1.0, 0.0, 0.2, 0.1]])


#: Features may be rounded to the next float16, and p-values move by the share of a few scores.
ALLOWED = {"features": 2e-3, "logits": 5e-4, "probabilities": 1e-4, "typicality": 0.02}


def pixels_of(model: Model, n: int, seed: int = 0) -> list[torch.Tensor]:
    """Return n images for each network: noise, smooth ones, a black and a white one."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for example in example_pixels(model):
        noise = torch.randint(0, 256, (n, *example.shape[1:]), generator=generator).float()
        smooth = noise.mean((-1, -2), keepdim=True) + noise / 8
        noise[1::2] = smooth[1::2]
        noise[n // 2], noise[n // 3] = 0, 255
        found.append(noise.clamp(0, 255).to(torch.uint8))
    return found


def expected(predictor: Predictor, pixels: list[torch.Tensor]) -> dict[str, np.ndarray]:
    features, pooled = predictor.read(pixels)
    logits = predictor.model.logits(features)
    answer = {
        "features": features,
        "logits": logits,
        "probabilities": predictor.model.calibrated(logits),
    }
    rules = predictor.rules()
    if rules is not None:
        decided = rules.decide(answer["probabilities"], pooled, logits)
        named = {"decision": decided.actions, "set": decided.sets, "unknown": decided.unknown}
        named |= {"typicality": decided.p_values, "abstained": decided.abstained}
        answer |= {name: rows for name, rows in named.items() if rows is not None}
    return answer


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert next(iter(found)) == "probabilities"
    assert found.keys() == wanted.keys()
    for name, rows in wanted.items():
        if rows.dtype.kind == "f":
            allowed = ALLOWED[name] * max(1.0, float(np.abs(rows).max()))
            np.testing.assert_allclose(found[name], rows, rtol=0, atol=allowed, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], rows, err_msg=name)


CASES = {
    "neighbours, a promise": lambda: (
        tiny_model(),
        some_decisions(unknown=0.05, min_precision=0.5),
    ),
    "knn, no typicality": lambda: (tiny_model("knn", taps="last"), some_decisions("")),
    "two networks with views, costs": lambda: (
        tiny_model(views=2, two=True),
        some_decisions(
            "mahalanobis", coverage_by="class", costs=Costs(COSTS, ("abstain", "unknown"))
        ),
    ),
    "centre": lambda: (tiny_model(), some_decisions("centre", unknown=0.05)),
    "costs alone": lambda: (tiny_model(), some_decisions(costs=Costs(COSTS[:, :3]))),
    "nothing can be promised": lambda: (tiny_model(), some_decisions(min_precision=0.999)),
    "no decisions": lambda: (tiny_model(), None),
}


@pytest.fixture(scope="module", params=CASES, ids=list(CASES))
def case(request):
    model, decisions = CASES[request.param]()
    return Predictor.of(model, Compute("cpu", "float32", 8), decisions)


def test_the_graph_answers_as_the_predictor_does(case):
    pixels = pixels_of(case.model, 40)
    graph = Graph(case.model, case.rules()).eval()
    with torch.no_grad():
        found = {name: rows.numpy() for name, rows in graph(*pixels).items()}
    wanted = expected(case, pixels)
    assert_same(found, wanted)


def test_thresholds_decide_in_the_graph_as_they_do_in_numpy(case):
    rules = case.rules()
    if rules is None:
        return
    rng = np.random.default_rng(7)
    n = 400
    probabilities = rng.dirichlet([0.5] * 3, n).astype(np.float32)
    probabilities[0] = 1 / 3
    width = case.model.backbone.n_features
    pooled = (np.abs(rng.normal(1, 0.5, (n, width))) * rng.choice([0.1, 1, 30], (n, 1))).astype("f")
    pooled[: n // 2] *= rng.random((n // 2, width)) < 0.3  # unlike the others
    pooled[1] = 0
    trained = np.abs(np.random.default_rng(5).normal(1, 0.5, (N_UNITS, width)))  # some_decisions'
    pooled[-N_UNITS:] = trained * rng.choice([1, 2], (N_UNITS, 1))
    logits = rng.normal(1.5, 1, (n, 3)).astype(np.float32)
    decided = rules.decide(probabilities, pooled, logits)
    policy = Graph(case.model, rules).policy
    found = policy(*map(torch.from_numpy, (probabilities, pooled, logits)))
    np.testing.assert_array_equal(found["decision"].numpy(), decided.actions)
    np.testing.assert_array_equal(found["set"].numpy(), decided.sets)
    for name, wanted in (("unknown", decided.unknown), ("abstained", decided.abstained)):
        assert (name in found) == (wanted is not None)
        if wanted is not None:
            np.testing.assert_array_equal(found[name].numpy(), wanted, err_msg=name)
    if decided.p_values is not None:
        np.testing.assert_allclose(found["typicality"].numpy(), decided.p_values, atol=1e-7)
        assert len(np.unique(decided.p_values)) > 10
    assert len(np.unique(decided.actions)) > 1 or rules.promise is not None
    assert len(np.unique(decided.sets.sum(1))) > 1


def test_the_file_answers_as_the_predictor_does_for_batches_of_any_size(case):
    proto = make_onnx(case.model, case.rules())
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    names = [each.name for each in session.get_outputs()]
    for n in (1, 2, 7):
        pixels = pixels_of(case.model, n, seed=n)
        given = {input_name(k): each.numpy() for k, each in enumerate(pixels)}
        assert_same(dict(zip(names, session.run(None, given), strict=True)), expected(case, pixels))


def test_metadata_have_names_sizes_and_the_keys_that_other_readers_look_for():
    model = tiny_model(two=True)
    meta = {each.key: each.value for each in make_onnx(model, None).metadata_props}
    assert meta["names"] == "{0: 'cat', 1: 'dog', 2: 'fish'}"
    assert (meta["task"], meta["imgsz"]) == ("classify", "[32, 32]")
    assert '"classes": ["cat", "dog", "fish"]' in meta["regraft"]


def test_rows_are_rounded_as_the_store_rounds_them():
    rows = np.array([[0.1, -2.0, 65504.0], [1e-8, 3.0, 65505.0], [0.1, 1e9, -1e-9]], np.float32)
    wanted = np.stack([row.astype(np.float32) for row in round_rows(rows)])
    np.testing.assert_array_equal(round_as_stored(torch.from_numpy(rows)).numpy(), wanted)


#: Small networks of three architectures, and their image sizes; tiny_model has two more.
NETWORKS = {
    "timm/test_convnext": 64,
    "timm/test_vit3": 160,
    "minivgg": 32,
}


def model_of(name: str, size: int, head: str = "linear") -> Model:
    network = load_backbone(name, "none")
    if not network.sizes.fixed:
        network = at_image_size(network, size, crop=False)
    blocks = select_blocks([network], "all@1,all@2,all@4")
    width = sum(block_widths([network], blocks).values())
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(3, width, generator=generator))
    mean, scale = torch.zeros(width), torch.ones(width)
    heads = {
        "linear": lambda: LinearHead(mean, scale, rows, torch.zeros(3)),
        "knn": lambda: KnnHead(mean, scale, rows, torch.arange(3), k=2, n_classes=3),
    }
    return Model(network, blocks, heads[head](), 1.0, CLASSES, 10**6)


#: Further ones, most of them of full size, as people use them.
LARGE = {
    "timm/test_byobnet": 64,
    "timm/test_vit": 160,
    "torchvision/resnet18": 64,
    "torchvision/vgg11": 64,
    "torchvision/densenet121": 64,
    "torchvision/mobilenet_v3_small": 64,
    "torchvision/efficientnet_b0": 64,
    "torchvision/convnext_tiny": 64,
    "torchvision/vit_b_16": 224,
    "torchvision/swin_t": 64,
    "timm/vit_tiny_patch16_224": 64,
    "timm/swin_tiny_patch4_window7_224": 224,
    "embedded": 64,
}


@pytest.mark.heavy
@pytest.mark.parametrize("name", LARGE)
def test_networks_of_full_size_are_written_too(name):
    test_each_architecture_is_written_with_all_its_stages_and_grids(name, LARGE[name])


@pytest.mark.parametrize(("name", "size"), list(NETWORKS.items()))
def test_each_architecture_is_written_with_all_its_stages_and_grids(name, size):
    model = model_of(name, size)
    predictor = Predictor.of(model, Compute("cpu", "float32", 4))
    proto = make_onnx(model, None)
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    names = [each.name for each in session.get_outputs()]
    pixels = pixels_of(model, 5)
    found = session.run(None, {input_name(0): pixels[0].numpy()})
    assert_same(dict(zip(names, found, strict=True)), expected(predictor, pixels))


def test_knn_finds_the_neighbours_that_the_head_finds():
    generator = torch.Generator().manual_seed(3)
    rows = torch.nn.functional.normalize(torch.randn(300, 24, generator=generator))
    labels = torch.randint(0, 5, (300,), generator=generator)
    head = KnnHead(torch.rand(24), torch.rand(24), rows, labels, k=20, n_classes=5)
    base = tiny_model("knn", taps="last")
    graph = Graph(dataclasses.replace(base, head=head), None)
    x = torch.randn(50, 24, generator=generator)
    torch.testing.assert_close(graph.head(x), head(x), rtol=0, atol=1e-4)
