"""mmpretrain's scope through the tools: masked pretraining, classification, and what follows from them."""

import json
import re

import cv2
import pytest
import torch

from mmvitscale.config.loading import load_config
from mmvitscale.datasets import mini
from mmvitscale.inference import build_model
from tests.helpers.commands import FOREGROUND
from tests.helpers.loaded import load

pytestmark = pytest.mark.integration

TINY = [
    'model.backbone.arch.embed_dims=8',
    'model.backbone.arch.depths=(1,1,1,1)',
    'model.backbone.arch.num_heads=(1,1,2,2)',
]
SIMMIM, CLASSIFIER = 'configs/mini/swinv2_simmim_mini_96_w6.py', 'configs/mini/swinv2_classifier_mini_96_w6.py'
DENSE = 'configs/mini/swinv2_upernet_mini_96_w6.py'
HEADS = {
    SIMMIM: ['model.neck.in_channels=64'],
    CLASSIFIER: ['model.head.in_channels=64'],
    DENSE: [
        'model.decode_head.in_channels=[8,16,32,64]',
        'model.decode_head.channels=8',
        'model.auxiliary_head.in_channels=32',
        'model.auxiliary_head.channels=8',
    ],
}


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return mini.write_dataset(tmp_path_factory.mktemp('data') / 'mini', train=6, val=4, size=96)


@pytest.fixture
def options(scenes):
    """Options that make a mini config of these six a matter of seconds."""

    def options(config, iters=None):
        own = [
            f'data_root={scenes}/ADEChallengeData2016',
            *TINY,
            *HEADS[config],
            'train_dataloader.batch_size=2',
            *(option for option in FOREGROUND if 'train' in option or config != SIMMIM),
        ]
        if iters:
            own += [
                f'train_cfg.max_iters={iters}',
                f'default_hooks.checkpoint.interval={iters}',
                'default_hooks.logger.interval=1',
                *([] if config == SIMMIM else [f'train_cfg.val_interval={iters}']),
            ]
        return own

    return options


def saved(config, options, path):
    parsed = dict(option.split('=', 1) for option in options(config) if option.startswith('model.'))
    torch.save(
        dict(state_dict=build_model(load_config(config, {key: eval(value) for key, value in parsed.items()})).state_dict()),
        path,
    )
    return path


def test_simmim_weights_continue_to_classification_and_segmentation(run_here, options, scenes, tmp_path):
    """Masked pretraining, its pictures, classification from it, segmentation from that with twice the windows."""

    def run(*command):
        code, out, err = run_here(*command)
        assert not code, out + err
        return out + err

    def init(checkpoint):
        return ['model.backbone.init_cfg.type=Pretrained', f'model.backbone.init_cfg.checkpoint={checkpoint}']

    logged = run('tools/train.py', SIMMIM, '--work-dir', tmp_path / 'a', '--cfg-options', *options(SIMMIM, 2))
    first = tmp_path / 'a/iter_2.pth'
    assert 'loss: ' in logged and first.is_file()
    images = scenes / 'ADEChallengeData2016/images/validation'
    logged = run('tools/predict.py', SIMMIM, first, images, '--out', tmp_path / 'pictures', '--cfg-options', *options(SIMMIM))
    assert logged.count('(masked, reconstructed, original; loss') == 4
    masked, filled, original = (
        cv2.imread(str(tmp_path / 'pictures/scene_00000.png'))[:, i * 96 : i * 96 + 96] for i in range(3)
    )
    hidden = (masked != original).any(-1)
    assert 0.5 < hidden.mean() < 0.7 and (filled == original)[~hidden].all() and (filled != original)[hidden].any()

    logged = run(
        'tools/train.py', CLASSIFIER, '--work-dir', tmp_path / 'b', '--cfg-options', *options(CLASSIFIER, 2), *init(first)
    )
    assert re.search(
        r'3 unexpected \(neck.decoder.0.weight, neck.decoder.0.bias, mask_token\), missing \(initialised\): none', logged
    )
    second = tmp_path / 'b/iter_2.pth'
    logged = run(
        'tools/test.py',
        CLASSIFIER,
        second,
        '--work-dir',
        tmp_path / 't',
        '--out',
        tmp_path / 'metrics.json',
        '--show-dir',
        tmp_path / 'shown',
        '--cfg-options',
        *options(CLASSIFIER),
    )
    assert 0 <= json.loads((tmp_path / 'metrics.json').read_text())['accuracy/top1'] <= 100
    assert len(list((tmp_path / 'shown').glob('*.png'))) == 4

    logged = run(
        'tools/train.py',
        DENSE,
        '--work-dir',
        tmp_path / 'c',
        '--cfg-options',
        *options(DENSE, 1),
        *init(second),
        'model.backbone.window_size=[12,12,12,6]',
    )
    assert '2 unexpected (head.fc.weight, head.fc.bias)' in logged and 'windows 6x6, 6x6, 6x6, 3x3 -> 12x12' in logged


