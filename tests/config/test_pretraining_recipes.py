"""Every recipe of configs/pretrain against a table of its sources' values, written down here a second time.

Sources: P SwinV2, arXiv 2111.09883, appendix; W github.com/microsoft/Swin-Transformer, its configs, rates for the batch of
the table (its base rates are for 512); D github.com/zhoudaquan/dvit_repo.
"""

import re

import cv2
import numpy as np
import pytest
from mmengine.registry import DATASETS, init_default_scope

import mmvitscale
from mmvitscale.config.names import find_config
from mmvitscale.config.runtime import check_packages
from mmvitscale.datasets.checks import check_datasets
from mmvitscale.errors import InputError
from tests.helpers.loaded import load

pytestmark = pytest.mark.integration

W22K = [12, 12, 12, 6]
IMAGENET = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])


def recipe_of(name):
    cfg = load(name)
    optim, backbone = cfg.optim_wrapper, cfg.model.backbone
    warmup, main = cfg.param_scheduler
    steps = {step['type']: step for step in cfg.train_dataloader.dataset.pipeline}
    test = {step['type']: step for step in (cfg.get('test_dataloader') or {}).get('dataset', {}).get('pipeline', [])}
    scale = steps['RandomResizedCrop'].scale
    return dict(
        arch=backbone.arch if isinstance(backbone.arch, str) else backbone.arch.embed_dims,
        window=backbone.get('window_size'),
        learned=backbone.get('pretrained_window_sizes'),
        drop_path=backbone.drop_path_rate,
        lr=optim.optimizer.lr,
        decay=optim.optimizer.weight_decay,
        clip=(optim.get('clip_grad') or {}).get('max_norm'),
        layer_decay=(optim.get('paramwise_cfg') or {}).get('layer_decay_rate', 1.0),
        epochs=cfg.train_cfg.max_epochs,
        warmup=warmup.end,
        start=warmup.start_factor * optim.optimizer.lr,
        end=main.get('eta_min', main.get('milestones')),
        batch=cfg.auto_scale_lr.base_batch_size,
        size=scale,
        test=test['CenterCrop'].crop_size if 'CenterCrop' in test else test['Resize'].scale[0] if test else None,
        classes=cfg.model.head.get('num_classes'),
        mask=steps.get('SimMIMMaskGenerator', {}).get('mask_ratio'),
        target=cfg.model.head.loss.get('size') if cfg.model.type == 'SimMIM' else None,
        mean_std=(list(cfg.model.data_preprocessor.mean), list(cfg.model.data_preprocessor.std)),
    )


IN1K = dict(
    learned=None,
    lr=1e-3,
    decay=0.05,
    clip=5.0,
    layer_decay=1.0,
    epochs=300,
    warmup=20,
    start=1e-6,
    end=1e-5,
    batch=1024,
    size=256,
    test=256,
    classes=1000,
    mask=None,
    target=None,
    mean_std=IMAGENET,
)
IN22K = IN1K | dict(window=W22K, drop_path=0.2, decay=0.1, epochs=90, warmup=5, batch=4096, size=192, test=None, classes=21841)
TUNE = IN1K | dict(learned=W22K, drop_path=0.2, lr=4e-5, decay=1e-8, epochs=30, warmup=5, start=4e-8, end=4e-7)
SIMMIM = IN1K | dict(
    window=W22K,
    drop_path=0.1,
    lr=4e-4,
    epochs=800,
    warmup=10,
    start=2e-6,
    end=[700],
    batch=2048,
    size=192,
    test=None,
    classes=None,
    mask=0.6,
    target=47,
)
GIANT = dict(arch='giant', lr=1.4e-3, decay=0.1, clip=100.0, batch=9216, warmup=1, start=1.4e-6, end=1.4e-5)
VIT = IN1K | dict(
    window=None,
    drop_path=0.2,
    lr=5e-4,
    clip=None,
    epochs=305,
    warmup=5,
    start=1e-6,
    batch=256,
    size=224,
    test=224,
    mean_std=([127.5] * 3, [127.5] * 3),
)
T16, T24 = [16, 16, 16, 8], [24, 24, 24, 12]
TABLE = {  # P W
    **{
        f'swinv2-{s}-w{w}_8xb128-300e_in1k-256': IN1K | dict(arch=arch, drop_path=drop, window=windows)
        for s, arch, drop in (('t', 'tiny', 0.2), ('s', 'small', 0.3), ('b', 'base', 0.5))
        for w, windows in ((8, 8), (16, T16))
    },
    **{f'swinv2-{s}-w12_32xb128-90e_in22k-192': IN22K | dict(arch=arch) for s, arch in (('b', 'base'), ('l', 'large'))},
    **{
        f'swinv2-{s}-w12to{w}-in22k_8xb128-30e_in1k-{side}': TUNE | dict(arch=arch, window=windows, size=side, test=side)
        for s, arch in (('b', 'base'), ('l', 'large'))
        for w, side, windows in ((16, 256, T16), (24, 384, T24))
    },
    'swinv2-b-w12_simmim_16xb128-800e_in1k-192': SIMMIM | dict(arch='base'),
    'swinv2-b-w12to14-simmim_16xb128-100e_in1k-224': IN1K
    | dict(
        arch='base',
        window=[14, 14, 14, 7],
        learned=W22K,
        drop_path=0.1,
        lr=5e-3,
        layer_decay=0.75,
        epochs=100,
        start=1e-6,
        end=1e-6,
        batch=2048,
        size=224,
        test=224,
    ),
    **{
        f'swinv2-{name}-w12_simmim_288xb32-20e_in22k-ext-192': SIMMIM | GIANT | dict(arch=arch, epochs=20, drop_path=0.0)
        for name, arch in (('g', 'giant'),)
    },
    **{
        f'swinv2-{name}-w12-simmim_288xb32-30e_in22k-ext-192': IN22K
        | GIANT
        | dict(arch=arch, epochs=30, drop_path=0.3, learned=W22K, layer_decay=0.87)
        for name, arch in (('g', 'giant'),)
    },
    # D
    **{
        f'{arch}_8xb32-300e_in1k-224': VIT | dict(arch=arch)
        for arch in ('vit-16b', 'vit-24b', 'vit-32b', 'deepvit-16b', 'deepvit-24b', 'deepvit-32b', 'deepvit-s', 'deepvit-l')
    },
    **{f'vit-12b-{dim}_8xb32-300e_in1k-224': VIT | dict(arch=dim) for dim in (256, 384, 512, 768)},
}


