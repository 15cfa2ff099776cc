"""The data pipelines of the configs, on the synthetic mini dataset: training, testing and test-time augmentation."""

import pytest
from mmengine.registry import DATASETS, init_default_scope

import mmvitscale
from mmvitscale.datasets import mini
from tests.helpers.loaded import load

pytestmark = pytest.mark.slow


def pipelines():
    """Every different pipeline of the configs, with the first config that has it."""
    seen = {}
    for name in mmvitscale.list_configs():
        cfg = load(name)
        for split in ('train', 'test', 'tta', 'predict'):
            loader = cfg.get(f'{split}_dataloader')
            steps = loader.dataset.pipeline if loader else cfg.get(f'{split}_pipeline')
            if steps:
                seen.setdefault((cfg.default_scope, str(steps)), (name, split, steps))
    return list(seen.values())


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return mini.write_dataset(tmp_path_factory.mktemp('data') / 'mini', train=2, val=1, size=96, depth=True)


def dataset(scenes, cfg, steps, split):
    ade, coco = scenes / 'ADEChallengeData2016', scenes / 'coco'
    if cfg.default_scope == 'mmseg':
        folder, suffix = ('rgbd', '.tif') if 'Multispectral' in str(steps) else ('images', '.jpg')
        config = dict(
            type='BaseSegDataset',
            data_root=str(ade),
            img_suffix=suffix,
            reduce_zero_label=True,
            metainfo=dict(classes=[f'class {i}' for i in range(10)]),
            data_prefix=dict(img_path=f'{folder}/training', seg_map_path='annotations/training'),
        )
    elif cfg.default_scope == 'mmpretrain':
        config = dict(
            type='CustomDataset',
            data_root=str(ade),
            ann_file='labels/training.txt',
            data_prefix='images/training',
            classes=[f'class {i}' for i in range(6)],
        )
    else:
        config = dict(
            type='CocoDataset',
            data_root=str(coco),
            ann_file='annotations/instances_train2017.json',
            metainfo=dict(classes=('disc', 'square', 'triangle', 'ring', 'cross', 'star')),
            data_prefix=dict(img='train2017/', seg=str(ade / 'annotations/training')),
        )
    return DATASETS.build(dict(config, pipeline=steps, test_mode=split != 'train'))


@pytest.mark.parametrize('name, split, steps', pipelines(), ids=lambda value: value if isinstance(value, str) else '')
def test_every_data_pipeline_runs_with_consistent_shapes(name, split, steps, scenes):
    for package in ('instaboostfast', 'panopticapi'):
        if package[:8] in str(steps).lower():
            pytest.importorskip(package)
    if 'LoadPanopticAnnotations' in str(steps):
        pytest.skip('the scenes have no panoptic annotations')
    cfg = load(name)
    init_default_scope(cfg.default_scope)
    sample = dataset(scenes, cfg, steps, split)[0]
    if split == 'tta':
        resizes, flips = (len(options) for options in steps[1].transforms[:2])
        assert len(sample['inputs']) == resizes * flips
        return
    image, ground_truth = sample['inputs'], sample['data_samples']
    if cfg.default_scope == 'mmpretrain':
        kinds = {step['type']: step for step in steps}
        side = kinds['RandomResizedCrop']['scale'] if split == 'train' else image.shape[1]
        assert tuple(image.shape) == (3, side, side)
        masks = kinds.get('SimMIMMaskGenerator')
        if masks:
            assert tuple(ground_truth.mask.shape) == (side // 4, side // 4) and masks['input_size'] == side
            assert abs(ground_truth.mask.float().mean() - 0.6) < 0.05
        else:
            assert 0 <= ground_truth.gt_label.item() < 6
        return
    steps = {step['type']: step for step in steps}
    if split == 'train' and cfg.default_scope == 'mmseg':
        assert ground_truth.gt_sem_seg.data.shape[1:] == image.shape[1:]
        if 'RandomCrop' in steps:
            assert all(side <= crop for side, crop in zip(image.shape[1:], steps['RandomCrop']['crop_size']))
    elif split == 'train':
        assert len(ground_truth.gt_instances.bboxes) == len(ground_truth.gt_instances.labels)
        if steps['LoadAnnotations'].get('with_mask'):
            assert ground_truth.gt_instances.masks.masks.shape[1:] == image.shape[1:]
        if steps['LoadAnnotations'].get('with_seg'):
            assert ground_truth.gt_sem_seg.sem_seg.shape[1:] == image.shape[1:]
        if 'Pad' in steps:
            assert tuple(image.shape[1:]) == tuple(steps['Pad']['size'])
