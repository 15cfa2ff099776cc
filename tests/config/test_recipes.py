"""Every recipe against a table of its sources' values, written down here a second time, so that none drifts unseen.

Sources, cited by the letter in ``source``:
P   SwinV2, arXiv 2111.09883, appendix and tables
V   SwinV1, arXiv 2103.14030, appendix
O   github.com/SwinTransformer/Swin-Transformer-Object-Detection
G   github.com/SwinTransformer/Swin-Transformer-Semantic-Segmentation, mmsegmentation's Swin configs
C   github.com/VDIGPKU/CBNetV2, HTC with Swin
F   github.com/facebookresearch/Mask2Former, mmdetection's and mmsegmentation's Mask2Former
D   DINO, arXiv 2203.03605, mmdetection's DINO
S   Semantic FPN on vision transformers (PVT, arXiv 2102.12122, and successors)
B   BEiT-B's ADE20K recipe, arXiv 2106.08254 and mmsegmentation
T   ViTDet, arXiv 2203.16527, and mmdetection, projects/ViTDet
R   github.com/zhoudaquan/dvit_repo
M   mmsegmentation's Cityscapes
own  no source has it
"""

import argparse
import json
import re

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

import mmvitscale
from mmvitscale.cli import ConfigOptions
from mmvitscale.config import model_index
from mmvitscale.config.names import configs_folder, find_config
from mmvitscale.errors import InputError
from mmvitscale.models.swin_v2.position_bias import POSITION_BIASES
from tests.helpers.loaded import load

pytestmark = pytest.mark.integration

IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
HALF = ((127.5,) * 3, (127.5,) * 3)
# Those of configs/pretrain have a table of their own.
NAMES = [name for name in mmvitscale.list_configs() if find_config(name).parent.name != 'pretrain']
T, S, B, L, G = 'tiny', 'small', 'base', 'large', 'giant'
W22K = [12, 12, 12, 6]


def steps_of(pipeline):
    return {step['type']: step for step in pipeline}


def recipe_of(name):
    """What the config says, in the words of the table."""
    cfg = load(name)
    model, optim, backbone = cfg.model, cfg.optim_wrapper, cfg.model.backbone
    params = optim.get('paramwise_cfg') or {}
    schedulers = cfg.param_scheduler if isinstance(cfg.param_scheduler, list) else [cfg.param_scheduler]
    warmup = [s for s in schedulers if s.type == 'LinearLR']
    (main,) = (s for s in schedulers if s.type != 'LinearLR')
    train, test = (steps_of(cfg[f'{split}_dataloader'].dataset.pipeline) for split in ('train', 'test'))
    tta = cfg.get('tta_pipeline')
    roi, decode = model.get('roi_head') or {}, model.get('decode_head') or {}
    boxes = roi.get('bbox_head') or {}
    box = boxes[0] if isinstance(boxes, list) else boxes
    queries = model.get('num_queries') or (decode or model.get('panoptic_head') or {}).get('num_queries')
    neck = model.get('neck') or []
    return dict(
        arch=backbone.arch,
        window=backbone.get('window_size'),
        pretrained=backbone.get('pretrained_window_sizes'),
        bias=backbone.get('position_bias', 'log_cpb'),
        drop_path=backbone.drop_path_rate,
        with_cp=backbone.get('with_cp', False),
        mean_std=tuple(tuple(model.data_preprocessor[key]) for key in ('mean', 'std')),
        lr=optim.optimizer.lr,
        decay=optim.optimizer.weight_decay,
        layer_decay=params.get('layer_decay_rate', 1.0),
        backbone_lr=(params.get('custom_keys') or {}).get('backbone', {}).get('lr_mult', 1.0),
        clip=(optim.get('clip_grad') or {}).get('max_norm'),
        amp=optim.type == 'AmpOptimWrapper',
        batch=cfg.auto_scale_lr.base_batch_size,
        per_gpu=cfg.train_dataloader.batch_size,
        length=cfg.train_cfg.get('max_iters') or f'{cfg.train_cfg.max_epochs} epochs',
        warmup=warmup[0].end if warmup else 0,
        steps=main.get('milestones'),
        power=main.get('power'),
        end=main.get('end'),
        train=train_input(train),
        instaboost='InstaBoost' in train,
        test=max(test['Resize'].scale),
        test_short=min(test['Resize'].scale),
        padded='Pad' in test,
        tta=[min(step.scale) for step in tta[1].transforms[0]] if tta else None,
        mode=(model.get('test_cfg') or {}).get('mode'),
        head=decode.get('type') or box.get('type') or model.type,
        classes=decode.get('num_classes') or box.get('num_classes'),
        norm=(box or decode).get('norm_cfg', {}).get('type'),
        agnostic=box.get('reg_class_agnostic'),
        decoded=box.get('reg_decoded_bbox', False),
        box_loss=(box['loss_bbox'].type, box['loss_bbox'].loss_weight) if box else None,
        stds=[head.bbox_coder.target_stds for head in boxes] if isinstance(boxes, list) else None,
        mask=bool(roi.get('mask_head')),
        semantic=bool(roi.get('semantic_head')),
        global_attention=any(part.type == 'mmvitscale.GlobalAttention' for part in (neck if isinstance(neck, list) else [])),
        nms=((model.get('test_cfg') or {}).get('rcnn') or {}).get('nms', {}).get('type'),
        score_thr=((model.get('test_cfg') or {}).get('rcnn') or {}).get('score_thr'),
        queries=queries,
        weights=backbone.init_cfg.checkpoint.split('/')[-1],
        flip=train['RandomFlip'].prob,
        global_blocks=list(backbone.get('global_blocks', [])),
    )


