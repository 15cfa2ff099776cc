"""Every tool, given what cannot work: one sentence, no traceback, nothing half-written.

``python -m pytest tests/test_bad_input.py -rP | grep '^| '`` prints the table: input, exit status, what is said.
"""

import argparse
import json
import re
import shutil
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from mmengine.registry import MODELS, init_default_scope

from mmvitscale.cli import ConfigOptions
from mmvitscale.config.loading import load_config
from mmvitscale.datasets.mini import write_dataset
from tests.helpers.hostile import Attack

pytestmark = pytest.mark.integration

# What may lie in the folder of a tool that was stopped: what it has said, and the config.
_HARMLESS = {'.log', '.py', '.json', '.txt', ''}
SEG, DET = 'swinv2_upernet_mini', 'swinv2_retinanet_mini'
VIT, MASKS = 'deepvit_upernet_mini', 'swinv2_mask_rcnn_mini'
SMALL = "model.backbone.arch={'embed_dims':8,'depths':[1,1,1,1],'num_heads':[1,1,1,1]}"


@dataclass
class Place:
    """Where a case runs. root: of its own files. seg, det: data sets of its own, three images each. checkpoint: of SEG, made
    small."""

    root: Path
    seg: Path
    det: Path
    checkpoint: Path

    @property
    def image(self) -> Path:
        return sorted((self.seg / 'images/training').iterdir())[0]

    @property
    def labels(self) -> Path:
        return sorted((self.seg / 'annotations/training').iterdir())[0]

    @property
    def annotations(self) -> Path:
        return self.det / 'annotations/instances_train2017.json'

    def file(self, name: str, content) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def saved(self, content) -> Path:
        torch.save(content, self.root / 'made.pth')
        return self.root / 'made.pth'

    def coco(self, change: Callable) -> None:
        """Write the training annotations again, changed."""
        content = json.loads(self.annotations.read_text())
        change(content)
        self.annotations.write_text(json.dumps(content))


# A case: what it is called -> (its command line, made in a place; what is said).
CASES: dict[str, tuple] = {}


def case(name: str, says: str, *tool: str, code: int = 1, env: Sequence[str] = ()):
    """Decorates what prepares a place and may return further arguments."""

    def add(prepare: Callable):
        assert name not in CASES, name
        CASES[name] = (tool, prepare, says, code, env)
        return prepare

    return add


def options(place: Place, *more: str) -> list[str]:
    chosen = [
        f'data_root={place.seg}',
        SMALL,
        'train_cfg.max_iters=1',
        'model.decode_head.in_channels=[8,16,32,64]',
        'model.auxiliary_head.in_channels=32',
        'train_dataloader.batch_size=2',
    ]
    foreground = [
        f'{split}_dataloader.{option}'
        for split in ('train', 'val', 'test')
        for option in ('num_workers=0', 'persistent_workers=False')
    ]
    return [*chosen, *foreground, *more]


def train(place: Place, *more: str, config: object = SEG, arguments: Sequence[object] = ()) -> list:
    chosen = options(place, *more)
    if config in (DET, MASKS):
        chosen = [
            f'data_root={place.det}/',
            'train_cfg.max_iters=1',
            *(
                f'{split}_dataloader.{option}'
                for split in ('train', 'val')
                for option in ('num_workers=0', 'persistent_workers=False')
            ),
            *more,
        ]
    return ['tools/train.py', config, '--work-dir', place.root / 'out', *arguments, '--cfg-options', *chosen]


def simple_train(name: str, says: str, *more: str, config: object = SEG, arguments: Sequence[object] = (), env=()):
    case(name, says, env=env)(lambda place: train(place, *more, config=config, arguments=arguments))


def config_file(name: str, text, says: str, suffix: str = '.py'):
    case(name, says)(lambda place: train(place, config=place.file(f'mine{suffix}', text)))


# --- configs
config_file('config raises NameError', 'a = 1\nb = undefined_name\n', "NameError: name 'undefined_name'.*line 2")
config_file('config divides by zero', 'a = 1 / 0', 'ZeroDivisionError')
config_file('config with a syntax error', 'a = (', 'cannot be read')
config_file('config that exits', 'import sys\nsys.exit(3)', 'cannot be read')
config_file('config that inherits itself', "_base_ = './mine.py'", 'cannot be read')
config_file('config whose base is missing', "_base_ = './nobody.py'", 'cannot be read')
config_file('config that imports what is not there', 'import nobody_has_this', 'needs a package|has no')
config_file(
    'import of nobody', f"_base_ = 'mmvitscale::{SEG}'\ncustom_imports = dict(imports='nobody_has_this')", 'nobody_has_this'
)
case('no training data', 'has no train_dataloader')(
    lambda place: [
        'tools/train.py',
        place.file('mine.py', f"_base_ = 'mmvitscale::{SEG}'\ntrain_dataloader = None"),
        '--work-dir',
        place.root / 'out',
    ]
)
config_file('broken YAML', 'a: [1, 2', 'cannot be read', '.yaml')
config_file('YAML with a tab', 'a:\n\t- 1', 'cannot be read', '.yaml')
config_file('broken JSON', '{"a": ', 'cannot be read', '.json')
config_file('config of bytes', b'\x80\x04\x95\xff\xfe', 'cannot be read')
config_file('empty config', '', 'has no|found')
config_file('config without a model', "train_dataloader = dict(dataset=dict(type='BaseSegDataset'))", 'has no|cannot be run')
config_file('config as text file', 'a = 1', 'cannot be read', '.txt')
simple_train('config that is not there', 'did you mean swinv2_upernet_mini', config='swinv2_upernet_mimi')
case('folder as config', 'is not there|cannot be read')(lambda place: train(place, config=place.root))
case('checkpoint as config', 'cannot be read')(lambda place: train(place, config=place.checkpoint))

