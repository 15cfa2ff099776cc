"""Data sets from one annotation format into another, and predictions into formats."""

import json

import numpy as np
import pytest

from mmvitscale.datasets import mini
from mmvitscale.datasets.formats.outlines import mask_of, outlines
from mmvitscale.datasets.formats.registry import FORMATS, read_dataset
from mmvitscale.errors import InputError

pytestmark = pytest.mark.integration

OBJECTS = [name for name in FORMATS if name != 'masks']


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return mini.write_dataset(tmp_path_factory.mktemp('data') / 'mini', train=4, val=2, size=64) / 'coco'


@pytest.mark.parametrize('format', OBJECTS)
def test_a_data_set_that_was_converted_holds_the_same(format, scenes, run_here, tmp_path):
    code, printed, errors = run_here('tools/convert_dataset.py', scenes, tmp_path / 'out', '--to', format)
    assert code == 0, errors
    assert 'images: 4 train, 2 val' in printed
    before, after = read_dataset(scenes), read_dataset(tmp_path / 'out')
    assert after.classes == before.classes
    by_content = {image.path.read_bytes(): image for image in after.images}
    assert len(by_content) == len(before.images) == len(after.images)
    for image in before.images:
        other = by_content[image.path.read_bytes()]
        assert (other.split, other.height, other.width) == (image.split, image.height, image.width)
        assert [item.category for item in other.objects] == [item.category for item in image.objects]
        for one, two in zip(image.objects, other.objects):
            masks = [mask_of(item, image.height, image.width) for item in (one, two)]
            if format == 'voc':  # later objects hide parts of earlier ones
                assert not (masks[1] & ~masks[0]).any()
                assert np.allclose(one.box, two.box, atol=1e-6)
            else:
                assert (masks[0] == masks[1]).all()


def test_the_edges_of_masks_are_the_masks_again():
    """Several parts, holes, pixels that touch at a corner."""
    from pycocotools import mask as coco

    rng = np.random.default_rng(0)
    for share in (0.2, 0.5, 0.8):
        mask = rng.random((13, 17)) < share
        path = outlines(mask)
        inside = np.zeros(mask.shape, int)
        for polygon in path:  # by parity: holes are polygons, too
            inside += coco.decode(coco.frPyObjects([polygon], *mask.shape))[..., 0]
        assert (inside % 2 == mask).all()


def test_out_is_complete_or_not_there(scenes, error_of, run_here, tmp_path, monkeypatch):
    tool = 'tools/convert_dataset.py'
    assert 'holds the data themselves' in error_of(tool, scenes, scenes, '--to', 'yolo')
    (tmp_path / 'there').mkdir()
    (tmp_path / 'there/file').write_text('mine')
    assert 'is there already' in error_of(tool, scenes, tmp_path / 'there', '--to', 'yolo')
    assert (tmp_path / 'there/file').read_text() == 'mine'
    monkeypatch.setattr(FORMATS['yolo'], 'write', lambda dataset, output: output.text('data.yaml', '') or no_more())
    error_of(tool, scenes, tmp_path / 'new', '--to', 'yolo')
    assert [path.name for path in tmp_path.iterdir()] == ['there']
    monkeypatch.undo()
    assert 'was not written by this command' in error_of(tool, scenes, tmp_path / 'there', '--to', 'yolo', '--overwrite')
    assert (tmp_path / 'there/file').read_text() == 'mine'
    for options in ([], ['--overwrite']):
        assert run_here(tool, scenes, tmp_path / 'own', '--to', 'yolo', *options)[0] == 0


def no_more():
    raise InputError('no more')


def test_annotations_alone_lead_to_the_images(scenes, run_here, tmp_path):
    code, _, errors = run_here('tools/convert_dataset.py', scenes, tmp_path / 'out', '--to', 'labelme', '--no-images')
    assert code == 0, errors
    file = next((tmp_path / 'out').rglob('*.json'))
    assert (file.parent / json.loads(file.read_text())['imagePath']).is_file()


def test_label_maps_become_masks_of_every_class(run_here, tmp_path):
    scenes = mini.write_dataset(tmp_path / 'mini', train=2, val=1, size=64) / 'ADEChallengeData2016'
    code, printed, errors = run_here('tools/convert_dataset.py', scenes, tmp_path / 'masks', '--to', 'masks')
    assert code == 0, errors
    before, after = read_dataset(scenes), read_dataset(tmp_path / 'masks')
    for one, two in zip(before.images, after.images):
        assert one.split == two.split and (one.label_map() == two.label_map()).all()
    code, printed, errors = run_here('tools/convert_dataset.py', scenes, tmp_path / 'cvat', '--to', 'cvat')
    assert code == 0, errors
    image = read_dataset(tmp_path / 'cvat').images[0]
    labels = before.images[0].label_map()
    for item in image.objects:
        assert (mask_of(item, 64, 64) == (labels == before.classes.index(item.category))).all()
    assert {before.classes.index(item.category) for item in image.objects} == set(np.unique(labels).tolist()) - {255}
