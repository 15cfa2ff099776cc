import math

import pytest
import torch
from torch import nn

from mmvitscale.checkpoints.metadata import STATE_DICT_KEY
from mmvitscale.errors import InputError
from mmvitscale.models import DeepViT
from mmvitscale.models.deepvit.position_embedding import resize_position_embedding
from mmvitscale.models.deepvit.re_attention import ReAttention
from mmvitscale.models.layers.padding import with_validity
from mmvitscale.utils.choices import STATISTICS
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.unit

SMALL = dict(embed_dims=12, depth=4, re_attention=2, num_heads=3)


def small(**kwargs):
    return DeepViT(**{'arch': SMALL, 'img_size': 64, **kwargs})


# the official code's models, with a linear head of 1000 classes
@pytest.mark.parametrize('arch, millions', [('deepvit-16b', 24.5), ('deepvit-24b', 36.3), ('deepvit-32b', 48.1)])
def test_parameter_counts_match_the_official_models(arch, millions):
    with torch.device('meta'):
        modules = DeepViT(arch), nn.Linear(384, 1000)
    count = sum(p.numel() for module in modules for p in module.parameters())
    assert abs(count / 1e6 - millions) < 0.1


@pytest.mark.parametrize('stem', ['linear', 'conv'])
@pytest.mark.parametrize('size', [(1, 1), (64, 64), (37, 130), (16, 200)])
def test_output_shapes_follow_the_stride_for_any_image_size(size, stem):
    model = small(arch={**SMALL, 'stem': stem}, out_indices=(0, 3))
    outs = model(torch.randn(2, 3, *size))
    assert [out.shape for out in outs] == [(2, 12, math.ceil(size[0] / 16), math.ceil(size[1] / 16))] * 2
    assert all(out.is_contiguous() for out in outs)


def test_incomplete_patches_are_padded_with_zeros():
    model = randomise(small()).eval()
    image = torch.randn(1, 3, 50, 70)
    padded = torch.zeros(1, 3, 64, 80)
    padded[..., :50, :70] = image
    assert torch.equal(model(image)[0], model(padded)[0])


def test_blocks_follow_the_official_residual_form():
    model = randomise(small(arch={**SMALL, 'residual_scale': 0.5}, out_indices=(1, 3))).eval()
    image = torch.randn(1, 3, 64, 64)
    x = model.patch_embed.proj(image).flatten(2).transpose(1, 2)
    x = torch.cat((model.cls_token, x), dim=1) + model.pos_embed
    for i, block in enumerate(model.blocks):
        x = x + block.attn(block.norm1(0.5 * x)) / 0.5
        x = x + block.mlp(block.norm2(0.5 * x)) / 0.5
        if i == 1:
            second = x
    outs = [out.flatten(2).transpose(1, 2) for out in model(image)]
    assert torch.allclose(outs[0], second[:, 1:], atol=1e-5)
    assert torch.allclose(outs[1], model.norm(x)[:, 1:], atol=1e-5)


def test_re_attention_is_in_the_last_blocks():
    assert [isinstance(block.attn, ReAttention) for block in small().blocks] == [False, False, True, True]


def test_the_convolutional_stem_equals_its_formula():
    stem = randomise(small(arch={**SMALL, 'stem': 'conv'})).eval().patch_embed
    image = torch.randn(1, 3, 32, 32)
    x = torch.relu(stem.bn1(nn.functional.conv2d(image, stem.conv1.weight, stride=2, padding=3)))
    x = torch.relu(stem.bn2(nn.functional.conv2d(x, stem.conv2.weight, padding=1)))
    x = nn.functional.conv2d(x, stem.proj.weight, stem.proj.bias, stride=8)
    assert torch.allclose(stem(image), x.permute(0, 2, 3, 1), atol=1e-5)


@pytest.mark.parametrize('attention', ['eager', 'sequential'])
def test_every_parameter_gets_a_gradient_and_checkpointing_changes_none(attention):
    image, gradients, statistics = torch.randn(2, 3, 50, 70), [], []
    for with_cp in (False, True):
        torch.manual_seed(1)
        model = randomise(small(with_cp=with_cp, attention=attention, drop_path_rate=0.0, out_indices=(1, 3)))
        (sum(out.square().sum() for out in model(image))).backward()
        assert not [name for name, p in model.named_parameters() if p.grad is None]
        gradients.append([p.grad for p in model.parameters()])
        statistics.append([b.clone() for b in model.buffers()])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(*gradients))
    assert all(torch.equal(a, b) for a, b in zip(*statistics))


