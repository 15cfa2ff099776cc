import pytest
import torch

from mmvitscale.checkpoints.metadata import META_KEY, STATE_DICT_KEY, GridMetadata
from mmvitscale.errors import InputError
from mmvitscale.models import SwinTransformerV2
from tests.helpers import toy

pytestmark = pytest.mark.unit

ARCH = dict(embed_dims=8, depths=(1, 1), num_heads=(1, 1))
STRICT = dict(type='mmvitscale.LogCPBTransferHook', strict=True)


def test_strict_refuses_assumed_pretrained_windows(tmp_path):
    weights = {key: value for key, value in SwinTransformerV2(ARCH, 8).state_dict().items() if key != STATE_DICT_KEY}
    torch.save(weights, tmp_path / 'a.pth')
    cfg = dict(
        type='mmvitscale.SwinTransformerV2',
        arch=ARCH,
        window_size=16,
        init_cfg=dict(type='mmvitscale.Pretrained', checkpoint=str(tmp_path / 'a.pth')),
    )
    with pytest.raises(InputError, match=r'of the stages \[0, 1\] are only assumed'):
        toy.train(tmp_path / 'refused', cfg, [STRICT])
    toy.train(tmp_path / 'logged', {**cfg, 'pretrained_window_sizes': 8}, [STRICT])
    toy.train(tmp_path / 'scratch', {**cfg, 'init_cfg': None}, [STRICT])


def test_a_model_without_our_backbone_gets_no_window_metadata(tmp_path):
    toy.train(tmp_path, dict(type='torch.nn.Conv2d', in_channels=3, out_channels=2, kernel_size=3), [STRICT])
    assert META_KEY not in torch.load(tmp_path / 'iter_1.pth', weights_only=False)['meta']


def test_the_window_schedule_runs_before_the_transfer_report_and_ema(tmp_path):
    """A schedule that grows windows sets the first ones before the report."""
    schedule = [dict(begin=0, window_size=4), dict(begin=9, window_size=8)]
    grows = dict(type='mmvitscale.ProgressiveWindowHook', schedule=schedule)
    cfg = dict(type='mmvitscale.SwinTransformerV2', arch=ARCH, window_size=6)
    runner = toy.train(tmp_path, cfg, [grows])
    order = [type(hook).__name__ for hook in runner.hooks]
    assert order.index('ProgressiveWindowHook') < order.index('LogCPBTransferHook') < order.index('EMAHook')


def test_a_head_only_checkpoint_is_marked_as_loaded(tmp_path):
    """Whichever runner reads it, and without a word about a backbone."""
    from mmvitscale.checkpoints.loading import adapt_checkpoint, is_adapted

    model = toy.Toy(dict(type='mmvitscale.SwinTransformerV2', arch=ARCH, window_size=6))
    model.add_module('head', torch.nn.Linear(1, 1))
    content = dict(state_dict={'head.bias': torch.ones(1)})
    assert not is_adapted(content)
    adapt_checkpoint(model, content, 'head.pth')
    assert is_adapted(content)


def test_ema_checkpoints_keep_the_trained_token_counts_of_a_deepvit(tmp_path):
    """The official form learns with the image's 5 tokens, whatever the grid is; so say the averages, which are saved."""
    cfg = dict(
        type='mmvitscale.DeepViT',
        arch=dict(embed_dims=8, depth=2, re_attention=1, num_heads=2),
        img_size=64,
        reatten_statistics='running',
    )
    runner = toy.train(tmp_path, cfg, [dict(type='EMAHook', _scope_='mmengine')])
    learned = runner.model.backbone.weight_metadata
    assert learned.tokens != (0, 17)
    state = torch.load(tmp_path / 'iter_1.pth', weights_only=False)['state_dict']
    assert GridMetadata.decode(state[f'backbone.{STATE_DICT_KEY}']) == learned
