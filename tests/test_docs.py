"""Every command of the documentation is one that works.

What the synthetic mini dataset and a small model of random weights can stand in for runs as it is; names in capitals stand for
files that are made here. A training is built, whole recipes too, and not carried out; the few commands that measure for
minutes are read by their own parser and stopped there.
"""

import json
import re
import runpy
import shlex
import sys
from importlib.metadata import metadata
from pathlib import Path

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmvitscale.analysis.nonfinite import pack
from mmvitscale.config.embedded import META_KEY, embed_config
from mmvitscale.config.loading import load_config
from mmvitscale.datasets import mini
from mmvitscale.datasets.formats.registry import FORMATS, convert_dataset
from mmvitscale.engine import runner, training
from tests.helpers.commands import ROOT
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.integration

PAGES = [
    ROOT / 'README.md',
    ROOT / 'CONTRIBUTING.md',
    *sorted((ROOT / 'docs').glob('*.md')),
    *sorted((ROOT / 'configs').rglob('README.md')),
]
# Minutes, or another machine: only what their parsers say.
PARSED = (
    'pretraining_chain.py',
    'position_bias_study.py',
    'benchmark.py',
    'install_mmcv_ops.py',
    'window_transfer.py',
    'memory_plan.py',
    'token_transfer.py',
)


def commands_of(page):
    for block in re.findall(r'^```bash\n(.*?)^```', page.read_text(), re.S | re.M):
        for line in block.replace('\\\n', ' ').splitlines():
            command = shlex.split(line, comments=True)
            if command:
                yield shlex.join(command)


# Page by page, in their order, each once.
COMMANDS = [
    (command, page)
    for command, page in {
        command: page.relative_to(ROOT).as_posix() for page in reversed(PAGES) for command in reversed(list(commands_of(page)))
    }.items()
][::-1]


def programs():
    """Each page or notebook with Python in it -> the Python."""
    for page in PAGES:
        blocks = re.findall(r'^```python\n(.*?)^```', page.read_text(), re.M | re.S)
        yield from [(page.name, '\n'.join(blocks))] if blocks else []
    for notebook in sorted((ROOT / 'docs').glob('*.ipynb')):
        cells = [cell['source'] for cell in json.loads(notebook.read_text())['cells'] if cell['cell_type'] == 'code']
        yield notebook.name, '\n'.join(''.join(source) for source in cells)


@pytest.mark.parametrize('page, program', [pytest.param(*found, id=found[0]) for found in programs()])
def test_every_documented_import_resolves(page, program):
    imports = re.findall(r'^ *(?:from mmvitscale[\w.]* import .*|import mmvitscale[\w.]*)$', program, re.M)
    for line in imports:
        exec(line.strip(), {})
    assert imports or 'mmvitscale' not in re.findall(r'(?:import|from) (\w+)', program)


