"""Files of strangers: nothing in them runs, fills the memory or leads elsewhere."""

import base64
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from mmvitscale.datasets.formats.registry import read_dataset
from mmvitscale.errors import InputError
from tests.helpers import annotation_samples as samples
from tests.helpers.annotation_checks import contents, error_of, read_without_invalid
from tests.helpers.annotation_flavours import FLAVOURS
from tests.helpers.annotation_samples import OBJECT_CLASSES
from tests.helpers.annotation_tool_writers import label_studio, labelme
from tests.helpers.annotation_writers import put

pytestmark = pytest.mark.integration

XML_FILES = {'VOC, CVAT': 'Annotations/scene_00000.xml', 'CVAT, boxes': 'annotations.xml'}
LEVELS = ''.join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
DOCTYPES = {
    'billion laughs': f'<!DOCTYPE x [<!ENTITY a0 "ha">{LEVELS}]>',
    'quadratic': f'<!DOCTYPE x [<!ENTITY a9 "{"a" * 50000}">]>',
    'external entity': '<!DOCTYPE x [<!ENTITY a9 SYSTEM "file:///etc/passwd">]>',
    'external parameter': '<!DOCTYPE x [<!ENTITY % p SYSTEM "file:///etc/passwd"> %p;]>',
    'external DTD': '<!DOCTYPE x SYSTEM "http://127.0.0.1:9/a.dtd">',
    'DTD': '<!DOCTYPE annotation>',
}


@pytest.mark.parametrize('flavour', XML_FILES)
@pytest.mark.parametrize('kind', DOCTYPES)
def test_document_types_are_refused(kind, flavour, copied):
    root = copied(flavour)
    file = root / XML_FILES[flavour]
    content = re.sub(r'^<\?xml.*?\?>\n?', '', file.read_text())
    content = content.replace('<name>disc', '<name>&a9;').replace('label="disc"', 'label="&a9;"')
    file.write_text(f'<?xml version="1.0"?>\n{DOCTYPES[kind]}\n{content}')
    sentence = error_of(root, FLAVOURS[flavour].format)
    assert file.name in sentence and 'document type' in sentence and 'root:' not in sentence
    error_of(root)


BROKEN_XML = {
    'empty': '',
    'blank': '   ',
    'open': '<annotation>',
    'cut': '<annotation',
    'JSON': '{}',
    'zeros': '\0' * 100,
    'deep': '<annotation>' * 5000,
}


@pytest.mark.parametrize('content', BROKEN_XML)
@pytest.mark.parametrize('flavour', XML_FILES)
def test_broken_xml(flavour, content, copied):
    root = copied(flavour)
    (root / XML_FILES[flavour]).write_text(BROKEN_XML[content])
    assert Path(XML_FILES[flavour]).name in error_of(root, FLAVOURS[flavour].format)


def test_xml_in_other_encodings(copied, folders):
    root = copied('VOC, labelImg')
    before = contents(read_dataset(root))
    for number, encoding in enumerate(('utf-16', 'utf-8-sig', 'iso-8859-1')):
        file = root / f'scene_{number:05d}.xml'
        head = f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig")}"?>'
        file.write_bytes(file.read_text().replace('<?xml version="1.0"?>', head).encode(encoding))
    assert contents(read_dataset(root)) == before


JSON_FILES = {
    'LabelMe, polygons': 'scene_00000.json',
    'Label Studio, rectangles': 'project-1-at-2024-05-02-11-38-0a1b2c3d.json',
    'COCO, polygons': 'annotations/instances_train2017.json',
}


BROKEN_JSON = {
    'empty': '',
    'cut': '{',
    'null': 'null',
    'open': '[',
    'deep': '[' * 100000,
    'zeros': '\0' * 100,
    'other': '{"shapes": {}, "imagePath": []}',
}


@pytest.mark.parametrize('content', BROKEN_JSON)
@pytest.mark.parametrize('flavour', JSON_FILES)
def test_broken_json(flavour, content, copied):
    root = copied(flavour)
    (root / JSON_FILES[flavour]).write_text(BROKEN_JSON[content])
    assert error_of(root, FLAVOURS[flavour].format)


LIMITED = """
import resource, sys
from pathlib import Path
import cv2, pycocotools.mask
from mmvitscale.datasets.formats.registry import FORMATS, read_dataset
from mmvitscale.errors import InputError
held = next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmData')) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (held + 400 * 2**20,) * 2)
for format in sys.argv[2:]:
    try:
        print(format, 'read', len(read_dataset(Path(sys.argv[1]), format if format in FORMATS else None).images))
    except InputError as error:
        print(format, 'refused', error)
"""


def read_with_400_mb(root, *formats, seconds=60):
    """For each format a line: read and how many images, or refused and why."""
    command = [sys.executable, '-c', LIMITED, root, *formats]
    result = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    assert result.returncode == 0, result.stderr[-500:]
    return result.stdout.splitlines()


STARTS = {
    'LabelMe': '{"version": "5.5.0", "shapes": [], "imagePath": "x.jpg", "imageData": "',
    'Label Studio': '[{"id": 1, "data": {"image": "x.jpg"}, "annotations": [',
    'COCO': '{"images": [], "annotations": [], "categories": [',
    'another': '{"features": [',
}


