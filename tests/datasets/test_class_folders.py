"""Folders of classes, whose places in order are the labels of mmpretrain."""

import pytest
from mmengine.config import Config

from mmvitscale.datasets.checks import check_datasets
from mmvitscale.errors import InputError
from mmvitscale.utils.torchvision_shim import make_torchvision_importable

pytestmark = pytest.mark.integration


def check(root, train, val, classes=None):
    make_torchvision_importable()
    named = {} if classes is None else dict(classes=classes)
    loaders = {}
    for split, folders in (('train', train), ('val', val)):
        for folder in folders:
            (root / split / folder).mkdir(parents=True, exist_ok=True)
        dataset = dict(type='CustomDataset', data_root=str(root), data_prefix=split, **named)
        loaders[f'{split}_dataloader'] = dict(dataset=dataset)
    check_datasets(Config(dict(default_scope='mmpretrain', model=dict(type='ImageClassifier'), **loaders)), ('train', 'val'))


def test_folders_that_differ_between_training_and_validation_are_refused(tmp_path):
    check(tmp_path / 'good', 'abcd', 'abcd')
    with pytest.raises(
        InputError, match=r'differ in the folders of classes \(c\).*; make the missing folders, empty ones, too'
    ):
        check(tmp_path / 'less', 'abcd', 'abd')
    check(tmp_path / 'less', 'abcd', 'abcd')  # the advice, followed
    with pytest.raises(InputError, match='hidden folder .ipynb_checkpoints, which would be taken for a class; remove it'):
        check(tmp_path / 'hidden', ['.ipynb_checkpoints', 'a', 'b'], 'ab')


def test_names_in_another_order_than_the_folders_are_refused(tmp_path):
    check(tmp_path, 'abc', 'abc', ['a', 'b', 'c'])
    check(tmp_path, 'abc', 'abc', ['cat', 'dog', 'cow'])  # names of their own
    with pytest.raises(InputError, match='labels are numbered in the order of the folders .* give the classes in that order'):
        check(tmp_path, 'abc', 'abc', ['c', 'b', 'a'])
