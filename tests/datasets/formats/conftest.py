"""Folders of every flavour of the annotation formats, and what is read of them."""

import shutil

import pytest

from mmvitscale.datasets.formats.annotations import Entries
from mmvitscale.datasets.formats.registry import read_dataset
from mmvitscale.errors import InputError
from tests.helpers import annotation_samples as samples
from tests.helpers.annotation_writers import flavours, written

FLAVOURS = flavours()


def pictures_of(name):
    return written(name, samples.sample() if FLAVOURS[name].expected else samples.of_one_kind())


@pytest.fixture(scope='session')
def folders(tmp_path_factory):
    """``folders(flavour)`` is its folder, written once; not to be changed."""
    made = {}

    def folder(name):
        if name not in made:
            # Darknet's lists begin with the name of the folder.
            made[name] = tmp_path_factory.mktemp('flavour') / 'data'
            FLAVOURS[name].write(pictures_of(name), made[name])
        return made[name]

    return folder


@pytest.fixture
def copied(folders, tmp_path):
    """``copied(flavour)`` is a folder that may be changed."""
    return lambda name: shutil.copytree(folders(name), tmp_path / 'data', symlinks=True)


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
