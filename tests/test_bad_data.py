"""Data as people have them, given to the tools: the right value, or one sentence whose advice, followed, works.

``python -m pytest tests/test_bad_data.py -rP | grep '^| '`` prints the table: input, exit status, what is said, and what comes
of the advice.
"""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.registry import DATASETS, init_default_scope

from mmvitscale.config.loading import load_config
from mmvitscale.config.view import ConfigView
from mmvitscale.datasets.delivered import delivered_objects
from tests.test_bad_input import DET, MASKS, SEG, Place, train, world  # noqa: F401  a fixture

pytestmark = pytest.mark.integration

TRIANGLE = [4, 4, 30, 4, 4, 30]


class Data(Place):
    """A place with data of its own to make, in ``root / 'own'``."""

    @property
    def own(self) -> Path:
        return self.root / 'own'

    @property
    def config(self) -> Path:
        return self.root / 'my.py'

    def image(self, name: str, size=(48, 64), value: int | None = None) -> Path:
        """An image of its own grey, (height, width); of a mask the class."""
        path = self.own / name
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = len(list(self.own.rglob('*'))) if value is None else value
        cv2.imwrite(str(path), np.full((*size, 3) if value is None else size, grey, np.uint8))
        return path

    def coco_file(self, name: str = 'train', images: int = 4, size=(48, 64), change: Callable = lambda content: None) -> Path:
        """NAME.json with images in NAME/: an object of a in each, one of b in the first two."""
        content = dict(images=[], annotations=[], categories=[dict(id=3, name='a'), dict(id=7, name='b')])
        for i in range(images):
            self.image(f'{name}/{i}.jpg', size)
            content['images'].append(dict(id=i, file_name=f'{i}.jpg', width=size[1], height=size[0]))
            for category in [3, 7] if i < 2 else [3]:
                item = dict(image_id=i, category_id=category, bbox=[2, 2, 10, 8], area=80, iscrowd=0)
                content['annotations'].append(dict(item, id=len(content['annotations'])))
        change(content)
        (self.own / f'{name}.json').write_text(json.dumps(content))
        return self.own / f'{name}.json'

    def masks(self, *values, split: str = 'train', suffix: str = '.png', of_image: str = '', folder: str = '') -> None:
        """Images in images/SPLIT and masks in masks/SPLIT: a mask of two halves for each pair of values."""
        for i, (left, right) in enumerate(values):
            self.image(f'images/{split}{folder}/{i}{of_image}.jpg')
            mask = np.full((48, 64), left, np.uint8)
            mask[:, 32:] = right
            path = self.own / f'masks/{split}{folder}/{i}{suffix}'
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), mask)

    def change(self, path: Path, change: Callable) -> None:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    def new(self, task: str, *more) -> list:
        return ['tools/new_config.py', '--data', self.own, '--task', task, '--out', self.config, *more]

    def dataset(self, split: str):
        """The data set of a split of the new config, built."""
        cfg = load_config(str(self.config))
        init_default_scope(ConfigView(cfg).scope)
        return DATASETS.build(cfg[f'{split}_dataloader'].dataset)

    def delivered(self, split: str = 'train') -> dict:
        cfg = load_config(str(self.config))
        init_default_scope('mmdet')
        return dict(delivered_objects(cfg[f'{split}_dataloader'].dataset))


@dataclass
class Row:
    """prepare: makes the data and returns the command. says: the sentence. repair: follows the advice, and returns the command
    if it is another. check: of the right value, where there is one; given the place and what was printed."""

    prepare: Callable[[Data], list]
    says: str = ''
    repair: Callable[[Data], list | None] | None = None
    check: Callable[[Data, str], object] | None = None


ROWS: dict[str, Row] = {}


def refused(name: str, prepare, says: str, repair=None):
    ROWS[name] = Row(prepare, says, repair)


def works(name: str, prepare, check):
    ROWS[name] = Row(prepare, check=check)


def look(place: Data, config: str, split: str = 'train', *options) -> list:
    """A command that checks and draws the data of a recipe."""
    root = place.seg if config == SEG else f'{place.det}/'
    command = ['tools/analysis/browse_dataset.py', config, '--number', 1, '--split', split, '--out', place.root / 'out']
    return [*command, '--cfg-options', f'data_root={root}', *options]


def each(key: str, **values) -> Callable[[dict], None]:
    def change(content):
        for entry in content[key]:
            entry.update(values)

    return change


def coco_row(name: str, says: str, bad: dict, good: dict, config: str = DET, split: str = 'train', key: str = 'annotations'):
    """Every annotation is changed to be bad; the advice makes it good."""

    def file(place):
        return place.annotations if split == 'train' else place.det / 'annotations/instances_val2017.json'

    def prepare(place):
        place.change(file(place), each(key, **bad))
        return look(place, config, split)

    refused(name, prepare, says, lambda place: place.change(file(place), each(key, **good)))


