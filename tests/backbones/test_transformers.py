"""The contract of transformers: stages, tokens, image sizes, weights of another size, bundles."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from regraft.backbones.registry import load_backbone
from regraft.bundle.format import write_bundle
from regraft.bundle.predictor import Predictor
from regraft.core.torchvision_shim import load_timm
from regraft.errors import BackboneError
from regraft.features.compute import Compute
from regraft.features.taps import block_widths, row_blocks
from regraft.finetune.network import random_head
from regraft.model import Model
from small_transformers import CASES, DEPTH, OTHERS, Case, few_channels, loaded

every = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@pytest.fixture(scope="module", autouse=True)
def _small():
    with few_channels():
        yield


# --- stages and tokens ----------------------------------------------------------------------------


@every
def test_four_stages_of_two_blocks_without_class_and_register_tokens(case):
    backbone = loaded(case)
    ends = range(DEPTH // 4 - 1, DEPTH, DEPTH // 4)
    assert [stage.path for stage in backbone.stages] == [f"blocks.{end}" for end in ends]
    for stage in backbone.stages:
        assert (stage.layout, stage.prefix_tokens, stage.channels) == ("tokens", case.prefix, 32)
    assert backbone.n_features == 32
    assert backbone.module.num_prefix_tokens == case.prefix


@every
@pytest.mark.parametrize("cells", [4, 5])
def test_a_pass_runs_the_stages_in_order_and_gives_the_grid_of_the_size(case, cells):
    backbone = loaded(case, cells * case.patch)
    seen = []

    def look_at(stage):
        def hook(_module, _inputs, output):
            seen.append((stage.path, output.shape[1] - stage.prefix_tokens))

        return backbone.module.get_submodule(stage.path).register_forward_hook(hook)

    hooks = [look_at(stage) for stage in backbone.stages]
    side = backbone.preprocess.image_size
    with torch.no_grad():
        backbone.module(torch.zeros(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    assert seen == [(stage.path, cells**2) for stage in backbone.stages]


@pytest.mark.parametrize("case", OTHERS, ids=lambda case: case.name)
def test_networks_of_maps_have_four_stages_too(case):
    backbone = loaded(case, 64)
    assert len(backbone.stages) == 4
    assert {stage.prefix_tokens for stage in backbone.stages} == {0}
    channels = [stage.channels for stage in backbone.stages]
    assert channels == sorted(set(channels))


# --- image sizes ----------------------------------------------------------------------------------


@every
def test_multiples_of_the_patch_are_taken_and_other_sizes_refused(case):
    for cells in (3, 8):
        side = cells * case.patch
        backbone = loaded(case, side)
        assert backbone.preprocess.image_size == side
        assert backbone.sizes.multiple == case.patch
        least = case.patch if backbone.sizes.fixed else 32
    for side in (case.side - 1, case.side + 2, 6 * case.patch + case.patch // 2):
        below = side // case.patch * case.patch
        with pytest.raises(
            BackboneError,
            match=rf"{case.full} takes images of {least} to 4096 pixels, multiples of "
            rf"{case.patch}, not {side}\nhint: `image_size` {below} or {below + case.patch}",
        ):
            loaded(case, side)


@every
def test_every_pixel_of_an_image_counts(case):
    """At a size that is no multiple, the last rows and columns would be dropped."""
    backbone = loaded(case)
    side = case.side
    image = torch.zeros(1, 3, side, side)
    with torch.no_grad():
        before = backbone.module(image)
        for row, column in ((0, 0), (0, side - 1), (side - 1, 0), (side - 1, side - 1)):
            changed = image.clone()
            changed[..., row, column] = 50
            assert not torch.equal(backbone.module(changed), before)


def test_the_own_size_is_always_taken():
    """SigLIP's 384 pixels are no multiple of its patches of 14: it was trained without the rest."""
    name = "timm/vit_so400m_patch14_siglip_384"
    for side in (None, 384):
        assert load_backbone(name, "none", image_size=side).preprocess.image_size == 384
    with pytest.raises(BackboneError, match=r"multiples of 14, not 383"):
        load_backbone(name, "none", image_size=383)


def test_a_hybrid_has_patches_of_its_own_maps():
    """A ResNet makes maps of a sixteenth of the size; a patch is two by two of their cells."""
    name = "timm/vit_tiny_r_s16_p8_224"
    assert load_backbone(name, "none", image_size=96).sizes.multiple == 32
    with pytest.raises(
        BackboneError, match=r"built at 112 pixels: AssertionError\nhint: its own size is 224"
    ):
        load_backbone(name, "none", image_size=112)


def test_a_size_that_fails_in_the_network_is_a_plain_error():
    """Whatever a network raises: here timm's assertion that cells make whole windows."""
    with pytest.raises(BackboneError, match=r"timm/maxvit_tiny_tf_224 .* 100 pixels"):
        load_backbone("timm/maxvit_tiny_tf_224", "none", image_size=100)


# --- weights of another size ----------------------------------------------------------------------


