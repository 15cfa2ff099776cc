"""Writers of annotation formats as the tools lay them out: COCO, YOLO and Pascal VOC.

Written from the formats' public descriptions (docs.ultralytics.com, pjreddie/darknet, docs.cvat.ai, the VOC2012 development
kit, HumanSignal/labelImg, Roboflow's exports), apart from the readers that are tested with them.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

from mmvitscale.datasets.mini import run_lengths
from tests.helpers import annotation_samples as samples
from tests.helpers.annotation_samples import HEIGHT, OBJECT_CLASSES, WIDTH, Expected, Picture

Pictures = Sequence[Picture]


@dataclass(frozen=True)
class Flavour:
    """A way of laying out a format.

    format: a name of FORMATS. write: into a folder. expected: objects of a picture; None where label maps are written. classes:
    in the order that is written; None where the format has no list of classes. splits: whether they are written. resolution: of
    coordinates, in pixels. overlap: the least IoU of masks. given: names that the user must give, for formats without any.
    """

    format: str
    write: Callable[[Pictures, Path], None]
    expected: Callable[[Picture], list[Expected]] | None
    classes: Sequence[str] | None = OBJECT_CLASSES
    splits: bool = True
    resolution: float = 1e-3
    overlap: float = 1.0
    given: Sequence[str] | None = None


def put(path: Path, content: str | bytes | Iterable[str]) -> Path:
    """Write a file; lines get an end each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, (str, bytes)):
        content = ''.join(f'{line}\n' for line in content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def of_split(pictures: Pictures, split: str) -> list[Picture]:
    return [picture for picture in pictures if picture.split == split]


# COCO


def coco(form: str, layout: str = '{split}2017/{file}', json_name: str = 'annotations/instances_{split}2017.json'):
    """form: bbox, polygon, rle (counts as a list) or compressed."""

    def segmentation(shape):
        if form == 'polygon':
            return [[v for point in part for v in point] for part in shape.parts]
        if form == 'compressed':
            from pycocotools import mask as tools

            coded = tools.encode(np.asfortranarray(shape.mask.astype(np.uint8)))
            return dict(coded, counts=coded['counts'].decode())
        return run_lengths(shape.mask)

    def write(pictures, root):
        for split in sorted({picture.split for picture in pictures}):
            images, annotations = [], []
            for picture in of_split(pictures, split):
                images.append(dict(id=len(images) + 1, file_name=picture.file, height=HEIGHT, width=WIDTH))
                put(root / layout.format(split=split, file=picture.file), picture.content)
                for shape in picture.shapes:
                    left, top, right, bottom = samples.extent(shape.parts) if form == 'polygon' else shape.box
                    item = dict(id=len(annotations) + 1, image_id=len(images), category_id=_ids()[shape.name], iscrowd=0)
                    item.update(bbox=[left, top, right - left, bottom - top], area=int(shape.mask.sum()))
                    annotations.append(item if form == 'bbox' else dict(item, segmentation=segmentation(shape)))
            categories = [dict(id=number, name=name, supercategory='shape') for name, number in _ids().items()]
            content = dict(info={}, licenses=[], images=images, annotations=annotations, categories=categories)
            put(root / json_name.format(split=split), json.dumps(content))

    return write


def _ids() -> dict[str, int]:
    """COCO's ids have gaps."""
    return {name: 3 * i + 1 for i, name in enumerate(OBJECT_CLASSES)}


# YOLO


def yolo_lines(picture: Picture, form: str = 'box') -> list[str]:
    lines = []
    for shape in picture.shapes:
        number = OBJECT_CLASSES.index(shape.name)
        if form == 'polygon':
            values = [v for x, y in shape.parts[0] for v in (x / WIDTH, y / HEIGHT)]
        else:
            left, top, right, bottom = shape.box
            values = [
                (left + right) / 2 / WIDTH,
                (top + bottom) / 2 / HEIGHT,
                (right - left) / WIDTH,
                (bottom - top) / HEIGHT,
            ]
        lines.append(' '.join([str(number), *(f'{value:.6f}' for value in values)]))
    return lines


def _yolo_files(pictures, root, image, label, form='box', empty=True):
    for picture in pictures:
        put(root / image.format(split=picture.split, file=picture.file), picture.content)
        if picture.shapes or empty:
            put(root / label.format(split=picture.split, stem=picture.stem), yolo_lines(picture, form))


def ultralytics(form: str, header: str, names: str = 'list', where: str = 'folders', empty: bool = False):
    """header: lines of data.yaml before the splits, {root} for the folder. where: folders, lists (txt files) or both."""

    def write(pictures, root):
        _yolo_files(pictures, root, 'images/{split}/{file}', 'labels/{split}/{stem}.txt', form, empty)
        lines = ['# made by hand', *header.format(root=root).splitlines()]
        for split in ('train', 'val', 'test'):
            files = [f'./images/{split}/{picture.file}' for picture in of_split(pictures, split)]
            if where == 'lists':
                put(root / f'{split}.txt', files)
            lines.append(
                {'folders': f'{split}: images/{split}', 'lists': f'{split}: {split}.txt', 'both': f'{split}: [images/{split}]'}[
                    where
                ]
            )
        if names == 'list':
            lines += [f'nc: {len(OBJECT_CLASSES)}', f'names: {list(OBJECT_CLASSES)}']
        else:
            lines += ['names:', *(f'  {i}: {name}' for i, name in enumerate(OBJECT_CLASSES))]
        put(root / 'data.yaml', lines)

    return write


def roboflow_yolo(pictures, root):
    for picture in pictures:
        folder = root / picture.split.replace('val', 'valid')
        put(folder / 'images' / picture.file, picture.content)
        put(folder / 'labels' / f'{picture.stem}.txt', '\n'.join(yolo_lines(picture)))
    lines = ['train: ../train/images', 'val: ../valid/images', 'test: ../test/images', '']
    lines += [f'nc: {len(OBJECT_CLASSES)}', f'names: {list(OBJECT_CLASSES)}', '', 'roboflow:', '  workspace: mine']
    put(root / 'data.yaml', [*lines, '  project: scenes', '  version: 1', '  license: CC BY 4.0'])
    for name in ('README.roboflow.txt', 'README.dataset.txt'):
        put(root / name, 'scenes - v1\n==========\n\nThis dataset was exported via roboflow.com\n')


def darknet(pictures, root):
    """The folder ``data`` of Darknet: paths in the lists begin with it."""
    _yolo_files(pictures, root, 'obj/{file}', 'obj/{stem}.txt')
    lines = [f'classes = {len(OBJECT_CLASSES)}', 'train  = data/train.txt', 'valid  = data/val.txt', 'names = data/obj.names']
    put(root / 'obj.data', [*lines, 'backup = backup/'])
    put(root / 'obj.names', OBJECT_CLASSES)
    for split in ('train', 'val'):
        put(root / f'{split}.txt', [f'data/obj/{picture.file}' for picture in of_split(pictures, split)])


def cvat_yolo(pictures, root):
    """CVAT's YOLO 1.1: train and valid alone."""
    subsets = {'train': 'train', 'val': 'valid'}
    for split, subset in subsets.items():
        _yolo_files(of_split(pictures, split), root, f'obj_{subset}_data/{{file}}', f'obj_{subset}_data/{{stem}}.txt')
        put(root / f'{subset}.txt', [f'data/obj_{subset}_data/{picture.file}' for picture in of_split(pictures, split)])
    lines = [f'classes = {len(OBJECT_CLASSES)}', 'train = data/train.txt', 'valid = data/valid.txt', 'names = data/obj.names']
    put(root / 'obj.data', [*lines, 'backup = backup/'])
    put(root / 'obj.names', OBJECT_CLASSES)


def labelimg_yolo(pictures, root):
    """Images, labels and classes.txt in one folder; labelImg writes no label file for an image without objects."""
    _yolo_files(pictures, root, '{file}', '{stem}.txt', empty=False)
    put(root / 'classes.txt', OBJECT_CLASSES)


def label_studio_yolo(pictures, root):
    _yolo_files(pictures, root, 'images/{file}', 'labels/{stem}.txt')
    put(root / 'classes.txt', OBJECT_CLASSES)
    categories = [dict(id=i, name=name) for i, name in enumerate(OBJECT_CLASSES)]
    put(root / 'notes.json', json.dumps(dict(categories=categories, info=dict(year=2024, version='1.0')), indent=2))


# Pascal VOC


def voc_xml(picture: Picture, kit: bool = False, path: str = '', extra: str = '', number: str = '{:d}') -> str:
    """kit: as the development kit counts, from 1, with both corners inside the object; tools count from 0."""
    objects = []
    for shape in picture.shapes:
        left, top, right, bottom = shape.box
        corners = zip(('xmin', 'ymin', 'xmax', 'ymax'), (left + kit, top + kit, right, bottom))
        box = ''.join(f'<{key}>{number.format(value)}</{key}>' for key, value in corners)
        objects.append(
            f'<object><name>{escape(shape.name)}</name><pose>Unspecified</pose><truncated>0</truncated>'
            f'<difficult>{int(len(objects) == 1)}</difficult><bndbox>{box}</bndbox>{extra}</object>'
        )
    return (
        f'<annotation><folder>scenes</folder><filename>{escape(picture.file)}</filename>{path}'
        f'<source><database>{"The VOC2007 Database" if kit else "Unknown"}</database></source>'
        f'<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size><segmented>0</segmented>'
        f'{"".join(objects)}</annotation>\n'
    )


def voc_palette() -> list[int]:
    """The colours of the development kit: the bits of a number, spread over red, green and blue from the highest."""
    palette = []
    for number in range(256):
        colour = [0, 0, 0]
        rest, shift = number, 7
        while rest:
            for channel in range(3):
                colour[channel] |= (rest >> channel & 1) << shift
            rest, shift = rest >> 3, shift - 1
        palette += colour
    return palette


def palette_png(path: Path, numbers: np.ndarray, palette: list[int] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(numbers.astype(np.uint8), 'P')
    image.putpalette(palette or voc_palette())
    image.save(path)


def image_sets(pictures, root, folder, lists={'train': 'train', 'val': 'val', 'test': 'test'}):  # noqa: B006
    for split, name in lists.items():
        put(root / f'ImageSets/{folder}/{name}.txt', [picture.stem for picture in of_split(pictures, split)])


def voc(pictures, root):
    for picture in pictures:
        put(root / 'JPEGImages' / picture.file, picture.content)
        part = '<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part>'
        put(root / f'Annotations/{picture.stem}.xml', voc_xml(picture, True, extra=part))
    image_sets(pictures, root, 'Main')
    known = [picture for picture in pictures if picture.split != 'test']
    put(root / 'ImageSets/Main/trainval.txt', [picture.stem for picture in known])
    for name in OBJECT_CLASSES:
        for split in ('train', 'val'):
            lines = [
                f'{picture.stem} {" 1" if any(shape.name == name for shape in picture.shapes) else "-1"}'
                for picture in of_split(pictures, split)
            ]
            put(root / f'ImageSets/Main/{name}_{split}.txt', lines)


def voc_devkit(pictures, root):
    """As the archive unpacks."""
    voc(pictures, root / 'VOCdevkit/VOC2012')


def voc_masks(pictures, root):
    """Objects are numbered in SegmentationObject in the order of their XML file."""
    voc(pictures, root)
    image_sets(pictures, root, 'Segmentation')
    put(root / 'labelmap.txt', labelmap(('background', *OBJECT_CLASSES)))
    for picture in pictures:
        classes, objects = np.zeros((2, HEIGHT, WIDTH), np.uint8)
        for number, shape in enumerate(picture.shapes, 1):
            classes[shape.mask], objects[shape.mask] = OBJECT_CLASSES.index(shape.name) + 1, number
        palette_png(root / f'SegmentationClass/{picture.stem}.png', classes)
        palette_png(root / f'SegmentationObject/{picture.stem}.png', objects)


def labelmap(names: Sequence[str], colours: Sequence[Sequence[int]] | None = None) -> list[str]:
    """labelmap.txt of CVAT."""
    colours = colours or np.reshape(voc_palette(), (-1, 3)).tolist()
    return ['# label:color_rgb:parts:actions', *(f'{name}:{",".join(map(str, c))}::' for name, c in zip(names, colours))]


def cvat_voc(pictures, root):
    """CVAT counts from 0, with fractions, and lists the background."""
    for picture in pictures:
        put(root / 'JPEGImages' / picture.file, picture.content)
        extra = '<attributes><attribute><name>rotation</name><value>0.0</value></attribute></attributes>'
        put(root / f'Annotations/{picture.stem}.xml', voc_xml(picture, extra=extra, number='{:.2f}'))
    image_sets(pictures, root, 'Main')
    put(root / 'labelmap.txt', labelmap(('background', *OBJECT_CLASSES)))


def roboflow_voc(pictures, root):
    for picture in pictures:
        folder = root / picture.split.replace('val', 'valid')
        put(folder / picture.file, picture.content)
        put(folder / f'{picture.stem}.xml', voc_xml(picture, path=f'<path>{picture.file}</path>'))
    put(root / 'README.roboflow.txt', 'scenes - v1\n')


def labelimg_voc(pictures, root):
    """Paths of the machine where it was drawn."""
    for picture in pictures:
        put(root / picture.file, picture.content)
        path = f'<path>C:\\Users\\me\\scenes\\{escape(picture.file)}</path>'
        put(root / f'{picture.stem}.xml', '<?xml version="1.0"?>\n' + voc_xml(picture, path=path))


BOX, POLYGON = samples.boxes, samples.polygons
OWN = {
    'COCO, boxes': Flavour('coco', coco('bbox'), BOX),
    'COCO, polygons': Flavour('coco', coco('polygon'), samples.grouped),
    'COCO, run lengths': Flavour('coco', coco('rle'), samples.masks),
    'COCO, compressed': Flavour('coco', coco('compressed'), samples.masks),
    'YOLO, Ultralytics': Flavour('yolo', ultralytics('box', 'path: {root}'), BOX),
    'YOLO, Ultralytics, names by number': Flavour('yolo', ultralytics('box', 'path: .', 'dict', empty=True), BOX),
    'YOLO, Ultralytics, polygons': Flavour('yolo', ultralytics('polygon', '', 'dict'), POLYGON),
    'YOLO, Ultralytics, lists': Flavour('yolo', ultralytics('box', 'path: ./', where='lists'), BOX),
    'YOLO, Ultralytics, lists of folders': Flavour('yolo', ultralytics('polygon', 'path: .', where='both'), POLYGON),
    'YOLO, Roboflow': Flavour('yolo', roboflow_yolo, BOX),
    'YOLO, Darknet': Flavour('yolo', darknet, BOX),
    'YOLO, CVAT': Flavour('yolo', cvat_yolo, BOX),
    'YOLO, labelImg': Flavour('yolo', labelimg_yolo, BOX, splits=False),
    'YOLO, Label Studio': Flavour('yolo', label_studio_yolo, BOX, splits=False),
    'VOC': Flavour('voc', voc, BOX, None),
    'VOC, VOCdevkit': Flavour('voc', voc_devkit, BOX, None),
    'VOC, masks': Flavour('voc', voc_masks, samples.masks),
    'VOC, CVAT': Flavour('voc', cvat_voc, BOX),
    'VOC, Roboflow': Flavour('voc', roboflow_voc, BOX, None),
    'VOC, labelImg': Flavour('voc', labelimg_voc, BOX, None, splits=False),
}
