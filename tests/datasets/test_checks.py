import pytest
from mmengine.config import Config

from mmvitscale.datasets.checks import check_datasets
from mmvitscale.errors import InputError

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    'root, folder, hint',
    [
        ('data/coco', 'stuffthingmaps/train2017/', 'htc-without-semantic'),
        ('data/cityscapes', 'leftImg8bit/train', 'csCreate'),
        ('data/own', 'images/train', 'tools/new_config.py'),
        ('data/coco', 'train2017/', 'unpack train2017'),
    ],
)
def test_a_missing_data_folder_is_refused_with_how_to_get_it(root, folder, hint, tmp_path):
    data = dict(data_root=str(tmp_path / root), data_prefix=dict(img=folder))
    with pytest.raises(InputError, match=f'{folder.rstrip("/")} is not there; .*{hint}'):
        check_datasets(Config(dict(train_dataloader=dict(dataset=data))), ['train'])


def test_data_sets_inside_wrappers_are_checked(tmp_path):
    data = dict(data_root=str(tmp_path), ann_file='annotations/a.json', data_prefix=dict(img='train2017/'))
    cfg = Config(dict(train_dataloader=dict(dataset=dict(type='RepeatDataset', times=2, dataset=data))))
    with pytest.raises(InputError, match='train2017 is not there'):
        check_datasets(cfg, ['train', 'val'])
    (tmp_path / 'train2017').mkdir()
    (tmp_path / 'train2017/a.jpg').write_text('')
    with pytest.raises(InputError, match='annotation file .*a.json is not there'):
        check_datasets(cfg, ['train', 'val'])
    (tmp_path / 'annotations').mkdir()
    (tmp_path / 'annotations/a.json').write_text('')
    check_datasets(cfg, ['train', 'val'])