def train_input(steps):
    """The scales and crops of training, in short."""
    if 'RandomChoice' in steps:
        branches = steps['RandomChoice'].transforms
        return [
            [(step.type, step.get('scales') or (tuple(step.crop_size), step.crop_type)) for step in branch]
            for branch in branches
        ]
    crop = tuple(steps['RandomCrop'].crop_size) if 'RandomCrop' in steps else None
    if 'RandomChoiceResize' in steps:
        resize = steps['RandomChoiceResize']
        return ('shortest edge', list(resize.scales), resize.max_size, crop)
    return ('jitter', tuple(steps['RandomResize'].scale), tuple(steps['RandomResize'].ratio_range), crop)


SHORT = list(range(480, 801, 32))
RESIZE = ('RandomChoiceResize', [(1333, s) for s in SHORT])
DETR = [
    [RESIZE],
    [('RandomChoiceResize', [(1333, s) for s in (400, 500, 600)]), ('RandomCrop', ((384, 600), 'absolute_range')), RESIZE],
]
RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


# mmdetection writes the same scales the other way round.
RESIZE_DINO = ('RandomChoiceResize', [(s, 1333) for s in SHORT])


def jitter(side):
    return ('jitter', (side, side), (0.1, 2.0), (side, side))


def seg_jitter(long, short, crop):
    return ('jitter', (long, short), (0.5, 2.0), crop)


def tenths(side, most, crop):
    return ('shortest edge', [int(0.1 * n * side) for n in range(5, 21)], most, crop)


_22K = {
    B: 'swinv2_base_patch4_window12_192_22k.pth',
    L: 'swinv2_large_patch4_window12_192_22k.pth',
    G: 'swinv2_giant_window12_192_22k_ext.pth',
}


def in22k(arch):
    return dict(arch=arch, pretrained=W22K, weights=_22K[arch], with_cp=arch != B)


SMALL = dict(arch=S, weights='swinv2_small_patch4_window8_256.pth')
SWIN_T = dict(
    arch=T,
    window=16,
    pretrained=8,
    bias='log_cpb',
    with_cp=False,
    mean_std=IMAGENET,
    flip=0.5,
    global_blocks=[],
    weights='swinv2_tiny_patch4_window8_256.pth',
    instaboost=False,
    padded=False,
)