# --- types and arguments
for name, option, says in [
    ('unknown model', 'model.type=EncoderDecodr', 'did you mean EncoderDecoder'),
    ('unknown backbone', 'model.backbone.type=mmvitscale.SwinTransformerV3', 'did you mean SwinTransformerV2'),
    ('unknown head', 'model.decode_head.type=UPerHed', 'did you mean UPerHead'),
    ('unknown loss', 'model.decode_head.loss_decode.type=CrossEntropy', 'no model of this name'),
    ('unknown argument of the model', 'model.colour=red', "unexpected keyword argument 'colour'"),
    ('unknown argument of the backbone', 'model.backbone.windows=8', "unexpected keyword argument 'windows'"),
    ('unknown optimizer', 'optim_wrapper.optimizer.type=AdamV', 'did you mean Adam'),
    ('unknown argument of the optimizer', 'optim_wrapper.optimizer.momentun=0.9', 'momentun'),
    ('unknown optimizer wrapper', 'optim_wrapper.type=OptimWraper', 'did you mean'),
    ('unknown hook', "custom_hooks=[{'type':'EMAHok'}]", 'did you mean EMAHook'),
    ('unknown argument of a hook', "custom_hooks=[{'type':'EMAHook','speed':1}]", 'speed'),
    ('hook without a type', "custom_hooks=[{'speed':1}]", 'type'),
    ('hook that is a word', 'custom_hooks=EMAHook', 'hooks are dicts'),
    ('unknown transform', 'train_dataloader.dataset.pipeline.3.type=RandomFlop', 'did you mean RandomFlip'),
    ('unknown argument of a transform', 'train_dataloader.dataset.pipeline.3.colour=red', 'colour'),
    ('impossible argument of a transform', 'train_dataloader.dataset.pipeline.2.crop_size=-1', 'RandomCrop cannot be built'),
    ('unknown data set', 'train_dataloader.dataset.type=BaseSegDatset', 'did you mean BaseSegDataset'),
    ('unknown sampler', 'train_dataloader.sampler.type=InfiniteSampl', 'did you mean InfiniteSampler'),
    ('unknown metric', 'val_evaluator.type=IoU', 'no metric of this name'),
    ('unknown scheduler', 'param_scheduler.0.type=LinearL', 'did you mean LinearLR'),
    ('unknown argument of a scheduler', 'param_scheduler.0.speed=1', 'speed'),
    ('scheduler of words', 'param_scheduler=fast', 'param_scheduler'),
    ('unknown loop', 'train_cfg.type=IterLoop', 'no loop of this name'),
    ('unknown visualizer', 'visualizer.type=SegVisualizer', 'no visualizer of this name'),
    ('unknown runner', 'runner_type=Runer', 'did you mean Runner'),
    ('unknown arch', 'model.backbone.arch=tyni', 'unknown SwinV2 arch'),
    ('drop_path_rate above 1', 'model.backbone.drop_path_rate=1.5', 'at least 0 and below 1'),
    ('drop_path_rate of 1', 'model.backbone.drop_path_rate=1.0', 'at least 0 and below 1'),
    ('drop_path_rate of a word', 'model.backbone.drop_path_rate=high', 'at least 0 and below 1'),
    ('window of 0', 'model.backbone.window_size=0', 'window'),
    ('negative window', 'model.backbone.window_size=-4', 'window'),
    ('window of a word', 'model.backbone.window_size=big', 'window'),
    ('windows for too many stages', 'model.backbone.window_size=[8,8,8]', 'for 4 stages'),
    ('unknown attention', 'model.backbone.attention=quick', 'unknown attention'),
    ('unknown position bias', 'model.backbone.position_bias=none', 'unknown position_bias'),
    ('outputs of stages that are not there', 'model.backbone.out_indices=[0,9]', 'out_indices'),
    ('frozen stages that are not there', 'model.backbone.frozen_stages=7', 'frozen_stages'),
    (
        'heads that do not divide the channels',
        "model.backbone.arch={'embed_dims':8,'depths':[1,1,1,1],'num_heads':[3,1,1,1]}",
        'heads',
    ),
    ('channels of the head that do not fit', 'model.decode_head.in_channels=[8,16,32,48]', 'decode_head.*channels'),
    (
        'images of fewer channels than the backbone takes',
        'model.backbone.in_channels=4',
        'backbone.patch_embed takes images of another number of channels',
    ),
    ('classes of the model that are not those of the data', 'model.decode_head.num_classes=12', 'classes'),
    ('learning rate that is a word', 'optim_wrapper.optimizer.lr=fast', "lr='fast'"),
    ('negative learning rate', 'optim_wrapper.optimizer.lr=-1', 'lr=-1'),
    ('batch of 0', 'train_dataloader.batch_size=0', 'batch_size=0'),
    ('batch of a word', 'train_dataloader.batch_size=two', "batch_size='two'"),
    ('batch of 1', 'train_dataloader.batch_size=1', '2 images or more .*GroupNorm|2 images or more .*norm_cfg.type=GN'),
    ('negative number of iterations', 'train_cfg.max_iters=-5', 'max_iters=-5'),
    ('no iterations', 'train_cfg.max_iters=0', 'max_iters=0'),
    ('one and a half iterations', 'train_cfg.max_iters=1.5', 'max_iters=1.5'),
    ('validation every 0 iterations', 'train_cfg.val_interval=0', 'val_interval=0'),
    ('negative number of loading processes', 'train_dataloader.num_workers=-1', 'num_workers=-1'),
    ('gradients accumulated over 0', 'optim_wrapper.accumulative_counts=0', 'accumulative_counts=0'),
    ('clipping without a norm', "optim_wrapper.clip_grad={'norm':1}", "unexpected keyword argument 'norm'|clip"),
    ('option below a word', 'log_level.sub=1', 'cfg-options'),
    ('option of a list that is too short', 'param_scheduler.9.type=LinearLR', 'cfg-options'),
    ('option without =', 'resume', 'KEY=VALUE'),
    ('option that is no list', 'model.backbone.out_indices=[0,1', 'cfg-options|out_indices'),
    ('no optimizer', 'optim_wrapper=None', 'optim_wrapper'),
    ('sizes of a data preprocessor of words', 'model.data_preprocessor.mean=[a,b,c]', 'SegDataPreProcessor cannot be built'),
    ('data loader without a data set', "train_dataloader={'_delete_':True,'batch_size':2}", 'dataset'),
    ('seed of a word', 'randomness.seed=lucky', 'seed'),
    ('unknown log level', 'log_level=LOUD', 'LOUD|log_level'),
    (
        'pretrained weights that are not there',
        "model.backbone.init_cfg={'type':'Pretrained','checkpoint':'nobody.pth'}",
        'pretrained weights nobody.pth are not there',
    ),
    (
        'pretrained head that is not there',
        "model.decode_head.init_cfg={'type':'Pretrained','checkpoint':'nobody.pth'}",
        'nobody.pth',
    ),
    ('unknown initialisation', "model.decode_head.init_cfg={'type':'Normall','layer':'Conv2d'}", 'did you mean Normal'),
    ('load_from that is not there', 'load_from=nobody.pth', 'nobody.pth is not there'),
    ('best by a metric that is not measured', 'default_hooks.checkpoint.save_best=mIuO', 'mIuO'),
    ('what to do with infinities', 'default_hooks.finite_loss.on_non_finite=ignore', "'stop' or 'skip'"),
    ('synchronised norms of mmcv', 'sync_bn=mmcv', 'sync_bn'),
]:
    simple_train(name, says, option)

