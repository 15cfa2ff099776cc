import pytest
import torch

from mmvitscale.checkpoints.metadata import (
    STATE_DICT_KEY,
    GridMetadata,
    WindowMetadata,
    check_pretrained_windows,
    classes_in,
    describe_window_change,
    pretrained_windows_of_name,
    show_windows,
)
from mmvitscale.errors import InputError
from mmvitscale.models import DeepViT, SwinTransformerV2

pytestmark = pytest.mark.unit

ARCH = dict(embed_dims=4, depths=(1, 1), num_heads=(1, 1))


@pytest.mark.parametrize('kind', [None, 'log_cpb', 'linear_cpb', 'table'])
def test_checkpoint_metadata_survives_encoding_and_casts(kind):
    metadata = WindowMetadata(kind, ((8, 8), None), ((56, 7), (16, 16)))
    for dtype in (torch.int64, torch.float32, torch.float16, torch.bfloat16):  # whole checkpoints are cast at times
        assert WindowMetadata.decode(metadata.encode().to(dtype)) == metadata
        assert GridMetadata.decode(GridMetadata((14, 32)).encode().to(dtype)).grid == (14, 32)


def test_invalid_checkpoint_metadata_is_refused():
    entry = WindowMetadata('log_cpb', ((8, 8),) * 2, ((8, 8),) * 2).encode()
    mixed = entry.clone()
    mixed[0, 0] = 3
    half = entry.clone()
    half[1, 2] = 0
    for damaged in (half, entry[0], entry[:, :4], entry + 0.5, -entry, mixed, entry + 100):
        with pytest.raises(InputError, match='which no version of mmvitscale writes'):
            WindowMetadata.decode(damaged)


def test_saved_metadata_always_equals_the_windows_in_use():
    """The state dict is made of what the model computes with, at every moment, and no buffer is a second ground truth."""
    backbone = SwinTransformerV2(ARCH, window_size=[16, (4, 8)], pretrained_window_sizes=[8, (4, 8)])
    assert not list(backbone.buffers())
    for windows in ([16, (4, 8)], [24, 3]):
        backbone.set_window_size(windows)
        saved = WindowMetadata.decode(backbone.state_dict()[STATE_DICT_KEY])
        assert saved.windows == tuple(stage.window for stage in backbone.stages)
        assert saved.pretrained_windows == tuple(stage.pretrained_window for stage in backbone.stages) == ((8, 8), (4, 8))
    other = SwinTransformerV2(ARCH, 5)
    other.load_state_dict(backbone.state_dict())
    assert [stage.pretrained_window for stage in other.stages] == [(8, 8), (4, 8)]
    assert [stage.window for stage in other.stages] == [(5, 5)] * 2  # windows are the config's
    assert SwinTransformerV2(ARCH, 5, position_bias='table').weight_metadata.pretrained_windows == (None, None)


def test_contradicting_windows_are_refused_and_changed_ones_reported():
    check_pretrained_windows(((8, 8), None), ((8, 8), (4, 4)), 'pretrained_window_sizes')
    with pytest.raises(InputError, match=r'8x8, unknown, but pretrained_window_sizes says 16x16, 4x4 \(stage 0 differs\)'):
        check_pretrained_windows(((8, 8), None), ((16, 16), (4, 4)), 'pretrained_window_sizes')
    own = WindowMetadata('log_cpb', ((8, 8),) * 2, ((16, 16),) * 2)
    assert describe_window_change(own, own) is None and describe_window_change(GridMetadata((1, 2)), own) is None
    learned = WindowMetadata(None, (None, None), ((8, 8), None))
    assert 'last ran with windows of 8x8, unknown tokens, here they run with 16x16' in describe_window_change(learned, own)
    assert show_windows([(8, 8), (8, 8)]) == '8x8'


@pytest.mark.parametrize(
    'name, windows',
    [
        ('swinv2_tiny_patch4_window8_256.pth', [8, 8, 8, 8]),
        ('swinv2_base_patch4_window16_256.pth', [16, 16, 16, 8]),
        ('swinv2_large_patch4_window12_192_22k.pth', [12, 12, 12, 6]),
        ('swinv2_base_patch4_window12to16_192to256_22kto1k_ft.pth', [12, 12, 12, 6]),
        ('swinv2_large_window12to24_192to384.ms_in22k_ft_in1k/model.safetensors', [12, 12, 12, 6]),
        ('microsoft/swinv2-tiny-patch4-window16-256', [16, 16, 16, 8]),
        ('my_best_model.pth', None),
    ],
)
def test_pretrained_windows_are_inferred_from_published_file_names(name, windows):
    assert pretrained_windows_of_name(name) == windows


def test_numbers_above_256_outlive_a_cast_to_bfloat16():
    """bfloat16 has 8 binary digits: a grid of 301 patches would become one of 302 or 300."""
    windows = WindowMetadata('log_cpb', ((301, 7), (8, 8)), ((999, 257), (8, 8)))
    grid = GridMetadata((301, 513), (1 + 301 * 513, 0, 70000))
    for dtype in (torch.int64, torch.float32, torch.float16, torch.bfloat16):
        assert WindowMetadata.decode(windows.encode().to(dtype)) == windows
        assert GridMetadata.decode(grid.encode().to(dtype)) == grid


def test_a_state_dict_in_bfloat16_keeps_a_large_grid():
    options = dict(arch=dict(embed_dims=4, depth=1, re_attention=1, num_heads=1), img_size=(301 * 16, 16))
    saved = {key: value.to(torch.bfloat16) for key, value in DeepViT(**options).state_dict().items()}
    other = DeepViT(**options)
    other.load_state_dict(saved)
    assert other.weight_metadata == DeepViT(**options).weight_metadata and other.grid == (301, 1)


@pytest.mark.parametrize(
    'meta',
    [
        None,
        [1],
        'x',
        {},
        dict(dataset_meta=[1]),
        dict(dataset_meta=dict(classes='ab')),
        dict(dataset_meta=dict(classes=[[1], 2])),
    ],
)
def test_classes_of_a_file_that_holds_something_else_are_none(meta):
    assert classes_in(dict(meta=meta)) == []
    assert classes_in(dict(meta=dict(dataset_meta=dict(classes=('a', 'b'))))) == ['a', 'b']