# --- ground truth that the loss or the evaluation would leave out
MASK = dict(segmentation=[TRIANGLE])
FULL = dict(segmentation=dict(size=[64, 64], counts=[100, 50, 64 * 64 - 150]))
for name, says, bad, good, config in [
    ('polygons of two points', 'without a polygon of three points .*; draw', dict(segmentation=[[1, 2, 3, 4]]), MASK, MASKS),
    ('polygons of no point', 'without a polygon of three points .*; draw', dict(segmentation=[[]]), MASK, MASKS),
    ('polygons of an odd number', 'without a polygon of three points', dict(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), MASK, MASKS),
    (
        'run lengths that do not fill the mask',
        'counts of 30 pixels together, but run lengths add up to height x width, 4096',
        dict(segmentation=dict(size=[64, 64], counts=[10, 20])),
        FULL,
        MASKS,
    ),
    (
        'run lengths of negative numbers',
        'negative numbers among its counts',
        dict(segmentation=dict(size=[64, 64], counts=[4100, -4])),
        FULL,
        MASKS,
    ),
    (
        'run lengths as a text of nothing',
        'cannot be read .*; export the mask again',
        dict(segmentation=dict(size=[64, 64], counts='ab\x7f')),
        FULL,
        MASKS,
    ),
    (
        'run lengths as a text that is cut off',
        'cannot be read|add up',
        dict(segmentation=dict(size=[64, 64], counts='To')),
        FULL,
        MASKS,
    ),
    (
        'masks of another size than their image',
        r'a mask of \[32, 64\] pixels, but its image has \[64, 64\]',
        dict(segmentation=dict(size=[32, 64], counts=[2048])),
        FULL,
        MASKS,
    ),
    ('crowds everywhere', 'marked iscrowd; set iscrowd to 0', dict(iscrowd=1), dict(iscrowd=0), DET),
    ('annotations to ignore everywhere', 'marked ignore; set ignore to 0', dict(ignore=1), dict(ignore=0), DET),
    ('crowds in words', "the iscrowd 'no', a text, but it is 0 or 1", dict(iscrowd='no'), dict(iscrowd=0), DET),
    ('areas of 0', 'with an area of 0 or less; write the area', dict(area=0), dict(area=50), DET),
    ('boxes of half a pixel', 'box of less than a pixel; a bbox is', dict(bbox=[4, 4, 9, 0.5]), dict(bbox=[4, 4, 9, 9]), DET),
    ('boxes of negative height', 'the latter two not negative', dict(bbox=[4, 14, 9, -9]), dict(bbox=[4, 4, 9, 9]), DET),
]:
    coco_row(name, says, bad, good, config)
coco_row(
    'boxes for validation far beyond their image',
    'can be found in the evaluation: .* more than half is beyond the image; clip the boxes to their image',
    dict(bbox=[0, 0, 640, 640]),
    dict(bbox=[0, 0, 64, 64]),
    split='val',
)
coco_row('areas for validation of 1e11', 'with an area above 1e10; write', dict(area=1e11), dict(area=50), split='val')
coco_row(
    'masks for validation without a polygon',
    'can be found in the evaluation: .* without a polygon',
    dict(segmentation=[[]]),
    MASK,
    MASKS,
    'val',
)
works(
    'annotations without iscrowd, ids from 0',
    lambda place: (
        place.coco_file(change=lambda c: [item.pop('iscrowd') for item in c['annotations']]) and place.new('detection')
    ),
    lambda place, printed: sum(place.delivered(s)['a'] for s in ('train', 'val')) == 4,
)
works(
    'images of 20 x 20 pixels',
    lambda place: place.coco_file(size=(20, 20)) and place.new('detection'),
    lambda place, printed: len(place.dataset('train')) == 3 and place.delivered()['b'] == 1,
)
refused(
    'images smaller than the recipe trains on',
    lambda place: look(place, DET, 'train', 'train_dataloader.dataset.filter_cfg.min_size=65'),
    'in images smaller than min_size of filter_cfg; lower it with --cfg-options train_dataloader.dataset.filter_cfg.min_size=1',
    lambda place: look(place, DET, 'train', 'train_dataloader.dataset.filter_cfg.min_size=1'),
)
refused(
    'a data set of its first image alone',
    lambda place: look(place, DET, 'train', 'train_dataloader.dataset.indices=[]'),
    'no image to use|delivers none',
    lambda place: look(place, DET),
)


def rare_class(place):
    """Twenty images; b is in one alone, which every tenth image would take out of the training."""
    place.coco_file(images=20, change=lambda c: c['annotations'].pop(3))
    return place.new('detection')


