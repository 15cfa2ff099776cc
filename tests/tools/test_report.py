"""What looks at a whole run: its page, its curves, its data and its mistakes."""

import base64
import html
import json
import re
import shutil

import cv2
import numpy as np
import pytest
import torch

from mmvitscale.datasets import mini
from mmvitscale.errors import InputError
from mmvitscale.inference import build_model
from tests.helpers.loaded import load
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.integration

SEGMENTATION, DETECTION, CLASSES = 'swinv2_upernet_mini', 'swinv2_mask_rcnn_mini', 'vit_classifier_mini'
SMALL_VIT = ['model.backbone.arch.depth=2']


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return mini.write_dataset(tmp_path_factory.mktemp('data') / 'mini', train=3, val=3, size=64)


def data_root(config, scenes):
    return scenes / ('coco' if config == DETECTION else 'ADEChallengeData2016')


def work_folder(path, config, options=()):
    """As a training leaves it, with random weights."""
    cfg = load(config)
    for option in options:
        key, value = option.split('=')
        cfg.merge_from_dict({key: int(value)})
    (path / 'run/vis_data').mkdir(parents=True)
    cfg.dump(path / f'{config}.py')
    records = [dict(step=i, loss=3.0 - i / 10, lr=0.1, time=0.5, memory=100, grad_norm=1.0) for i in range(1, 6)]
    records += [dict(step=5, mIoU=12.5, time=0.1), {'step': 5, 'attention/similarity': 0.5, 'amplitude/layer_00': 1.0}]
    (path / 'run/vis_data/scalars.json').write_text('\n'.join(map(json.dumps, records)) + '\n{"step": 6, "lo')
    (path / 'run/run.log').write_text(
        'System environment:\n    sys.platform: linux\n    numpy_random_seed: 0\nRuntime environment:\n'
    )
    torch.save(dict(state_dict=randomise(build_model(cfg)).state_dict()), path / 'best_mIoU_iter_5.pth')
    return path


@pytest.mark.parametrize(
    'config, options, sections',
    [
        (
            SEGMENTATION,
            [],
            ['Windows', 'Worst predictions', 'Best predictions', 'Classes', 'Confusion matrix', 'Position biases'],
        ),
        (DETECTION, [], ['Windows', 'Worst predictions', 'Confusion matrix', 'Position biases']),
        (CLASSES, SMALL_VIT, ['Worst predictions', 'Confusion matrix']),
        ('swinv2_simmim_mini_96_w6', [], ['Windows', 'Reconstructions', 'Position biases']),
    ],
)
def test_the_report_page_is_self_contained_for_every_task(config, options, sections, run_here, scenes, tmp_path):
    work = work_folder(tmp_path / 'work', config, options)
    code, logged, err = run_here(
        'tools/report.py', work, '--pictures', 1, '--cfg-options', f'data_root={data_root(config, scenes)}'
    )
    assert code == 0, err
    page = (work / 'report.html').read_text()
    found = re.findall('<h2>(.*?)</h2>', page)
    assert [title for title in found if title in sections] == sections and 'Curves' in found and 'Environment' in found
    assert 'mIoU 12.50' in page and 'Attention and activations' in found and 'best_mIoU_iter_5.pth' in page
    assert re.findall('<p class="missing">(.*?)</p>', page) == [
        f'line 8 of {work / "run/vis_data/scalars.json"} cannot be read and is left out'
    ]
    # Nothing is asked of a network or of another file, and every picture is one.
    targets = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert targets and all(target.startswith('data:') for target in targets)
    assert '<script' not in page and 'url(' not in page.split('<pre>')[0]
    for kind, data in re.findall(r'src="data:image/([^;]+);base64,([^"]+)"', page):
        content = base64.b64decode(data)
        assert (
            content.startswith(b'<?xml') if kind == 'svg+xml' else cv2.imdecode(np.frombuffer(content, np.uint8), 1) is not None
        )
    assert 'viewport' in page


def test_the_report_page_leaves_out_what_is_missing(run_here, error_of, scenes, tmp_path):
    work = work_folder(tmp_path / 'work', SEGMENTATION)
    code, _, err = run_here('tools/report.py', work, '--out', tmp_path / 'a.html', '--cfg-options', 'data_root=/nowhere')
    assert code == 0 and 'the test data cannot be used' in err
    page = (tmp_path / 'a.html').read_text()
    assert 'Curves' in page and 'Position biases' in page and 'Worst' not in page and '/nowhere' in page
    (work / 'best_mIoU_iter_5.pth').unlink()
    code, _, err = run_here('tools/report.py', work, '--out', tmp_path / 'b.html')
    assert code == 0 and 'no checkpoint is there' in err and 'Curves' in (tmp_path / 'b.html').read_text()
    (work / f'{SEGMENTATION}.py').unlink()
    assert 'holds logs but no config' in error_of('tools/report.py', work)
    shutil.rmtree(work / 'run')
    assert 'holds no logs' in error_of('tools/report.py', work)
    assert 'is not there' in error_of('tools/report.py', tmp_path / 'nothing')