def test_a_checkpointed_graph_goes_backward_more_than_once():
    model = randomise(small(with_cp=True, drop_path_rate=0.0, out_indices=(3,))).train()
    loss = model(torch.randn(2, 3, 32, 32))[0].square().sum()
    statistics = [buffer.clone() for buffer in model.buffers()]
    loss.backward(retain_graph=True)
    once = [parameter.grad.clone() for parameter in model.parameters()]
    loss.backward()
    assert all(torch.allclose(p.grad, 2 * g, rtol=1e-4, atol=1e-4) for p, g in zip(model.parameters(), once))
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), statistics))


def test_frozen_blocks_do_not_train():
    model = small(frozen_stages=3).train()
    trainable = {name.split('.')[0] + '.' + name.split('.')[1] for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {'blocks.3', 'norm.weight', 'norm.bias'}
    before = model.blocks[2].attn.var_norm.running_mean.clone()
    model(torch.randn(2, 3, 32, 32))
    assert torch.equal(model.blocks[2].attn.var_norm.running_mean, before)


def test_layer_depths_follow_the_blocks_and_pos_embed_is_not_decayed():
    model = small()
    depths = {name: model.get_layer_depth('b.' + name, 'b.') for name, _ in model.named_parameters()}
    assert depths['pos_embed'] == depths['patch_embed.proj.weight'] == (0, 6)
    assert depths['blocks.2.attn.qkv.weight'] == (3, 6) and depths['norm.weight'] == (5, 6)
    assert model.get_layer_depth('head.weight', 'b.') == (5, 6)
    decayed = set(depths) - model.no_weight_decay()
    assert model.no_weight_decay() < set(depths) and 'pos_embed' not in decayed
    assert {'blocks.3.attn.reatten_matrix.weight', 'blocks.0.mlp.fc1.weight', 'patch_embed.proj.weight'} <= decayed


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(arch='deepvit'), "unknown DeepViT arch 'deepvit'; choose one of deepvit-16b"),
        (dict(arch=dict(depth=2, re_attention=1)), "missing: \\['embed_dims'\\]"),
        (dict(arch={**SMALL, 'heads': 2}), "unknown: \\['heads'\\]"),
        (dict(arch={**SMALL, 'stem': 'resnet'}), "unknown stem 'resnet'"),
        (dict(arch={**SMALL, 're_attention': 5}), 're_attention 5 found'),
        (dict(arch={**SMALL, 'num_heads': 5}), '12 channels cannot be split over 5 heads'),
        (dict(attention='flash'), "unknown attention 'flash'; choose one of auto, eager, sequential"),
        (dict(reatten_statistics='batch'), "unknown reatten_statistics 'batch'; choose one of token_invariant, running"),
        (dict(reatten_image_share=1.5), 'reatten_image_share 1.5 found'),
        (dict(attention='sequential', attn_drop_rate=0.1), 'attn_drop_rate 0.1 found'),
        (dict(out_indices=(4,)), 'blocks 0 to 3'),
        (dict(frozen_stages=5), 'frozen_stages 5 found'),
    ],
)
def test_invalid_arguments_are_refused_with_the_reason(kwargs, message):
    with pytest.raises(InputError, match=message):
        small(**kwargs)


# Windows


@pytest.mark.parametrize('size', [(64, 64), (70, 130)])
def test_windowed_attention_equals_brute_force_over_windows(size):
    """Brute force: every window cut out by hand with the class token, the class token averaged."""
    model = randomise(small(window_size=2, global_blocks=[1])).eval()
    image = torch.randn(2, 3, *size)
    x = model.patch_embed(image)
    height, width = x.shape[1:3]
    with torch.no_grad():
        x = torch.cat((model.cls_token.expand(2, -1, -1), x.flatten(1, 2)), 1)
        x = x + resize_position_embedding(model.pos_embed, model.grid, (height, width))
        for i, block in enumerate(model.blocks):
            normed = block.norm1(x)
            if i == 1:
                attended = block.attn(normed)
            else:
                attended, tokens = torch.zeros_like(normed), []
                grid = torch.arange(height * width).view(height, width)
                for top in range(0, height, 2):
                    for left in range(0, width, 2):
                        inside = 1 + grid[top : top + 2, left : left + 2].flatten()
                        out = block.attn(normed[:, torch.cat((torch.zeros(1, dtype=int), inside))])
                        attended[:, inside] = out[:, 1:]
                        tokens.append(out[:, :1])
                attended[:, :1] = torch.stack(tokens).mean(0)
            x = x + attended
            x = x + block.mlp(block.norm2(x))
        expected = model.norm(x)[:, 1:].transpose(1, 2).view(2, -1, height, width)
        assert torch.allclose(model(image)[0], expected, atol=1e-5)