works(
    'a class that is in one image of twenty',
    rare_class,
    lambda place, printed: (
        place.delivered() == dict(a=18, b=1)
        and place.delivered('val') == dict(a=2)
        and 'no images for validation: 2 of the 20 for training were kept for it, by class' in printed
        and 'a 18 + 2, b 1 + 0' in printed
        and 'note: b is in too few images to be in validation' in printed
    ),
)


def same_images(place):
    place.coco_file('train')
    place.coco_file('val')
    for image in (place.own / 'train').iterdir():
        shutil.copy(image, place.own / 'val')
    return place.new('detection')


works(
    'the same images for training and validation',
    same_images,
    lambda place, printed: '4 of 4 images of val are also in training' in printed and 'keep them apart' in printed,
)

# --- tasks without anything to learn
refused(
    'one class under softmax',
    lambda place: train(place, 'model.decode_head.num_classes=1', 'model.auxiliary_head.num_classes=1'),
    'model.decode_head.loss_decode is a softmax over one class, .* set num_classes=2 with the background .* use_sigmoid=True',
)


def relabel(place, *values):
    for path in (place.seg / 'annotations/training').iterdir():
        mask = np.full((64, 64), values[0], np.uint8)
        mask[32:] = values[-1]
        cv2.imwrite(str(path), mask)


def label_row(name: str, says: str, bad: tuple, good: tuple):
    refused(name, lambda place: relabel(place, *bad) or look(place, SEG), says, lambda place: relabel(place, *good))


label_row('label maps of 255 throughout', 'is ignored .*nothing to learn; write the number', (255,), (1, 2))
label_row('label maps of 0 throughout, where 0 is none', 'is ignored .*reduce_zero_label', (0,), (1, 2))
label_row('label maps of one class and 255', 'of one class .* such as 1 in place of 255', (1, 255), (1, 2))
NAMED = ('--classes', 'ground,object')


def mask_row(name: str, says: str, bad: tuple, good: tuple, named: tuple = NAMED, suffix: str = '.png'):
    def repair(place):
        shutil.rmtree(place.own)
        place.masks(good, good)

    refused(name, lambda place: place.masks(bad, bad, suffix=suffix) or place.new('segmentation', *named), says, repair)


mask_row('masks as JPEG', 'is a JPEG, whose compression changes', (0, 1), (0, 1), suffix='.jpg')
mask_row('masks of 0 and 128 without names', 'hold 2 values .* up to 128, .*; write 1 in place of 128', (0, 128), (0, 1), ())
mask_row('masks of 0 and 128 with names', 'value 128, but 2 classes .*; write 1 in place of 128', (0, 128), (0, 1))
mask_row(
    'masks of 0 and 255 with names', r'is of class ground \(255 stands for unknown\).* 1 in place of 255', (0, 255), (0, 1)
)
mask_row('masks of 0 and 255 without names', 'if 255 is the object, write 1 instead', (0, 255), (0, 1), ())
mask_row('masks of 255 throughout', 'every pixel of the masks', (255, 255), (0, 1))


def ade20k(place):
    for i in range(3):
        place.image(f'images/training/ADE_train_0000000{i}.jpg')
        mask = np.full((48, 64), 5, np.uint8)
        mask[:20], mask[20:30] = 0, 150
        (place.own / 'annotations/training').mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(place.own / f'annotations/training/ADE_train_0000000{i}.png'), mask)
    return place.new('segmentation')


works(
    'masks of ADE20K without names',
    ade20k,
    lambda place, printed: len(place.dataset('train').metainfo['classes']) == 150 and place.dataset('train').reduce_zero_label,
)
refused(
    'classes as a text',
    lambda place: look(place, DET, 'train', 'train_dataloader.dataset.metainfo.classes=disc'),
    r"classes='disc' found, a text, of which every letter would be a class; .*: classes=\('disc',\)",
)
refused(
    'several files as ann_file',
    lambda place: look(place, DET, 'train', "train_dataloader.dataset.ann_file=['a.json','b.json']"),
    "ann_file=.*but a data set reads one file; give several as dict.type='ConcatDataset'",
)
refused(
    'class weights of another length',
    lambda place: train(place, 'model.decode_head.loss_decode.class_weight=[1.0,2.0]'),
    'class_weight has 2 numbers, but there are 10 classes; write one for each class',
)
refused(
    'class weights with a sigmoid',
    lambda place: train(
        place, 'model.decode_head.loss_decode.class_weight=[1.0,2.0]', 'model.decode_head.loss_decode.use_sigmoid=True'
    ),
    r'use_sigmoid=True and class_weight.* along the width of the image; write \[\[\[1.0\]\], \[\[2.0\]\]\], or use softmax',
    lambda place: train(
        place,
        'train_cfg.val_interval=9',
        f'model.decode_head.loss_decode.class_weight=[{",".join(["[[1.0]]"] * 10)}]',
        'model.decode_head.loss_decode.use_sigmoid=True',
    ),
)
refused(
    'a scheduler of epochs in a training of iterations',
    lambda place: train(place, 'train_cfg.val_interval=9', "param_scheduler=[{'type':'MultiStepLR','milestones':[1]}]"),
    'MultiStepLR counts epochs .*, but the training iterations.*; set by_epoch=False',
    lambda place: train(
        place, 'train_cfg.val_interval=9', "param_scheduler=[{'type':'MultiStepLR','milestones':[1],'by_epoch':False}]"
    ),
)
works(
    'persistent_workers without workers',
    lambda place: train(
        place, 'train_cfg.val_interval=9', *(f'{s}_dataloader.persistent_workers=True' for s in ('train', 'val'))
    ),
    lambda place, printed: (place.root / 'out/last_checkpoint').exists(),
)