# --- arguments and environments
simple_train('accumulate over 0 batches', '--accumulate-grad 0', arguments=['--accumulate-grad', 0])
case('accumulate over a word', 'invalid int value', code=2)(lambda place: train(place, arguments=['--accumulate-grad', 'two']))
case('unknown strategy', 'invalid choice', code=2)(lambda place: train(place, arguments=['--strategy', 'zero9']))
case('unknown option', 'unrecognized arguments', code=2)(lambda place: train(place, arguments=['--colour', 'red']))
simple_train('batch found without a GPU', 'there is none; give the number of images', arguments=['--batch-size', 'auto'])
simple_train('batch of 0 as an option', 'batch_size=0', arguments=['--batch-size', 0])
case('batch of a word as an option', 'invalid batch_size value', code=2)(
    lambda place: train(place, arguments=['--batch-size', 'large'])
)
simple_train('early stop after 0 validations', '--early-stop 0 found', arguments=['--early-stop', 0])
case('early stop after a word', 'invalid int value', code=2)(lambda place: train(place, arguments=['--early-stop', 'soon']))
simple_train(
    'early stop without a validation',
    'no validation to stop by',
    'val_cfg=None',
    'val_dataloader=None',
    'val_evaluator=None',
    arguments=['--early-stop', 3],
)
case('tracker that nobody knows', 'invalid choice', code=2)(lambda place: train(place, arguments=['--track', 'notebook']))
simple_train('launcher pytorch without torchrun', 'no RANK', arguments=['--launcher', 'pytorch'])
simple_train('launcher slurm without Slurm', 'no SLURM_PROCID', arguments=['--launcher', 'slurm'])
case('work folder that is a file', 'cannot write into')(lambda place: [place.file('out', 'x'), *train(place)][1:])
simple_train('resume from nowhere', 'nobody.pth is not there', arguments=['--resume', 'nobody.pth'])
case('resume from weights alone', 'no training can go on')(
    lambda place: train(
        place,
        arguments=[
            '--resume',
            place.saved(
                dict(state_dict=torch.load(place.checkpoint, weights_only=False)['state_dict'], meta=dict(epoch=0, iter=1))
            ),
        ],
    )
)
case('resume from an empty file', 'is no PyTorch checkpoint')(
    lambda place: train(place, arguments=['--resume', place.file('empty.pth', '')])
)


@case('resume where every checkpoint is broken', 'none of the checkpoints')
def broken_work_dir(place):
    (place.root / 'out').mkdir()
    (place.root / 'out/iter_1.pth').write_bytes(place.checkpoint.read_bytes()[:999])
    return train(place, arguments=['--resume'])


for count in ('0', '-1', 'two'):
    case(f'{count} processes', 'number of processes', code=2)(
        lambda place, count=count: ['tools/dist_run.py', 'train.py', SEG, count]
    )

# --- data
simple_train('data that are not there', 'is not there', 'data_root=/nobody')


def png_of(width: int, height: int) -> bytes:
    """A small file that promises that many pixels."""

    def chunk(kind, content):
        return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))

    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(bytes(9999))) + chunk(b'IEND', b'')


def spoiled(name: str, says: str, spoil: Callable[[Place], object], *more: str):
    """A training whose every image and label map of the data set is treated so."""

    @case(name, says)
    def prepare(place):
        spoil(place)
        return train(place, *more)