# Segmentation
NO_BOXES = dict(
    agnostic=None,
    decoded=False,
    box_loss=None,
    stds=None,
    mask=False,
    semantic=False,
    global_attention=False,
    nms=None,
    score_thr=None,
    steps=None,
)
UPERNET = dict(
    SWIN_T,
    **NO_BOXES,
    source='P G',
    drop_path=0.3,
    lr=4e-5,
    decay=0.05,
    layer_decay=0.95,
    backbone_lr=1.0,
    clip=None,
    amp=False,
    batch=16,
    per_gpu=2,
    length=160000,
    warmup=1500,
    power=1.0,
    end=160000,
    train=seg_jitter(2048, 512, (512, 512)),
    test=2048,
    test_short=512,
    tta=[512 * r for r in RATIOS],
    mode='whole',
    head='mmvitscale.UPerHead',
    classes=150,
    norm='BN',
    queries=None,
)
LARGE_UPERNET = dict(
    UPERNET,
    window=40,
    lr=6e-5,
    layer_decay=1.0,
    batch=64,
    per_gpu=8,
    length=40000,
    warmup=375,
    end=40000,
    train=seg_jitter(2560, 640, (640, 640)),
    test=2560,
    test_short=640,
    tta=[640 * r for r in RATIOS],
)
GIANT_UPERNET = (
    LARGE_UPERNET | in22k(G) | dict(drop_path=0.4, lr=4e-5, batch=32, per_gpu=1, length=80000, warmup=750, end=80000)
)
SEMANTIC_FPN = dict(
    UPERNET,
    source='S',
    lr=1e-4,
    decay=1e-4,
    layer_decay=1.0,
    batch=32,
    per_gpu=4,
    length=80000,
    warmup=0,
    power=0.9,
    end=80000,
    head='mmvitscale.FPNHead',
)
MASK2FORMER = dict(
    UPERNET,
    source='F',
    window=20,
    lr=1e-4,
    layer_decay=1.0,
    backbone_lr=0.1,
    clip=0.01,
    amp=False,
    warmup=0,
    power=0.9,
    train=tenths(640, 2560, (640, 640)),
    test=2560,
    test_short=640,
    tta=[640 * r for r in RATIOS],
    head='Mask2FormerHead',
    norm=None,
    queries=100,
)
CITYSCAPES = dict(
    source='F',
    window=16,
    classes=19,
    length=90000,
    end=90000,
    train=tenths(1024, 4096, (512, 1024)),
    test=2048,
    test_short=1024,
    tta=[1024 * r for r in RATIOS],
)

# Detection
STDS = [[0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067]]
DETECTOR = dict(
    SWIN_T,
    drop_path=0.2,
    lr=1e-4,
    decay=0.05,
    layer_decay=1.0,
    backbone_lr=1.0,
    clip=None,
    amp=True,
    batch=16,
    per_gpu=2,
    length='36 epochs',
    warmup=500,
    steps=[27, 33],
    power=None,
    end=36,
    train=DETR,
    test=1333,
    test_short=800,
    tta=[640, 800, 960],
    decoded=False,
    mode=None,
    classes=80,
    semantic=False,
    global_attention=False,
    queries=None,
)
TWO_FC = dict(head='Shared2FCBBoxHead', norm=None, nms='nms', score_thr=0.05)
MASK_RCNN = dict(DETECTOR, **TWO_FC, source='O', agnostic=False, box_loss=('L1Loss', 1.0), stds=None, mask=True)
CASCADE = DETECTOR | dict(
    source='P O',
    decoded=True,
    head='ConvFCBBoxHead',
    norm='BN',
    agnostic=False,
    box_loss=('GIoULoss', 10.0),
    stds=STDS,
    mask=True,
    nms='nms',
    score_thr=0.05,
)
PLAIN_CASCADE = dict(DETECTOR, **TWO_FC, source='O', agnostic=True, box_loss=('SmoothL1Loss', 1.0), stds=STDS, mask=True)
HTC = (
    CASCADE
    | in22k(L)
    | dict(
        source='P V C',
        window=32,
        lr=4e-4,
        backbone_lr=0.1,
        batch=64,
        per_gpu=1,
        train=jitter(1536),
        test=1833,
        test_short=1100,
        tta=[800, 1000, 1100, 1200, 1400],
        agnostic=True,
        semantic=True,
        global_attention=True,
        nms='soft_nms',
        score_thr=0.001,
    )
)
NO_ROI = dict(norm=None, agnostic=None, box_loss=None, stds=None, mask=False, nms=None, score_thr=None)
RETINANET = DETECTOR | NO_ROI | dict(source='O, and clipping: own', clip=1.0, head='RetinaNet', classes=None)
DINO = (
    DETECTOR
    | NO_ROI
    | dict(
        source='D',
        decay=1e-4,
        backbone_lr=0.1,
        clip=0.1,
        amp=False,
        length='12 epochs',
        warmup=0,
        steps=[11],
        end=12,
        head='DINO',
        classes=None,
        queries=900,
        tta=None,
        train=[
            [RESIZE_DINO],
            [
                ('RandomChoiceResize', [(s, 4200) for s in (400, 500, 600)]),
                ('RandomCrop', ((384, 600), 'absolute_range')),
                RESIZE_DINO,
            ],
        ],
    )
)
COCO_MASK2FORMER = (
    DETECTOR
    | NO_ROI
    | dict(
        source='F',
        drop_path=0.3,
        backbone_lr=0.1,
        clip=0.01,
        amp=False,
        length=368750,
        warmup=0,
        steps=[327778, 355092],
        end=368750,
        head='Mask2Former',
        queries=100,
        train=jitter(1024),
        tta=None,
        classes=None,
    )
)
COCO_MASK2FORMER_L = (
    COCO_MASK2FORMER | in22k(L) | dict(per_gpu=1, queries=200, length=737500, end=737500, steps=[655556, 710184])
)

