import json

import pytest

from mmvitscale.analysis.logs import read_log
from mmvitscale.errors import InputError

pytestmark = pytest.mark.unit


def write(folder, *records):
    path = folder / 'vis_data/scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text('\n'.join(record if isinstance(record, str) else json.dumps(record) for record in records))


def test_parts_of_an_interrupted_run_are_joined_and_a_cut_line_is_left_out(tmp_path):
    write(tmp_path / 'run0', dict(step=10, loss=3.0, lr=0.1), dict(step=20, loss=2.5, lr=0.1), '{"step": 30, "lo')
    write(
        tmp_path / 'run1',
        dict(step=20, loss=2.0, lr=0.1),
        '',
        dict(step=30, loss=1.0, lr=0.1),
        dict(step=30, mIoU=50.0),
        dict(step=30, **{'amplitude/last': 2.0}),
    )
    log = read_log(tmp_path)
    assert log.curve('loss') == ([10, 20, 30], [3.0, 2.0, 1.0]) and log.curve('mIoU') == ([30], [50.0])
    assert log.curve('nothing') == ([], [])
    assert log.names() == ['loss', 'lr'] and log.names(training=False) == ['mIoU', 'amplitude/last']
    assert len(log.notes) == 1 and 'line 3 of ' in log.notes[0]
    assert read_log(tmp_path / 'run1').curve('loss')[0] == [20, 30]


def test_folders_without_readable_logs_are_refused(tmp_path):
    with pytest.raises(InputError, match='holds no logs'):
        read_log(tmp_path)
    write(tmp_path / 'run', '{"step": 3')
    with pytest.raises(InputError, match='no line that can be read'):
        read_log(tmp_path)