# --- files that are no file of the format
coco_row('ids of images as text', "image_id '1', a text, but it is a whole", dict(image_id='1'), dict(image_id=1))
coco_row('ids of categories as text', "the id '1', a text, but it is a whole", dict(id='1'), {}, key='categories')
ROWS['ids of categories as text'].repair = lambda place: place.change(
    place.annotations, lambda c: [entry.update(id=i + 1) for i, entry in enumerate(c['categories'])]
)


def rewrite(change: Callable[[bytes], bytes]) -> Callable[[Data], list]:
    def prepare(place):
        place.coco_file()
        place.coco_file('val')
        path = place.own / 'val.json'
        path.write_bytes(change(path.read_bytes()))
        return place.new('detection')

    return prepare


def written_again(place):
    place.coco_file('val')


refused('a byte order mark', rewrite(lambda text: b'\xef\xbb\xbf' + text), 'begins with a byte order mark', written_again)
refused('a file that is cut off', rewrite(lambda text: text[:-30]), 'val.json is not JSON in UTF-8', written_again)
refused(
    'no file for training',
    lambda place: place.coco_file('val') and place.new('detection'),
    'COCO files for val .*, but none for training; give that one a name such as train.json',
    lambda place: (place.own / 'val.json').rename(place.own / 'train.json') and None,
)
refused(
    'backslashes in names of files',
    lambda place: (
        place.coco_file(change=lambda c: [i.update(file_name='train\\' + i['file_name']) for i in c['images']])
        and ['tools/new_config.py', '--data', place.own / 'train.json', *place.new('detection')[3:]]
    ),
    'with backslashes, as Windows writes paths; write / in their place',
    lambda place: place.change(
        place.own / 'train.json', lambda c: [i.update(file_name=i['file_name'].replace('\\', '/')) for i in c['images']]
    ),
)


# --- several files that differ
def other_order(place):
    place.coco_file()
    place.coco_file('val', change=lambda c: c['categories'].reverse())
    return place.new('detection')


works(
    'categories for validation in another order',
    other_order,
    lambda place, printed: (
        place.delivered('val') == dict(a=4, b=2)
        and load_config(str(place.config)).val_evaluator.ann_file.endswith('my_val.json')
        and 'in another order than' in printed
    ),
)
refused(
    'classes of a config in another order',
    lambda place: look(
        place, DET, 'train', "train_dataloader.dataset.metainfo.classes=['star','disc','square','triangle','ring','cross']"
    ),
    'labels are numbered in the order of the file; write classes and, where files differ, the list of categories in one order',
    lambda place: place.change(
        place.annotations, lambda c: c['categories'].sort(key=lambda category: category['name'] != 'star')
    ),
)


def other_suffix(place):
    place.masks((0, 1), (1, 2))
    place.masks((0, 2), split='val', suffix='_label.png')
    return place.new('segmentation', '--classes', 'a,b,c')


works(
    'masks for validation with another suffix',
    other_suffix,
    lambda place, printed: (
        'images: 2 train, 1 val' in printed
        and Path(place.dataset('val').get_data_info(0)['seg_map_path']).is_file()
        and Path(place.dataset('train').get_data_info(0)['seg_map_path']).is_file()
    ),
)


def cities(place, kind='labelTrainIds'):
    for split in ('train', 'val'):
        for city in ('aachen', 'bochum'):
            for i in range(2):
                place.image(f'leftImg8bit/{split}/{city}/{city}_{i}_leftImg8bit.png')
                mask = np.full((48, 64), i, np.uint8)
                mask[:9], mask[9:20] = 255, 18
                for suffix in (kind, 'color', 'instanceIds'):
                    path = place.own / f'gtFine/{split}/{city}/{city}_{i}_gtFine_{suffix}.png'
                    path.parent.mkdir(parents=True, exist_ok=True)
                    cv2.imwrite(str(path), mask)
    return place.new('segmentation')


