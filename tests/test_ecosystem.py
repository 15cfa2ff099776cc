"""OpenMMLab's own ways of loading and running, with our configs and checkpoints: no runner and no tool of ours."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import mmdet
import mmseg
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from mmvitscale.config.loading import load_config
from mmvitscale.datasets import mini
from mmvitscale.errors import InputError
from mmvitscale.models import SwinTransformerV2
from tests.helpers.commands import FOREGROUND, ROOT, path_without_deepspeed
from tests.helpers.hostile import Attack
from tests.helpers.official_layout import official_state_dict
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.integration

SEGMENTATION = str(ROOT / 'configs/mini/swinv2_upernet_mini.py')
DETECTION = str(ROOT / 'configs/mini/swinv2_retinanet_mini.py')


@pytest.fixture(scope='module')
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp('picture') / 'a.png'
    cv2.imwrite(str(path), mini.draw_scene(96, np.random.default_rng(0)).image)
    return str(path)


def checkpoint_of(config, folder, **options):
    """A random model of the config, and its checkpoint as a training writes it."""
    cfg = load_config(config, options)
    init_default_scope(cfg.default_scope)
    model = randomise(MODELS.build(cfg.model)).eval()
    path = Path(folder, f'{cfg.default_scope}.pth')
    dataset = cfg.test_dataloader.dataset
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(dataset.get('metainfo', {})))), path)
    return model, str(path)


def same(found, model):
    """Whether the model that was loaded is the one that was saved."""
    return all(torch.equal(value, model.state_dict()[key]) for key, value in found.state_dict().items())


def test_mmseg_apis_load_our_checkpoints_and_agree(picture, tmp_path):
    from mmseg.apis import MMSegInferencer, inference_model, init_model

    model, path = checkpoint_of(SEGMENTATION, tmp_path)
    loaded = init_model(SEGMENTATION, path, device='cpu')
    assert same(loaded, model)
    result = inference_model(loaded, picture).pred_sem_seg.data
    assert result.shape == (1, 96, 96)
    inferencer = MMSegInferencer(SEGMENTATION, path, device='cpu')
    assert same(inferencer.model, model)
    assert np.array_equal(inferencer(picture)['predictions'], result[0].numpy())


def test_mmdet_apis_load_our_checkpoints_and_agree(picture, tmp_path):
    from mmdet.apis import DetInferencer, inference_detector, init_detector

    model, path = checkpoint_of(DETECTION, tmp_path)
    loaded = init_detector(DETECTION, path, device='cpu')
    assert same(loaded, model)
    result = inference_detector(loaded, picture).pred_instances
    inferencer = DetInferencer(DETECTION, path, device='cpu', show_progress=False)
    assert same(inferencer.model, model)
    found = inferencer(picture)['predictions'][0]
    assert np.allclose(found['scores'], result.scores.numpy(), atol=1e-5)


@pytest.mark.parametrize('task', ['segmentation', 'detection'])
def test_openmmlab_apis_keep_the_pretrained_window_at_larger_windows(task, picture, tmp_path):
    """Windows are the config's, pretrained windows the checkpoint's."""
    from mmdet.apis import DetInferencer, init_detector
    from mmseg.apis import MMSegInferencer, init_model

    config = SEGMENTATION if task == 'segmentation' else DETECTION
    model, path = checkpoint_of(config, tmp_path)
    larger = load_config(config, {'model.backbone.window_size': 16})
    larger.dump(tmp_path / 'larger.py')
    init, inferencer = (init_model, MMSegInferencer) if task == 'segmentation' else (init_detector, DetInferencer)
    image = torch.rand(1, 3, 128, 128)
    model.backbone.set_window_size(16)
    for loaded in (
        init(str(tmp_path / 'larger.py'), path, device='cpu'),
        inferencer(str(tmp_path / 'larger.py'), path, device='cpu').model,
    ):
        assert [stage.pretrained_window for stage in loaded.backbone.stages] == [(8, 8)] * 4
        with torch.no_grad():
            assert torch.allclose(loaded.backbone.eval()(image)[-1], model.backbone(image)[-1], atol=1e-5)


def test_mmseg_apis_refuse_incomplete_checkpoints(tmp_path):
    from mmseg.apis import init_model

    _, path = checkpoint_of(SEGMENTATION, tmp_path)
    content = torch.load(path, weights_only=False)
    del content['state_dict']['backbone.stages.1.blocks.0.attn.qkv.weight']
    torch.save(content, path)
    with pytest.raises(InputError, match='1 missing keys .stages.1.blocks.0.attn.qkv.weight'):
        init_model(SEGMENTATION, path, device='cpu')


@pytest.mark.slow
@pytest.mark.parametrize(
    'package, config, data, options',
    [
        (
            mmseg,
            SEGMENTATION,
            'ADEChallengeData2016',
            ['model.data_preprocessor.size=(64,64)', 'train_dataloader.dataset.pipeline.2.crop_size=(64,64)'],
        ),
        (mmdet, DETECTION, 'coco', []),
    ],
    ids=['mmseg', 'mmdet'],
)
def test_openmmlab_tools_train_from_official_checkpoints(package, config, data, options, tmp_path):
    """``tools/train.py`` of mmsegmentation and mmdetection take a file of another library as ``load_from``. Their
    ``tools/test.py`` test what came of it, and mmdetection's runs no code from a checkpoint (mmsegmentation's builds
    MMEngine's runner whatever the config says)."""
    scenes = mini.write_dataset(tmp_path / 'mini', train=4, val=2, size=64)
    cfg = load_config(config, dict(data_root=str(scenes / data), load_from=str(tmp_path / 'official.pth')))
    cfg.dump(tmp_path / 'config.py')
    arch = {key: value for key, value in cfg.model.backbone.arch.items() if key != '_delete_'}
    source = randomise(SwinTransformerV2(arch, 8))
    torch.save(dict(model=official_state_dict(source, (8,) * 4, (8,) * 4)), tmp_path / 'official.pth')
    overrides = [
        'train_cfg.max_iters=1',
        'train_cfg.val_interval=2',
        'train_dataloader.batch_size=2',
        *FOREGROUND,
        *options,
        'optim_wrapper.optimizer.lr=0.0',
        'default_hooks.checkpoint.interval=1',
    ]

    def run(tool, *arguments):
        return subprocess.run(
            [
                sys.executable,
                str(Path(package.__file__).parent / '.mim/tools' / tool),
                str(tmp_path / 'config.py'),
                *map(str, arguments),
                '--work-dir',
                str(tmp_path / 'work'),
                '--cfg-options',
                *overrides,
            ],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, 'OMP_NUM_THREADS': '2', 'PYTHONPATH': path_without_deepspeed()},
        )

    trained = run('train.py')
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert 'official.pth: SwinV2' in trained.stdout + trained.stderr
    saved = torch.load(tmp_path / 'work/iter_1.pth', weights_only=False)['state_dict']
    key = 'stages.1.blocks.0.attn.qkv.weight'
    assert torch.equal(saved[f'backbone.{key}'], source.state_dict()[key])
    if package is mmseg:
        tested = run('test.py', tmp_path / 'work/iter_1.pth')
        assert tested.returncode == 0 and 'mIoU' in tested.stdout + tested.stderr
        return

    torch.save(dict(state_dict=saved, meta=Attack(tmp_path / 'marker')), tmp_path / 'evil.pth')
    tested = run('test.py', tmp_path / 'evil.pth')
    assert tested.returncode and 'would run code' in tested.stderr and not (tmp_path / 'marker').exists()


