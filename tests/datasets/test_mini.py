import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmvitscale.datasets import mini
from mmvitscale.datasets.colour_baseline import colour_baseline
from mmvitscale.errors import InputError
from tests.helpers.commands import ROOT

pytestmark = pytest.mark.unit


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return mini.write_dataset(tmp_path_factory.mktemp('data') / 'mini', train=12, val=4, size=128)


def contents(root):
    return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob('*')) if path.is_file()}


def test_equal_arguments_give_equal_bytes_and_other_seeds_others(scenes, tmp_path):
    again = mini.write_dataset(tmp_path / 'again', train=12, val=4, size=128)
    assert contents(again) == contents(scenes)
    other = mini.write_dataset(tmp_path / 'other', train=12, val=4, size=128, seed=1)
    images = Path('ADEChallengeData2016/images')
    assert all(contents(other / images)[name] != data for name, data in contents(scenes / images).items())


def test_splits_do_not_share_scenes(scenes):
    images = contents(scenes / 'ADEChallengeData2016' / 'images')
    assert len(images) == 16 and len(set(images.values())) == 16


def test_ade20k_layout_has_an_image_and_label_map_per_scene(scenes):
    root = scenes / 'ADEChallengeData2016'
    seen = set()
    for split, count in (('training', 12), ('validation', 4)):
        images = sorted((root / 'images' / split).glob('*.jpg'))
        assert len(images) == count
        for path in images:
            labels = cv2.imread(str(root / 'annotations' / split / f'{path.stem}.png'), cv2.IMREAD_UNCHANGED)
            assert cv2.imread(str(path)).shape == (128, 128, 3) and labels.shape == (128, 128)
            seen |= set(np.unique(labels).tolist())
    assert seen == set(range(len(mini.CLASSES) + 1))  # 0 is ignored; all below 150


def test_coco_layout_describes_the_same_scenes(scenes):
    annotations = json.loads((scenes / 'coco/annotations/instances_train2017.json').read_text())
    names = {category['id']: category['name'] for category in annotations['categories']}
    assert list(names.values()) == list(mini.OBJECTS)
    assert len(annotations['images']) == 12 and len(annotations['annotations']) > 24
    labels = {}
    for image in annotations['images']:
        stem = Path(image['file_name']).stem
        assert (scenes / 'coco/train2017' / image['file_name']).read_bytes() == (
            scenes / f'ADEChallengeData2016/images/training/{stem}.jpg'
        ).read_bytes()
        labels[image['id']] = cv2.imread(str(scenes / f'ADEChallengeData2016/annotations/training/{stem}.png'), -1)
    for annotation in annotations['annotations']:
        mask = decode(annotation['segmentation'])
        here = labels[annotation['image_id']]
        assert np.all(here[mask] == mini.CLASSES.index(names[annotation['category_id']]) + 1)
        assert mask.sum() == annotation['area'] > 0
        left, top, width, height = annotation['bbox']
        assert mask[top : top + height, left : left + width].sum() == mask.sum()
        assert mask[top].any() and mask[top + height - 1].any()
        assert mask[:, left].any() and mask[:, left + width - 1].any()


def decode(rle):
    """Uncompressed RLE -> mask, from COCO's description of it."""
    flat = np.concatenate([np.full(count, i % 2, bool) for i, count in enumerate(rle['counts'])])
    return flat.reshape(rle['size'][::-1]).T


def test_run_lengths_decode_to_the_original_mask():
    for mask in (np.zeros((3, 4), bool), np.ones((3, 4), bool), np.eye(4, dtype=bool), np.eye(4, dtype=bool)[::-1]):
        assert np.array_equal(decode(mini.run_lengths(mask)), mask)


def test_instance_masks_of_a_scene_do_not_overlap():
    for i in range(20):
        scene = mini.draw_scene(128, np.random.default_rng(i))
        total = np.sum([instance.mask for instance in scene.instances], axis=0)
        assert total.max() <= 1