def every(folder: str, change: Callable[[Path], object]) -> Callable[[Place], None]:
    def spoil(place):
        for path in (place.seg / folder).iterdir():
            change(path)

    return spoil


def relabel(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], object]:
    return lambda path: cv2.imwrite(str(path), change(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)))


IMAGES, LABELS = 'images/training', 'annotations/training'
spoiled('training images of no bytes', 'does not go through LoadImageFromFile', every(IMAGES, lambda p: p.write_bytes(b'')))
spoiled('training images of text', 'does not go through LoadImageFromFile', every(IMAGES, lambda p: p.write_text('hello')))
spoiled(
    'training images of 100000 x 100000 pixels',
    'promises 100000 x 100000 pixels',
    every(IMAGES, lambda p: p.write_bytes(png_of(100000, 100000))),
)
spoiled('no training images', 'is empty', every(IMAGES, Path.unlink))
spoiled('labels beyond the classes', 'holds the label 199', every(LABELS, relabel(lambda m: np.full_like(m, 200))))
spoiled(
    'labels in three channels',
    'single channel|does not go through|one number for each pixel',
    every(LABELS, relabel(lambda m: np.stack([m] * 3, -1))),
)
spoiled('labels of another size', 'of one size', every(LABELS, relabel(lambda m: m[:40, :40])))
spoiled('label maps that are not there', 'does not go through LoadAnnotations|is empty', every(LABELS, Path.unlink))
spoiled(
    'some label maps that are not there',
    'does not go through LoadAnnotations',
    lambda place: [path.unlink() for path in sorted((place.seg / LABELS).iterdir())[1:]],
)
spoiled('label maps of no bytes', 'does not go through LoadAnnotations', every(LABELS, lambda p: p.write_bytes(b'')))
spoiled('label maps of text', 'does not go through LoadAnnotations', every(LABELS, lambda p: p.write_text('hello')))
spoiled('images of another suffix', 'no image to use', lambda place: None, 'train_dataloader.dataset.img_suffix=.webp')


def coco_case(name: str, says: str, change: Callable[[dict], object], config: str = DET):
    @case(name, says)
    def prepare(place):
        place.coco(change)
        return train(place, config=config)


def coco_file(name: str, says: str, content):
    @case(name, says)
    def prepare(place):
        place.annotations.write_bytes(content if isinstance(content, bytes) else content.encode())
        return train(place, config=DET)


def each(entries: str, /, **values) -> Callable[[dict], None]:
    def change(content):
        for entry in content[entries]:
            entry.update(values)

    return change


coco_file('annotations that are no JSON', 'is not JSON', '{"images": [')
coco_file('annotations of no bytes', 'is not JSON', '')
coco_file('annotations in UTF-16', 'is not JSON|UTF-8', json.dumps({'images': []}).encode('utf-16'))
coco_file('annotations nested without end', 'is not JSON|nested', '[' * 200000)
coco_file('annotations that are a list', 'holds a list', '[]')
coco_case('annotations without images', 'no list of images', lambda c: c.pop('images'))
coco_case('annotations without categories', 'no list of categories', lambda c: c.pop('categories'))
coco_case('annotations without annotations', 'no list of annotations', lambda c: c.pop('annotations'))
coco_case('annotations of other classes', 'classes', each('categories', name='cat'))
coco_case('boxes of words', 'bbox', each('annotations', bbox=['a', 'b', 'c', 'd']))
coco_case('boxes that are null', 'bbox', each('annotations', bbox=None))
coco_case('boxes of negative width', 'the latter two not negative', each('annotations', bbox=[1, 1, -5, -5]))
coco_case(
    'boxes of no size',
    'none of the .* would be learned: .* with a box of less than a pixel',
    each('annotations', bbox=[1, 1, 0, 0]),
)
coco_case(
    'boxes outside the image',
    'none of the .* would be learned: .* with a box outside the image',
    each('annotations', bbox=[5000, 5000, 9, 9]),
)
coco_case('ids that are lists', 'category_id|id', each('annotations', category_id=[1]))
coco_case('ids of images that are lists', 'id', each('images', id=[1]))
coco_case('areas that are null', 'area', each('annotations', area=None))
coco_case('heights of words', 'height', each('images', height='tall'))
coco_case('file names that are null', 'file_name', each('images', file_name=None))
coco_case('file names of files that are not there', 'are not in', each('images', file_name='nobody.jpg'))
coco_case('names of categories that are numbers', 'name|classes', each('categories', name=5))
coco_case('annotations that are numbers', 'annotations', lambda c: c.update(annotations=[1, 2]))
coco_case('images that have one id', 'twice', each('images', id=1))
coco_case('masks of numbers', 'segmentation', each('annotations', segmentation=5), config=MASKS)
coco_case('masks of a flat list', 'segmentation', each('annotations', segmentation=[1, 2, 3, 4, 5, 6]), config=MASKS)
case('everything filtered out', 'in images smaller than min_size of filter_cfg; lower it with')(
    lambda place: train(place, "train_dataloader.dataset.filter_cfg={'filter_empty_gt':True,'min_size':5000}", config=DET)
)


@case('training images of text, boxes', 'does not go through LoadImageFromFile')
def spoiled_detection(place):
    for path in (place.det / 'train2017').iterdir():
        path.write_text('hello')
    return train(place, config=DET)


