import json
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import DictAction

from mmvitscale.config import load_config
from mmvitscale.inference import build_model

ROOT = Path(__file__).parents[2]
SMALL = ['model.backbone.arch.depth=4', 'model.backbone.arch.re_attention=2', 'model.backbone.out_indices=[0,1,2,3]']


@pytest.mark.parametrize('config, options', [('deepvit_upernet_mini', SMALL), ('swinv2_upernet_mini', [])])
def test_similarity_of_a_checkpoint(config, options, tmp_path, monkeypatch, capsys):
    path = str(ROOT / f'configs/mini/{config}.py')
    parsed = {key: DictAction._parse_iterable(value) for key, value in (option.split('=') for option in options)}
    torch.save(dict(state_dict=build_model(load_config(path, parsed)).state_dict()), tmp_path / 'a.pth')
    cv2.imwrite(str(tmp_path / 'a.png'), np.random.default_rng(0).integers(0, 256, (140, 150, 3), dtype=np.uint8))
    command = ['tool', path, tmp_path / 'a.pth', tmp_path / 'a.png', '--out', tmp_path / 'out']
    monkeypatch.setattr(sys, 'argv', [*map(str, command), *(['--cfg-options', *options] if options else [])])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / 'tools/analysis/attention_similarity.py'), run_name='__main__')
    output = capsys.readouterr()
    if config.startswith('swinv2'):
        assert stop.value.code == 1 and 'has 0 blocks with attention over all tokens' in output.err
        return
    assert stop.value.code == 0, output.err
    result = json.loads((tmp_path / 'out/similarity.json').read_text())
    assert result['blocks'] == 4 and np.allclose(np.diag(result['similarity']), 1)
    assert f'mean similarity of different blocks {result["mean_similarity"]:.4f}' in output.out
    assert cv2.imread(str(tmp_path / 'out/similarity.png')) is not None
