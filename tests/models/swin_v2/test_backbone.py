import math

import pytest
import torch
from torch import nn

from mmvitscale.errors import InputError
from mmvitscale.models import SwinTransformerV2
from mmvitscale.models.swin_v2 import windows
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.unit

SMALL = dict(embed_dims=12, depths=(1, 2, 1), num_heads=(1, 2, 4))


def small(**kwargs):
    return SwinTransformerV2(**{'arch': SMALL, 'window_size': 4, **kwargs})


# facts of the paper, section 4.1; a 1000-class linear head included
@pytest.mark.parametrize(
    'arch, millions', [('tiny', 28), ('small', 50), ('base', 88), ('large', 197), ('huge', 658), ('giant', 3000)]
)
def test_parameter_counts_match_the_paper(arch, millions):
    with torch.device('meta'):
        backbone = SwinTransformerV2(arch, window_size=8, out_indices=(3,))
        head = nn.Linear(backbone.out_norms['3'].normalized_shape[0], 1000)
    count = sum(p.numel() for module in (backbone, head) for p in module.parameters())
    assert abs(count / 1e6 / millions - 1) < 0.02


@pytest.mark.parametrize('size', [(1, 1), (1, 70), (37, 21), (64, 64), (50, 130)])
def test_output_shapes_follow_the_strides_for_any_image_size(size):
    outs = small()(torch.randn(2, 3, *size))
    for i, out in enumerate(outs):
        assert out.shape == (2, 12 * 2**i, math.ceil(size[0] / 4 / 2**i), math.ceil(size[1] / 4 / 2**i))
        assert out.is_contiguous()


@pytest.mark.parametrize('position_bias', ['log_cpb', 'linear_cpb', 'table'])
def test_every_parameter_gets_a_gradient(position_bias):
    model = randomise(small(position_bias=position_bias, arch={**SMALL, 'extra_norm_every': 2}))
    sum(out.square().sum() for out in model(torch.randn(2, 3, 50, 70))).backward()
    assert any('extra_norm' in name for name, _ in model.named_parameters())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_blocks_start_as_the_identity():
    x = torch.randn(1, 8, 9, 12)
    stage = small().stages[0]
    assert torch.equal(stage(x), x)


def test_checkpointing_changes_no_gradient():
    image = torch.randn(1, 3, 40, 60)
    gradients = []
    for with_cp in (False, True):
        torch.manual_seed(1)
        model = randomise(small(with_cp=with_cp, drop_path_rate=0.0))
        sum(out.square().sum() for out in model(image)).backward()
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('with_cp', [False, True])
def test_kernels_and_checkpointing_change_no_gradient(with_cp):
    """The paper's setting, sequential in the first stages, with blocks checkpointed too or not."""
    image = torch.randn(2, 3, 75, 50)
    gradients = []
    for options in (dict(attention='eager'), dict(attention=['sequential', 'sequential', 'auto'], with_cp=with_cp)):
        torch.manual_seed(1)
        model = randomise(small(drop_path_rate=0.0, **options))
        sum(out.square().mean() for out in model(image)).backward()
        gradients.append([p.grad for p in model.parameters()])
    for expected, found in zip(*gradients):
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


IMAGES = {
    'random': lambda size: torch.randn(1, 3, *size),
    'constant': lambda size: torch.full((1, 3, *size), 2.5),
    'zero': lambda size: torch.zeros(1, 3, *size),
    'huge': lambda size: 1e4 * torch.randn(1, 3, *size),
    'one huge pixel': lambda size: torch.zeros(1, 3, *size).index_fill_(3, torch.tensor([0]), 1e4),
}