def test_commands_are_found_in_every_part_of_the_documentation():
    assert len(COMMANDS) > 50 and {page.split('/')[0] for _, page in COMMANDS} == {
        'README.md',
        'CONTRIBUTING.md',
        'docs',
        'configs',
    }


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A folder with what the commands name: scenes, a checkpoint for each of the small configs, a large image."""
    folder = tmp_path_factory.mktemp('docs')
    torch.manual_seed(0)
    mini.write_dataset(folder / 'data/mini', train=8, val=2, size=64)
    (folder / 'data/cells').symlink_to(folder / 'data/mini/coco')
    for name in set(FORMATS) - {'coco', 'masks'}:
        convert_dataset(folder / 'data/mini/coco', folder / 'data' / name, name)
    for name in ('swinv2_upernet_mini', 'deepvit_upernet_mini', 'swinv2_upernet_mini_96_w6', 'swinv2_retinanet_mini'):
        cfg = load_config(name)
        init_default_scope(cfg.default_scope)
        model = randomise(MODELS.build(cfg.model))
        dataset = cfg.test_dataloader.dataset
        meta = dict(dataset_meta=dict(dataset.metainfo), **{META_KEY: embed_config(cfg)})
        torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / f'{name}.pth')
        if name == 'swinv2_upernet_mini':
            sample = SegDataSample(gt_sem_seg=PixelData(data=torch.zeros(1, 64, 64, dtype=torch.long)))
            sample.set_metainfo(dict(img_shape=(64, 64)))
            batch = dict(inputs=[torch.zeros(3, 64, 64, dtype=torch.uint8)] * 2, data_samples=[sample, sample.clone()])
            torch.save(dict(state_dict=model.state_dict(), meta=dict(iter=1), batch=pack(batch)), folder / 'non_finite.pth')
    import cv2
    import numpy as np

    cv2.imwrite(str(folder / 'aerial.tif'), np.random.default_rng(0).integers(0, 255, (96, 160, 3), dtype=np.uint8))
    for name in ('configs', 'tools', 'constraints.txt'):
        (folder / name).symlink_to(ROOT / name)
    return folder


def filled_in(command, place, out):
    """The command with files for its placeholders, as arguments."""
    scenes = place / 'data/mini/ADEChallengeData2016/images/validation'
    arguments = []
    for argument in shlex.split(command):
        config = next(
            (name for name in ('deepvit_upernet_mini', 'swinv2_upernet_mini_96_w6') if name in command), 'swinv2_upernet_mini'
        )
        known = {
            'CONFIG': config,
            'CONFIG2': config,
            'CHECKPOINT': place / f'{config}.pth',
            'CHECKPOINT_BOXES': place / 'swinv2_retinanet_mini.pth',
            'CHECKPOINT2': place / f'{config}.pth',
            'IMAGES': scenes,
            'IMAGE': scenes / 'scene_00000.jpg',
            'FOLDER': scenes,
            'D': out / 'd',
            'pictures': out / 'pictures',
            'files': place / 'files',
            'maps': place / 'maps',
            'vino': place / 'vino',
            'OPTIONS': 'model.backbone.arch.depth=24',
            'aerial.tif': place / 'aerial.tif',
            'POST': out / 'post',
            'WORK_DIR': place,
            'NON_FINITE': place / 'non_finite.pth',
            'SRC': place / f'{config}.pth',
        }
        value = known.get(argument, argument)
        value = value if value != 'data_root=PATH' else f'data_root={place}/data/mini/ADEChallengeData2016'
        value = re.sub(r'=(?:/data/coco|/data/ADEChallengeData2016)$', f'={place}/data/mini', str(value))
        value = value.replace('checkpoint=CHECKPOINT', f'checkpoint={place}/{config}.pth')
        arguments.append(value)
    return arguments


def makers(command, page, place):
    """Earlier commands of the page whose output this one reads, where they have not run in this worker."""
    for earlier, its_page in COMMANDS:
        if earlier == command:
            return
        made = re.search(r' --out (\S+)', earlier)
        if its_page == page and made and made[1] in shlex.split(command) and not (place / made[1]).exists():
            yield from makers(earlier, page, place)
            yield earlier


class Stop(Exception):
    """The training that was asked for stands."""


def run(arguments, place, monkeypatch, capfd):
    """A Python tool in this process; returns its exit status and error output."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, 'argv', arguments)
    MMLogger._instance_dict.clear()
    with pytest.raises((SystemExit, Stop)) as stop:
        runpy.run_path(str(ROOT / arguments[0]), run_name='__main__')
    return 0 if stop.type is Stop else stop.value.code, capfd.readouterr().err


def half_a_minute(command, page):
    return page == 'docs/export.md' or 'make_mini_dataset.py' in command


@pytest.mark.parametrize(
    'command, page',
    [
        pytest.param(
            command, page, id=f'{page}: {command[:60]}', marks=pytest.mark.slow if half_a_minute(command, page) else ()
        )
        for command, page in COMMANDS
    ],
)
def test_every_documented_command_is_valid(command, page, place, tmp_path, monkeypatch, capfd):
    for earlier in makers(command, page, place):
        check_tool(filled_in(earlier, place, tmp_path)[1:], place, tmp_path, monkeypatch, capfd)
    arguments = filled_in(command, place, tmp_path)
    while '=' in arguments[0]:  # NNODES=2 ...
        assert re.fullmatch(r'[A-Z_]+=\S+', arguments[0])
        del arguments[0]
    program = arguments[0]
    if program == 'make':
        assert re.search(rf'^{arguments[1]}:', (ROOT / 'Makefile').read_text(), re.M)
    elif program == 'pip':
        extras = re.findall(r'\.\[(.+)\]', command)
        assert set(extras) <= set(metadata('mmvitscale').get_all('Provides-Extra'))
        assert extras or arguments[-1].split(' ')[0] in (ROOT / 'constraints.txt').read_text()
    elif program == 'docker':
        assert (ROOT / arguments[arguments.index('-f') + 1]).is_file()
    elif program == '.venv/bin/pre-commit':
        assert (ROOT / '.pre-commit-config.yaml').is_file()
    elif program == 'bash':
        check_launcher(arguments, place)
    else:
        assert program == 'python', f'who runs {program}?'
        check_tool(arguments[1:], place, tmp_path, monkeypatch, capfd)


