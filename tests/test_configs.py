"""Every config builds, and its model makes one prediction and one loss at a reduced size."""

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData
from official_layout import official_state_dict

from mmvitscale.checkpoints import pretrained
from mmvitscale.config import load_config
from mmvitscale.models import SwinTransformerV2

ROOT = Path(__file__).parents[1] / 'configs'
CONFIGS = [path for path in sorted(ROOT.rglob('*.py')) if '_base_' not in path.parts]


def test_there_are_configs():
    names = {path.stem for path in CONFIGS}
    assert {'swinv2_upernet_ade20k', 'swinv2_fpn_ade20k', 'swinv2_mask2former_ade20k', 'deepvit_upernet_ade20k',
            'swinv2_upernet_mini', 'swinv2_mask_rcnn_mini', 'swinv2_retinanet_mini', 'deepvit_mask_rcnn_coco'} <= names
    assert {f'swinv2_{head}_coco' for head in ('retinanet', 'mask_rcnn', 'cascade_mask_rcnn', 'htc', 'dino')} <= names
    for head in ('mask-rcnn', 'cascade-mask-rcnn'):
        assert {f'swinv2-{size}-w16_{head}_8xb2-3x_coco' for size in ('tiny', 'small', 'base', 'large')} <= names


@pytest.fixture(autouse=True)
def download(monkeypatch):
    """Instead of the public checkpoints: their layout, windows and sizes, all zeros. Records what was asked for."""
    asked = []

    def read(url):
        asked.append(url)
        size, window, image = re.fullmatch(
            r'https://github.com/SwinTransformer/storage/releases/download/v2.0.0/'
            r'swinv2_(\w+)_patch4_window(\d+)_(256|192_22k).pth', url).groups()
        windows = (8, 8, 8, 8) if window == '8' and image == '256' else (12, 12, 12, 6)
        with torch.device('meta'):
            weights = official_state_dict(SwinTransformerV2(size, windows), windows, windows)
        # one zero seen through as many elements as there are: nothing is allocated
        return dict(model={key: torch.zeros(()).expand(value.shape) if value.is_meta else value
                           for key, value in weights.items()})

    monkeypatch.setattr(pretrained, 'read_checkpoint', read)
    return asked


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
    sample = DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size,
                                         scale_factor=(1.0, 1.0)))
    sample.gt_instances = InstanceData(bboxes=torch.tensor([[20.0, 10, 60, 40]]), labels=torch.tensor([1]),
                                       masks=BitmapMasks(masks, *size))
    return sample


SAMPLES = {'mmseg': segmentation_sample, 'mmdet': detection_sample}


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_a_config_trains_and_predicts(path, download):
    cfg = load_config(str(path))
    init_default_scope(cfg.default_scope)
    size, channels = (64, 96), cfg.model.backbone.get('in_channels', 3)
    assert cfg.runner_type == 'mmvitscale.Runner'
    if cfg.default_scope == 'mmseg':
        cfg.model.data_preprocessor.size = size
    if cfg.model.type == 'DINO':
        cfg.model.num_queries = 20  # no more than so small an image has tokens
    model = MODELS.build(cfg.model)
    model.init_weights()
    assert len(download) == (path.parent.name == 'swinv2')
    origins = {stage.reference_origin for stage in getattr(model.backbone, 'stages', [])}
    assert origins <= {'config'} or path.parent.name == 'mini'

    batch = dict(inputs=[torch.randint(0, 256, (channels, *size), dtype=torch.uint8) for _ in range(2)],
                 data_samples=[SAMPLES[cfg.default_scope](cfg.model, size) for _ in range(2)])
    data = model.data_preprocessor(copy.deepcopy(batch), training=True)
    losses = model.train()(**data, mode='loss')
    total, _ = model.parse_losses(losses)
    assert total.isfinite()
    total.backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    with torch.no_grad():
        result, = model.eval().test_step({key: value[:1] for key, value in batch.items()})
    if cfg.default_scope == 'mmseg':
        assert result.pred_sem_seg.data.shape == (1, *size)
    else:
        assert result.pred_instances.bboxes.isfinite().all()


def test_the_headline_recipe_is_the_papers():
    cfg = load_config(str(ROOT / 'swinv2_upernet_ade20k.py'))
    backbone = cfg.model.backbone
    assert (backbone.arch, backbone.window_size, backbone.pretrained_window_sizes) == ('tiny', 16, 8)
    assert backbone.drop_path_rate == 0.3
    assert cfg.optim_wrapper.optimizer.lr == 4e-5 and cfg.optim_wrapper.optimizer.weight_decay == 0.05
    assert cfg.optim_wrapper.paramwise_cfg.layer_decay_rate == 0.95
    assert cfg.train_cfg.max_iters == 160000 and cfg.param_scheduler[0].end == 1500
    assert cfg.crop_size == (512, 512) and cfg.train_dataloader.batch_size * 8 == 16


def test_the_detection_recipes_are_the_papers():
    cascade = load_config(str(ROOT / 'swinv2_cascade_mask_rcnn_coco.py'))
    assert (cascade.model.backbone.window_size, cascade.model.backbone.pretrained_window_sizes) == (16, 8)
    assert cascade.optim_wrapper.optimizer.lr == 1e-4 and cascade.train_cfg.max_epochs == 36
    scales = cascade.train_dataloader.dataset.pipeline[2].scales
    assert (scales[0], scales[-1]) == ((1333, 480), (1333, 800)) and cascade.train_dataloader.batch_size * 8 == 16
    htc = load_config(str(ROOT / 'swinv2_htc_coco.py'))
    assert htc.model.type == 'HybridTaskCascade' and htc.model.backbone.window_size == 32
    assert htc.optim_wrapper.optimizer.lr == 4e-4 and htc.optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult == 0.1
    jitter = htc.train_dataloader.dataset.pipeline[2]
    assert jitter.scale == (1536, 1536) and jitter.ratio_range == (0.1, 2.0)
    assert htc.model.test_cfg.rcnn.nms.type == 'soft_nms' and 'iou_thr' not in htc.model.test_cfg.rcnn.nms
    assert htc.train_dataloader.batch_size == 1 and htc.auto_scale_lr.base_batch_size == 64


def test_the_config_that_the_readme_shows_for_own_data(tmp_path):
    block, = re.findall(r"```python\n(_base_ = .*?)```", (ROOT.parent / 'README.md').read_text(), re.DOTALL)
    for base in re.findall(r"configs/\S+?\.py", block):
        path = tmp_path / 'cells.py'
        path.write_text(block.replace("'configs/mini/swinv2_retinanet_mini.py'", repr(str(ROOT.parent / base))))
        cfg = load_config(str(path))
        assert cfg.model.bbox_head.num_classes == 3 == len(cfg.test_dataloader.dataset.metainfo.classes)
        assert cfg.test_dataloader.dataset.ann_file == 'test.json' and cfg.test_evaluator.ann_file == 'data/cells/test.json'
        init_default_scope(cfg.default_scope)
        assert MODELS.build(cfg.model).bbox_head.num_classes == 3
