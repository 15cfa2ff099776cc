"""What the tools of analysis measure and draw of a checkpoint."""

import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import DictAction

from mmvitscale.config.loading import load_config
from mmvitscale.inference import build_model
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.integration

SMALL = ['model.backbone.arch.depth=4', 'model.backbone.arch.re_attention=2', 'model.backbone.out_indices=[0,1,2,3]']
OPTIONS = {'deepvit_upernet_mini': SMALL, 'swinv2_upernet_mini': []}


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """Makes a checkpoint with random weights of a config, under options."""

    def save(config, *options):
        parsed = {key: DictAction._parse_iterable(value) for key, value in (option.split('=') for option in options)}
        path = tmp_path_factory.mktemp('weights') / 'a.pth'
        torch.save(dict(state_dict=randomise(build_model(load_config(config, parsed))).state_dict()), path)
        return path

    return save


@pytest.fixture(scope='module')
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp('images') / 'a.png'
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (140, 150, 3), dtype=np.uint8))
    return path


def cfg_options(options):
    return ['--cfg-options', *options] if options else []


@pytest.mark.parametrize('config, options', OPTIONS.items())
def test_attention_similarity_writes_a_matrix_and_figures(config, options, saved, image, run_here, tmp_path):
    checkpoint = saved(config, *options)
    code, out, err = run_here(
        'tools/analysis/attention_similarity.py', config, checkpoint, image, '--out', tmp_path, *cfg_options(options)
    )
    assert code == 0, err
    (result,) = json.loads((tmp_path / 'similarity.json').read_text()).values()
    similarity = np.array(result['similarity'], float)
    assert np.allclose(np.diag(similarity), 1) and result['blocks'] == len(similarity) == len(result['names'])
    assert f'mean similarity of different blocks {result["mean_similarity"]:.4f}' in out
    if config.startswith('swinv2'):  # two blocks a stage, one of them shifted; the last stage's map is one window
        assert [value is None for value in result['to_before']] == [True] * 7 + [False]
    else:
        assert [value is None for value in result['to_before']] == [True] + [False] * 3
    for name in ('similarity.png', 'curves.png'):
        assert cv2.imread(str(tmp_path / name)) is not None


def test_attention_similarity_compares_selected_layers_of_two_models(saved, image, run_here, error_of, tmp_path):
    checkpoint = saved('deepvit_upernet_mini', *SMALL)
    command = ['tools/analysis/attention_similarity.py', 'deepvit_upernet_mini', checkpoint, image, '--out', tmp_path]
    code, _, err = run_here(
        *command, '--layers', 0, 3, '--compare-with', 'deepvit_upernet_mini', checkpoint, *SMALL, *cfg_options(SMALL)
    )
    assert code == 0, err
    first, second = json.loads((tmp_path / 'similarity.json').read_text()).values()
    assert first == second and first['names'] == ['backbone.blocks.0', 'backbone.blocks.3']
    assert 'layer 4 found, but the backbone has the layers 0 to 3' in error_of(*command, '--layers', 0, 4, *cfg_options(SMALL))
    assert 'one layer found, but at least 2' in error_of(*command, '--layers', 0, *cfg_options(SMALL))


@pytest.mark.parametrize('config, options', OPTIONS.items())
def test_attention_maps_of_a_query_cover_its_window(config, options, saved, image, run_here, error_of, tmp_path):
    command = ['tools/analysis/attention_maps.py', config, saved(config, *options), image, '--out', tmp_path]
    code, out, err = run_here(*command, '--query', 75, 30, '--layers', 0, 1, *cfg_options(options))
    assert code == 0, err
    with np.load(tmp_path / 'attention_maps.npz') as maps:
        first = maps['layer_0']
    if config.startswith('swinv2'):
        assert first.shape == (1, 35, 38) and first.sum() == pytest.approx(1, abs=1e-5)
        ys, xs = np.nonzero(first[0])
        assert (ys.min(), ys.max(), xs.min(), xs.max()) == (0, 7, 16, 23)  # the window of token (7, 18)
    else:
        assert first.shape == (1, 8, 8)  # of a crop of 128 x 128
    assert cv2.imread(str(tmp_path / 'attention_maps.png')) is not None
    assert 'but ' in error_of(*command, '--query', 150, 0, *cfg_options(options))
    assert 'layer 99 found' in error_of(*command, '--layers', 99, *cfg_options(options))


