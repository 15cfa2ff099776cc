"""tools/export.py, and its files in the place of a checkpoint in tools/test.py and tools/predict.py."""

import json

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from mmvitscale.config.loading import load_config
from mmvitscale.datasets import mini
from tests.helpers.commands import FOREGROUND
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.integration

CONFIG = 'configs/mini/swinv2_upernet_mini.py'


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A config of a small model, its checkpoint, and scenes."""
    folder = tmp_path_factory.mktemp('trained')
    torch.manual_seed(0)
    scenes = mini.write_dataset(folder / 'mini', train=4, val=2, size=64) / 'ADEChallengeData2016'
    cfg = load_config(
        CONFIG,
        {
            'data_root': str(scenes),
            'model.backbone.arch': dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2)),
            'model.decode_head.in_channels': [8, 16, 32, 64],
            'model.auxiliary_head.in_channels': 32,
            'model.data_preprocessor.test_cfg': dict(size_divisor=32),
        },
    )
    for option in FOREGROUND:
        name, value = option.split('=')
        cfg.merge_from_dict({name: eval(value)})
    cfg.dump(folder / 'small.py')
    init_default_scope(cfg.default_scope)
    model = randomise(MODELS.build(cfg.model))
    meta = dict(dataset_meta=dict(cfg.test_dataloader.dataset.metainfo))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / 'small.pth')
    return folder


def test_an_exported_file_gives_the_metrics_of_its_checkpoint(trained, run_here, tmp_path):
    config, checkpoint = trained / 'small.py', trained / 'small.pth'
    code, out, err = run_here('tools/export.py', config, checkpoint, '--out', tmp_path, '--image-size', '64x64', '--time', 2)
    assert code == 0, err
    assert 'small_64x64.onnx' in out and 'differs from PyTorch by' in out and 'median of 2: PyTorch' in out
    metrics = []
    for name, file in (('checkpoint', checkpoint), ('exported', tmp_path / 'small_64x64.onnx'), ('folder', tmp_path)):
        code, _, err = run_here(
            'tools/test.py', config, file, '--work-dir', tmp_path / 'work', '--out', tmp_path / f'{name}.json'
        )
        assert code == 0, err
        metrics.append(json.loads((tmp_path / f'{name}.json').read_text()))
    assert metrics[0]['aAcc'] == pytest.approx(metrics[1]['aAcc'], abs=0.05) and metrics[1] == metrics[2]
    images = trained / 'mini/ADEChallengeData2016/images/validation'
    code, _, err = run_here('tools/predict.py', config, tmp_path / 'small_64x64.onnx', images, '--out', tmp_path / 'pictures')
    assert code == 0 and len(list((tmp_path / 'pictures').glob('*.png'))) == 2, err


@pytest.mark.slow
def test_the_int8_export_command_succeeds(trained, run_here, tmp_path):
    code, out, err = run_here(
        'tools/export.py', trained / 'small.py', trained / 'small.pth', '--out', tmp_path, '--image-size', '64', '--int8', 3
    )
    assert code == 0 and 'small_64x64_int8.onnx' in out, err


def test_invalid_export_options_are_refused_with_the_reason(trained, error_of, tmp_path):
    start = ('tools/export.py', trained / 'small.py', trained / 'small.pth', '--out', tmp_path)
    assert 'neither --image-size nor --any-size was given' in error_of(*start)
    assert '--image-size 64x0 found, but a size is a side or HEIGHTxWIDTH' in error_of(*start, '--image-size', '64x0')
    assert '--image-size 0x64 found' in error_of(*start, '--image-size', '0x64')
    assert '--batch-size 0 found' in error_of(*start, '--image-size', '64x64', '--batch-size', 0)
    (tmp_path / 'small_64x64.onnx').write_bytes(b'')
    assert 'exists; give another --out, or --overwrite' in error_of(*start, '--image-size', '64x64')
    assert 'is exported already' in error_of(
        'tools/export.py', trained / 'small.py', tmp_path / 'small_64x64.onnx', '--out', tmp_path, '--image-size', '32x32'
    )
    assert 'cannot be read' in error_of(
        'tools/test.py', trained / 'small.py', tmp_path / 'small_64x64.onnx', '--work-dir', tmp_path / 'work'
    )
