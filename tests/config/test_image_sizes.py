import pytest
from mmengine.config import Config

import mmvitscale
from mmvitscale.config.image_sizes import training_image_size

pytestmark = pytest.mark.unit

RANDOM_RESIZE = dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True)
CROP = dict(type='RandomCrop', crop_size=(512, 1024))
EXACT = dict(type='Resize', scale=(1024, 512))
LOAD = dict(type='LoadImageFromFile')
FLIP = dict(type='RandomFlip', prob=0.5)


def config(*steps, preprocessor=None, dataset=None, **more):
    plain = dict(type='BaseSegDataset', pipeline=[LOAD, *steps, FLIP])
    model = dict(type='EncoderDecoder', data_preprocessor=preprocessor or {})
    return Config(dict(model=model, train_dataloader=dict(dataset=dataset or plain), **more))


@pytest.mark.parametrize(
    'steps, preprocessor',
    [
        ([RANDOM_RESIZE, CROP], dict(size=(512, 1024))),
        ([RANDOM_RESIZE, CROP, dict(type='Pad', size=(1024, 512))], {}),
        ([CROP], dict(batch_augments=[dict(type='BatchFixedSizePad', size=(512, 1024)), dict(type='Mixup')])),
        ([EXACT], {}),
        ([dict(type='Resize', scale=(2048, 1024)), CROP], {}),
        ([dict(type='Resize', scale=(1024, 512), keep_ratio=True), dict(type='Pad', size=(1024, 512))], {}),
        ([RANDOM_RESIZE, EXACT, dict(type='PhotoMetricDistortion')], {}),
        ([dict(type='mmpretrain.RandomResizedCrop', scale=(1024, 512))], {}),
        ([dict(type='RandomChoice', transforms=[[RANDOM_RESIZE, EXACT], [EXACT]])], {}),
        ([dict(type='RandomApply', transforms=[RANDOM_RESIZE]), EXACT], {}),
    ],
)
def test_images_that_are_cropped_or_resized_to_one_size_have_it(steps, preprocessor):
    size, cause = training_image_size(config(*steps, preprocessor=preprocessor))
    assert sorted(size) == [512, 1024] and cause == ''


@pytest.mark.parametrize(
    'steps, preprocessor, cause',
    [
        ([], {}, 'as they are in the data set'),
        ([dict(type='Resize', scale_factor=1.0)], {}, 'as they are in the data set'),
        ([RANDOM_RESIZE], {}, 'RandomResize'),
        ([dict(type='Resize', scale=(1333, 800), keep_ratio=True)], dict(pad_size_divisor=32), 'Resize gives'),
        ([dict(type='RandomChoiceResize', scales=[(512, 512), (640, 640)])], {}, 'RandomChoiceResize'),
        ([RANDOM_RESIZE, CROP], {}, 'RandomCrop leaves smaller images as they are'),
        ([RANDOM_RESIZE, CROP], dict(size=(512, 512)), 'RandomCrop leaves'),  # which the crop does not fit into
        ([RANDOM_RESIZE, dict(type='Pad', size=(4096, 4096))], {}, 'RandomResize'),
        (
            [dict(type='RandomCrop', crop_type='relative_range', crop_size=(0.3, 0.3))],
            dict(size=(512, 512)),
            'RandomCrop gives',
        ),
        ([EXACT, dict(type='Mosaic', img_scale=(640, 640))], {}, 'Mosaic'),
        ([EXACT, dict(type='MyRandomRotate')], {}, 'MyRandomRotate'),
        ([dict(type='RandomChoice', transforms=[[EXACT], [RANDOM_RESIZE]])], {}, 'RandomResize'),
        ([dict(type='RandomApply', transforms=[EXACT])], {}, 'as they are'),
        ([EXACT], dict(batch_augments=[dict(type='BatchSyncRandomResize')]), 'BatchSyncRandomResize'),
    ],
)
def test_images_of_many_sizes_are_named_with_what_makes_them(steps, preprocessor, cause):
    size, found = training_image_size(config(*steps, preprocessor=preprocessor))
    assert size is None and cause in found


def test_wrapped_data_sets_must_agree():
    one, other = (dict(type='A', pipeline=[dict(type='Resize', scale=scale)]) for scale in ((64, 64), (96, 96)))
    for datasets, expected in (([one, one], (64, 64)), ([one, other], None)):
        dataset = dict(type='RepeatDataset', dataset=dict(type='ConcatDataset', datasets=datasets))
        assert training_image_size(config(dataset=dataset))[0] == expected
    mixed = dict(type='MultiImageMixDataset', dataset=one, pipeline=[dict(type='Mosaic')])
    assert training_image_size(config(dataset=mixed)) == (None, 'Mosaic gives images of many sizes')


def test_sizes_that_a_hook_changes_and_configs_without_training_data_have_none():
    hook = dict(type='mmvitscale.ProgressiveWindowHook', schedule=[dict(begin=0), dict(begin=9, window_size=8)])
    assert training_image_size(config(EXACT, custom_hooks=[hook])) == (None, 'ProgressiveWindowHook changes windows or crops')
    assert training_image_size(Config(dict(model={})))[0] is None


@pytest.mark.integration
@pytest.mark.parametrize(
    'name, size',
    [
        ('swinv2_upernet_ade20k', (512, 512)),
        ('swinv2_mask_rcnn_coco', None),
        ('swinv2_htc_coco', (1536, 1536)),
        ('swinv2_classifier_mini_96_w6', (96, 96)),
    ],
)
def test_recipes_have_the_sizes_that_their_names_say(name, size):
    assert training_image_size(mmvitscale.load_config(name))[0] == size