def test_position_bias_compares_models_and_keeps_common_offsets(saved, run_here, error_of, tmp_path):
    checkpoint, table = saved('swinv2_upernet_mini'), saved('swinv2_upernet_mini', 'model.backbone.position_bias=table')
    command = ['tools/analysis/position_bias.py', 'swinv2_upernet_mini', checkpoint, '--out', tmp_path]
    code, out, err = run_here(
        *command, '--windows', 8, 16, '--compare-with', 'swinv2_upernet_mini', table, 'model.backbone.position_bias=table'
    )
    assert code == 0, err
    own, other = json.loads((tmp_path / 'position_bias.json').read_text()).values()
    assert [entry['position_bias'] for entry in (own[0], other[0])] == ['log_cpb', 'table']
    small, large = (np.array(entry['surface']) for entry in own)
    assert large.shape == (1, 31, 31) and np.allclose(large[:, 8:23, 8:23], small, atol=1e-5)  # the offset decides
    assert own[0]['outside'] is None and own[1]['outside'] is not None
    assert cv2.imread(str(tmp_path / 'position_bias.png')) is not None
    assert 'stage 4 found, but the backbone has the stages 0 to 3' in error_of(*command, '--stage', 4)
    assert 'block 2 found' in error_of(*command, '--block', 2)
    assert '--head 1 found' in error_of(*command, '--head', 1)
    vit = saved('deepvit_upernet_mini', *SMALL)
    assert 'has no SwinV2 backbone' in error_of(command[0], 'deepvit_upernet_mini', vit, '--out', tmp_path, *cfg_options(SMALL))


def test_get_flops_counts_of_stages_sum_to_the_backbone(run_here, error_of, tmp_path):
    code, out, err = run_here(
        'tools/analysis/get_flops.py', 'swinv2_upernet_mini', '--image-size', 64, 96, '--json', tmp_path / 'f'
    )
    assert code == 0, err
    parts = {part['name']: part for part in json.loads((tmp_path / 'f').read_text())['parts']}
    stages = [parts[f'stage {i}']['multiply_adds'] for i in range(4)]
    assert sum(stages) + parts['patch embedding']['multiply_adds'] == parts['backbone']['multiply_adds'] > 0
    assert parts['decode_head']['multiply_adds'] > 0 and 'decode_head' in out
    assert '--image-size 0 found' in error_of('tools/analysis/get_flops.py', 'swinv2_upernet_mini', '--image-size', 0)


def test_recalibrate_changes_only_the_re_attention_statistics(saved, image, run_here, tmp_path):
    """A test of what it writes takes it; no other weight changes."""
    checkpoint = saved('deepvit_upernet_mini', *SMALL)
    code, out, err = run_here(
        'tools/analysis/recalibrate.py',
        'deepvit_upernet_mini',
        checkpoint,
        image,
        '--image-size',
        128,
        192,
        '--out',
        tmp_path,
        '--cfg-options',
        *SMALL,
        'model.test_cfg.mode=whole',
    )
    assert code == 0, err
    assert '1 images, 65, 145 tokens' in out and 'blocks.3.attn    kept for 65 tokens' in out
    found = json.loads((tmp_path / 'exponents.json').read_text())
    assert [entry['tokens'] for entry in found.values()] == [[65, 145]] * 2
    assert cv2.imread(str(tmp_path / 'exponents.png')) is not None
    before, after = (torch.load(path, weights_only=False)['state_dict'] for path in (checkpoint, tmp_path / 'recalibrated.pth'))
    assert before.keys() == after.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed and all('.attn.var_norm.running_' in key or '.attn.token_law.' in key for key in changed)
    code, _, err = run_here(
        'tools/predict.py',
        'deepvit_upernet_mini',
        tmp_path / 'recalibrated.pth',
        image,
        '--out',
        tmp_path / 'predicted',
        '--cfg-options',
        *SMALL,
    )
    assert code == 0, err


def test_recalibrate_refuses_models_without_re_attention(saved, image, run_here, tmp_path):
    swin = 'swinv2_upernet_mini'
    code, _, err = run_here('tools/analysis/recalibrate.py', swin, saved(swin), image, '--out', tmp_path)
    assert code == 1 and 'no Re-attention' in err


def test_token_transfer_reports_a_metric_for_each_statistics_option(saved, run_here, tmp_path):
    from mmvitscale.datasets import mini

    root = mini.write_dataset(tmp_path / 'scenes', 1, 1, 96, object_scale=1.0) / 'ADEChallengeData2016'
    code, out, err = run_here(
        'tools/analysis/token_transfer.py',
        'deepvit_upernet_mini',
        saved('deepvit_upernet_mini', *SMALL),
        '--data-roots',
        root,
        '--statistics',
        'token_invariant',
        'running',
        '--crop',
        64,
        32,
        '--out',
        tmp_path / 'out',
        '--cfg-options',
        *SMALL,
    )
    assert code == 0, err
    found = json.loads((tmp_path / 'out' / 'token_transfer.json').read_text())
    assert set(found['results']) == {'slid', 'token_invariant', 'running'} and found['metric'] == 'mIoU'
    assert len(found['results']['token_invariant']['ADEChallengeData2016']) == 1
    code, _, err = run_here('tools/analysis/token_transfer.py', 'deepvit_upernet_mini', 'a.pth', '--out', tmp_path / 'other')
    assert code == 1 and 'give either --image-size or --data-roots' in err
