import json
from pathlib import Path

import pytest

from mmvitscale.errors import InputError
from mmvitscale.inference.annotation_ids import AnnotationIds

pytestmark = pytest.mark.unit


@pytest.fixture
def ids_of(tmp_path):
    def make(images, categories=(('cat', 1),), encoding='utf-8'):
        content = dict(
            images=[dict(file_name=name, id=number) for name, number in images],
            categories=[dict(name=name, id=number) for name, number in categories],
        )
        (tmp_path / 'a.json').write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
        return AnnotationIds(str(tmp_path / 'a.json'))

    return make


def matched(ids, root, *names):
    return ids.of_images({name: Path(root, name) for name in names})


@pytest.mark.parametrize(
    'images, root, names, expected',
    [
        (['a.jpg'], '/d', ['a.jpg'], {'a.jpg': 0}),
        (['images/a.jpg'], '/d', ['a.jpg'], {'a.jpg': 0}),  # the file has a folder
        (['a.jpg'], '/d', ['images/a.jpg'], {'images/a.jpg': 0}),  # or does not have it
        (['val/a.jpg', 'train/a.jpg'], '/d/val', ['a.jpg'], {'a.jpg': 0}),  # the folder that is predicted decides
        (['a.jpg'], '/d', ['x/a.jpg', 'y/a.jpg'], {}),  # either could be meant
        (['x/a.jpg', 'y/a.jpg'], '/d', ['a.jpg'], {}),
        (['x/a.jpg', 'y/a.jpg'], '/d', ['y/a.jpg', 'x/a.jpg'], {'y/a.jpg': 1, 'x/a.jpg': 0}),
        (['x/a.jpg', 'a.jpg'], '/d', ['a.jpg', 'x/a.jpg'], {'a.jpg': 1, 'x/a.jpg': 0}),
        (['a.jpg', 'a.jpg'], '/d', ['a.jpg'], {}),
        (['./x/a.jpg', '/d/b.jpg'], '/d', ['x/a.jpg', 'b.jpg'], {'x/a.jpg': 0, 'b.jpg': 1}),
        (['x\\a.jpg'], '/d', ['a.jpg', 'x\\a.jpg'], {'x\\a.jpg': 0}),  # a name as any other
        (['xa.jpg'], '/d', ['a.jpg'], {}),
    ],
)
def test_images_are_matched_by_the_longest_common_end_of_their_paths(images, root, names, expected, ids_of):
    assert matched(ids_of([(name, i) for i, name in enumerate(images)]), root, *names) == expected


def test_ids_that_the_file_does_not_have_are_unused(ids_of):
    unused = ids_of([('a', 7), ('b', 3)]).unused()
    assert [next(unused), next(unused)] == [8, 9]
    unused = ids_of([('a', '1'), ('b', 'x')]).unused()
    assert [next(unused), next(unused)] == ['2', '3']


def test_text_ids_and_byte_order_marks_are_read(ids_of):
    ids = ids_of([('ä.jpg', 'one')], [('cat', 'c'), ('dog', 'd')], encoding='utf-8-sig')
    assert matched(ids, '/d', 'ä.jpg') == {'ä.jpg': 'one'} and ids.of_classes(['dog', 'cat']) == ['d', 'c']


def test_classes_of_one_name_get_the_categories_in_order(ids_of):
    ids = ids_of([], [('crane', 134), ('dog', 2), ('crane', 517)])
    assert ids.of_classes(['crane', 'crane', 'dog']) == [134, 517, 2]
    with pytest.raises(InputError, match="has no category 'dog'"):
        ids.of_classes(['dog', 'dog'])


def test_ids_that_are_none_are_refused(ids_of):
    for number in (None, [1], 1.5, True):
        with pytest.raises(InputError, match='ids whole numbers or text'):
            ids_of([('a', number)])
        with pytest.raises(InputError, match='ids whole numbers or text'):
            ids_of([], [('cat', number)])
    with pytest.raises(InputError, match='two .* with the id 1'):
        ids_of([('a', 1), ('b', 1)])
    with pytest.raises(InputError, match='two .* with the id 1'):
        ids_of([], [('a', 1), ('b', 1)])
