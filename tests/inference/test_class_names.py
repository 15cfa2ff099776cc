import pytest
from mmengine.config import Config
from torch import nn

from mmvitscale.errors import InputError
from mmvitscale.inference.class_names import dataset_meta_of, distinct_names

pytestmark = pytest.mark.unit


def model_of(count):
    model = nn.ModuleDict(dict(head=nn.Identity(), rpn_head=nn.Identity()))
    model['head'].num_classes, model['rpn_head'].num_classes = count, 99
    return model


def names(count=2, checkpoint=None, scope='mmpretrain', **dataset):
    cfg = Config(dict(default_scope=scope, test_dataloader=dict(dataset=dataset)))
    return dataset_meta_of(cfg, dict(meta=checkpoint), model_of(count))['classes']


def test_class_names_come_from_the_checkpoint_the_config_or_the_number_of_classes(tmp_path):
    assert names(checkpoint=dict(dataset_meta=dict(classes=('a', 'b')))) == ('a', 'b')
    assert names(checkpoint=dict(CLASSES=('a', 'b'))) == ('a', 'b')  # of OpenMMLab before MMEngine
    assert names(metainfo=dict(classes=['a', 'b'])) == names(classes=['a', 'b']) == ('a', 'b')
    (tmp_path / 'classes.txt').write_text('ä\nb c\n', encoding='utf-8')
    assert names(classes=str(tmp_path / 'classes.txt')) == ('ä', 'b c')
    assert names(1, metainfo=dict(classes='person')) == ('person',)
    assert names(datasets=[dict(metainfo=dict(classes=['a', 'b']))]) == ('a', 'b')  # ConcatDataset
    assert names(3) == ('class_0', 'class_1', 'class_2')
    assert names(3, checkpoint=dict(dataset_meta=dict(classes=None))) == ('class_0', 'class_1', 'class_2')
    assert names(3, metainfo=dict(classes=['a'])) == ('a', 'class_1', 'class_2')
    assert names(80, metainfo=dict(classes=['a']), scope='mmdet') == ('a',)  # open vocabulary: found by its name
    with pytest.raises(InputError, match='neither the checkpoint nor .* names classes'):
        names(None)


def test_a_checkpoint_names_no_file_to_read(tmp_path):
    (tmp_path / 'secret').write_text('key\n')
    for meta in (dict(dataset_meta=dict(classes=str(tmp_path / 'secret'))), dict(CLASSES=str(tmp_path / 'secret'))):
        assert names(1, checkpoint=meta) == (str(tmp_path / 'secret'),)


def test_classes_of_one_name_are_numbered():
    assert distinct_names(['crane', 'dog', 'crane']) == ['crane (0)', 'dog', 'crane (2)']
    assert distinct_names(['a', 'a', 'a (0)']) == ['a (0) (0)', 'a (1)', 'a (0) (2)']
    assert distinct_names(('a', 'b')) == ['a', 'b']