# --- checkpoints
def for_testing(name: str, says: str, make: Callable[[Place], object], config: str = SEG, arguments: Sequence[str] = ()):
    case(name, says)(
        lambda place: [
            'tools/test.py',
            config,
            make(place),
            '--work-dir',
            place.root / 'out',
            *arguments,
            '--cfg-options',
            *(options(place) if config == SEG else [f'data_root={place.seg}']),
        ]
    )


def weights_of(place: Place) -> dict:
    return torch.load(place.checkpoint, weights_only=False)['state_dict']


for_testing('checkpoint that is not there', 'is not there', lambda place: 'nobody.pth')
for_testing('checkpoint that is a folder', 'is a folder', lambda place: place.seg)
for_testing('checkpoint of text', 'is no PyTorch checkpoint', lambda place: place.file('a.pth', 'hello'))
for_testing('checkpoint of no bytes', 'is no PyTorch checkpoint', lambda place: place.file('a.pth', ''))
for_testing(
    'checkpoint cut short',
    'is no PyTorch checkpoint',
    lambda place: place.file('a.pth', place.checkpoint.read_bytes()[:5000]),
)
for_testing('config as checkpoint', 'is no PyTorch checkpoint', lambda place: 'configs/mini/swinv2_upernet_mini.py')
for_testing(
    'checkpoint that runs code', 'would run code', lambda place: place.saved(dict(state_dict=Attack(place.root / 'ran')))
)
for_testing(
    'checkpoint whose weights are words',
    'holds no weights',
    lambda place: place.saved(dict(state_dict=dict.fromkeys(weights_of(place), 'x'))),
)
for_testing(
    'checkpoint whose weights are lists',
    'holds no weights',
    lambda place: place.saved(dict(state_dict={key: [1.0] for key in weights_of(place)})),
)
for_testing('checkpoint of a list', 'holds a list', lambda place: place.saved([1, 2]))
for_testing('checkpoint of nothing', 'holds no weights', lambda place: place.saved({}))
for_testing(
    'checkpoint with a weight less',
    '1 missing keys',
    lambda place: place.saved({key: value for key, value in weights_of(place).items() if key != 'decode_head.conv_seg.bias'}),
)
for_testing(
    'checkpoint with a weight of a word',
    'missing',
    lambda place: place.saved({**weights_of(place), 'decode_head.conv_seg.weight': 'x'}),
)
for_testing(
    'checkpoint of another shape',
    'size mismatches',
    lambda place: place.saved({**weights_of(place), 'decode_head.conv_seg.weight': torch.ones(2, 2)}),
)
for_testing(
    'checkpoint expanded to a gigantic shape',
    'made to fill the memory',
    lambda place: place.saved({**weights_of(place), 'decode_head.conv_seg.weight': torch.ones(1).expand(10**6, 10**6)}),
)
for_testing(
    'checkpoint of other classes',
    'does not fit',
    lambda place: place.saved({key: value[:3] if 'conv_seg' in key else value for key, value in weights_of(place).items()}),
)
for_testing(
    'checkpoint of another model', 'it is a SwinV2, but the config builds a DeepViT', lambda place: place.checkpoint, VIT
)
for_testing('garbage called ONNX', 'a.onnx', lambda place: place.file('a.onnx', 'hello'))
for_testing('garbage called pt2', 'a.pt2', lambda place: place.file('a.pt2', 'hello'))
for_testing(
    'garbage called safetensors',
    'is no PyTorch checkpoint|is damaged',
    lambda place: place.file('a.safetensors', b'\xff' * 64),
)
for_testing('metrics in another format', 'ends in .json', lambda place: place.checkpoint, arguments=['--out', 'a.csv'])
for_testing('metrics below a file', 'cannot write into', lambda place: place.checkpoint, arguments=['--out', 'setup.py/a.json'])
for_testing(
    'test windows of nobody', 'test_windows', lambda place: place.checkpoint, arguments=['--cfg-options', 'test_windows=x']
)
case('test of a pretraining', 'nothing to test')(
    lambda place: ['tools/test.py', 'swinv2_simmim_mini_96_w6', place.checkpoint, '--work-dir', place.root / 'out']
)


# --- predictions
def predicted(name: str, says: str, image: Callable[[Place], object], *arguments: object, code: int = 1):
    case(name, says, code=code)(
        lambda place: [
            'tools/predict.py',
            SEG,
            place.checkpoint,
            image(place),
            '--out',
            place.root / 'out',
            *arguments,
            '--cfg-options',
            *options(place),
        ]
    )


predicted('image that is not there', 'is not there', lambda place: 'nobody.jpg')
predicted('folder without an image', 'holds no image', lambda place: place.file('empty/a.txt', 'x').parent)
predicted('image of text', 'cannot be read as an image', lambda place: place.file('a.jpg', 'hello'))
predicted('image of no bytes', 'cannot be read as an image', lambda place: place.file('a.jpg', ''))
predicted(
    'image of 100000 x 100000 pixels',
    'promises 100000 x 100000 pixels',
    lambda place: place.file('a.png', png_of(100000, 100000)),
)
predicted(
    'image of 30000 x 30000 pixels in a few bytes',
    'promises 30000 x 30000 pixels',
    lambda place: place.file('a.png', png_of(30000, 30000)),
)
predicted(
    'image that is cut short',
    'cannot be read as an image|promises',
    lambda place: place.file(
        'a.png', cv2.imencode('.png', np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))[1].tobytes()[:60]
    ),
)
predicted('video of text', 'cannot be read as a video', lambda place: place.file('a.mp4', 'hello'))
predicted('tiles of 0', 'tile', lambda place: place.image, '--tile', 0)
predicted('overlap of a whole tile', 'overlap', lambda place: place.image, '--tile', 64, '--overlap', 64)
predicted('negative overlap', 'overlap', lambda place: place.image, '--tile', 64, '--overlap', -1)
predicted('batch of 0 images', 'batch', lambda place: place.image, '--batch-size', 0)
predicted('kind that nobody saves', 'invalid choice', lambda place: place.image, '--save', 'gold', code=2)
predicted(
    'annotations that are not there',
    'nobody.json',
    lambda place: place.image,
    '--save',
    'json',
    '--annotations',
    'nobody.json',
)