def test_a_window_as_large_as_the_map_changes_nothing():
    model = randomise(small()).eval()
    windowed = small(window_size=4).eval()
    windowed.load_state_dict(model.state_dict())
    image = torch.randn(1, 3, 64, 50)
    assert torch.allclose(model(image)[0], windowed(image)[0], atol=1e-6)


def test_checkpointing_changes_no_gradient_of_windowed_attention():
    image, gradients = torch.randn(2, 3, 64, 64), []
    for with_cp in (False, True):
        torch.manual_seed(1)
        model = randomise(small(with_cp=with_cp, window_size=2, global_blocks=[3], drop_path_rate=0.0))
        model(image)[0].square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
        assert all(gradient is not None for gradient in gradients[-1])
    assert all(torch.allclose(a, b, atol=1e-4, rtol=1e-4) for a, b in zip(*gradients))


def test_invalid_global_blocks_and_windows_are_refused():
    for wrong in (dict(global_blocks=[1]), dict(window_size=2, global_blocks=[4])):
        with pytest.raises(InputError, match='global_blocks .* found with window_size'):
            small(**wrong)
    with pytest.raises(InputError, match='window 0 found'):
        small(window_size=0)


# Other numbers of tokens, and padding


def with_statistics(model):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.01, 0.1)
    return model


@pytest.mark.parametrize('statistics', STATISTICS)
@pytest.mark.parametrize(
    'options',
    [
        {},
        dict(arch={**SMALL, 'stem': 'conv'}),
        dict(window_size=2, global_blocks=[2]),
        dict(window_size=(3, 2)),
        dict(out_type='cls_token'),
        dict(block_norm='post'),
        dict(with_cp=True),
    ],
)
def test_images_padded_to_one_batch_are_as_each_alone(statistics, options):
    model = with_statistics(randomise(small(out_indices=(1, 3), reatten_statistics=statistics, **options))).eval()
    images = [torch.randn(1, 3, *size) for size in ((64, 96), (37, 70), (96, 16))]
    batch = 100 * torch.randn(3, 3, 112, 96)  # what the marking leaves out
    for i, image in enumerate(images):
        batch[i, :, : image.shape[2], : image.shape[3]] = image
    together = model(with_validity(batch, [image.shape[2:] for image in images]))
    for i, image in enumerate(images):
        for found, expected in zip(together, model(image)):
            if options.get('out_type'):
                assert torch.allclose(found[i], expected[0], atol=2e-4, rtol=1e-3)
                continue
            height, width = expected.shape[2:]
            assert torch.allclose(found[i, :, :height, :width], expected[0], atol=2e-4, rtol=1e-3)
            assert not found[i, :, height:].any() and not found[i, :, :, width:].any()


def test_a_validity_channel_does_not_change_an_unpadded_image():
    model, image = with_statistics(randomise(small())).eval(), torch.randn(2, 3, 64, 48)
    assert torch.equal(model(with_validity(image, [(64, 48), (60, 33)]))[0][0], model(image)[0][0])


def test_an_extra_channel_is_not_taken_for_the_validity_channel():
    with pytest.raises(InputError, match='does not mark where images are padded; set in_channels'):
        small()(torch.rand(1, 4, 64, 64))


@pytest.mark.parametrize('statistics', STATISTICS)
@pytest.mark.parametrize('padded', [True, False])
def test_checkpointing_changes_no_gradient_of_unequal_windows(padded, statistics):
    """80 x 80 pixels are 5 x 5 tokens, in windows of 3 x 3, 3 x 2, 2 x 3 and 2 x 2; the last are padding alone."""
    image, gradients = torch.randn(2, 3, 80, 80, dtype=torch.float64), []
    batch = with_validity(image, [(80, 48), (48, 80)]) if padded else image
    weights = torch.randn(2, 12, 5, 5, dtype=torch.float64)
    for with_cp in (False, True):
        torch.manual_seed(1)
        model = with_statistics(
            randomise(
                small(with_cp=with_cp, window_size=3, global_blocks=[3], drop_path_rate=0.0, reatten_statistics=statistics)
            )
        ).double()
        for _ in range(2):  # the exponents have moved in the second
            model.zero_grad()
            (model(batch)[0] * weights).sum().backward()
        gradients.append([*(p.grad for p in model.parameters()), *model.buffers()])
    assert all(one.isfinite().all() for one in gradients[0])
    assert all(torch.allclose(a, b, atol=1e-9, rtol=1e-7) for a, b in zip(*gradients))
    if statistics == 'running':
        assert model.weight_metadata.tokens == (0, 0, 10, 26)


