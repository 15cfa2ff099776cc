"""Every config builds at full size, its weights fit, and its model makes one prediction and one loss at a reduced size."""

import copy
import re

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData

import mmvitscale
from mmvitscale.checkpoints import pretrained
from mmvitscale.config.names import configs_folder, find_config
from mmvitscale.config.runtime import describe_batch
from mmvitscale.errors import InputError
from mmvitscale.models import SwinTransformerV2
from tests.helpers.loaded import load
from tests.helpers.official_layout import official_state_dict
from tests.helpers.shrink import shrink

pytestmark = pytest.mark.integration

NAMES = mmvitscale.list_configs()
HEADLINES = [name for name in NAMES if find_config(name).parent == configs_folder()]
MINI = mmvitscale.list_configs('*_mini*')
PRETRAIN = [name for name in NAMES if find_config(name).parent.name == 'pretrain']
# What makes weights starts from none; everything else starts from some.
FROM_SCRATCH = {*MINI, *(name for name in PRETRAIN if not re.search('w12to|w12-simmim', name))}
# The quick tests take the small ones and one of each task, what a reader meets first.
QUICK = [*MINI, 'swinv2_upernet_ade20k', 'swinv2_mask_rcnn_coco', 'deepvit_fpn_ade20k', 'swinv2-t-w8_8xb128-300e_in1k-256']
# Short names are recipes unchanged (test_recipes.py).
EVERY = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in NAMES
    if name in QUICK or name not in HEADLINES
]
PUBLIC = (
    r'https://github.com/SwinTransformer/storage/releases/download/v2.0.0/'
    r'swinv2_(\w+)_patch4_window(\d+)_(256|192_22k).pth'
)


def test_headline_configs_are_complete_and_config_names_unique():
    assert set(HEADLINES) == {
        'swinv2_upernet_ade20k',
        'swinv2_fpn_ade20k',
        'swinv2_mask2former_ade20k',
        'swinv2_retinanet_coco',
        'swinv2_mask_rcnn_coco',
        'swinv2_cascade_mask_rcnn_coco',
        'swinv2_htc_coco',
        'swinv2_dino_coco',
        'deepvit_upernet_ade20k',
        'deepvit_fpn_ade20k',
        'deepvit_mask_rcnn_coco',
    }
    paths = [path for path in configs_folder().rglob('*.py') if '_base_' not in path.parts]
    assert len(NAMES) == len(paths) == len({path.stem for path in paths})  # so that a name alone finds a config


# Weights


def initialise(backbone):
    """What ``init_weights`` calls: it cannot itself be called on the meta device, where MMEngine looks at every value."""
    pretrained.Pretrained(**{key: value for key, value in backbone.init_cfg.items() if key != 'type'})(backbone)


@pytest.mark.parametrize('name', [name for name in EVERY if name.values[0] not in FROM_SCRATCH])
def test_the_weights_of_a_config_fit_it(name, monkeypatch):
    """The public ones are read in their layout, without data."""
    cfg = load(name)
    init_cfg = cfg.model.backbone.init_cfg
    assert init_cfg.type == 'Pretrained'
    if init_cfg.checkpoint.startswith('checkpoints/'):
        with pytest.raises(
            InputError,
            match=f'weights {init_cfg.checkpoint} are not there.*put the file there.*'
            'init_cfg.checkpoint=FILE; to train from scratch.*init_cfg=None',
        ):
            initialise(build(cfg, 'meta').backbone)
        return
    size, window, image = re.fullmatch(PUBLIC, init_cfg.checkpoint).groups()
    assert ('in22k' in name) == (image == '192_22k')
    windows = (8, 8, 8, 8) if image == '256' else (12, 12, 12, 6)
    with torch.device('meta'):
        weights = official_state_dict(SwinTransformerV2(size, windows), windows, windows)
    monkeypatch.setattr(pretrained, 'read_checkpoint', lambda url: dict(model=weights))
    backbone = build(cfg, 'meta').backbone
    initialise(backbone)
    assert {stage.pretrained_window_source for stage in backbone.stages} == {
        'config'
    }  # agrees with the file, or it were refused
    assert [stage.pretrained_window for stage in backbone.stages] == [(w, w) for w in windows[: len(backbone.stages)]]


def test_only_mini_and_first_pretraining_configs_start_from_scratch():
    scratch = {name for name in NAMES if 'init_cfg' not in load(name).model.backbone}
    assert scratch == FROM_SCRATCH