def coco_ids(name: str, says: str, **lists):
    """--annotations with these lists in place of its own."""
    content = {**dict(images=[], categories=[]), **lists}
    case(name, says)(
        lambda place: [
            'tools/predict.py',
            SEG,
            place.checkpoint,
            place.image,
            '--out',
            place.root / 'out',
            '--save',
            'json',
            '--annotations',
            place.file('ids.json', json.dumps(content)),
            '--cfg-options',
            *options(place),
        ]
    )


coco_ids('ids of predictions that are lists', 'ids whole numbers or text', images=[dict(file_name='a.jpg', id=[1])])
coco_ids('ids of predicted categories that are null', 'ids whole numbers or text', categories=[dict(name='sky', id=None)])
coco_ids('names of predicted images that are numbers', 'names are text', images=[dict(file_name=5, id=1)])
coco_ids('predicted images of one id', 'two .* with the id 1', images=[dict(file_name=n, id=1) for n in ('a.jpg', 'b.jpg')])
coco_ids('predicted images that are numbers', 'cannot be read as a COCO file', images=[1])
coco_ids('predicted categories that are not there', 'has no category')


def tiff(place: Place, image: np.ndarray) -> Path:
    tifffile.imwrite(place.root / 'a.tif', image, photometric='minisblack', planarconfig='contig')
    return place.root / 'a.tif'


FRACTIONS, HOLES, FIVE = np.ones((64, 64, 3), np.float32), np.full((64, 64, 3), np.nan), np.ones((64, 64, 5), np.uint8)
predicted('image of fractions', 'holds float32 numbers', lambda place: tiff(place, FRACTIONS))
predicted('image of fractions in tiles', 'holds float32 numbers', lambda place: tiff(place, FRACTIONS), '--tile', 64)
predicted('image of NaN in tiles', 'holds float64 numbers', lambda place: tiff(place, HOLES), '--tile', 64)
predicted('image of five channels in tiles', 'holds 5 channels', lambda place: tiff(place, FIVE), '--tile', 64)
predicted('video in tiles', 'is a video', lambda place: place.file('a.mp4', 'hello'), '--tile', 64)
predicted(
    'image of the longest name',
    'has 256 bytes, but 255',
    lambda place: place.file('n' * 251 + '.jpg', place.image.read_bytes()),
    '--save',
    'json',
)
case('predictions over their image', 'would replace .* give another folder')(
    lambda place: [
        'tools/predict.py',
        SEG,
        place.checkpoint,
        place.file('out/a.png', place.labels.read_bytes()),
        '--out',
        place.root / 'out',
        '--overwrite',
    ]
)
case('predictions among those of another run', 'predictions of another run')(
    lambda place: [
        'tools/predict.py',
        SEG,
        place.checkpoint,
        place.image,
        '--out',
        place.file('out/predict.json', '{"source": ["/other"]}').parent,
    ]
)
case('one of several images that is not there', 'nobody.jpg is not there')(
    lambda place: ['tools/predict.py', SEG, place.checkpoint, place.image, 'nobody.jpg', '--out', place.root / 'out']
)
for kind in ('labels', 'scores', 'logits'):
    case(f'{kind} of a detector', f'--save {kind} found, but this model does detection')(
        lambda place, kind=kind: [
            'tools/predict.py',
            DET,
            place.checkpoint,
            place.image,
            '--out',
            place.root / 'out',
            '--save',
            kind,
        ]
    )
case('folder of predictions that is a file', 'cannot write into')(
    lambda place: ['tools/predict.py', SEG, place.checkpoint, place.image, '--out', place.file('out', 'x')]
)
case('config and checkpoint swapped', 'found behind the checkpoint')(
    lambda place: [
        'tools/predict.py',
        place.checkpoint,
        'configs/mini/swinv2_upernet_mini.py',
        place.image,
        '--out',
        place.root / 'out',
    ]
)


# --- the other tools
def other(name: str, says: str, tool: str, *arguments: Callable[[Place], object], code: int = 1):
    case(name, says, code=code)(
        lambda place: [tool, *(argument(place) if callable(argument) else argument for argument in arguments)]
    )


def out(place):
    return place.root / 'out'


def ckpt(place):
    return place.checkpoint


def image_of(place):
    return place.image


