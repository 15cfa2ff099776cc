"""What is found in a user's data, and what is refused, in one sentence."""

import json
import re

import cv2
import numpy as np
import pytest
from PIL import Image

from mmvitscale.autoconfig.inspect_dataset import inspect_dataset
from mmvitscale.datasets import mini
from mmvitscale.errors import InputError

pytestmark = pytest.mark.unit

CLASSES = ['stripes', 'checks', 'dots', 'grain', 'disc', 'square', 'triangle', 'ring', 'cross', 'star']


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return mini.write_dataset(tmp_path_factory.mktemp('data') / 'mini', train=8, val=2, size=64)


def refusal(*arguments):
    with pytest.raises(InputError) as caught:
        inspect_dataset(*(str(a) if not isinstance(a, (list, type(None))) else a for a in arguments))
    message = str(caught.value)
    assert '\n' not in message
    return message


# Boxes and masks of objects

BOX = dict(bbox=[2, 2, 10, 8], area=80, iscrowd=0, segmentation=[[2, 2, 12, 2, 12, 10]])


def write_coco(folder, name='train', images=2, edit=lambda content: None, size=(48, 32)):
    """A COCO file NAME.json with images in NAME/, each with an object of class a; b has one in the first."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    content = dict(images=[], annotations=[], categories=[dict(id=3, name='a'), dict(id=7, name='b')])
    for i in range(images):
        cv2.imwrite(str(folder / name / f'{i}.jpg'), np.full((size[1], size[0], 3), 10 * i + len(name), np.uint8))
        content['images'].append(dict(id=i, file_name=f'{i}.jpg', width=size[0], height=size[1]))
        for category in [3, 7] if i == 0 else [3]:
            content['annotations'].append(dict(BOX, id=len(content['annotations']), image_id=i, category_id=category))
    edit(content)
    (folder / f'{name}.json').write_text(json.dumps(content))
    return folder / f'{name}.json'


def test_coco_splits_in_one_folder_are_found(tmp_path):
    write_coco(tmp_path, 'train', 3)
    write_coco(tmp_path, 'valid', 2)
    write_coco(tmp_path, 'test', 1)
    found = inspect_dataset(str(tmp_path), 'instance')
    assert found.classes == ['a', 'b'] and found.size == (32, 48) and list(found.splits) == ['train', 'val', 'test']
    for split, folder, count in (('train', 'train', 3), ('val', 'valid', 2), ('test', 'test', 1)):
        part = found.splits[split]
        assert (part.images, part.ground_truth) == (tmp_path / folder, tmp_path / f'{folder}.json') and len(part.names) == count
    assert 'a (3), b (1)' in found.lines[2] and '1.3 an image' in found.lines[3]


def test_the_mini_dataset_is_found_by_folder_and_by_annotation_file(scenes):
    found = inspect_dataset(str(scenes / 'coco'), 'instance')
    assert found.classes == CLASSES[4:] and len(found.splits['train'].names) == 8 and len(found.splits['val'].names) == 2
    file = scenes / 'coco/annotations/instances_val2017.json'
    one = inspect_dataset(str(file), 'detection')
    assert one.splits['train'].ground_truth == file and list(one.splits) == ['train']


def test_roboflow_exports_with_a_folder_per_split_are_found(tmp_path):
    """As Roboflow writes them, with a category above the classes that nothing belongs to."""

    def above(content):
        content['categories'].insert(0, dict(id=0, name='cells'))

    for split in ('train', 'valid'):
        write_coco(tmp_path, split, edit=above).rename(tmp_path / split / '_annotations.coco.json')
    found = inspect_dataset(str(tmp_path), 'detection')
    assert found.classes == ['a', 'b'] and found.splits['val'].images == tmp_path / 'valid'
    assert found.notes == [
        'category cells has no object and is left out',
        *(note for note in found.notes[1:] if 'cells' not in note),
    ]


def test_selected_classes_are_used_and_the_others_noted(tmp_path):
    write_coco(tmp_path)
    found = inspect_dataset(str(tmp_path), 'detection', ['b'])
    assert found.classes == ['b'] and any('no class of the config (a)' in note for note in found.notes)


def test_unusable_coco_files_are_refused_with_the_reason(tmp_path):
    file = write_coco(tmp_path / 'a')
    assert 'are not there; give a folder, or a COCO file' in refusal(tmp_path / 'no', 'detection')
    assert 'holds no annotations in a format' in refusal(tmp_path / 'a/train', 'detection')
    assert '--classes names c, but the categories of' in refusal(file, 'detection', ['c'])
    assert '--classes names a twice' in refusal(file, 'detection', ['a', 'a'])
    (tmp_path / 'a/train/1.jpg').unlink()
    assert '1 of 2 images' in refusal(tmp_path / 'a', 'detection')
    (tmp_path / 'a/train/0.jpg').unlink()
    assert 'none of the images that' in refusal(tmp_path / 'a', 'detection')

    def error(name, edit, task='detection', **kwargs):
        return refusal(write_coco(tmp_path / name, edit=edit, **kwargs), task)

    assert 'has the category a twice' in error('b', lambda c: c['categories'][1].update(name='a'))
    assert 'says that 0.jpg is 480 x 32, but it is 48 x 32' in error('c', lambda c: c['images'][0].update(width=480))
    assert 'have no segmentation' in error('d', lambda c: [a.pop('segmentation') for a in c['annotations']], 'instance')
    assert 'is no COCO file' in error('e', lambda c: c.pop('categories'))
    for part in ('images', 'categories', 'annotations'):
        assert f'{part}[' in error(f'null_{part}', lambda c: c[part].append(None))
    assert 'has no object of any category' in error('g', lambda c: c['annotations'].clear())
    (tmp_path / 'f.json').write_text('{')
    assert 'f.json is not JSON' in refusal(tmp_path / 'f.json', 'detection')
    (tmp_path / 'a/train/0.jpg').write_text('no image')
    cv2.imwrite(str(tmp_path / 'a/train/1.jpg'), np.zeros((32, 48, 3), np.uint8))
    assert '0.jpg cannot be read as an image' in refusal(file, 'detection')


def test_contradicting_splits_are_refused(tmp_path):
    write_coco(tmp_path / 'a', 'train', edit=lambda c: c['annotations'].pop(1))  # the only b
    write_coco(tmp_path / 'a', 'val')
    assert 'class b has objects in val but none in' in refusal(tmp_path / 'a', 'detection')
    write_coco(tmp_path / 'b', 'train')
    write_coco(tmp_path / 'b', 'val', edit=lambda c: c['categories'][1].update(name='c'))
    assert re.search('val.json has the categories a, c, but .*train.json has a, b', refusal(tmp_path / 'b', 'detection'))
    write_coco(tmp_path / 'c', 'train')
    write_coco(tmp_path / 'c', 'train_old')
    assert 'are both COCO files for train' in refusal(tmp_path / 'c', 'detection')
    write_coco(tmp_path / 'd', 'val')
    assert 'but none for training' in refusal(tmp_path / 'd', 'detection')


# Classes of pixels


def write_masks(folder, masks, images=None, split='train', suffix='.png'):
    """Masks, arrays or PIL images, and images of their size, in images/SPLIT and masks/SPLIT."""
    for i, mask in enumerate(masks):
        mask = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
        for kind in ('images', 'masks'):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        mask.save(folder / 'masks' / split / f'{i}{suffix}')
        size = images or mask.size
        grey = 10 * i + len(split)  # no two are the same image
        Image.fromarray(np.full((size[1], size[0], 3), grey, np.uint8)).save(folder / 'images' / split / f'{i}.jpg')
    return folder


def mask(*values, dtype=np.uint8, shape=(8, 12)):
    """Stripes of these values."""
    return np.resize(np.array(values, dtype), shape)


def test_classes_splits_and_suffixes_of_mask_folders_are_found(tmp_path):
    write_masks(tmp_path, [mask(0, 1), mask(2, 255)])
    write_masks(tmp_path, [mask(1)], split='val')
    found = inspect_dataset(str(tmp_path), 'segmentation', ['a', 'b', 'c'])
    assert not found.zero_is_unknown
    assert {(split.image_suffix, split.mask_suffix) for split in found.splits.values()} == {('.jpg', '.png')}
    assert found.splits['train'].names == ['0', '1'] and found.splits['val'].ground_truth == tmp_path / 'masks/val'
    assert found.size == (8, 12) and found.lines[2] == '3 classes: a (33.3%), b (33.3%), c (33.3%)' and not found.notes
    unnamed = inspect_dataset(str(tmp_path), 'segmentation')
    assert unnamed.classes == ['class_0', 'class_1', 'class_2'] and 'the classes have no names' in unnamed.notes[0]
    (tmp_path / 'classes.txt').write_text('x\ny\nz\n')
    assert inspect_dataset(str(tmp_path), 'segmentation').classes == ['x', 'y', 'z']
    (tmp_path / 'classes.txt').write_bytes('ä\nb\nc\n'.encode('latin-1'))
    assert 'classes.txt is not UTF-8 text' in refusal(tmp_path, 'segmentation')


def test_the_suffix_of_mask_files_is_detected(tmp_path):
    write_masks(tmp_path, [mask(0, 1)] * 2, suffix='_labelIds.png')
    assert inspect_dataset(str(tmp_path), 'segmentation').splits['train'].mask_suffix == '_labelIds.png'


def test_label_zero_is_ignored_where_the_class_count_implies_it(scenes):
    found = inspect_dataset(str(scenes / 'ADEChallengeData2016'), 'segmentation', CLASSES)
    assert found.zero_is_unknown and '0 is taken for unknown' in found.notes[0] and len(found.classes) == 10


def test_palette_one_bit_and_16_bit_masks_are_read(tmp_path):
    palette = Image.fromarray(mask(0, 1)).convert('P')
    palette.putpalette([200, 10, 10, 10, 200, 10])
    found = inspect_dataset(str(write_masks(tmp_path / 'a', [palette])), 'segmentation')
    assert len(found.classes) == 2 and '1 masks have a palette' in found.notes[1]
    found = inspect_dataset(str(write_masks(tmp_path / 'b', [mask(0, 1, dtype=np.uint16)])), 'segmentation')
    assert len(found.classes) == 2
    found = inspect_dataset(str(write_masks(tmp_path / 'c', [Image.fromarray(mask(0, 255)).convert('1')])), 'segmentation')
    assert len(found.classes) == 2


@pytest.mark.parametrize(
    'masks, classes, message',
    [
        ([mask(0, 7)], ['a', 'b'], '0.png holds the value 7, but 2 classes are named (a, b), 0 to 1'),
        ([mask(0, 700, dtype=np.uint16)], None, '0.png is of uint16 with values up to 700'),
        ([np.zeros((8, 12, 3), np.uint8)], None, '0.png has 3 channels (colours), but a mask has one'),
        ([mask(0, 255)], None, 'hold nothing but 0 and 255 (unknown); if 255 is the object, write 1'),
        ([mask(255)], None, 'is 255, which stands for unknown'),
        ([mask(0)], ['a'], 'one class (a) is named, but segmentation distinguishes two or more'),
        ([mask(0, 1)], ['a', 'a'], '--classes names a twice'),
    ],
)
def test_unusable_masks_are_refused_with_the_reason(masks, classes, message, tmp_path):
    assert message in refusal(write_masks(tmp_path, masks), 'segmentation', classes)


def test_a_class_without_training_pixels_is_noted(tmp_path):
    found = inspect_dataset(str(write_masks(tmp_path, [mask(0, 2)])), 'segmentation', ['a', 'b', 'c'])
    assert 'class b has no pixel in the training masks and cannot be learned' in found.notes


def test_unusable_mask_folders_are_refused_with_the_reason(tmp_path):
    folder = write_masks(tmp_path / 'a', [mask(0, 1)] * 2)
    (folder / 'masks/train/1.png').unlink()
    assert '1 of 2 images in' in refusal(folder, 'segmentation')
    folder = write_masks(tmp_path / 'b', [mask(0, 1)], (16, 8))
    assert 'is 12 x 8, but its image is 16 x 8' in refusal(folder, 'segmentation')
    folder = write_masks(tmp_path / 'c', [mask(0, 1)])
    (folder / 'masks/train/0.png').write_text('no image')
    assert 'cannot be read as an image' in refusal(folder, 'segmentation')
    folder = write_masks(tmp_path / 'd', [mask(0, 1)])
    (folder / 'images/train/1.png').write_bytes((folder / 'masks/train/0.png').read_bytes())
    assert 'several kinds (.jpg, .png)' in refusal(folder, 'segmentation')
    (tmp_path / 'e').mkdir()
    assert 'such as images/train and masks/train with the same names' in refusal(tmp_path / 'e', 'segmentation')
    folder = write_masks(tmp_path / 'f', [mask(0, 1)])
    assert 'holds masks of semantic segmentation' in refusal(folder, 'detection')