@pytest.mark.parametrize('name', [name for name in mmvitscale.list_configs() if find_config(name).parent.name == 'pretrain'])
def test_pretraining_configs_equal_the_table_of_their_sources(name):
    assert_equal(recipe_of(name), TABLE[name])
    cfg = load(name)
    assert bool(cfg.model.backbone.get('similarity_loss_weight')) == (name.startswith('deepvit-32b'))
    gpus, per_gpu = map(int, re.search(r'_(\d+)xb(\d+)-', name).groups())
    assert (gpus * per_gpu, per_gpu) == (cfg.auto_scale_lr.base_batch_size, cfg.train_dataloader.batch_size)


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    different = {
        key: (found[key], expected.get(key))
        for key in found
        if found[key] != (pytest.approx(expected[key]) if isinstance(expected[key], float) else expected[key])
    }
    assert not different


def test_vit_and_deepvit_classifiers_use_ema_and_swinv2_does_not():
    averaged = {name for name in TABLE if any(hook.type == 'EMAHook' for hook in load(name).custom_hooks)}
    assert averaged == {name for name in TABLE if 'vit-' in name and not name.startswith('swinv2')}
    assert load('vit-16b_8xb32-300e_in1k-224').custom_hooks[1].momentum == pytest.approx(1 - 0.99996)


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """ImageNet's folders with an image in each."""
    root = tmp_path_factory.mktemp('imagenet')
    image = cv2.imencode('.jpg', np.full((260, 300, 3), 90, np.uint8))[1].tobytes()
    for split in ('train', 'val'):
        for number in range(1000):
            (root / split / f'n{number:08d}').mkdir(parents=True)
            (root / split / f'n{number:08d}/a.jpg').write_bytes(image)
    return root


@pytest.mark.parametrize(
    'name',
    [
        'swinv2-t-w8_8xb128-300e_in1k-256',
        'swinv2-b-w12_32xb128-90e_in22k-192',
        'deepvit-s_8xb32-300e_in1k-224',
        'swinv2-b-w12_simmim_16xb128-800e_in1k-192',
        'swinv2-g-w12_simmim_288xb32-20e_in22k-ext-192',
        'swinv2-g-w12-simmim_288xb32-30e_in22k-ext-192',
    ],
)
def test_imagenet_configs_read_a_folder_for_each_class(name, folders):
    cfg = load(name)
    check_packages(cfg)
    init_default_scope('mmpretrain')
    for split in ('train', 'val'):
        loader = cfg.get(f'{split}_dataloader')
        if loader is None:
            continue
        for root in ('nowhere', str(folders / 'train') if '22k' in name else str(folders)):
            loader.dataset.data_root = root
            if root == 'nowhere':
                with pytest.raises(InputError, match='data set folder nowhere.* is not there'):
                    check_datasets(cfg, (split,))
        check_datasets(cfg, (split,))
        dataset = DATASETS.build(loader.dataset)
        assert len(dataset) == 1000
        sample = dataset[0]
        assert sample['inputs'].shape[1] == recipe_of(name)['size']
        assert ('_simmim_' in name) == ('mask' in sample['data_samples'])


def test_validation_images_without_class_folders_are_refused(folders, tmp_path):
    (tmp_path / 'val').mkdir()
    (tmp_path / 'val/ILSVRC2012_val_00000001.JPEG').touch()
    cfg = load('swinv2-t-w8_8xb128-300e_in1k-256')
    cfg.val_dataloader.dataset.data_root = str(tmp_path)
    with pytest.raises(InputError, match='val has 0 folders, but a folder for each of 1000 classes is expected; sort'):
        check_datasets(cfg, ('val',))