# --- a checkpoint without its config; hostile ones are in tests/config/test_embedded_config.py
other(
    'predict with a checkpoint that holds no config', 'holds no config; give', 'tools/predict.py', ckpt, image_of, '--out', out
)
other('predict with a checkpoint and no image', 'no image was given', 'tools/predict.py', ckpt, '--out', out)
other('predict with a config and no checkpoint', 'no image was given', 'tools/predict.py', SEG, '--out', out)
other('predict with the image first', 'neither a config nor', 'tools/predict.py', image_of, ckpt, image_of, '--out', out)
other('predict with the config behind', 'found behind', 'tools/predict.py', ckpt, 'mine.py', image_of, '--out', out)
other('test without a checkpoint', 'no checkpoint was given', 'tools/test.py', SEG)
other('test with two checkpoints', 'found behind', 'tools/test.py', ckpt, ckpt)
other('report of a checkpoint that is not there', 'is not there', 'tools/report.py', 'nobody.pth')
other(
    'predict with a config as Python alone',
    'only as Python code',
    'tools/predict.py',
    lambda place: place.saved(dict(state_dict={}, meta=dict(cfg='import os'))),
    image_of,
    '--out',
    out,
)
other('export for a size of 0', 'size', 'tools/export.py', SEG, ckpt, '--out', out, '--image-size', '0x64')
other('export for a size of words', 'size', 'tools/export.py', SEG, ckpt, '--out', out, '--image-size', 'big')
other('export without a size', 'size', 'tools/export.py', SEG, ckpt, '--out', out)
other('export of nothing', 'is not there', 'tools/export.py', SEG, 'nobody.pth', '--out', out, '--image-size', '64x64')
other('export in a format of nobody', 'invalid choice', 'tools/export.py', SEG, ckpt, '--out', out, '--format', 'gold', code=2)
other('convert what is not there', 'is not there', 'tools/convert_checkpoint.py', 'nobody.pth')
other('convert text', 'is no PyTorch checkpoint', 'tools/convert_checkpoint.py', lambda place: place.file('a.pth', 'hello'))
other(
    'convert an empty folder',
    'holds no checkpoint',
    'tools/convert_checkpoint.py',
    lambda place: place.file('pieces/a.txt', 'x').parent,
)
other(
    'convert into a format of nobody',
    '.safetensors',
    'tools/convert_checkpoint.py',
    ckpt,
    lambda place: place.root / 'a.zip',
)
other('convert for nobody', 'invalid choice', 'tools/convert_checkpoint.py', ckpt, '--to', 'nobody', code=2)
other(
    'config for data that are not there',
    'not there',
    'tools/new_config.py',
    '--data',
    '/nobody',
    '--task',
    'segmentation',
    '--out',
    lambda place: out(place) / 'a.py',
)
other(
    'config for an empty folder',
    'mask|image|annotation',
    'tools/new_config.py',
    '--data',
    lambda place: place.file('none/a.txt', 'x').parent,
    '--task',
    'segmentation',
    '--out',
    lambda place: out(place) / 'a.py',
)
other(
    'config for broken JSON',
    'is not JSON',
    'tools/new_config.py',
    '--data',
    lambda place: place.file('a.json', '{'),
    '--task',
    'detection',
    '--out',
    lambda place: out(place) / 'a.py',
)
other(
    'config for endless memory',
    'memory',
    'tools/new_config.py',
    '--data',
    lambda place: place.annotations,
    '--task',
    'detection',
    '--gpu-memory',
    'inf',
    '--out',
    lambda place: out(place) / 'a.py',
)
other(
    'config where nothing can be written',
    'cannot',
    'tools/new_config.py',
    '--data',
    lambda place: place.annotations,
    '--task',
    'detection',
    '--out',
    lambda place: place.file('file', 'x') / 'a.py',
)
other('FLOPs of an image of 0', '--image-size', 'tools/analysis/get_flops.py', SEG, '--image-size', '0')
other(
    'FLOPs written below a file',
    'cannot',
    'tools/analysis/get_flops.py',
    SEG,
    '--image-size',
    '64',
    '--json',
    'setup.py/a.json',
)
other(
    'maps of a layer that is not there',
    'layer 99',
    'tools/analysis/attention_maps.py',
    SEG,
    ckpt,
    image_of,
    '--out',
    out,
    '--layers',
    '99',
    '--cfg-options',
    SMALL,
    'model.decode_head.in_channels=[8,16,32,64]',
    'model.auxiliary_head.in_channels=32',
)
other('amplitudes of nothing', 'is not there', 'tools/analysis/amplitude.py', SEG, 'nobody.pth', image_of, '--out', out)
other(
    'similarity against half a model',
    r'\[CONFIG\] CKPT',
    'tools/analysis/attention_similarity.py',
    SEG,
    ckpt,
    image_of,
    '--out',
    out,
    '--compare-with',
    SEG,
)
other(
    'biases of a model without windows',
    'position bias|SwinV2|no ',
    'tools/analysis/position_bias.py',
    VIT,
    ckpt,
    '--out',
    out,
)
other('logs that are not there', 'not there|no log', 'tools/analysis/analyze_logs.py', '/nobody', '--out', out)
other(
    'logs of text',
    'log',
    'tools/analysis/analyze_logs.py',
    lambda place: place.file('w/1/vis_data/scalars.json', 'hello').parents[2],
    '--out',
    out,
)
other(
    'browse data that are not there',
    'is not there',
    'tools/analysis/browse_dataset.py',
    SEG,
    '--out',
    out,
    '--cfg-options',
    'data_root=/nobody',
)
other(
    'browse 0 pictures',
    'number',
    'tools/analysis/browse_dataset.py',
    SEG,
    '--out',
    out,
    '--number',
    '0',
    '--cfg-options',
    lambda place: f'data_root={place.seg}',
)
other('memory of 0 GPUs', '--gpus', 'tools/analysis/memory_plan.py', SEG, '--gpus', '0')
other('report of nothing', 'not there|no ', 'tools/report.py', '/nobody')
other('replay of a checkpoint', 'holds no batch', 'tools/analysis/replay.py', SEG, ckpt)
other(
    'replay of types of strangers',
    'holds no batch',
    'tools/analysis/replay.py',
    SEG,
    lambda place: place.saved(dict(batch={'__type__': 'os:system', 'metainfo': {}, 'data': {}}, meta={})),
)
other('scenes of 1 pixel', 'at least', 'tools/make_mini_dataset.py', '--out', out, '--image-size', '1')
other(
    'scenes in a folder with something else',
    'left alone',
    'tools/make_mini_dataset.py',
    '--out',
    lambda place: place.file('mine/a.txt', 'x').parent,
)
other(
    'token transfer of no sizes',
    'either --image-size or --data-roots',
    'tools/analysis/token_transfer.py',
    VIT,
    ckpt,
    '--out',
    out,
)
other(
    'option with a dict that does not end',
    'cannot be read; quote lists and dicts',
    'tools/analysis/get_flops.py',
    SEG,
    '--cfg-options',
    "model.backbone.arch={'embed_dims':8",
)
# What mmseg, mmdet and MMEngine raise when a training runs.
for name, config, option, says in [
    (
        'weights for some of the classes',
        SEG,
        'decode_head.loss_decode.class_weight=[1,2]',
        'has 2 numbers, but there are 10 classes',
    ),
    (
        'weights of classes along the width',
        SEG,
        "decode_head.loss_decode={'_delete_':True,'type':'CrossEntropyLoss','use_sigmoid':True,'class_weight':[1]*10}",
        r'use_sigmoid=True and class_weight=.* along the width of the image; write \[\[\[1\]\], .*use_sigmoid=False',
    ),
    (
        'maps that the backbone does not give',
        SEG,
        'auxiliary_head.in_index=9',
        'in_index 9 of auxiliary_head .* 4 maps, 0 to 3',
    ),
    ('anchors for more maps than there are', DET, 'neck.num_outs=4', 'bbox_head has anchors for 5 maps, but is given 4'),
]:
    simple_train(name, says, f'model.{option}'.replace('[1]*10', str([1] * 10).replace(' ', '')), config=config)
