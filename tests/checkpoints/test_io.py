import argparse
import io
import os
import sys
import types
import urllib.request

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmvitscale.checkpoints.io import expected_checksum, read_checkpoint
from mmvitscale.errors import InputError
from mmvitscale.utils.processes import is_first_process

pytestmark = pytest.mark.unit


class RunsCode:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_a_training_checkpoint_of_mmengine_is_read(tmp_path):
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    torch.save(
        dict(
            state_dict=dict(w=torch.ones(2)),
            message_hub=dict(loss=history),
            meta=dict(best=np.float64(0.5), palette=np.zeros((2, 3), np.uint8)),
        ),
        tmp_path / 'a.pth',
    )
    checkpoint = read_checkpoint(tmp_path / 'a.pth')
    assert torch.equal(checkpoint['state_dict']['w'], torch.ones(2))
    assert checkpoint['message_hub']['loss'].mean() == 1.5
    assert checkpoint['meta']['best'] == 0.5


def test_settings_of_published_checkpoints_are_read_as_plain_data(tmp_path, monkeypatch):
    module = types.ModuleType('yacs.config')
    module.CfgNode = type('CfgNode', (dict,), dict(__module__='yacs.config', __qualname__='CfgNode'))
    monkeypatch.setitem(sys.modules, 'yacs', types.ModuleType('yacs'))
    monkeypatch.setitem(sys.modules, 'yacs.config', module)
    node = module.CfgNode(MODEL=module.CfgNode(NAME='x'))
    node.__dict__['frozen'] = True
    torch.save(dict(model=dict(w=torch.ones(1)), config=node, args=argparse.Namespace(lr=0.1)), tmp_path / 'a.pth')
    monkeypatch.undo()
    checkpoint = read_checkpoint(tmp_path / 'a.pth')
    assert checkpoint['config']['MODEL']['NAME'] == 'x' and checkpoint['args'].lr == 0.1
    assert checkpoint['model']['w'] == 1


def test_code_in_a_file_does_not_run(tmp_path):
    marker = tmp_path / 'marker'
    for attack in (
        RunsCode(os.mkdir, str(marker)),
        RunsCode(getattr, torch.nn.Module, '__init__'),
        RunsCode(eval, f'open({str(marker)!r}, "w")'),
        RunsCode(getattr, HistoryBuffer, '__init__'),
    ):
        torch.save(dict(state_dict={}, extra=attack), tmp_path / 'a.pth')
        with pytest.raises(InputError, match='would run code'):
            read_checkpoint(tmp_path / 'a.pth')
    assert not marker.exists()


def test_files_that_are_not_checkpoints_are_refused(tmp_path):
    torch.save(dict(w=torch.ones(1000)), tmp_path / 'whole.pth')
    whole = (tmp_path / 'whole.pth').read_bytes()
    for name, content in (
        ('cut.pth', whole[: len(whole) // 2]),
        ('empty.pth', b''),
        ('text.pth', b'<html>404</html>'),
        ('noise.pth', bytes(range(256)) * 9),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f'{name} is no PyTorch checkpoint or is damaged'):
            read_checkpoint(tmp_path / name)
    torch.save(torch.ones(2), tmp_path / 'tensor.pth')
    with pytest.raises(InputError, match='holds a Tensor'):
        read_checkpoint(tmp_path / 'tensor.pth')
    with pytest.raises(InputError, match='begins with torchvision://, but a path or an http.s. URL is expected'):
        read_checkpoint('torchvision://swin_v2_t')
    with pytest.raises(InputError, match='is not there'):
        read_checkpoint(tmp_path / 'nowhere.pth')


def test_paths_file_urls_and_home_relative_paths_are_read(tmp_path, monkeypatch):
    torch.save(dict(w=torch.ones(1)), tmp_path / 'a.pth')
    monkeypatch.setenv('HOME', str(tmp_path))
    for source in (tmp_path / 'a.pth', f'file://{tmp_path}/a.pth', '~/a.pth'):
        assert torch.equal(read_checkpoint(source)['w'], torch.ones(1))


@pytest.mark.parametrize(
    'name, expected',
    [
        ('swin_v2_t-b137f0e2.pth', 'b137f0e2'),
        ('mask_rcnn_20220803-e318968f.pth', 'e318968f'),
        ('mask_rcnn_20220803-03189681.pth', '03189681'),
        ('swinv2-00160000.pth', None),
        ('model-20240131.pth', None),
        ('model-20240131.pth#sha256=00160000', '00160000'),
    ],
)
def test_digits_in_a_file_name_are_no_checksum(name, expected):
    assert expected_checksum(f'https://example.org/{name}') == expected


@pytest.mark.parametrize('variables', [{}, {'SLURM_LOCALID': '1', 'SLURM_PROCID': '1'}, {'LOCAL_RANK': '1'}])
def test_a_process_on_its_own_downloads(variables, tmp_path, monkeypatch):
    """In a shell or an array of a Slurm job the variables are there, and the processes know nothing of each other."""
    for name in ('LOCAL_RANK', 'SLURM_LOCALID', 'SLURM_PROCID', 'RANK'):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    torch.save(dict(w=torch.ones(2)), tmp_path / 'a.pth')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))

    class Response(io.BytesIO):
        headers: dict = {}

    monkeypatch.setattr(urllib.request, 'urlopen', lambda url, timeout: Response((tmp_path / 'a.pth').read_bytes()))
    assert torch.equal(read_checkpoint('https://example.org/a.pth')['w'], torch.ones(2))
    assert is_first_process()
    monkeypatch.setattr(sys, 'argv', ['train.py', '--launcher', 'slurm'])
    assert is_first_process() == ('SLURM_PROCID' not in variables)