@pytest.mark.parametrize('name', MINI)
def test_the_mini_configs_start_from_scratch(name):
    assert describe_batch(load(name), 1) is None
    assert 'init_cfg' not in load(name).model.backbone  # so that a child config may add weights


def test_init_cfg_none_builds_a_backbone_without_pretrained_weights():
    for name in ('swinv2_upernet_ade20k', 'swinv2_htc_coco', 'deepvit_upernet_ade20k'):
        cfg = mmvitscale.load_config(name, {'model.backbone.init_cfg': None})
        assert build(cfg, 'meta').backbone.init_cfg is None


# Sizes: published with the papers, in millions (SwinV2 and SwinV1, tables of COCO and ADE20K).


@pytest.mark.parametrize(
    'name, millions',
    [
        ('swinv2_htc_coco', 284),
        ('htc_swinv2-b-w32-in22k_fpn_64xb1-lsj1536-3x_coco', 160),
        ('swinv2_cascade_mask_rcnn_coco', 86),
        ('swinv2_mask_rcnn_coco', 48),
        ('swinv2_upernet_ade20k', 60),
    ],
)
def test_parameters_are_as_many_as_published(name, millions):
    count = sum(parameter.numel() for parameter in build(load(name), 'meta').parameters())
    assert abs(count / 1e6 / millions - 1) < 0.02


# A step


def build(cfg, device):
    init_default_scope(cfg.default_scope)
    with torch.device(device):
        return MODELS.build(copy.deepcopy(cfg.model))


def segmentation_sample(model_cfg, size):
    from mmseg.structures import SegDataSample

    sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size))
    sample.gt_sem_seg = PixelData(data=torch.randint(0, model_cfg.decode_head.num_classes, (1, *size)))
    return sample


def detection_sample(model_cfg, size):
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    masks = np.zeros((1, *size), np.uint8)
    masks[:, 10:40, 20:60] = 1
    sample = DetDataSample(
        metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size, scale_factor=(1.0, 1.0))
    )
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[20.0, 10, 60, 40]]), labels=torch.tensor([0]), masks=BitmapMasks(masks, *size)
    )
    sample.gt_sem_seg = PixelData(sem_seg=torch.full((1, *size), 100))  # a class of stuff
    return sample


def pretraining_sample(model_cfg, size):
    from mmpretrain.structures import DataSample

    sample = DataSample(metainfo=dict(img_shape=size, ori_shape=size))
    if model_cfg.type == 'SimMIM':
        sample.set_mask(torch.rand(size[0] // 4, size[1] // 4) < 0.6)
        return sample
    return sample.set_gt_label(torch.randint(model_cfg.head.num_classes, (1,)))


SAMPLES = {'mmseg': segmentation_sample, 'mmdet': detection_sample, 'mmpretrain': pretraining_sample}


@pytest.mark.parametrize('name', EVERY)
def test_a_config_trains_and_predicts(name):
    cfg = load(name)
    assert cfg.runner_type == 'mmvitscale.Runner'
    size, channels = (64, 96), cfg.model.backbone.get('in_channels', 3)
    if name not in MINI:  # those at full size, on the meta device: test_model_index.py
        shrink(cfg.model, size)
    elif cfg.default_scope == 'mmseg':
        cfg.model.data_preprocessor.size = size
    model = build(cfg, 'cpu')
    model.init_weights()

    batch = dict(
        inputs=[torch.randint(0, 256, (channels, *size), dtype=torch.uint8) for _ in range(2)],
        data_samples=[SAMPLES[cfg.default_scope](cfg.model, size) for _ in range(2)],
    )
    if cfg.default_scope == 'mmpretrain':
        batch['inputs'] = torch.stack(batch['inputs'])
    data = model.data_preprocessor(copy.deepcopy(batch), training=True)
    losses = model.train()(**data, mode='loss')
    total, _ = model.parse_losses(losses)
    assert total.isfinite()
    total.backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if cfg.model.type == 'SimMIM':
        return
    with torch.no_grad():
        (result,) = model.eval().test_step({key: value[:1] for key, value in batch.items()})
    if cfg.default_scope == 'mmpretrain':
        assert result.pred_score.shape == (cfg.model.head.num_classes,)
    elif cfg.default_scope == 'mmseg':
        assert result.pred_sem_seg.data.shape == (1, *size)
    else:
        assert result.pred_instances.bboxes.isfinite().all()
    if 'panoptic' in name:
        assert result.pred_panoptic_seg.sem_seg.shape == (1, *size)