# In pure Python: types are classes.
PURE = """
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import DefaultSampler
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs
from mmseg.models import EncoderDecoder, FCNHead, SegDataPreProcessor

from mmvitscale.models import SwinTransformerV2

default_scope = 'mmseg'
names = {names!r}
dataset = dict(
    type=BaseSegDataset, data_root={root!r}, metainfo=dict(classes=names, palette=[[20 * i, 0, 0] for i in range(10)]),
    data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'), reduce_zero_label=True,
    pipeline=[dict(type=LoadImageFromFile), dict(type=LoadAnnotations), dict(type=PackSegInputs)])
test_dataloader = dict(
    batch_size=4, num_workers=0, sampler=dict(type=DefaultSampler, shuffle=False), dataset=dataset)
val_dataloader = train_dataloader = test_dataloader
model = dict(
    type=EncoderDecoder, data_preprocessor=dict(type=SegDataPreProcessor, size=(64, 64)),
    backbone=dict(
        type=SwinTransformerV2, arch=dict(embed_dims=8, depths=(1, 1), num_heads=(1, 1)), window_size=4, out_indices=(1,)),
    decode_head=dict(type=FCNHead, in_channels=16, channels=8, num_convs=1, in_index=0, num_classes=10),
    train_cfg=None, test_cfg=dict(mode='whole'))
"""
NAMES = ['a$_$b', '<b>c&d</b>', 'é_ü$', '_d', '$x^{', '日本', *'ghij']


def test_reports_of_a_pure_python_config_show_names_as_they_are(run_here, scenes, tmp_path):
    config, work = tmp_path / 'pure.py', tmp_path / 'work'
    config.write_text(PURE.format(names=NAMES, root=str(scenes / 'ADEChallengeData2016')))
    (work / 'run/vis_data').mkdir(parents=True)
    shutil.copy(config, work)
    checkpoint = work / 'best_mIoU_iter_5.pth'
    torch.save(dict(state_dict=randomise(build_model(load(str(config)))).state_dict()), checkpoint)
    records = [dict(step=1, loss=float('nan'), time=0.0), {'step': 1, '_a$x$': 1.0, 'time': 0.4}]
    (work / 'run/vis_data/scalars.json').write_text('\n'.join(map(json.dumps, records)))
    code, _, err = run_here('tools/report.py', work, '--pictures', 1)
    assert code == 0, err
    page = (work / 'report.html').read_text()
    assert re.findall('<tr><td>([^<]*)</td><td class=number>', page) == [html.escape(name) for name in NAMES]
    assert '<td>SwinTransformerV2</td>' in page and '0.100 s, median, in batches of 4' in page
    drawings = [base64.b64decode(data).decode() for data in re.findall(r'svg\+xml;base64,([^"]+)"', page)]
    drawn = {html.unescape(text).strip() for drawing in drawings for text in re.findall('>([^<>]+)</text>', drawing)}
    assert drawn >= {*NAMES, '_a$x$'}
    code, _, err = run_here('tools/analysis/confusion_matrix.py', config, checkpoint, '--out', tmp_path / 'out')
    assert code == 0, err
    assert json.loads((tmp_path / 'out/confusion_matrix.json').read_text())['names'] == NAMES
    code, _, err = run_here('tools/analysis/analyze_logs.py', work, '--out', tmp_path / 'logs')
    assert code == 0, err
    assert list(json.loads((tmp_path / 'logs/logs.json').read_text()).values()) == [
        {
            'iterations': 1,
            'time': 0.0,
            'first_loss': None,
            'last_loss': None,
            '_a$x$': {'last': 1.0, 'highest': 1.0, 'lowest': 1.0},
        }
    ]
    code, out, err = run_here('tools/analysis/browse_dataset.py', config, '--out', tmp_path / 'browsed', '--number', 2)
    assert code == 0 and '2 of 3 images' in out, err


def test_a_report_that_cannot_be_written_leaves_the_one_before(scenes, tmp_path, monkeypatch):
    from mmvitscale.analysis import report

    work = work_folder(tmp_path / 'work', SEGMENTATION)
    (work / 'best_mIoU_iter_5.pth').unlink()
    (work / 'report.html').write_text('before')
    write = type(work).write_text

    def half(path, text, *arguments, **options):
        write(path, text[:100])
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(type(work), 'write_text', half)
    with pytest.raises(InputError, match=r'cannot write .*report.html \(No space left'):
        report.write_report(work, work / 'report.html')
    assert (work / 'report.html').read_text() == 'before' and not list(work.glob('.*'))