def test_the_similarity_of_maps_does_not_count_padding():
    from mmengine.logging import MessageHub

    found, image = [], torch.randn(1, 3, 64, 64)
    model = randomise(small(similarity_loss_weight=0.1, drop_path_rate=0.0)).train()
    for side in (64, 128, 192):
        batch = torch.zeros(1, 3, side, side)
        batch[..., :64, :64] = image
        model(with_validity(batch, [(64, 64)]))
        found.append(MessageHub.get_current_instance().get_scalar('train/similarity').current())
    assert found == pytest.approx([found[0]] * 3, abs=1e-4)


def test_an_image_of_padding_only_gives_zero_outputs():
    batch = with_validity(torch.randn(2, 3, 64, 64), [(64, 64), (0, 0)])
    (out,) = small().eval()(batch)
    assert out.isfinite().all() and not out[1].any()


def test_trained_token_counts_are_kept_across_checkpoints_and_sizes():
    assert small().weight_metadata.tokens == (0, 0, 17, 17)
    assert small(window_size=2, global_blocks=[3]).weight_metadata.tokens == (0, 0, 5, 17)
    # It travels with the weights to another size, and on from there; windows do not change it.
    other = small(img_size=96, window_size=2)
    other.load_state_dict(small().state_dict())
    assert other.weight_metadata.grid == (6, 6) and other.weight_metadata.tokens == (0, 0, 17, 17)
    third = small(img_size=32)
    third.load_state_dict(other.state_dict())
    assert third.weight_metadata.tokens == (0, 0, 17, 17)
    # Half precision in between does no harm.
    big = small(img_size=1024)
    state = {key: value.half() for key, value in big.state_dict().items()}
    small(img_size=1024).load_state_dict(state)
    assert big.weight_metadata.tokens == (0, 0, 4097, 4097)


def test_weights_without_metadata_count_as_trained_on_their_whole_grid():
    weights = {key: value for key, value in small().state_dict().items() if key != STATE_DICT_KEY and 'token_law' not in key}
    other = small(img_size=96)
    other.load_state_dict(weights)
    assert other.weight_metadata.tokens == (0, 0, 17, 17)
    windowed = small(window_size=2)
    windowed.load_state_dict(weights)
    assert windowed.weight_metadata.tokens == (0, 0, 17, 17)
    # Ours logged the grid before they logged tokens; then windows were the model's.
    windowed.load_state_dict({**weights, STATE_DICT_KEY: torch.tensor([4, 4])})
    assert windowed.weight_metadata.tokens == (0, 0, 5, 5)
    assert small(window_size=9).weight_metadata.tokens == (0, 0, 17, 17)


def test_position_embeddings_shrink_with_antialiasing():
    embedding, embeddings = torch.randn(1, 1 + 8 * 6, 3), torch.nn.functional.interpolate
    maps = embedding[:, 1:].transpose(1, 2).unflatten(2, (8, 6))
    for size, antialias in (((4, 3), True), ((3, 9), True), ((8, 7), False), ((16, 12), False)):
        expected = embeddings(maps, size=size, mode='bicubic', antialias=antialias)
        found = resize_position_embedding(embedding, (8, 6), size)
        assert torch.equal(found[:, 0], embedding[:, 0])
        assert torch.allclose(found[:, 1:].transpose(1, 2).unflatten(2, size), expected, atol=1e-5)
    # Not by PyTorch 2.13.0, which gets columns of one wrong: rows and columns one after the other.
    rows = embeddings(maps, size=(4, 6), mode='bicubic', antialias=True)
    expected = embeddings(rows.mT.contiguous(), size=(2, 4), mode='bicubic', antialias=True).mT
    found = resize_position_embedding(embedding, (8, 6), (4, 2))[:, 1:].transpose(1, 2).unflatten(2, (4, 2))
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize('statistics', STATISTICS)
def test_an_image_of_padding_only_leaves_the_others_of_a_windowed_batch_alone(statistics):
    model = randomise(small(window_size=2, global_blocks=(1,), reatten_statistics=statistics)).train()
    batch = with_validity(torch.randn(2, 3, 64, 80), [(64, 80), (0, 0)])
    out = model(batch)[-1]
    out[:1].sum().backward()
    assert not out[1].any() and torch.isfinite(out).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_a_batch_of_no_image_leaves_the_number_of_trained_tokens():
    model = small(reatten_statistics='running').train()
    model(torch.randn(2, 3, 64, 64))
    before = model.weight_metadata
    model(torch.randn(0, 3, 128, 128))
    assert model.weight_metadata == before
