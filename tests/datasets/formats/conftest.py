"""Folders of every flavour of the annotation formats."""

import shutil

import pytest

from tests.helpers.annotation_flavours import FLAVOURS, pictures_of


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