# DeepViT
DEEPVIT = dict(window=None, pretrained=None, mean_std=HALF, drop_path=0.2, arch='deepvit-32b', weights='deepvit-32b.pth')
DEEPVIT_SEG = (
    UPERNET | DEEPVIT | dict(source='B R', lr=3e-5, layer_decay=0.96, mode='slide', tta=[512 * r for r in RATIOS if r >= 1])
)
DEEPVIT_DET = (
    MASK_RCNN
    | DEEPVIT
    | dict(
        source='own',
        with_cp=True,
        layer_decay=0.96,
        clip=1.0,
        train=jitter(1024),
        test=1024,
        test_short=1024,
        tta=[640, 800, 960],
    )
)


def sized(name, layer_decay):
    return dict(DEEPVIT_SEG, arch=name, weights=f'{name}.pth', layer_decay=layer_decay)


OWN_DET = dict(
    source='own', lr=1e-4, layer_decay=0.9, clip=5.0, length=5000, end=5000, warmup=200, steps=[3750, 4583], per_gpu=16
)
OWN_SEG = dict(
    UPERNET,
    source='own',
    drop_path=0.2,
    lr=6e-5,
    layer_decay=0.9,
    clip=5.0,
    per_gpu=16,
    length=8000,
    end=8000,
    warmup=200,
    classes=2,
)
FROZEN = dict(drop_path=0.0, layer_decay=1.0)
FASTER = dict(MASK_RCNN, mask=False)