works(
    'folders of cities, as Cityscapes has them',
    cities,
    lambda place, printed: (
        'images: 4 train, 4 val' in printed
        and len(place.dataset('train').metainfo['classes']) == 19
        and all(Path(place.dataset(s).get_data_info(3)['seg_map_path']).is_file() for s in ('train', 'val'))
    ),
)
refused(
    'Cityscapes without labelTrainIds',
    lambda place: cities(place, 'labelIds'),
    'run csCreateTrainIdLabelImgs of the package cityscapesscripts, which writes',
    lambda place: cities(place),
)


# --- names that are no names to a config
def named(*names):
    def prepare(place):
        place.masks(*[(i, i + 1) for i in range(len(names) - 1)])
        (place.own / 'classes.txt').write_text('\n'.join(names))
        return place.new('segmentation')

    return prepare


for text in ('{{$HOME:x}}', '{{ _base_.x }}', '{{ fileDirname }}', "it's", '$a^b$', 'a\\nb', '100%', '{x}'):
    works(
        f'a class called {text}',
        named('ground', text, 'sky'),
        lambda place, printed, text=text: place.dataset('train').metainfo['classes'] == ('ground', text, 'sky'),
    )


def named_folder(name):
    def prepare(place):
        place.masks((0, 1), (1, 0))
        place.own.rename(place.root / name)
        return ['tools/new_config.py', '--data', place.root / name, *place.new('segmentation', *NAMED)[3:]]

    return prepare


for name in ('{{ fileDirname }}', 'with\nline', "it's {x}", 'täglich'):
    works(
        f'a folder called {name!r}',
        named_folder(name),
        lambda place, printed: Path(place.dataset('train').get_data_info(0)['img_path']).is_file(),
    )
works(
    'a class with a comma',
    lambda place: place.masks((0, 1), (1, 0)) or place.new('segmentation', '--classes', 'ground,"boat, small"'),
    lambda place, printed: place.dataset('train').metainfo['classes'] == ('ground', 'boat, small'),
)


# --- habits
def linked(place):
    place.masks((0, 1), (1, 0))
    for kind in ('images', 'masks'):
        (place.root / f'elsewhere_{kind}').mkdir()
        (place.own / kind / 'train').rename(place.root / f'elsewhere_{kind}/train')
        (place.own / kind / 'train').symlink_to(place.root / f'elsewhere_{kind}/train')
        (place.own / kind / 'loop').symlink_to(place.own)
    return place.new('segmentation', *NAMED)


works('folders that are links', linked, lambda place, printed: 'images: 2 train' in printed)


def resource_forks(place):
    place.masks((0, 1), (1, 0))
    for folder in ('images/train', 'masks/train'):
        for file in list((place.own / folder).iterdir()):
            file.with_name(f'._{file.name}').write_bytes(b'\x00\x05\x16\x07')
    return place.new('segmentation', *NAMED)


works(
    'files of a Mac beside the images',
    resource_forks,
    lambda place, printed: len(place.dataset('train')) + len(place.dataset('val')) == 2,
)
works(
    'a file called stuffed_animals_train.json',
    lambda place: place.coco_file('stuffed_animals_train') and place.new('detection'),
    lambda place, printed: len(place.dataset('train')) == 3,
)
works(
    'flat polygons where boxes are learned',
    lambda place: place.coco_file(change=each('annotations', segmentation=[1, 2, 3, 4, 5, 6])) and place.new('detection'),
    lambda place, printed: place.delivered()['a'] == 3,
)


def steps_of(place, split='train'):
    return {step.type: step for step in load_config(str(place.config))[f'{split}_dataloader'].dataset.pipeline}


works(
    'photographs, in which up is up',
    lambda place: place.coco_file() and place.new('detection'),
    lambda place, printed: steps_of(place)['RandomFlip'].direction == 'horizontal',
)
works(
    'images of 600 pixels on a GPU',
    lambda place: place.coco_file(size=(600, 700)) and place.new('detection', '--gpu-memory', 7),
    lambda place, printed: (
        max(s for _, s in steps_of(place)['RandomChoiceResize'].scales) == steps_of(place, 'test')['Resize'].scale[1]
    ),
)


# --- what looks like a mistake
def corners(content):
    for item in content['annotations']:
        item['bbox'] = [30, 20, 60, 40]  # left, top, right, bottom