def test_logs_without_curves_and_with_broken_lines_are_summarised(run_here, tmp_path):
    path = tmp_path / 'work/run/vis_data/scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text('{"step": 1, "lr": null, "time": 0.0}\n{"step": Infinity, "loss": 1}\n[1]\n{"step": 2, "lo')
    code, out, err = run_here('tools/analysis/analyze_logs.py', tmp_path / 'work', '--out', tmp_path / 'out')
    assert code == 0 and err.count('cannot be read and is left out') == 3, err
    assert 'no loss or metric to draw' in out and [path.name for path in (tmp_path / 'out').iterdir()] == ['logs.json']


def test_names_are_not_markup(run_here, scenes, tmp_path):
    work = work_folder(tmp_path / '<b>work', SEGMENTATION)
    run_here('tools/report.py', work, '--pictures', 0, '--cfg-options', f'data_root={data_root(SEGMENTATION, scenes)}')
    assert '<b>' not in (work / 'report.html').read_text()


def test_analyze_logs_summarises_and_draws_the_curves(run_here, error_of, tmp_path):
    work = work_folder(tmp_path / 'work', SEGMENTATION)
    code, logged, err = run_here('tools/analysis/analyze_logs.py', work, '--out', tmp_path / 'out')
    assert code == 0 and 'line 8 of' in err and re.search(r'last_loss +2.5\n', logged)
    (summary,) = json.loads((tmp_path / 'out/logs.json').read_text()).values()
    assert summary['iterations'] == 5 and summary['time'] == 0.5 and summary['mIoU']['last'] == 12.5
    assert 'amplitude/layer_00' not in summary and cv2.imread(str(tmp_path / 'out/curves.png')) is not None
    assert '--keys nothing found, but the logs have loss' in error_of(
        'tools/analysis/analyze_logs.py', work, '--out', tmp_path / 'out', '--keys', 'nothing'
    )
    assert 'holds no logs' in error_of('tools/analysis/analyze_logs.py', tmp_path, '--out', tmp_path / 'out')


def test_ious_of_the_confusion_matrix_give_the_miou_of_testing(run_here, error_of, scenes, tmp_path):
    work = work_folder(tmp_path / 'work', SEGMENTATION)
    options = ['--cfg-options', f'data_root={data_root(SEGMENTATION, scenes)}']
    checkpoint = work / 'best_mIoU_iter_5.pth'
    run_here('tools/test.py', SEGMENTATION, checkpoint, '--work-dir', tmp_path / 't', '--out', tmp_path / 'm.json', *options)
    code, logged, err = run_here(
        'tools/analysis/confusion_matrix.py', SEGMENTATION, checkpoint, '--out', tmp_path / 'out', *options
    )
    assert code == 0, err
    content = json.loads((tmp_path / 'out/confusion_matrix.json').read_text())
    ious = [entry['iou'] for entry in content['per_class'] if entry['iou'] is not None]
    assert 100 * sum(ious) / len(ious) == pytest.approx(json.loads((tmp_path / 'm.json').read_text())['mIoU'], abs=0.006)
    assert content['unit'] == 'pixels' and cv2.imread(str(tmp_path / 'out/confusion_matrix.png')) is not None
    assert '--limit 0 found' in error_of(
        'tools/analysis/confusion_matrix.py', SEGMENTATION, checkpoint, '--out', tmp_path, '--limit', 0, *options
    )


@pytest.mark.parametrize('config', [SEGMENTATION, DETECTION, CLASSES, 'swinv2_upernet_mini_rgbd', 'swinv2_simmim_mini_96_w6'])
def test_browse_dataset_draws_the_requested_number_of_images(config, run_here, error_of, scenes, tmp_path):
    root = data_root(config, scenes)
    if config.endswith('rgbd'):
        root = mini.write_dataset(tmp_path / 'depth', train=3, val=1, size=128, depth=True) / 'ADEChallengeData2016'
    command = [
        'tools/analysis/browse_dataset.py',
        config,
        '--out',
        tmp_path / 'out',
        '--number',
        2,
        '--cfg-options',
        f'data_root={root}',
    ]
    code, logged, err = run_here(*command)
    assert code == 0, err
    pictures = [cv2.imread(str(path)) for path in sorted((tmp_path / 'out').glob('*.png'))]
    assert len(pictures) == 2 and '2 of 3 images of train' in logged
    assert all(picture.std() > 5 for picture in pictures)
    assert '--number 0 found' in error_of(*command[:4], '--number', 0)


def test_the_report_shows_the_first_batch_and_takes_the_best_checkpoint(run_here, scenes, tmp_path):
    work = work_folder(tmp_path / 'work', SEGMENTATION)
    (work / 'best_mIoU_iter_5.pth').rename(work / 'best.pth')
    (work / 'best_mIoU_iter_9.pth').write_bytes(b'of a training before')
    cv2.imwrite(str(work / 'train_batch.jpg'), np.zeros((40, 60, 3), np.uint8))
    root = data_root(SEGMENTATION, scenes)
    code, _, err = run_here('tools/report.py', work, '--pictures', 1, '--cfg-options', f'data_root={root}')
    page = (work / 'report.html').read_text()
    assert code == 0 and 'best.pth' in page and 'Windows' in page, err
    assert '<h2>Training images after augmentation</h2>' in page
    (work / 'train_batch.jpg').write_bytes(b'damaged')
    assert run_here('tools/report.py', work, '--cfg-options', f'data_root={root}')[0] == 0
    assert 'after augmentation' not in (work / 'report.html').read_text()
