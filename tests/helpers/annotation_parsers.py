"""Readers of what is written, apart from those of the package: each finds its files wherever they lie in the folder."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import yaml
from PIL import Image

from tests.helpers import brush_rle
from tests.helpers.annotation_samples import HEIGHT, WIDTH, extent, filled, mask_box


@dataclass
class Found:
    """An object as ``AnnotatedObject`` has it; the mask in place of a segmentation."""

    category: str
    box: tuple[float, ...]
    mask: np.ndarray | None = None


Objects = dict[str, list[Found]]  # by the stem of the image's file


def _polygon(name: str, flat) -> Found:
    points = list(zip(flat[::2], flat[1::2]))
    return Found(name, extent([points]), filled([points]))


def _stem(name: str) -> str:
    return name.replace('\\', '/').rpartition('/')[2].rpartition('.')[0]


def image_stems(root: Path) -> list[str]:
    return sorted(path.stem for path in root.rglob('*') if path.suffix in ('.jpg', '.png') and 'scene' in path.name)


def coco(root: Path) -> Objects:
    from pycocotools.coco import COCO

    objects: Objects = {}
    for path in sorted(root.rglob('*.json')):
        data = COCO(path)
        for image in data.loadImgs(data.getImgIds()):
            found = objects.setdefault(_stem(image['file_name']), [])
            for item in data.loadAnns(data.getAnnIds(image['id'])):
                left, top, width, height = item['bbox']
                mask = data.annToMask(item).astype(bool) if item.get('segmentation') else None
                name = data.loadCats(item['category_id'])[0]['name']
                found.append(Found(name, (left, top, left + width, top + height), mask))
    return objects


def yolo(root: Path) -> Objects:
    (settings,) = [*root.rglob('*.yaml')]
    names = yaml.safe_load(settings.read_text())['names']
    objects: Objects = {stem: [] for stem in image_stems(root)}
    for path in root.rglob('labels/**/*.txt'):
        for line in path.read_text().splitlines():
            number, *values = line.split()
            scaled = [float(v) * (HEIGHT if i % 2 else WIDTH) for i, v in enumerate(values)]
            if len(values) == 4:
                x, y, width, height = scaled
                box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
                objects[path.stem].append(Found(names[int(number)], box))
            else:
                objects[path.stem].append(_polygon(names[int(number)], scaled))
    return objects


def voc(root: Path) -> Objects:
    """Objects have the numbers of SegmentationObject in the order of the file, where there is one."""
    objects: Objects = {}
    for path in root.rglob('*.xml'):
        tree = ElementTree.parse(path).getroot()
        size = [int(tree.findtext(f'size/{key}')) for key in ('width', 'height', 'depth')]
        assert size == [WIDTH, HEIGHT, 3] and tree.findtext('filename')
        first = (tree.findtext('source/database') or '').startswith('The VOC20')
        numbers = next(iter(root.rglob(f'SegmentationObject/{path.stem}.png')), None)
        found = objects.setdefault(path.stem, [])
        for number, item in enumerate(tree.iter('object'), 1):
            left, top, right, bottom = (float(item.findtext(f'bndbox/{key}')) for key in ('xmin', 'ymin', 'xmax', 'ymax'))
            mask = np.array(Image.open(numbers)) == number if numbers else None
            found.append(Found(item.findtext('name'), (left - first, top - first, right, bottom), mask))
    return objects


def labelme(root: Path) -> Objects:
    objects: Objects = {}
    for path in root.rglob('*.json'):
        data = json.loads(path.read_text())
        assert (data['imageHeight'], data['imageWidth']) == (HEIGHT, WIDTH) and 'imageData' in data
        assert (path.parent / data['imagePath']).is_file()
        found, groups = objects.setdefault(path.stem, []), {}
        for shape in data['shapes']:
            points = shape['points']
            if shape['shape_type'] == 'mask':
                part = np.array(Image.open(_opened(base64.b64decode(shape['mask'])))) > 0
                (left, top), (right, bottom) = ((int(v) for v in point) for point in points)
                assert part.shape == (bottom - top + 1, right - left + 1)
                mask = np.zeros((HEIGHT, WIDTH), bool)
                mask[top : bottom + 1, left : right + 1] = part
                item = Found(shape['label'], mask_box(mask), mask)
            elif shape['shape_type'] == 'rectangle':
                item = Found(shape['label'], extent([points]))
            else:
                assert shape['shape_type'] == 'polygon'
                item = _polygon(shape['label'], [v for point in points for v in point])
            group = shape.get('group_id')
            if group is not None and (item.category, group) in groups:
                _join(groups[item.category, group], item)
            else:
                groups[item.category, group] = item
                found.append(item)
    return objects


def _join(item: Found, part: Found) -> None:
    item.mask = item.mask | part.mask
    (a, b, c, d), (e, f, g, h) = item.box, part.box
    item.box = min(a, e), min(b, f), max(c, g), max(d, h)


def _opened(content: bytes):
    import io

    return io.BytesIO(content)


def cvat(root: Path) -> Objects:
    objects: Objects = {}
    (path,) = [*root.rglob('*.xml')]
    tree = ElementTree.parse(path).getroot()
    labels = [label.findtext('name') for label in tree.iter('label')]
    for image in tree.iter('image'):
        assert (int(image.get('width')), int(image.get('height'))) == (WIDTH, HEIGHT)
        found, groups = objects.setdefault(_stem(image.get('name')), []), {}
        for shape in image:
            assert shape.get('label') in labels
            if shape.tag == 'box':
                item = Found(shape.get('label'), tuple(float(shape.get(key)) for key in ('xtl', 'ytl', 'xbr', 'ybr')))
            elif shape.tag == 'polygon':
                item = _polygon(
                    shape.get('label'), [float(v) for point in shape.get('points').split(';') for v in point.split(',')]
                )
            else:
                assert shape.tag == 'mask'
                left, top, width, height = (int(shape.get(key)) for key in ('left', 'top', 'width', 'height'))
                counts = [int(v) for v in shape.get('rle').split(',')]
                part = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(height, width)
                mask = np.zeros((HEIGHT, WIDTH), bool)
                mask[top : top + height, left : left + width] = part
                item = Found(shape.get('label'), mask_box(mask), mask)
            group = shape.get('group_id')
            if group not in (None, '0') and group in groups:
                _join(groups[group], item)
            else:
                groups[group] = item
                found.append(item)
    return objects


def label_studio(root: Path) -> Objects:
    objects: Objects = {}
    (path,) = [*root.rglob('*.json')]
    for task in json.loads(path.read_text()):
        (annotation,) = task['annotations']
        found = objects.setdefault(_stem(task['data']['image']), [])
        for result in annotation['result']:
            assert (result['original_width'], result['original_height']) == (WIDTH, HEIGHT)
            assert {'id', 'from_name', 'to_name'} <= set(result)
            value, (name,) = result['value'], result['value'][result['type']]
            if result['type'] == 'rectanglelabels':
                assert value['rotation'] == 0
                left, top = value['x'] * WIDTH / 100, value['y'] * HEIGHT / 100
                found.append(
                    Found(name, (left, top, left + value['width'] * WIDTH / 100, top + value['height'] * HEIGHT / 100))
                )
            elif result['type'] == 'polygonlabels':
                found.append(
                    _polygon(
                        name, [v * (HEIGHT if i else WIDTH) / 100 for point in value['points'] for i, v in enumerate(point)]
                    )
                )
            else:
                assert result['type'] == 'brushlabels' and value['format'] == 'rle'
                mask = brush_rle.decode(value['rle'], HEIGHT, WIDTH) > 0
                found.append(Found(name, mask_box(mask), mask))
    return objects


PARSERS = {'coco': coco, 'yolo': yolo, 'voc': voc, 'labelme': labelme, 'cvat': cvat, 'label-studio': label_studio}