@pytest.fixture(scope='module')
def measured(tmp_path_factory):
    """Scenes, a config written out whole, a checkpoint and predictions for each of both packages."""
    folder = tmp_path_factory.mktemp('measured')
    scenes = mini.write_dataset(folder / 'mini', train=2, val=12, size=128)
    made = {}
    for package, config, data in ((mmseg, SEGMENTATION, 'ADEChallengeData2016'), (mmdet, DETECTION, 'coco')):
        cfg = load_config(config, dict(data_root=str(scenes / data)))
        path = folder / f'{package.__name__}.py'
        for loader in (cfg.train_dataloader, cfg.test_dataloader):
            loader.num_workers, loader.persistent_workers = 0, False
        cfg.dump(path)
        made[package.__name__] = path, checkpoint_of(config, folder, data_root=str(scenes / data))[1]
    log = folder / 'log.json'
    log.write_text(''.join(f'{{"lr": 0.1, "loss": {5 - i}, "time": 0.5, "iter": {i}, "step": {i}}}\n' for i in range(1, 4)))
    return folder, made, log


TOOLS = [
    (mmseg, 'get_flops.py', 'CONFIG --shape 64 64', r'Flops: [\d.]+[MG]'),
    (mmdet, 'get_flops.py', 'CONFIG --num-images 1', r'Flops: [\d.]+[MG]'),
    (mmseg, 'browse_dataset.py', 'CONFIG --output-dir OUT --not-show', None),
    (mmdet, 'browse_dataset.py', 'CONFIG --output-dir OUT --not-show', None),
    (mmseg, 'benchmark.py', 'CONFIG CHECKPOINT --work-dir OUT', 'Average fps'),
    (
        mmdet,
        'benchmark.py',
        'CONFIG --checkpoint CHECKPOINT --task inference --max-iter 8 --log-interval 4 --num-warmup 1',
        'fps',
    ),  # which wants a GPU
    (mmseg, 'analyze_logs.py', 'LOG --keys loss --out OUT/curve.png', None),
    (mmdet, 'analyze_logs.py', 'plot_curve LOG --keys loss --style ggplot --out OUT/curve.png', None),
    # Label maps, and a data set whose class knows its classes.
    (
        mmseg,
        'confusion_matrix.py',
        'CONFIG PREDICTIONS OUT --cfg-options test_dataloader.dataset.type=CityscapesDataset '
        'test_dataloader.dataset.metainfo=None',
        None,
    ),
    (mmdet, 'confusion_matrix.py', 'CONFIG PREDICTIONS OUT', None),
]


