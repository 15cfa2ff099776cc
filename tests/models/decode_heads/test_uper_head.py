"""Our UPerHead beside mmsegmentation's: same weights, same values, same gradients."""

import copy

import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from mmvitscale.models.decode_heads.uper_head import UPerHead
from mmvitscale.profiling.flops import multiply_adds
from mmvitscale.registry import MODELS
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.integration

CHANNELS = [8, 16, 24, 32]
OPTIONS = dict(
    in_channels=CHANNELS,
    in_index=[0, 1, 2, 3],
    channels=12,
    pool_scales=(1, 2, 3, 6),
    num_classes=5,
    dropout_ratio=0.1,
    norm_cfg=dict(type='BN'),
    align_corners=False,
    loss_decode=dict(type='mmseg.CrossEntropyLoss', avg_non_ignore=True),  # whatever the default scope is
)
SIZES = dict(
    square=[(32, 32), (16, 16), (8, 8), (4, 4)], odd=[(25, 33), (13, 17), (7, 9), (4, 5)], tiny=[(3, 2), (2, 1), (1, 1), (1, 1)]
)


def build(name, **options):
    torch.manual_seed(0)
    return MODELS.build(dict(type=f'{name}.UPerHead', **{**OPTIONS, **options}))


def pair(**options):
    """Both with the same random weights and statistics, in float64."""
    theirs = randomise(build('mmseg', **options)).double()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    ours = build('mmvitscale', **options).double()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def maps(sizes, batch=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(batch, c, *size, generator=generator, dtype=torch.float64).to(dtype) for c, size in zip(CHANNELS, sizes)
    ]


def test_a_seed_gives_the_weights_of_mmsegmentation():
    theirs, ours = build('mmseg').state_dict(), build('mmvitscale').state_dict()
    assert list(theirs) == list(ours) and all(torch.equal(theirs[name], ours[name]) for name in theirs)
    assert isinstance(build('mmvitscale'), UPerHead)


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('sizes', SIZES.values(), ids=SIZES)
@pytest.mark.parametrize('training', [True, False])
def test_values_gradients_and_statistics_equal_those_of_mmsegmentation(training, sizes, align_corners):
    outs, grads, states = [], [], []
    for head in pair(align_corners=align_corners, dropout_ratio=0.0):
        head.train(training)
        inputs = [x.requires_grad_() for x in maps(sizes)]
        out = head(inputs)
        generator = torch.Generator().manual_seed(2)
        (out * torch.randn(out.shape, generator=generator, dtype=torch.float64)).sum().backward()
        outs.append(out)
        grads.append([x.grad for x in inputs] + [parameter.grad for parameter in head.parameters()])
        states.append(head.state_dict())
    assert torch.allclose(outs[1], outs[0], rtol=0, atol=1e-10 * outs[0].abs().max().item())
    for theirs, ours in zip(*grads):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-10 * max(theirs.abs().max().item(), 1))
    assert all(torch.allclose(states[0][name].double(), states[1][name].double(), atol=1e-10) for name in states[0])


@pytest.mark.parametrize(
    'options',
    [
        dict(norm_cfg=None),
        dict(norm_cfg=dict(type='GN', num_groups=4)),
        dict(act_cfg=dict(type='GELU')),
        dict(pool_scales=(1, 5)),
        dict(in_channels=CHANNELS[1:3], in_index=[1, 2]),
        dict(conv_cfg=dict(type='Conv2dAdaptivePadding')),
    ],
    ids=str,
)
def test_all_arguments_of_mmsegmentation(options):
    theirs, ours = pair(**options)
    with torch.no_grad():
        expected, found = theirs.eval()(maps(SIZES['odd'])), ours.eval()(maps(SIZES['odd']))
    assert torch.allclose(found, expected, rtol=0, atol=1e-10 * expected.abs().max().item())


def test_losses_equal_those_of_mmsegmentation():
    samples = [
        SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 5, (1, 128, 128))), metainfo=dict(img_shape=(128, 128)))
        for _ in range(2)
    ]
    losses = [head.train().loss(maps(SIZES['square']), samples, {}) for head in pair(dropout_ratio=0.0)]
    assert losses[0].keys() == losses[1].keys() and losses[0]['loss_ce'] > 0.1
    assert all(torch.allclose(losses[0][name], losses[1][name]) for name in losses[0])


def test_autocast_is_as_close_to_float64_as_mmsegmentation():
    theirs, ours = (head.eval() for head in pair())
    inputs = maps(SIZES['square'])
    with torch.no_grad():
        exact = theirs(inputs)
        errors = []
        for head in (ours, theirs):
            head, narrow = copy.deepcopy(head).float(), [x.float() for x in inputs]
            with torch.autocast('cpu', torch.bfloat16):
                out = head(narrow)
            assert out.dtype == torch.bfloat16
            errors.append((out.double() - exact).square().mean().sqrt().item())
    assert errors[0] < 1.5 * errors[1]


def test_copies_pickles_and_sync_batch_norm(tmp_path):
    head = build('mmvitscale', norm_cfg=dict(type='SyncBN'))
    reverted = revert_sync_batchnorm(head).eval()
    expected = reverted(maps(SIZES['odd'], dtype=torch.float32))
    torch.save(reverted, tmp_path / 'head.pth')
    for other in (copy.deepcopy(reverted), torch.load(tmp_path / 'head.pth', weights_only=False)):
        assert torch.equal(other(maps(SIZES['odd'], dtype=torch.float32)), expected)


def test_multiply_adds():
    """At 512 x 512 with SwinV2-T's channels: 211 G become 112 G."""
    options = dict(in_channels=[96, 192, 384, 768], channels=512, num_classes=150)
    inputs = [torch.empty(1, c, 128 >> i, 128 >> i) for i, c in enumerate(options['in_channels'])]
    theirs, ours = (multiply_adds(build(name, **options).eval(), inputs)[0][''] / 1e9 for name in ('mmseg', 'mmvitscale'))
    assert theirs == pytest.approx(211.4, abs=0.2) and ours < 0.54 * theirs


def test_the_graph_of_torch_compile_gives_the_same():
    """With the decompositions of its own compiler, which keep strides that eager operations do not: one map alone is
    resized."""
    _, head = pair(dropout_ratio=0.0, pool_scales=(1,))
    inputs = maps([(8, 8), (4, 4), (2, 2), (2, 2)], batch=1)
    head.eval()
    compiled = torch.compile(head, backend='aot_eager_decomp_partition', fullgraph=True)
    with torch.no_grad():
        found, expected = compiled(inputs), head(inputs)
    assert torch.allclose(found, expected, rtol=0, atol=1e-10 * expected.abs().max().item())