simple_train(
    'loop of two kinds', 'train_cfg has both type and by_epoch', 'train_cfg.type=IterBasedTrainLoop', 'train_cfg.by_epoch=False'
)
other('benchmark of 0 pixels', 'size', 'tools/benchmark.py', '--image-size', '0', '--rounds', '0')


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """The data sets and the checkpoint that each case gets copies of."""
    root = tmp_path_factory.mktemp('world')
    write_dataset(root / 'data', 3, 1, size=64)
    place = Place(root, root / 'data/ADEChallengeData2016', root / 'data/coco', root / 'iter_1.pth')
    parser = argparse.ArgumentParser()
    parser.add_argument('--options', nargs='+', action=ConfigOptions)
    cfg = load_config(SEG, parser.parse_args(['--options', *options(place)]).options)
    init_default_scope('mmseg')
    model = MODELS.build(cfg.model)
    torch.save(dict(state_dict=model.state_dict(), meta=dict(epoch=0, iter=1)), place.checkpoint)
    return place


@pytest.fixture
def run_case(world, tmp_path, run_here, monkeypatch):
    """Prepares a case in a place of its own and runs it, with parts of its command line replaced; returns the exit status, what
    was printed, and the error lines."""

    def run(name, replaced=()):
        if not (tmp_path / 'data').exists():
            shutil.copytree(world.root / 'data', tmp_path / 'data')
            shutil.copy(world.checkpoint, tmp_path / 'iter_1.pth')
        place = Place(tmp_path, tmp_path / 'data/ADEChallengeData2016', tmp_path / 'data/coco', tmp_path / 'iter_1.pth')
        for variable in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'SLURM_PROCID'):
            monkeypatch.delenv(variable, raising=False)
        command = list(map(str, CASES[name][1](place)))
        for wrong, right in replaced:
            command = [re.sub(rf'\b{re.escape(wrong)}\b', right, part) for part in command]
        before = set(tmp_path.rglob('*'))
        code, output, errors = run_here(*command)
        logged = [line for line in errors.splitlines() if re.match(r'(\w+\.py: )?error: ', line)]
        left = [path for path in set(tmp_path.rglob('*')) - before if path.is_file()]
        return code, output + errors, logged, left

    return run


@pytest.mark.parametrize('name', CASES)
def test_bad_input_gives_one_error_line_and_no_half_written_file(name, run_case, tmp_path):
    says, expected = CASES[name][2:4]
    code, printed, logged, left = run_case(name)
    print(f'| {name} | {code} | {" ".join(logged)} |'.replace(str(tmp_path), 'D'))
    assert code == expected, printed
    assert 'Traceback' not in printed, printed
    assert len(logged) == 1 and re.search(says, logged[0]), printed
    assert not (tmp_path / 'ran').exists()
    left = [path for path in left if not path.name.startswith('train_batch')]  # what the network was fed
    assert not [path for path in left if path.suffix not in _HARMLESS or '.part' in path.name], left


SUGGESTED = [name for name, (_, _, says, *_) in CASES.items() if 'did you mean ' in says and 'argument' not in name]


@pytest.mark.slow
@pytest.mark.parametrize('name', SUGGESTED)
def test_the_name_that_is_suggested_works_in_place_of_the_wrong_one(name, run_case):
    _, _, (line,), _ = run_case(name)
    wrong, right = re.search(r"(?:type |config )'?([\w.]+)'?.*did you mean (\w+)\?", line).groups()
    code, printed, logged, _ = run_case(name, [(wrong.split('.')[-1], right)])
    assert code == 0, logged or printed


def test_at_least_120_cases_are_defined():
    assert len(CASES) >= 120 and len(SUGGESTED) >= 10
