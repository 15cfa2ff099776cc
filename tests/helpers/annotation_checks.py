"""Compares data sets that were read with the pictures that were written, and reads those that are refused."""

from collections.abc import Sequence

import numpy as np
import pytest

from mmvitscale.datasets.formats.annotations import Entries
from mmvitscale.datasets.formats.registry import read_dataset
from mmvitscale.errors import InputError
from tests.helpers.annotation_samples import HEIGHT, UNKNOWN, WIDTH, Expected, Picture, filled

NOTHING = {'background', 'void', '_background_'}  # classes of what is not labelled


def mask_read(segmentation) -> np.ndarray:
    """(H, W) bool of COCO's polygons or run lengths."""
    from pycocotools import mask as coco

    if isinstance(segmentation, dict):
        coded = segmentation
        if isinstance(coded['counts'], list):
            coded = coco.frPyObjects(coded, HEIGHT, WIDTH)
        assert list(coded['size']) == [HEIGHT, WIDTH]
        return coco.decode(coded).astype(bool)
    return filled([list(zip(part[::2], part[1::2])) for part in segmentation])


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """IoU of two masks."""
    return (first & second).sum() / (first | second).sum()


def check_objects(found, expected: list[Expected], resolution: float = 1e-3, least: float = 1.0) -> None:
    """found: objects with category, box and segmentation, in the order of those expected."""
    assert [item.category for item in found] == [item.name for item in expected]
    for item, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(item.box, other.box, atol=resolution)
        if other.mask is not None:
            assert item.segmentation is not None
            assert overlap(mask_read(item.segmentation), other.mask) >= least


def in_order(images) -> list:
    """Images of train, val and test; in each split as they were read."""
    return sorted(images, key=lambda image: ('train', 'val', 'test', None).index(image.split))


def check_images(images, pictures: Sequence[Picture], splits: bool, prefix: str = '') -> None:
    """The same files in the same order, of the same split and size."""
    images = in_order(images)
    names = [image.name.rpartition('/')[2].removeprefix(prefix) for image in images]
    assert names == [picture.file for picture in pictures]
    assert [image.split for image in images] == [picture.split if splits else None for picture in pictures]
    for image, picture in zip(images, pictures, strict=True):
        assert (image.height, image.width) == (HEIGHT, WIDTH)
        content = image.embedded() if image.embedded else image.path.read_bytes()
        assert content == picture.content


def check_label_maps(images, pictures: Sequence[Picture], classes: Sequence[str], names: Sequence[str]) -> None:
    """Every pixel has the class it was drawn with; what is not labelled is ignored, or of a class that says so. names: of the
    pictures' own numbers."""
    for image, picture in zip(in_order(images), pictures, strict=True):
        found = image.label_map()
        assert found.shape == (HEIGHT, WIDTH) and found.dtype == np.uint8
        for number in np.unique(found):
            name = 'background' if number == UNKNOWN else classes[number].strip()
            wanted = picture.labels[found == number]
            if name.lower() in NOTHING:
                assert (wanted == UNKNOWN).all(), image.name
            else:
                assert (wanted == names.index(name)).all(), (image.name, name)
        assert {classes[number] for number in np.unique(found) if number != UNKNOWN} - NOTHING - {'Void'} == {
            names[number] for number in np.unique(picture.labels) if number != UNKNOWN
        }


def contents(dataset):
    """What can be compared: by the stem of an image its objects, or the numbers of its label map."""
    found = {}
    for image in dataset.images:
        if image.label_map is not None:
            found[image.name] = image.label_map().tobytes()
        else:
            found[image.name] = [(item.category, *(round(side, 3) for side in item.box)) for item in image.objects]
    return found


def error_of(root, format=None, given=None):
    """The sentence that a folder is refused with: one line, not too long."""
    with pytest.raises(InputError) as caught:
        contents(read_dataset(root, format, Entries(classes=given)))
    text = str(caught.value)
    assert '\n' not in text and len(text) < 600
    return text


def read_without_invalid(root, format=None, given=None):
    """The data set, and the sentences about what was left out of it."""
    entries = Entries(skip_invalid=True, classes=given)
    dataset = read_dataset(root, format, entries)
    return dataset, entries.invalid