@pytest.mark.slow
@pytest.mark.parametrize('start', STARTS)
def test_a_json_file_of_a_gigabyte_does_not_fill_the_memory(start, copied):
    """Beside a data set that can be read: by the name of its format, and where the large file is of no format, without it."""
    root = copied('VOC, labelImg')
    with open(root / 'large.json', 'w') as file:
        file.write(STARTS[start])
        file.truncate(2**30)
    own = {'LabelMe': 'labelme', 'Label Studio': 'label-studio', 'COCO': 'coco', 'another': 'any'}[start]
    found, named = read_with_400_mb(root, 'any', 'voc')
    assert found == 'any read 8' if start == 'another' else 'voc' in found and own in found
    assert named == 'voc read 8'


@pytest.mark.slow
@pytest.mark.parametrize('start', ['LabelMe', 'Label Studio', 'COCO'])
def test_a_json_file_of_a_gigabyte_is_refused_in_one_sentence(start, tmp_path):
    """As its own format, where it does not fit into the memory."""
    put(tmp_path / 'data/x.jpg', samples.sample()[0].content)
    with open(tmp_path / 'data/large.json', 'w') as file:
        file.write(STARTS[start])
        file.truncate(2**30)
    (line,) = read_with_400_mb(tmp_path / 'data', start.lower().replace(' ', '-'))
    assert 'refused' in line and 'large.json' in line


def test_yaml_runs_no_code(copied, tmp_path):
    root, marker = copied('YOLO, Roboflow'), tmp_path / 'marker'
    for code in (
        f'!!python/object/apply:os.mkdir [{marker}]',
        f'!!python/object/new:os.mkdir [{marker}]',
        f'!!python/object/apply:subprocess.check_output [[mkdir, {marker}]]',
    ):
        put(root / 'data.yaml', f'train: ../train/images\nval: ../valid/images\nnames: {code}\n')
        assert 'data.yaml' in error_of(root, 'yolo')
        assert not marker.exists()


@pytest.mark.parametrize('key', ['names', 'train', 'path', 'nc'])
def test_yaml_that_grows(key, copied):
    root = copied('YOLO, Roboflow')
    lines = ['a0: &a0 [x, x, x, x, x, x, x, x, x]']
    lines += [f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * 9)}]' for i in range(1, 10)]
    values = {
        'train': '../train/images',
        'val': '../valid/images',
        'names': list(OBJECT_CLASSES),
        'path': '.',
        'nc': 6,
        key: '*a9',
    }
    put(root / 'data.yaml', [*lines, *(f'{name}: {value}' for name, value in values.items())])
    (line,) = read_with_400_mb(root, 'yolo')
    assert len(line) < 600 and ('data.yaml' in line or key in ('path', 'nc'))


# Links


def test_links_to_images_and_loops(copied, tmp_path):
    root = copied('YOLO, Roboflow')
    before = contents(read_dataset(root))
    shutil.move(root / 'train/images', tmp_path / 'elsewhere')
    (root / 'train/images').symlink_to(tmp_path / 'elsewhere')
    (root / 'loop').symlink_to(root)
    after = contents(read_dataset(root))
    assert sorted(Path(name).name for name in after) == sorted(Path(name).name for name in before)
    assert sorted(map(str, after.values())) == sorted(map(str, before.values()))


def test_links_that_lead_nowhere(copied):
    root = copied('VOC')
    image = root / 'JPEGImages/scene_00000.jpg'
    image.unlink()
    image.symlink_to(root / 'gone.jpg')
    assert 'scene_00000' in error_of(root)
    dataset, invalid = read_without_invalid(root)
    assert len(dataset.images) == 7 and 'scene_00000' in invalid[0]


@pytest.mark.parametrize(
    'path', ['/etc/hostname', '../../../../../../etc/hostname', 'file:///etc/hostname', '/dev/zero', '/proc/self/mem']
)
def test_paths_out_of_the_folder_are_not_read(path, tmp_path):
    pictures = samples.sample()[:2]
    labelme('polygon', path=path)(pictures, tmp_path / 'labelme')
    label_studio('rectangle', url=path)(pictures, tmp_path / 'label_studio')
    for root in (tmp_path / 'labelme', tmp_path / 'label_studio'):
        try:
            found = [image.path.resolve() for image in read_dataset(root).images]
        except InputError as error:
            assert '\n' not in str(error)
            continue
        assert all(root.resolve() in image.parents for image in found)


def test_a_pipe_in_the_folder_does_not_stop_the_reading(copied):
    root = copied('VOC, labelImg')
    for name in ('a.json', 'a.xml', 'a.txt', 'a.yaml', 'a.jpg', 'a.data'):
        os.mkfifo(root / name)
    assert read_with_400_mb(root, 'any', seconds=15) == ['any read 8']


def test_a_bomb_of_an_image_is_not_unpacked(tmp_path):
    """A PNG of 40000 x 40000 in imageData, of a few kilobytes."""

    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    pixels = zlib.compressobj(9)
    row = pixels.compress(b'\0' * 5001 * 40000) + pixels.flush()
    png = b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 40000, 40000, 1, 0, 0, 0, 0))
    png += chunk(b'IDAT', row) + chunk(b'IEND', b'')
    labelme('mask')(samples.sample(), tmp_path / 'data')
    file = tmp_path / 'data/scene_00000.json'
    file.write_text(re.sub(r'"mask": "[^"]+"', f'"mask": "{base64.b64encode(png).decode()}"', file.read_text(), count=1))
    assert 'shapes[0]' in error_of(tmp_path / 'data')