def test_a_colour_classifier_scores_below_25_percent_miou(scenes):
    assert 0.01 < colour_baseline(scenes / 'ADEChallengeData2016') < 0.25


def test_a_colour_classifier_is_perfect_where_colour_determines_class(tmp_path):
    for split in mini.SPLITS:
        labels = np.repeat(np.arange(1, 5, dtype=np.uint8), 8)[None].repeat(32, 0)
        for folder, array in (('images', labels[..., None].repeat(3, 2) * 50), ('annotations', labels)):
            (tmp_path / folder / split).mkdir(parents=True)
            cv2.imwrite(str(tmp_path / folder / split / 'a.png'), array)
        (tmp_path / 'images' / split / 'a.png').rename(tmp_path / 'images' / split / 'a.jpg')
    assert colour_baseline(tmp_path) == pytest.approx(1.0)


def test_the_mini_config_has_the_classes_and_palette_of_the_dataset():
    from mmengine.config import Config

    cfg = Config.fromfile(ROOT / 'configs/_base_/datasets/mini_ade20k.py')
    metainfo = cfg.train_dataloader.dataset.metainfo
    assert tuple(metainfo.classes) == mini.CLASSES
    assert tuple(map(tuple, metainfo.palette)) == mini.PALETTE


def test_a_folder_not_written_by_this_command_is_not_overwritten(tmp_path):
    (tmp_path / 'holiday.jpg').write_text('precious')
    with pytest.raises(InputError, match='was not written by this command'):
        mini.write_dataset(tmp_path, train=1, val=1, size=32)
    assert [path.name for path in tmp_path.iterdir()] == ['holiday.jpg']


def test_an_earlier_data_set_is_replaced_as_a_whole(tmp_path):
    mini.write_dataset(tmp_path / 'mini', train=3, val=1, size=32)
    mini.write_dataset(tmp_path / 'mini', train=1, val=1, size=32)
    assert len(list((tmp_path / 'mini').rglob('images/training/*.jpg'))) == 1
    assert [path.name for path in tmp_path.iterdir()] == ['mini']


@pytest.mark.parametrize('arguments', [dict(train=0), dict(val=0), dict(size=16)])
def test_too_small_counts_and_sizes_are_refused(arguments, tmp_path):
    with pytest.raises(InputError, match='at least 1, 1 and 32'):
        mini.write_dataset(tmp_path / 'mini', **arguments)
    assert not any(tmp_path.iterdir())


def test_an_unwritable_output_folder_is_refused(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='cannot write to'):
        mini.write_dataset(tmp_path / 'file' / 'mini', train=1, val=1, size=32)


def test_the_class_of_a_scene_is_its_dominant_object(tmp_path):
    root = mini.write_dataset(tmp_path / 'mini', train=5, val=2, size=64) / 'ADEChallengeData2016'
    for split, count in (('training', 5), ('validation', 2)):
        lines = (root / f'labels/{split}.txt').read_text().splitlines()
        assert len(lines) == count
        for line in lines:
            name, number = line.split()
            labels = cv2.imread(str(root / 'annotations' / split / name.replace('.jpg', '.png')), cv2.IMREAD_UNCHANGED)
            pixels = [(labels == mini.CLASSES.index(each) + 1).sum() for each in mini.OBJECTS]
            assert pixels[int(number)] == max(pixels) > 0


def test_objects_keep_their_size_on_larger_scenes():
    """Textures and objects of a scene of 128 pixels are those of one of 256, and as many on an area."""
    plain, small = (mini.draw_scene(128, np.random.default_rng(3), scale) for scale in (None, 1.0))
    counts = [len(mini.draw_scene(size, np.random.default_rng(3), 1.0).instances) for size in (128, 384)]
    assert counts[0] < 4 < counts[1]
    areas = [max(instance.mask.sum() for instance in scene.instances) for scene in (plain, small)]
    assert areas[1] > 1.5 * areas[0]
    with pytest.raises(InputError, match='object_scale 100 found'):
        mini.write_dataset('x', 1, 1, 64, object_scale=100)