@pytest.mark.parametrize('attention', ['auto', 'eager', 'fused'])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('seed', [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_half_precision_gives_no_nan(seed, dtype, attention):
    generator = torch.Generator().manual_seed(seed)
    for zeroed in (False, True):  # as at the start of training: q and k of every token may be exactly zero
        model = randomise(small(attention=attention, drop_path_rate=0.0))
        if zeroed:
            torch.nn.init.zeros_(model.patch_embed.norm.weight)
            torch.nn.init.zeros_(model.patch_embed.norm.bias)
            for block in (block for stage in model.stages for block in stage.blocks):
                torch.nn.init.zeros_(block.attn.q_bias)
        for make in IMAGES.values():
            size = torch.randint(1, 80, (2,), generator=generator).tolist()
            image = make(size).requires_grad_()
            with torch.autocast('cpu', dtype=dtype):
                outs = model.train()(image)
                sum(out.float().square().mean() for out in outs).backward()
                with torch.inference_mode():
                    outs += model.eval()(image)
            gradients = [image.grad, *(parameter.grad for parameter in model.parameters())]
            assert all(tensor.isfinite().all() for tensor in (*outs, *gradients)), size
            model.zero_grad()


@pytest.mark.slow
def test_a_size_is_compiled_once_and_without_graph_breaks():
    """Also with the sizes that PyTorch would make dynamic: windows depend on them."""
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    model = randomise(SwinTransformerV2(dict(embed_dims=8, depths=(2, 1), num_heads=(1, 2)), window_size=4))
    compiled = torch.compile(model, backend=count, fullgraph=True)
    sizes = [(40, 40), (40, 27), (40, 40), (40, 27)]
    try:
        for mode in (model.eval, model.train):
            mode()
            graphs.clear()
            for number, size in enumerate(sizes):
                image = torch.randn(1, 3, *size)
                torch.manual_seed(1)
                with torch.set_grad_enabled(model.training):
                    expected = model(image)
                    torch.manual_seed(1)
                    found = compiled(image)
                assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(expected, found))
                assert len(graphs) == min(number + 1, 2)
    finally:
        torch._dynamo.reset()


def test_geometry_is_made_once_for_a_size_and_not_once_for_a_block(monkeypatch):
    made = []
    cut_map, model = windows._cut_map, small(arch={**SMALL, 'depths': (4, 4, 4)})
    monkeypatch.setattr(windows, '_cut_map', lambda *arguments: made.append(arguments) or cut_map(*arguments))
    windows._cached_geometry.cache_clear()
    for size in [(40, 60), (60, 40), (40, 60), (40, 60)]:
        model(torch.randn(1, 3, *size))
    assert len(made) == len(set(made)) == 2 * 3 * 2  # sizes, stages, shifted or not
    for side in range(100, 160, 4):
        model(torch.randn(1, 3, side, 32))
    assert windows._cached_geometry.cache_info().currsize == windows._cached_geometry.cache_info().maxsize == 64


def test_a_stage_takes_its_own_window_and_kernel():
    model = small(window_size=[4, (2, 6), 3], attention=['eager', 'fused', 'auto'])
    assert [stage.window for stage in model.stages] == [(4, 4), (2, 6), (3, 3)]
    assert [stage.blocks[0].attn.kernel for stage in model.stages] == ['eager', 'fused', 'auto']
    assert model(torch.randn(1, 3, 60, 90))[2].shape == (1, 48, 4, 6)


@pytest.mark.parametrize('position_bias', ['log_cpb', 'linear_cpb'])
def test_set_window_size_preserves_the_learned_bias(position_bias):
    model = randomise(small(position_bias=position_bias))
    stage = model.stages[1]
    bias = stage.blocks[0].attn.position_bias
    before = bias(stage.window, stage.pretrained_window)
    model.set_window_size([4, 9, 4])
    assert stage.window == (9, 9)
    after = bias(stage.window, stage.pretrained_window)
    assert (after[:, 5:-5, 5:-5] - before).abs().max() < 1e-6
    # and where the map has a single window in both cases, nothing changes at all
    image = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        small_window = randomise(small(position_bias=position_bias)).eval()
        expected = small_window(image)
        small_window.set_window_size(11)
        assert all(torch.equal(a, b) for a, b in zip(small_window(image), expected))


@pytest.mark.parametrize('position_bias', ['log_cpb', 'linear_cpb', 'table'])
def test_inference_follows_a_change_of_windows(position_bias):
    """What is kept between inference calls is not kept over it."""
    model, image = randomise(small(position_bias=position_bias)).eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        model(image)
        model.set_window_size(7)
        kept = model(image)
    fresh = model(image)  # with gradients nothing is kept
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(kept, fresh))


def test_wrapped_blocks_load_plain_weights_and_give_them_back():
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    source, image = randomise(small()), torch.randn(1, 3, 64, 64)
    for wrap in (checkpoint_wrapper, lambda block: torch.compile(block, backend='eager')):
        wrapped = small()
        wrapped.stages[1].blocks[0] = wrap(wrapped.stages[1].blocks[0])
        wrapped.load_state_dict(source.state_dict())
        again = small()
        again.load_state_dict(wrapped.state_dict())
        with torch.no_grad():
            expected = source.eval()(image)[-1]
            assert torch.equal(again.eval()(image)[-1], expected)
            assert torch.allclose(wrapped.eval()(image)[-1], expected, atol=1e-5)


def test_the_pretrained_window_is_saved_and_loaded_with_the_weights():
    pretrained = randomise(small(window_size=4))
    wider = small(window_size=8)
    wider.load_state_dict(pretrained.state_dict())
    assert [stage.pretrained_window for stage in wider.stages] == [(4, 4)] * 3
    once_more = small(window_size=16, pretrained_window_sizes=4)
    once_more.load_state_dict(wider.state_dict())
    with pytest.raises(InputError, match='trained with the windows 4x4, but pretrained_window_sizes says 8x8'):
        small(window_size=16, pretrained_window_sizes=8).load_state_dict(wider.state_dict())