TABLE_OF_RECIPES = {
    'swinv2_upernet_ade20k': UPERNET,
    'swinv2_fpn_ade20k': SEMANTIC_FPN,
    'swinv2_mask2former_ade20k': MASK2FORMER,
    'swinv2_retinanet_coco': RETINANET,
    'swinv2_mask_rcnn_coco': MASK_RCNN,
    'swinv2_cascade_mask_rcnn_coco': CASCADE,
    'swinv2_htc_coco': HTC,
    'swinv2_dino_coco': DINO,
    'dino-4scale_swinv2-l-w16-in22k_8xb2-12e_coco': DINO | in22k(L),
    'dino-5scale_swinv2-l-w16-in22k_8xb2-36e_coco': DINO | in22k(L) | dict(length='36 epochs', steps=[27, 33], end=36),
    'deepvit_upernet_ade20k': DEEPVIT_SEG,
    'deepvit_fpn_ade20k': SEMANTIC_FPN
    | DEEPVIT
    | dict(source='S B R', layer_decay=0.96, mode='slide', tta=[512, 640, 768, 896]),
    'deepvit_mask_rcnn_coco': DEEPVIT_DET,
    'swinv2-s-w16-in1k_upernet_8xb2-160k_ade20k-512x512': dict(UPERNET, **SMALL),
    'swinv2-b-w16-in1k_upernet_8xb2-160k_ade20k-512x512': dict(UPERNET, arch=B, weights='swinv2_base_patch4_window8_256.pth'),
    'swinv2-b-w40-in22k_upernet_8xb8-40k_ade20k-640x640': LARGE_UPERNET | in22k(B),
    'swinv2-l-w40-in22k_upernet_8xb8-40k_ade20k-640x640': LARGE_UPERNET | in22k(L),
    'swinv2-g-w40-in22k-ext_upernet_32xb1-80k_ade20k-640x640': GIANT_UPERNET,
    'swinv2-g-w56-in22k-ext_upernet_test_ade20k-896x896': dict(
        GIANT_UPERNET, window=56, test=3584, test_short=896, tta=[896 * r for r in RATIOS]
    ),
    **{f'swinv2-t-w{window}-in1k_upernet_8xb2-160k_ade20k-512x512': dict(UPERNET, window=window) for window in (20, 32)},
    'swinv2-l-w20-in22k_mask2former_8xb2-160k_ade20k-640x640': MASK2FORMER | in22k(L),
    'swinv2-t-w16-in1k_mask2former_8xb2-90k_cityscapes-512x1024': MASK2FORMER | CITYSCAPES,
    'swinv2-l-w16-in22k_mask2former_8xb2-90k_cityscapes-512x1024': MASK2FORMER | CITYSCAPES | in22k(L),
    'swinv2-t-w16-in1k_upernet_4xb2-80k_cityscapes-512x1024': UPERNET
    | CITYSCAPES
    | dict(source='M P', batch=8, length=80000, end=80000, train=seg_jitter(2048, 1024, (512, 1024))),
    'faster-rcnn_swinv2-t-w16-in1k_fpn_8xb2-ms-crop-3x_coco': FASTER,
    'cascade-rcnn_swinv2-t-w16-in1k_fpn_8xb2-ms-crop-3x_coco': dict(CASCADE, mask=False),
    'cascade-mask-rcnn_swinv2-t-w16-in1k_fpn-2fc_8xb2-ms-crop-3x_coco': PLAIN_CASCADE,
    **{
        f'{head}_swinv2-{name}_fpn_8xb2-ms-crop-3x_coco': recipe | change
        for head, recipe in (('mask-rcnn', MASK_RCNN), ('cascade-mask-rcnn', CASCADE))
        for name, change in (
            ('s-w16-in1k', SMALL),
            ('b-w16-in22k', dict(in22k(B), drop_path=0.3)),
            ('l-w16-in22k', dict(in22k(L), drop_path=0.3)),
        )
    },
    **{
        'cascade-mask-rcnn_swinv2-t-w32-in1k_fpn_8xb2-ms-crop-3x_coco': dict(CASCADE, window=32),
    },
    'htc_swinv2-b-w32-in22k_fpn_64xb1-lsj1536-3x_coco': HTC | in22k(B) | dict(drop_path=0.3, with_cp=True),
    'htc_swinv2-l-w48-in22k_fpn_test_coco': dict(HTC, window=48),
    'htc-without-semantic_swinv2-l-w32-in22k_fpn_64xb1-lsj1536-3x_coco': dict(HTC, semantic=False),
    'htc_swinv2-l-w32-in22k_fpn_64xb1-instaboost-lsj1536-3x_coco': dict(HTC, instaboost=True),
    **{
        f'htc_swinv2-{name}-w{window}-in22k-ext_fpn_{use}_coco': HTC
        | in22k(arch)
        | dict(window=window, lr=6e-4, batch=96, length=45000, end=45000, steps=[33750, 41250])
        for name, arch in (('g', G),)
        for window, use in ((32, '96xb1-lsj1536-45k'), (48, 'test'))
    },
    **{f'mask2former_swinv2-t-w16-in1k_8xb2-lsj-50e_coco{task}': COCO_MASK2FORMER for task in ('', '-panoptic')},
    **{f'mask2former_swinv2-l-w16-in22k_16xb1-lsj-100e_coco{task}': COCO_MASK2FORMER_L for task in ('', '-panoptic')},
    'deepvit-16b-in1k_upernet_8xb2-160k_ade20k-512x512': sized('deepvit-16b', 0.92),
    'deepvit-24b-in1k_upernet_8xb2-160k_ade20k-512x512': sized('deepvit-24b', 0.95),
    'deepvit-s-in1k_upernet_8xb2-160k_ade20k-512x512': sized('deepvit-s', 0.92),
    'deepvit-l-in1k_upernet_8xb2-160k_ade20k-512x512': sized('deepvit-l', 0.96),
    'vit-32b-in1k_upernet_8xb2-160k_ade20k-512x512': sized('vit-32b', 0.96),
    'mask-rcnn_deepvit-32b-w16-in1k_simple-pyramid_16xb4-lsj-100e_coco': dict(
        DEEPVIT_DET,
        source='T',
        window=16,
        global_blocks=[7, 15, 23, 31],
        with_cp=False,
        drop_path=0.1,
        decay=0.1,
        clip=None,
        batch=64,
        per_gpu=4,
        length=184375,
        end=184375,
        warmup=250,
        steps=[163889, 177546],
        head='Shared4Conv1FCBBoxHead',
        norm='BN',
    ),
    'swinv2-t_upernet': OWN_SEG,
    'swinv2-t-frozen_upernet': OWN_SEG | FROZEN,
    'swinv2-t_faster-rcnn': FASTER | OWN_DET | dict(classes=1),
    'swinv2-t-frozen_faster-rcnn': FASTER | OWN_DET | dict(classes=1) | FROZEN,
    'swinv2-t_mask-rcnn': MASK_RCNN | OWN_DET | dict(classes=1),
    'swinv2-t-frozen_mask-rcnn': MASK_RCNN | OWN_DET | dict(classes=1) | FROZEN,
}