works(
    'boxes of corners',
    lambda place: place.coco_file(change=corners) and place.new('detection'),
    lambda place, printed: (
        '6 of 6 boxes reach beyond their image (ids 0, 1, 2, ...); clip them' in printed
        and '[left, top, right, bottom] in place of [left, top, width, height]' in printed
    ),
)


def doubled(content):
    content['annotations'] += [dict(item, id=item['id'] + 100) for item in content['annotations']]
    content['images'].append(dict(content['images'][0], id=77))


works(
    'annotations and images that are listed twice',
    lambda place: place.coco_file(change=doubled) and place.new('detection'),
    lambda place, printed: '6 annotations repeat another one' in printed and '1 images are listed twice (0.jpg)' in printed,
)


def many_objects(content):
    for i in range(300):
        content['annotations'].append(dict(content['annotations'][0], id=1000 + i, bbox=[i % 50, i // 50, 10, 8]))


for task, more in (('detection', ()), ('instance', ('--gpu-memory', 24))):
    works(
        f'300 objects in an image, {task}',
        lambda place, task=task, more=more: (
            place.coco_file(change=lambda c: many_objects(c) or each('annotations', segmentation=[TRIANGLE])(c))
            and place.new(task, *more)
        ),
        lambda place, printed, task=task: (
            (lambda test: test if task == 'detection' else test.rcnn)(load_config(str(place.config)).model.test_cfg).max_per_img
            == 500
            and 'an image has 302 objects: up to 500 are predicted' in printed
        ),
    )
coco_row(
    'polygons in shares of the image',
    'a polygon in shares of the image, but polygons are in pixels; multiply with its size',
    dict(segmentation=[[0.1, 0.1, 0.5, 0.1, 0.1, 0.5]]),
    MASK,
    MASKS,
)
coco_row(
    'boxes in shares of the image',
    'with a box of less than a pixel; a bbox is .* in pixels',
    dict(bbox=[0.1, 0.1, 0.2, 0.2]),
    dict(bbox=[6, 6, 12, 12]),
)
coco_row(
    'ids of categories as fractions', "the category_id '3.0', but it is a whole", dict(category_id=3.0), dict(category_id=1)
)
coco_row(
    'sizes that are not those of the images',
    'says that .* is 48 x 64, but it is 64 x 64; export the annotations again',
    dict(width=48),
    dict(width=64),
    key='images',
)
refused(
    'a test without annotations',
    lambda place: (
        place.change(place.det / 'annotations/instances_val2017.json', lambda c: c.update(annotations=[]))
        or look(place, DET, 'val')
    ),
    'has no annotation of any class, so there is nothing to compare predictions with; tools/predict.py writes them',
)
refused(
    'labels left out by the heads alone',
    lambda place: train(place, 'model.decode_head.ignore_index=0', 'model.auxiliary_head.ignore_index=0'),
    'labels that are left out differ .*head 1 0, .*seg_pad_val 255.*; give ignore_index of heads, data sets',
    lambda place: train(
        place,
        'train_cfg.val_interval=9',
        'model.decode_head.ignore_index=0',
        'model.auxiliary_head.ignore_index=0',
        'model.data_preprocessor.seg_pad_val=0',
        'val_evaluator.ignore_index=0',
    ),
)


def three_bands(place):
    import tifffile

    place.masks((0, 1), (1, 0))
    for file in list((place.own / 'images/train').iterdir()):
        pixels = np.random.default_rng(0).integers(0, 60000, (48, 64, 3), np.uint16)
        pixels[0, 0] = int(file.stem)  # no two are the same
        tifffile.imwrite(file.with_suffix('.tif'), pixels, photometric='minisblack', planarconfig='contig')
        file.unlink()
    return place.new('segmentation', *NAMED)


works(
    'images that Pillow does not know and OpenCV does',
    three_bands,
    lambda place, printed: 'images: 2 train; 48 x 64' in printed,
)


def floating(place):
    import tifffile

    place.masks((0, 1), (1, 0))
    for file in list((place.own / 'images/train').iterdir()):
        tifffile.imwrite(file.with_suffix('.tif'), np.full((48, 64), int(file.stem), np.float32))
        file.unlink()
    return place.new('segmentation', *NAMED)


refused(
    'images of floating-point values',
    floating,
    'floating-point values, which the loaders of images do not take; convert it to 8 bits, or load it with',
    lambda place: [path.unlink() for path in (place.own / 'images/train').iterdir()] and place.masks((0, 1), (1, 0)),
)


def other_training(place):
    """A checkpoint of the same classes in another order."""
    import torch

    content = torch.load(place.checkpoint, weights_only=False)
    classes = list(load_config(SEG).test_dataloader.dataset.metainfo.classes)
    content['meta']['dataset_meta'] = dict(classes=classes[::-1])
    torch.save(content, place.root / 'other.pth')
    command = train(place)
    return ['tools/test.py', SEG, place.root / 'other.pth', *command[2:]]


refused(
    'a checkpoint of the same classes in another order',
    other_training,
    'was trained with the classes star, cross, ring, ... in this order, but the data set has stripes, checks, dots',
)


def twelve_bits(place):
    place.masks((0, 1), (1, 0))
    for file in list((place.own / 'images/train').iterdir()):
        cv2.imwrite(str(file.with_suffix('.png')), np.full((48, 64), 3000 + int(file.stem), np.uint16))
        file.unlink()
    return place.new('segmentation', *NAMED)


works(
    'images of 12 bits in 16',
    twelve_bits,
    lambda place, printed: 'take the upper 8 bits, so that little is left; scale the images to 8 bits' in printed,
)
works(
    'key points alone',
    lambda place: place.coco_file('person_keypoints_train2017') and place.new('detection'),
    lambda place, printed: len(place.dataset('train')) == 3,
)


def concatenated(place):
    config = place.file(
        'two.py',
        f"_base_ = 'mmvitscale::{SEG}'\n"
        'one = _base_.test_dataloader.dataset\n'
        "test_dataloader = dict(dataset=dict(_delete_=True, type='ConcatDataset', datasets=[one, one]))\n",
    )
    command = train(place)
    return ['tools/test.py', config, place.checkpoint, '--tta', '--show-dir', place.root / 'shown', *command[2:]]


works(
    'several data sets for testing, with augmentation and pictures',
    concatenated,
    lambda place, printed: list((place.root / 'shown').rglob('*.png')),
)


# --- splits
def mostly_empty(place):
    """Twelve images, objects in two of them."""
    place.coco_file(images=12, change=lambda c: c.update(annotations=[a for a in c['annotations'] if a['image_id'] < 2]))
    return place.new('detection')


works(
    'objects in two images of twelve',
    mostly_empty,
    lambda place, printed: (
        place.delivered()['b'] == place.delivered('val')['b'] == 1
        and 'a 1 + 1, b 1 + 1' in printed
        and 'too few' not in printed
    ),
)


def one_file_of_all(place):
    place.coco_file(
        'all',
        images=8,
        change=lambda c: [i.update(file_name=f'{"val" if i["id"] in (1, 5) else "train"}/{i["id"]}.jpg') for i in c['images']],
    )
    for i in range(8):
        target = place.own / f'all/{"val" if i in (1, 5) else "train"}/{i}.jpg'
        target.parent.mkdir(exist_ok=True)
        (place.own / f'all/{i}.jpg').rename(target)
    return place.new('detection')


works(
    'one file for all splits, which are folders of its images',
    one_file_of_all,
    lambda place, printed: (
        place.delivered() == dict(a=6, b=1)
        and place.delivered('val') == dict(a=2, b=1)
        and 'images are split by the folders' in printed
    ),
)

works(
    'photographs of trains and tests',
    lambda place: (
        place.coco_file(
            'all',
            change=lambda c: [
                i.update(file_name=n) for i, n in zip(c['images'], ('train_1.jpg', 'test_1.jpg', 'bus.jpg', 'val.jpg'))
            ],
        )
        and [
            (place.own / f'all/{i}.jpg').rename(place.own / f'all/{n}')
            for i, n in enumerate(('train_1.jpg', 'test_1.jpg', 'bus.jpg', 'val.jpg'))
        ]
        and place.new('detection')
    ),
    lambda place, printed: 'images: 4 train;' in printed and 'images are split by' not in printed,
)


def pascal_lists(place):
    place.masks(*[(0, 1)] * 5)
    place.file('own/ImageSets/Segmentation/train.txt', '0\n1\n2\n')
    place.file('own/ImageSets/Segmentation/val.txt', '3\n')
    return place.new('segmentation', *NAMED)


works(
    'lists of the images of each split',
    pascal_lists,
    lambda place, printed: (
        (len(place.dataset('train')), len(place.dataset('val'))) == (3, 1)
        and 'images are split as listed in train.txt, val.txt; 1 that are in none are left out' in printed
    ),
)
works(
    'a file with another one for validation beside it',
    lambda place: (
        place.coco_file()
        and place.coco_file('val')
        and ['tools/new_config.py', '--data', place.own / 'train.json', *place.new('detection')[3:]]
    ),
    lambda place, printed: 'val.json beside train.json is not used; give the folder as --data' in printed,
)
refused(
    'names of images in another case',
    lambda place: (
        place.coco_file(change=lambda c: [i.update(file_name=i['file_name'].replace('.jpg', '.JPG')) for i in c['images']])
        and place.new('detection')
    ),
    r'lists the image 0.JPG, which is not below .*, but train/0.jpg is; correct the file names',
    lambda place: place.change(
        place.own / 'train.json', lambda c: [i.update(file_name=i['file_name'].replace('.JPG', '.jpg')) for i in c['images']]
    ),
)
refused(
    'annotations of YOLO beside those of COCO',
    lambda place: place.coco_file() and place.file('own/labels/0.txt', '0 .5 .5 .1 .1') and place.new('detection'),
    r'holds several formats \(coco: train.json .*; yolo: labels/0.txt .*\); choose with --format',
    lambda place: place.new('detection', '--format', 'coco'),
)
works(
    'classes.txt with numbers and quotes',
    named('0;ground', '1;"sky, blue"', '2;sea'),
    lambda place, printed: place.dataset('train').metainfo['classes'] == ('ground', 'sky, blue', 'sea'),
)
works(
    'names of classes in a file',
    lambda place: (
        place.masks((0, 1), (1, 0))
        or place.new('segmentation', '--classes', place.file('names.txt', '\ufeffground\r\nobject\r\n'))
    ),
    lambda place, printed: place.dataset('train').metainfo['classes'] == ('ground', 'object'),
)
refused(
    'label maps that count from 1 for training alone',
    lambda place: train(place, 'train_dataloader.dataset.reduce_zero_label=False'),
    'reduce_zero_label is False for training and True for validation',
)


def two_for_training(place, config: str, more: str) -> list:
    """A command on a config with two data sets for training, the second with options of its own."""
    text = (
        f"_base_ = 'mmvitscale::{config}'\n"
        'one = _base_.train_dataloader.dataset\n'
        f'other = dict(one, {more})\n'
        "train_dataloader = dict(dataset=dict(_delete_=True, type='ConcatDataset', datasets=[one, other]))\n"
    )
    command = look(place, config)
    return [command[0], place.file('two.py', text), *command[2:]]


def crowds_in_one_file(place):
    content = json.loads(place.annotations.read_text())
    star = next(category['id'] for category in content['categories'] if category['name'] == 'star')
    for item in content['annotations']:
        item['iscrowd'] = int(item['category_id'] == star)
    (place.det / 'annotations/other.json').write_text(json.dumps(content))
    return two_for_training(place, DET, "ann_file='annotations/other.json'")


works('a class that one of two files has as crowds alone', crowds_in_one_file, lambda place, printed: True)


def images_without_an_object(place):
    shutil.copytree(place.seg / 'images/training', place.seg / 'images/nothing')
    (place.seg / 'annotations/nothing').mkdir()
    for file in (place.seg / 'annotations/training').iterdir():
        cv2.imwrite(str(place.seg / 'annotations/nothing' / file.name), np.full((64, 64), 1, np.uint8))
    return two_for_training(place, SEG, "data_prefix=dict(img_path='images/nothing', seg_map_path='annotations/nothing')")


works('images without an object as a data set of their own', images_without_an_object, lambda place, printed: True)


def own_parts(place):
    place.coco_file()
    place.file('my_train.json', '{"mine": 1}')
    return place.new('detection', '--overwrite')


refused(
    "a file of the user's beside the config",
    own_parts,
    'my_train.json is there already and was not written with my.py; choose another name',
    lambda place: [*place.new('detection')[:-1], place.root / 'other.py'],
)


@pytest.mark.parametrize('name', ROWS)
def test_data_give_the_right_value_or_a_sentence_whose_advice_works(name, world, tmp_path, run_here):  # noqa: F811
    shutil.copytree(world.root / 'data', tmp_path / 'data')
    place = Data(tmp_path, tmp_path / 'data/ADEChallengeData2016', tmp_path / 'data/coco', world.checkpoint)
    row = ROWS[name]
    command = row.prepare(place)
    mine = {path: path.read_bytes() for path in place.root.rglob('*.json') if path.parent == place.root}
    code, output, errors = run_here(*map(str, command))
    assert 'Traceback' not in output + errors, errors
    if row.check is not None:
        print(f'| {name} | {code} | works |  |')
        assert code == 0, errors
        assert row.check(place, output)
        return
    said = [line for line in errors.splitlines() if line.startswith('error: ')]
    advised = ''
    if row.repair is not None:
        again = row.repair(place) or command
        after, output, errors = run_here(*map(str, again))
        advised = f'followed: {after}'
        assert after == 0, output + errors
    print(f'| {name} | {code} | {" ".join(said)} | {advised} |'.replace(str(tmp_path), 'D'))
    assert code == 1 and len(said) == 1, (code, said)
    assert re.search(row.says, said[0]), said[0]
    assert all(path.read_bytes() == content for path, content in mine.items())