def test_stages_that_nothing_needs_are_not_built():
    model = small(out_indices=(0, 1))
    assert len(model.stages) == 2
    assert len(model(torch.randn(1, 3, 32, 32))) == 2
    # the drop path of a block does not depend on it
    assert model.stages[1].blocks[1].drop_path.rate == small().stages[1].blocks[1].drop_path.rate


def test_raw_outputs_are_the_input_of_the_norms():
    model = randomise(small()).eval()
    image = torch.randn(1, 3, 32, 48)
    normed = model(image)
    norms = model.out_norms
    model.out_norms = nn.ModuleDict({key: nn.Identity() for key in norms})
    for i, raw in enumerate(model(image)):
        assert torch.allclose(norms[str(i)](raw.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), normed[i])


def test_frozen_stages_do_not_train():
    model = small(frozen_stages=1, drop_path_rate=0.5).train()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    expected = {name for name, _ in model.named_parameters() if name.startswith(('patch_embed.', 'stages.0.', 'out_norms.0.'))}
    assert frozen == expected
    assert not model.stages[0].training and model.stages[1].training
    assert not any(p.requires_grad for p in small(frozen_stages=3).parameters())
    assert all(p.requires_grad for p in small(frozen_stages=-1).parameters())


def test_drop_path_grows_linearly_and_drops_whole_samples():
    model = small(drop_path_rate=0.3)
    rates = [block.drop_path.rate for stage in model.stages for block in stage.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])
    drop = model.stages[2].blocks[0].drop_path
    out = drop(torch.ones(2000, 3, 2))
    assert ((out == 0).all(dim=(1, 2)) | torch.isclose(out, torch.tensor(1 / 0.7)).all(dim=2).all(dim=1)).all()
    assert abs((out[:, 0, 0] == 0).float().mean() - 0.3) < 0.05
    assert torch.equal(drop.eval()(out), out)


def test_layer_depths_follow_the_order_of_the_blocks():
    depths = {name: small().get_layer_depth('backbone.' + name, 'backbone.') for name, _ in small().named_parameters()}
    assert {total for _, total in depths.values()} == {6}
    assert depths['patch_embed.proj.weight'][0] == 0
    assert depths['stages.0.blocks.0.attn.q_bias'][0] == 1
    assert depths['stages.1.downsample.norm.weight'][0] == 1  # with the block before it
    assert depths['stages.1.blocks.1.mlp.fc1.weight'][0] == 3
    assert depths['out_norms.0.weight'][0] == 5
    assert small().get_layer_depth('decode_head.conv.weight', 'backbone.') == (5, 6)


def test_weight_decay_exempts_norms_biases_scales_and_position_bias():
    model = small()
    names = model.no_weight_decay()
    parameters = dict(model.named_parameters())
    assert names <= set(parameters)
    assert 'stages.0.blocks.0.attn.position_bias.mlp.2.weight' in names
    assert 'stages.0.blocks.0.attn.logit_scale' in names
    decayed = set(parameters) - names
    assert all(name.endswith('weight') and parameters[name].ndim >= 2 for name in decayed)
    assert 'stages.0.blocks.0.attn.qkv.weight' in decayed and 'stages.1.downsample.reduction.weight' in decayed


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(arch='enormous'), "unknown SwinV2 arch 'enormous'; choose one of tiny"),
        (dict(arch=dict(depths=(1,), num_heads=(1,))), "missing: \\['embed_dims'\\]"),
        (dict(arch={**SMALL, 'dephts': 3}), "unknown: \\['dephts'\\]"),
        (dict(arch={**SMALL, 'num_heads': (1, 2)}), 'differ in length'),
        (dict(window_size=0), 'window 0 found'),
        (dict(window_size=-8), 'window -8 found'),
        (dict(window_size=[4, 4]), 'window_size has 2 values, \\[4, 4\\], for 3 stages'),
        (dict(pretrained_window_sizes=[4] * 4), 'pretrained_window_sizes has 4 values'),
        (dict(position_bias='log'), "unknown position_bias 'log'; choose one of log_cpb"),
        (dict(attention='flash'), "unknown attention 'flash'; choose from auto, eager, flex, fused, sequential"),
        (dict(out_indices=(0, 3)), 'stages 0 to 2'),
        (dict(frozen_stages=4), 'frozen_stages 4 found'),
    ],
)
def test_invalid_arguments_are_refused_with_the_reason(kwargs, message):
    with pytest.raises(InputError, match=message):
        small(**kwargs)