# Short names are of recipes below their folder.
SHORT_NAMES = {name: model_index.recipe_of(name) for name in NAMES if find_config(name).parent == configs_folder()}
TABLE_OF_RECIPES |= {recipe: TABLE_OF_RECIPES[name] for name, recipe in SHORT_NAMES.items()}


@pytest.mark.parametrize('name', SHORT_NAMES)
def test_a_short_name_is_its_recipe_unchanged(name):
    assert load(name).to_dict() == load(SHORT_NAMES[name]).to_dict()


@pytest.mark.parametrize('bias', ['table', 'linear_cpb'])
def test_another_position_bias_is_one_option(bias):
    cfg = mmvitscale.load_config(
        'swinv2_upernet_ade20k', {'model.backbone.position_bias': bias, 'model.backbone.init_cfg': None}
    )
    init_default_scope('mmseg')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert all(isinstance(b.attn.position_bias, POSITION_BIASES[bias]) for b in model.backbone.transformer_blocks())


HUGE = re.findall(
    r'train.py (\S+) --cfg-options ([^`]*?arch=huge[^`]*?)(?=\npython|\n```)',
    (configs_folder() / 'swinv2/README.md').read_text(),
)


@pytest.mark.parametrize('name, options', HUGE, ids=[name for name, _ in HUGE])
def test_the_documented_options_of_the_huge_model_fit_its_recipes(name, options):
    """No part behind the backbone keeps the giant's width."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions)
    options = parser.parse_args(['--cfg-options', *options.replace('\\', '').split()]).cfg_options
    cfg = mmvitscale.load_config(name, {**options, 'model.backbone.init_cfg': None})
    behind = {key: value for key, value in cfg.model.items() if key != 'backbone'}
    found = numbers_in(behind, 'in_channels')
    assert cfg.model.backbone.arch == 'huge' and found & {352, 704, 1408, 2816}
    assert found.isdisjoint({512, 2048, 4096})  # the giant's, but for the 1024 that heads of HTC have of their own
    assert 128 not in numbers_in(behind, 'num_heads')


def numbers_in(part, name):
    """All numbers that a part of a config has under this name, in whatever depth."""
    if isinstance(part, dict):
        inner = [numbers_in(value, name) for key, value in part.items() if key != name]
        own = part.get(name, ())
        return set().union(*inner, own if isinstance(own, (list, tuple)) else [own])
    return set().union(*(numbers_in(item, name) for item in part)) if isinstance(part, (list, tuple)) else set()


@pytest.mark.parametrize('name', json.loads((configs_folder() / 'renamed.json').read_text())['removed'])
def test_a_removed_config_says_what_to_take_instead(name, tmp_path):
    (tmp_path / 'own.py').write_text(f"_base_ = ['../configs/swinv2/{name}.py']\n")
    for way_in in (name, f'configs/swinv2/{name}.py', f'mmvitscale::{name}', tmp_path / 'own.py'):
        with pytest.raises(InputError, match='was removed: its weights were never published; take') as error:
            mmvitscale.load_config(way_in)
    find_config(re.search(r'take (\S+) with', str(error.value))[1])


# The mini configs say themselves that no number is a paper's.
@pytest.mark.parametrize('name', [name for name in NAMES if '_mini' not in name])
def test_configs_equal_the_table_of_their_sources(name):
    expected = dict(TABLE_OF_RECIPES[name])
    assert set(re.sub(r',.*', '', expected.pop('source')).split()) <= set('PVOGCFDSBTRM') | {'own'}
    assert recipe_of(name) == expected


@pytest.mark.parametrize('name', [name for name in NAMES if 'xb' in name])
def test_config_names_state_batch_size_and_window(name):
    gpus, per_gpu = re.search(r'_(\d+)xb(\d+)-', name).groups()
    recipe = recipe_of(name)
    assert (int(gpus) * int(per_gpu), int(per_gpu)) == (recipe['batch'], recipe['per_gpu'])
    window = re.search(r'-w(\d+)-', name)
    assert not window or int(window[1]) == recipe['window']
