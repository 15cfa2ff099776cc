"""What the tools have in common: values of options, names of models, what is printed."""

import argparse
import json
import logging

import mmengine.logging
import numpy as np
import pytest
import torch

from mmvitscale.cli import ConfigOptions, add_models, distinct_labels, models_of, save_figure, without_import_remarks
from mmvitscale.errors import InputError
from mmvitscale.utils.json_text import json_text

pytestmark = pytest.mark.unit


def option(value):
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions)
    return parser.parse_args(['--cfg-options', f'a.b={value}']).cfg_options['a.b']


@pytest.mark.parametrize(
    'text, value',
    [
        ('1', 1),
        ('1e-3', 0.001),
        ('true', True),
        ('None', None),
        ('', ''),
        ('1,2', [1, 2]),
        ('[(1,2),[a,b],c]', [(1, 2), ['a', 'b'], 'c']),
        ('(1)', (1,)),
        ('[]', []),
        ("{'type':'EMAHook','x':(1,2)}", dict(type='EMAHook', x=(1, 2))),
        ("[{'type':'EMAHook'}]", [dict(type='EMAHook')]),
        # Text is not code: braces, spaces, quotes, backslashes and = inside of it.
        ('/x/{y}', '/x/{y}'),
        ('{y}/x', '{y}/x'),
        ('[/x/{y}, /z]', ['/x/{y}', '/z']),
        ('/my data/x', '/my data/x'),
        ('[traffic light, stop sign]', ['traffic light', 'stop sign']),
        ("['light, red','it\\'s']", ['light, red', "it's"]),
        ("('a','b')", ('a', 'b')),
        ("'a','b'", ['a', 'b']),
        ("['a',b]", ['a', 'b']),
        ("'light, red'", 'light, red'),
        ('"it\'s, so"', "it's, so"),
        ("'007'", '007'),
        ("it's", "it's"),
        ('b=c', 'b=c'),
        ('C:\\new\\x', 'C:\\new\\x'),
        ("'C:\\new, old'", 'C:\\new, old'),
        ("{'p':'a\\d'}", dict(p='a\\d')),
        ('[a]/x', '[a]/x'),
        ('[1],[2]', [[1], [2]]),
    ],
)
def test_values_of_options_are_what_is_written(text, value):
    found = option(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize('text', ['[0,1', "{'a':1", "{{'a':1}}", '{a}', "['a,b',c", '/x/(a,b', '((' * 999 + ','])
def test_values_that_end_in_their_midst_are_refused_with_how_to_quote(text):
    with pytest.raises(InputError, match='cannot be read; quote lists and dicts .*, and text with commas or brackets'):
        option(text)


@pytest.mark.parametrize(
    'paths, labels',
    [
        (['a/x'], ['x']),
        (['a/x', 'b/x'], ['a/x', 'b/x']),
        (['1/a/x', '2/a/x', '1/b/x'], ['1/a/x', '2/a/x', 'b/x']),
        (['x', 'a/x', 'x'], ['x', 'a/x', 'x 2']),
        (['/a/x', 'a/x'], ['/a/x', 'a/x']),
    ],
)
def test_no_two_paths_have_one_label(paths, labels):
    assert distinct_labels(paths) == labels


def test_no_two_models_of_a_command_have_one_label():
    parser = argparse.ArgumentParser()
    add_models(parser)
    command = 'c.py 1/w/a.pth --compare-with c.py 2/w/a.pth --compare-with c.py 1/w/a.pth x=1 --compare-with c.py 1/w/a.pth x=2'
    labels = [model.label for model in models_of(parser.parse_args(command.split()))]
    assert labels == ['1/w/a.pth', '2/w/a.pth', '1/w/a.pth 2 x=1', '1/w/a.pth 3 x=2']


def test_results_are_valid_json_whatever_they_hold():
    content = dict(
        nan=float('nan'),
        inf=[float('inf'), np.float32('nan')],
        scalar=torch.tensor(2, dtype=torch.bfloat16),
        matrix=np.eye(2),
        kind=torch.float32,
        **{'a$<&': {1: {2}, None: None, ('a', 1): True}},
    )

    def refuse(name):
        raise AssertionError(name)

    assert json.loads(json_text(content), parse_constant=refuse) == {
        'nan': None,
        'inf': [None, None],
        'scalar': 2.0,
        'matrix': [[1.0, 0.0], [0.0, 1.0]],
        'kind': 'torch.float32',
        'a$<&': {'1': [2], 'null': None, "('a', 1)": True},
    }
    with pytest.raises(ValueError, match='have the same text'):
        json_text({1: 0, '1': 0})


def test_a_figure_that_cannot_be_drawn_leaves_the_one_before(tmp_path):
    class Figure:
        def savefig(self, path, **options):
            path.write_text('half')
            raise RuntimeError('killed')

    (tmp_path / 'a.png').write_text('before')
    with pytest.raises(RuntimeError):
        save_figure(Figure(), tmp_path / 'a.png')
    assert [path.name for path in tmp_path.iterdir()] == ['a.png'] and (tmp_path / 'a.png').read_text() == 'before'


def test_remarks_of_imports_are_left_out_and_nothing_else(capsys):
    lines, logger = [], logging.getLogger('DeepSpeed')
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger.addHandler(handler)
    before = mmengine.logging.print_log
    try:
        with without_import_remarks():
            mmengine.logging.print_log('Could not import OneDL. Skipping OneDL datasets.', level=logging.DEBUG)
            mmengine.logging.print_log('Could not import mmcv', level=logging.DEBUG)
            logger.warning('Setting accelerator to CPU. If you have GPU')
            logger.warning('something is wrong')
    finally:
        logger.removeHandler(handler)
    assert capsys.readouterr().out == 'Could not import mmcv\n' and lines == ['something is wrong']
    assert mmengine.logging.print_log is before