def test_window_transfer_reports_a_metric_for_each_window(run_here, options, scenes, tmp_path):
    for config, size in ((DENSE, 192), (CLASSIFIER, 192)):
        checkpoint = saved(config, options, tmp_path / 'a.pth')
        code, out, err = run_here(
            'tools/analysis/window_transfer.py',
            config,
            checkpoint,
            '--windows',
            6,
            12,
            '--out',
            tmp_path / 'curve',
            '--cfg-options',
            *options(config),
        )
        assert not code, out + err
        result = json.loads((tmp_path / 'curve/window_transfer.json').read_text())
        assert result['metric'] == ('mIoU' if config == DENSE else 'accuracy/top1')
        assert [point['windows'] for point in result['points']] == [[6, 6, 6, 3], [12, 12, 12, 6]]
        assert [point['size'] for point in result['points']] == [96, size]
        assert (tmp_path / 'curve/window_transfer.png').is_file()


def test_amplitude_compares_the_blocks_of_two_models(run_here, options, scenes, tmp_path):
    own = [option for option in options(DENSE) if option.startswith('model.')]
    checkpoint = saved(DENSE, options, tmp_path / 'post.pth')
    image = scenes / 'ADEChallengeData2016/images/validation/scene_00000.jpg'
    code, out, err = run_here(
        'tools/analysis/amplitude.py',
        DENSE,
        checkpoint,
        image,
        '--out',
        tmp_path / 'out',
        '--compare-with',
        DENSE,
        checkpoint,
        *own,
        'model.backbone.window_size=3',
        '--cfg-options',
        *own,
    )
    assert not code, out + err
    models = json.loads((tmp_path / 'out/amplitude.json').read_text())
    assert len(models) == 2 and any('model.backbone.window_size=3' in label for label in models)
    amplitudes = models['/'.join(checkpoint.parts[-2:])]
    assert list(amplitudes) == [f'backbone.stages.{i}.blocks.0' for i in range(4)] and min(amplitudes.values()) > 0
    assert (tmp_path / 'out/amplitude.png').is_file()


def test_invalid_pretraining_input_is_refused_with_the_reason(error_of, options, tmp_path):
    out = ['--out', tmp_path / 'out']
    pretrained = saved(SIMMIM, options, tmp_path / 'simmim.pth')
    assert 'pretrains and has nothing to test; look at reconstructed images with tools/predict.py' in error_of(
        'tools/test.py', SIMMIM, pretrained
    )
    assert 'fine-tune from it with init_cfg' in error_of(
        'tools/test.py', CLASSIFIER, pretrained, '--work-dir', tmp_path / 't', '--cfg-options', *options(CLASSIFIER)
    )
    assert 'size mismatches (head.fc.weight is (6, 64) instead of (5, 64)' in error_of(
        'tools/test.py',
        CLASSIFIER,
        saved(CLASSIFIER, options, tmp_path / 'six.pth'),
        '--work-dir',
        tmp_path / 't',
        '--cfg-options',
        *options(CLASSIFIER),
        'model.head.num_classes=5',
        'model.data_preprocessor.num_classes=5',
        'test_dataloader.dataset.classes=[a,b,c,d,e]',
    )
    assert 'has images of 96 pixels, masked patches of 36 and patches of 4, but each is a multiple of the next' in error_of(
        'tools/train.py',
        SIMMIM,
        '--work-dir',
        tmp_path / 't',
        '--cfg-options',
        *options(SIMMIM),
        'train_dataloader.dataset.pipeline.4.mask_patch_size=36',
    )
    assert 'a mask of (24, 24) patches found for an image of (112, 112) pixels' in error_of(
        'tools/train.py',
        SIMMIM,
        '--work-dir',
        tmp_path / 't',
        '--cfg-options',
        *options(SIMMIM, 2),
        'train_dataloader.dataset.pipeline.1.scale=112',
    )
    assert 'model.head.num_classes is 7, but the train data set has 6 classes' in error_of(
        'tools/train.py',
        CLASSIFIER,
        '--work-dir',
        tmp_path / 't',
        '--cfg-options',
        *options(CLASSIFIER),
        'model.head.num_classes=7',
    )
    assert '2 --image-size found for 1 windows' in error_of(
        'tools/analysis/window_transfer.py', DENSE, pretrained, *out, '--windows', 6, '--image-size', 96, 192
    )
    assert 'has no test; give the config of a SwinV2' in error_of('tools/analysis/window_transfer.py', SIMMIM, pretrained, *out)
    assert 'has no windows' in error_of(
        'tools/analysis/window_transfer.py', 'configs/mini/vit_classifier_mini.py', pretrained, *out
    )
    assert 'it wants [CONFIG] CKPT' in error_of(
        'tools/analysis/amplitude.py', DENSE, pretrained, tmp_path, *out, '--compare-with', DENSE
    )
    assert load('swinv2_simmim_mini_96_w6').predict_pipeline  # what marks a config of masked pretraining