def check_launcher(arguments, place):
    """Of the scripts: that they are there, and that training takes what is handed on to it. They run in test_launch.py."""
    script = ROOT / arguments[1]
    assert script.is_file()
    rest = arguments[4:] if 'slurm' in script.name else arguments[2:]
    load_config(rest[0])
    if 'slurm' not in script.name:
        assert rest[1].isdigit()
        rest = [rest[0], *rest[2:]]
    elif script.name == 'slurm_train.sh':
        rest = [rest[0], '--work-dir', *rest[1:]]
    parse('tools/test.py' if script.name.endswith('test.sh') else 'tools/train.py', rest)


def parse(tool, arguments):
    """Whether the tool's own parser takes the arguments."""
    before, sys.argv = sys.argv, [tool, *arguments]
    try:
        return runpy.run_path(str(ROOT / tool))['parse_args']()
    finally:
        sys.argv = before


def check_tool(arguments, place, out, monkeypatch, capfd):
    tool = arguments[0]
    monkeypatch.chdir(place)
    if Path(tool).name in PARSED:
        namespace = runpy.run_path(str(ROOT / tool))
        if 'parse_args' in namespace:
            parse(tool, arguments[1:])
        else:
            assert callable(namespace['main']) and len(arguments) == 1
        return
    if tool == 'tools/train.py':
        monkeypatch.setattr(runner.Runner, 'train', stop)
        monkeypatch.setattr(training, 'check_datasets', lambda *args: None)
        arguments = [*arguments, *([] if '--work-dir' in arguments else ['--work-dir', str(out / 'work')])]
        if 'cfg-options' not in ' '.join(arguments) or 'data_root' in ' '.join(arguments):
            check_recipe(arguments[1])
    if 'analysis' not in tool and tool.endswith(('test.py', 'predict.py')) and 'work_dirs' in arguments[1]:
        name = Path(arguments[1]).parent.name
        if name != 'cells':  # the page's own config
            check_recipe(name)  # with the checkpoint of a training of weeks, and its config
        arguments[1] = str(place / 'swinv2_upernet_mini.pth')
    elif 'analysis' not in tool and tool.endswith(('test.py', 'predict.py')) and 'work_dirs' in arguments[2]:
        check_recipe(arguments[1])
        arguments[1:3] = ['swinv2_upernet_mini', str(place / 'swinv2_upernet_mini.pth')]
        if 'mask_rcnn' in arguments[1]:
            arguments[1:3] = ['swinv2_retinanet_mini', str(place / 'swinv2_retinanet_mini.pth')]
    elif tool.endswith('predict.py') and 'coco' in arguments[1]:
        check_recipe(arguments[1])
        arguments[1:3] = ['swinv2_retinanet_mini', str(place / 'swinv2_retinanet_mini.pth')]
    absent = [
        argument
        for argument in arguments
        if '.pth' in argument and not Path(argument.split('=')[-1]).is_file() and '--to' not in arguments
    ]
    if absent or any('work_dirs' in argument for argument in arguments):
        parse(tool, arguments[1:])  # of checkpoints that trainings of hours made
        return
    arguments += ['--work-dir', str(out)] if tool == 'tools/test.py' else []
    if tool == 'tools/report.py' or '512' in arguments:
        parse(tool, arguments[1:])
        return
    code, errors = run(arguments, place, monkeypatch, capfd)
    assert code == 0, errors[-2000:]


def stop(*args, **kwargs):
    raise Stop


def check_recipe(name):
    """A recipe that a page names is there, and its model can be built."""
    cfg = load_config(name)
    cfg.model.backbone.pop('init_cfg', None)
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        assert sum(p.numel() for p in MODELS.build(cfg.model).parameters()) > 1e6