def saved(name, folder, change=lambda state: state):
    """Save random weights for a network at its own size; positions are large, to be seen."""
    state = load_backbone(f"timm/{name}", "none", seed=3).module.state_dict()
    generator = torch.Generator().manual_seed(7)
    for key, tensor in state.items():
        if "pos" in key and tensor.is_floating_point():
            state[key] = torch.randn(tensor.shape, generator=generator)
    path = folder / "weights.pth"
    torch.save(change(state), path)
    return path


def filled_by_timm(name, path, **options):
    """Return timm's network with weights that timm has read and resized."""
    overlay = {"file": str(path), "num_classes": 0, "custom_load": False}
    return (
        load_timm()
        .create_model(
            name, pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay, **options
        )
        .eval()
    )


@pytest.mark.parametrize(
    "case", [case for case in CASES if "beit" not in case.name], ids=lambda case: case.name
)
def test_positions_of_another_size_are_interpolated_as_timm_does(case, tmp_path):
    path = saved(case.name, tmp_path)
    backbone = load_backbone(case.full, str(path), image_size=case.side)
    options = {"img_size": case.side} if backbone.sizes.fixed else {}
    expected = filled_by_timm(case.name, path, **options)
    with torch.no_grad():
        images = torch.rand(2, 3, case.side, case.side, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(backbone.module(images), expected(images), rtol=1e-6, atol=1e-6)


def test_learnt_positions_are_one_picture_at_two_sizes(tmp_path):
    """By torch alone: the positions of the grid are resized, those of the class token are kept."""
    path = saved("vit_small_patch14_dinov2", tmp_path)
    before = torch.load(path)["pos_embed"]  # (1, 1 + 37 * 37, 32)
    after = load_backbone("timm/vit_small_patch14_dinov2", str(path), image_size=224).module
    grid = before[:, 1:].reshape(1, 37, 37, 32).permute(0, 3, 1, 2)
    resized = interpolate(grid, size=(16, 16), mode="bicubic", antialias=True)
    torch.testing.assert_close(after.pos_embed[:, 1:], resized.flatten(2).transpose(1, 2))
    torch.testing.assert_close(after.pos_embed[:, :1], before[:, :1])


def test_positions_in_attention_are_interpolated_too(tmp_path):
    """BEiT's tables are resized by timm; its code for that warns of its own indexing.

    No step to the side and the longest step are the same in all grids, so they keep their values.
    """
    path = saved("beit_base_patch16_224", tmp_path)
    before = torch.load(path)["blocks.0.attn.relative_position_bias_table"]  # (27 * 27 + 3, heads)
    with pytest.warns(UserWarning, match="non-tuple sequence|non-contiguous"):
        module = load_backbone("timm/beit_base_patch16_224", str(path), image_size=96).module
    after = module.blocks[0].attn.relative_position_bias_table  # (11 * 11 + 3, heads)
    assert torch.equal(after[-3:], before[-3:])
    torch.testing.assert_close(after[11 * 11 // 2], before[27 * 27 // 2])


def test_the_weights_of_a_pool_that_the_network_lacks_are_left_out(tmp_path):
    """SigLIP is published with its attention pool; timm reads it into networks without one, too."""
    path = saved("vit_base_patch16_siglip_224", tmp_path)
    backbone = load_backbone("timm/vit_base_patch16_siglip_gap_224", str(path))
    wanted = torch.load(path)
    assert all(torch.equal(t, wanted[name]) for name, t in backbone.module.state_dict().items())


def test_deit_3_is_read_as_its_authors_name_its_tensors(tmp_path):
    def rename(state):
        return {
            key.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): tensor
            for key, tensor in state.items()
        }

    path = saved("deit3_small_patch16_224", tmp_path, rename)
    backbone = load_backbone("timm/deit3_small_patch16_224", str(path))
    assert torch.equal(backbone.module.blocks[3].ls2.gamma, torch.load(path)["blocks.3.gamma_2"])


# --- bundles --------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [*CASES, *OTHERS], ids=lambda case: case.name)
def test_a_bundle_loads_again_and_answers_to_the_bit(case: Case, tmp_path):
    """Loading runs the golden check: pixels, features of all blocks and logits."""
    backbone = loaded(case, case.side if case in CASES else 64)
    blocks = row_blocks(backbone)
    head = random_head(sum(block_widths([backbone], blocks).values()), 3, seed=0)
    model = Model(backbone, blocks, head, 1.0, ("a", "b", "c"), 10**6)
    compute = Compute("cpu", "float32", 4)
    write_bundle(tmp_path, model, compute, None)
    images = list(np.random.default_rng(0).integers(0, 256, (3, 90, 120, 3), dtype=np.uint8))
    here = Predictor.of(model, compute).predict_many(images)
    there = Predictor.load(tmp_path, device="cpu", precision="float32").predict_many(images)
    for one, other in zip(here, there, strict=True):
        assert np.array_equal(one.probabilities, other.probabilities)