@pytest.mark.parametrize(
    'package, tool, arguments, says',
    [
        pytest.param(
            *case,
            id=f'{case[0].__name__} {case[1]}',
            marks=pytest.mark.slow if case[1] in ('confusion_matrix.py', 'benchmark.py') else (),
        )
        for case in TOOLS
    ],
)
def test_openmmlab_analysis_tools_accept_our_configs(package, tool, arguments, says, measured, tmp_path, monkeypatch, capfd):
    if (package, tool) == (mmdet, 'benchmark.py') and not torch.cuda.is_available():
        pytest.skip('it calls CUDA, whatever the model is on')
    import matplotlib

    matplotlib.use('agg')
    folder, made, log = measured
    config, checkpoint = made[package.__name__]
    if 'PREDICTIONS' in arguments:
        ours = ['test.py', str(config), checkpoint, '--work-dir', str(tmp_path / 'work'), '--out', str(folder / 'mmdet.pkl')]
        if package is mmseg:
            ours = [
                'predict.py',
                str(config),
                checkpoint,
                str(folder / 'mini/ADEChallengeData2016/images/validation'),
                '--out',
                str(folder / 'predicted'),
                '--save',
                'labels',
                '--no-pictures',
            ]
        monkeypatch.setattr(sys, 'argv', ours)
        with pytest.raises(SystemExit, match='0'):
            runpy.run_path(str(ROOT / 'tools' / ours[0]), run_name='__main__')
    predictions = folder / ('mmdet.pkl' if package is mmdet else 'predicted/labels')
    names = dict(CONFIG=config, CHECKPOINT=checkpoint, LOG=log, PREDICTIONS=predictions)
    words = [str(names.get(word, word.replace('OUT', str(tmp_path)))) for word in arguments.split()]
    monkeypatch.setattr(sys, 'argv', [tool, *words])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(Path(package.__file__).parent / '.mim/tools/analysis_tools' / tool), run_name='__main__')
    printed = ''.join(capfd.readouterr())
    if says:
        assert re.search(says, printed), printed[-1000:]
    else:
        assert [path for path in tmp_path.rglob('*') if path.suffix in ('.png', '.jpg')], printed[-1000:]


def test_the_predictor_draws_a_picture_from_config_and_checkpoint(picture, tmp_path):
    from mmvitscale.inference import Predictor

    _, path = checkpoint_of(SEGMENTATION, tmp_path)
    drawn = Predictor(load_config(SEGMENTATION), path).draw(picture)
    assert drawn.width == 96 and drawn.height >= 96 and len(set(drawn.getdata())) > 20


def test_mmpretrain_apis_load_our_classifiers(picture, tmp_path):
    from mmpretrain import ImageClassificationInferencer, get_model

    config = str(ROOT / 'configs/mini/swinv2_classifier_mini_96_w6.py')
    model, path = checkpoint_of(config, tmp_path)
    loaded = get_model(config, pretrained=path)
    assert same(loaded, model)
    assert ImageClassificationInferencer(loaded)(picture)[0]['pred_label'] in range(6)
