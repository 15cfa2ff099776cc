from pathlib import Path

import cv2
import numpy as np
import pytest

from mmvitscale.errors import InputError
from mmvitscale.inference.output import (
    PredictOptions,
    check_length,
    check_places,
    output_names,
    write_array,
    write_json,
    write_picture,
)
from mmvitscale.utils.atomic_write import atomic_write

pytestmark = pytest.mark.unit


def names(*files):
    return list(output_names([Path('/r', file) for file in files], Path('/r')).values())


def test_output_names_mirror_the_folders_and_are_unique():
    assert names('cat.jpg', 'sub/cat.jpg') == ['cat', 'sub/cat']
    assert names('cat.jpg', 'cat.png', 'dog.jpg') == ['cat.jpg', 'cat.png', 'dog']
    assert names('cat.jpg', 'cat.png', 'cat.jpg.tif') == ['cat.jpg', 'cat.png', 'cat.jpg.tif']
    assert names('Cat.jpg', 'cat.png') == ['Cat.jpg', 'cat.png']  # one file where the case is ignored
    assert names('a.b/cat.jpg', 'v1.2.jpg') == ['a.b/cat', 'v1.2']
    assert names('clip.mp4', 'clip/000001.png') == ['clip.mp4', 'clip/000001']  # frames are in a folder
    assert names('Clip.mp4', 'clip/a/b.png', 'clip.png') == ['Clip.mp4', 'clip/a/b', 'clip.png']
    assert names('a.jpg', 'a.png/b.jpg') == ['a.jpg', 'a.png/b']  # a folder where the picture would be
    assert names('a.json.avi', 'a.jpg') == ['a.json', 'a.jpg']


def test_output_files_are_written_atomically(tmp_path):
    write_json(tmp_path / 'a/b.json', dict(x=1))
    write_array(tmp_path / 'a/b.npy', np.ones(3))
    labels = np.full((4, 4), 700, np.uint16)
    write_picture(tmp_path / 'a/b.png', labels)
    assert np.array_equal(cv2.imread(str(tmp_path / 'a/b.png'), cv2.IMREAD_UNCHANGED), labels)
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / 'a/c.txt') as part:
        part.write_text('half')
        raise ZeroDivisionError
    assert sorted(path.name for path in (tmp_path / 'a').iterdir()) == ['b.json', 'b.npy', 'b.png']
    with pytest.raises(InputError, match='cannot write'):
        write_json(tmp_path / 'a/b.json/c.json', {})


def test_outputs_that_would_meet_are_refused(tmp_path):
    options = PredictOptions(save=['json'])
    for one, other in (('a', 'a'), ('a', 'a.png/b')):
        with pytest.raises(InputError, match='x.jpg would both be written to|y.jpg would both be written to'):
            check_places([], tmp_path, {Path('x.jpg'): one, Path('y.jpg'): other}, options)
    with pytest.raises(InputError, match='would both be written to .*json/a.json'):
        check_places([], tmp_path, {Path('a.jpg'): 'a', Path('a.json.mp4'): 'a.json'}, options)
    check_places([], tmp_path, {Path('a.jpg'): 'a', Path('a/b.jpg'): 'a/b'}, options)


def test_names_are_measured_in_bytes(tmp_path):
    assert check_length([tmp_path / ('ü' * 125 + '.json')], tmp_path) is None
    assert 'has 257 bytes, but 255' in check_length([tmp_path / 'ok', tmp_path / ('ü' * 126 + '.json')], tmp_path)
