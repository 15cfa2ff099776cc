"""Pascal VOC: an XML file of each image with the corners of its boxes, lists of splits in ``ImageSets``, masks of objects in
``SegmentationObject`` whose classes ``SegmentationClass`` has (http://host.robots.ox.ac.uk/pascal/VOC/voc2012).

Corners are taken as LabelImg, CVAT and Roboflow write them, in pixels from 0. VOC's own files count from 1 and include the last
pixel.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from mmvitscale.datasets.coco_masks import encode_mask
from mmvitscale.datasets.folders import ImageIndex, comparable, files_below, files_in, folders_of, listed_splits, split_of
from mmvitscale.datasets.formats.annotations import (
    AnnotatedDataset,
    AnnotatedImage,
    AnnotatedObject,
    Entries,
    ordered_classes,
    read_text,
)
from mmvitscale.datasets.formats.colours import (
    VOC_CLASSES,
    ColourDecoder,
    Entry,
    label_map_bytes,
    read_colour_table,
    voc_palette,
    write_colour_table,
)
from mmvitscale.datasets.formats.mask_files import UNKNOWN, check_mask_size
from mmvitscale.datasets.formats.outlines import BACKGROUND, crop_of, label_map_of, mask_of
from mmvitscale.datasets.formats.output import Output
from mmvitscale.errors import InputError, some_of
from mmvitscale.utils.safe_xml import Element, elements, root_tag, text_of

_OWN_DATABASES = ('the voc20', 'pascal voc20')
_MASKS = ('SegmentationClass', 'SegmentationObject')


def recognise(root: Path) -> str | None:
    """How a folder shows that it is in this format, or None."""
    file = next(_xml_files(root), None)
    return f'{file.relative_to(root)} has an annotation of one image' if file is not None else None


def _xml_files(root: Path) -> Iterator[Path]:
    return (path for path in files_below(root, '.xml') if root_tag(path) == 'annotation')


def read(root: Path, entries: Entries) -> AnnotatedDataset:
    """A folder in this format. Raises InputError for what cannot be read as a whole; ``entries`` keeps invalid objects."""
    index = ImageIndex(root, _MASKS)
    splits = listed_splits(root, 'main')
    masks = _mask_folders(root)
    table = next((folder / 'labelmap.txt' for folder in folders_of(root) if (folder / 'labelmap.txt').is_file()), None)
    classes = _listed_classes(root)
    of: dict[Path, Path] = {}  # image -> its XML file
    images = []
    files = list(_every_xml(root))
    for file in files:
        with entries.entry():
            image = _image(file, root, index, entries)
            if of.setdefault(image.path, file) != file:
                raise InputError(f'{of[image.path]} and {file} are both of the image {image.path.name}; remove one of them')
            image.split = _split(file, image, splits, root)
            if masks is not None:
                _add_masks(image, file.stem, masks, table)
            images.append(image)
    missing = sorted({name for names in splits.values() for name in names} - {comparable(file.stem) for file in files})
    if missing:
        with entries.entry():
            raise InputError(
                f'{len(missing)} images that ImageSets lists have no XML file ({some_of(missing)}); add them, or correct the '
                'lists'
            )
    unlisted = {id(image) for image in images if image.split is None} if splits else set()
    images = sorted((image for image in images if id(image) not in unlisted), key=lambda image: image.name)
    names, source = classes if classes else (None, '')
    found = [item.category for image in images for item in image.objects]
    bare = len(index.paths) - len(of)
    notes = [f'{bare} images have no XML file and are left out as not annotated'] if bare and masks is None else []
    notes += [f'{len(unlisted)} images are in no list of ImageSets and are left out'] if unlisted else []
    return AnnotatedDataset(root, ordered_classes(found, names, entries, source), images, notes)


def _every_xml(root: Path) -> Iterator[Path]:
    """XML files in the folders of those that are annotations: one that cannot be read is not passed over."""
    proper = list(_xml_files(root))
    folders = sorted({file.parent for file in proper}) or folders_of(root)
    for folder in folders:
        yield from (path for path in files_in(folder, '.xml') if root_tag(path) in (None, 'annotation'))


def _image(file: Path, root: Path, index: ImageIndex, entries: Entries) -> AnnotatedImage:
    found = list(elements(file, ('annotation',), 0))
    if not found:
        raise InputError(f'{file} has no annotation of Pascal VOC in it; export it again, or move it away')
    annotation = found[0]
    reference = text_of(annotation, 'filename') or file.stem
    if PurePosixPath(reference.replace('\\', '/')).stem != file.stem and index.has(file.stem):
        reference = file.stem  # renamed together with its image
    path = index.find(reference, file.parent, str(file))
    size = annotation.child('size')
    stated = None
    if size is not None:
        width, height = (_number(size, tag, file, 0.0) for tag in ('width', 'height'))
        stated = (round(height), round(width)) if width and height else None  # some programs write 0
    height, width = entries.size(path, stated, str(file))
    image = AnnotatedImage(path, path.relative_to(root).as_posix(), height, width)
    database = (text_of(annotation, 'source/database') or '').lower()
    first = 1 if database.startswith(_OWN_DATABASES) else 0
    for number, item in enumerate(annotation.children('object'), 1):
        with entries.entry():
            where = f'{file}, line {item.line}, object {number},'
            image.objects.append(_object(item, where, first, (height, width), entries))
    return image


def _object(item: Element, where: str, first: int, size: tuple[int, int], entries: Entries) -> AnnotatedObject:
    name = text_of(item, 'name')
    box = item.child('bndbox')
    if box is None:
        raise InputError(f'{where} has no bndbox; draw its box, or remove it')
    left, top, right, bottom = (_number(box, tag, where) for tag in ('xmin', 'ymin', 'xmax', 'ymax'))
    confidence = text_of(item, 'confidence')
    polygon = item.child('polygon')
    crowd = text_of(item, 'difficult') == '1'  # neither learned nor evaluated, as in VOC
    score = _number(item, 'confidence', where) if confidence else None
    if polygon is not None:  # Roboflow's, x1, y1, x2, y2, ...
        points = [_number(polygon, f'{axis}{i}', where) for i in range(1, len(polygon) // 2 + 1) for axis in 'xy']
        found = entries.object(where, size, name, polygons=[points], score=score)
    else:
        found = entries.object(where, size, name, box=(left - first, top - first, right, bottom), score=score)
    found.crowd = crowd
    return found


def _number(element: Element, tag: str, where: object, default: float | None = None) -> float:
    text = text_of(element, tag)
    if text is None and default is not None:
        return default
    try:
        return float(text or '')
    except ValueError as error:
        raise InputError(f'{where} has {tag} {text!r}, but it is a number; correct it') from error


def _split(file: Path, image: AnnotatedImage, splits: Mapping[str, set[str]], root: Path) -> str | None:
    for split, names in splits.items():
        if comparable(file.stem) in names:
            return split
    return None if splits else split_of(file.parent, root) or split_of(image.path.parent, root)


def _listed_classes(root: Path) -> tuple[list[str], str] | None:
    """Names in order and the file that lists them: CVAT's ``labelmap.txt``, or a list of names."""
    for folder in folders_of(root):
        for name in ('labelmap.txt', 'labels.txt', 'classes.txt'):
            file = folder / name
            if file.is_file():
                if name == 'labelmap.txt':
                    names = [entry.name for entry in read_colour_table(file)]
                    names = [name for name in names if name.lower() not in ('background', 'ignored')]
                else:
                    names = [line.strip() for line in read_text(file).splitlines() if line.strip()]
                return names, str(file)
    return None


def _mask_folders(root: Path) -> tuple[Path, Path] | None:
    for folder in folders_of(root):
        if folder.name == 'SegmentationObject' and (folder.parent / 'SegmentationClass').is_dir():
            return folder, folder.parent / 'SegmentationClass'
    return None


def _add_masks(image: AnnotatedImage, stem: str, folders: tuple[Path, Path], table: Path | None) -> None:
    """Give the objects the masks that ``SegmentationObject`` has, each one of its class in ``SegmentationClass`` and its box.
    table: ``labelmap.txt``, if there is one."""
    file = folders[0] / f'{stem}.png'
    if not file.is_file() or not image.objects:
        return
    with Image.open(file) as picture:
        if picture.mode not in ('P', 'L'):
            return  # colours: no numbers of objects
        numbers = np.array(picture)
    check_mask_size(file, numbers, (image.height, image.width))
    classes = _class_map(folders[1] / f'{stem}.png', table, numbers.shape)
    open_objects = list(image.objects)
    for number in sorted(set(np.unique(numbers).tolist()) - {0, UNKNOWN}):
        inside = numbers == number
        part, left, top = crop_of(inside)
        box = (left, top, left + part.shape[1], top + part.shape[0])
        category = None if classes is None else Counter(classes[inside].tolist()).most_common(1)[0][0]
        fitting = [item for item in open_objects if category in (None, item.category)]
        # VOC counts the objects of the XML file; other programs number them in orders of their own.
        counted = image.objects[number - 1] if number <= len(image.objects) else None
        if counted in fitting and _is_within(box, counted.box):
            best = counted
        else:
            best = max(fitting, key=lambda item: _overlap(item.box, box), default=None)
        if best is None or _overlap(best.box, box) < 0.1:
            raise InputError(
                f'{file} has an object {number}{f" of class {category}" if category else ""} in the box {box}, but the XML '
                f'file of {image.path.name} has none there; export both again'
            )
        open_objects = [item for item in open_objects if item is not best]
        best.segmentation = encode_mask(inside)


def _class_map(file: Path, table: Path | None, size: tuple[int, ...]) -> np.ndarray | None:
    """(height, width) names of classes by pixel; None where no map of known colours is there."""
    entries = read_colour_table(table) if table else [*map(Entry, VOC_CLASSES, map(tuple, voc_palette(21).tolist()))]
    with suppress(InputError):
        decoder = ColourDecoder(entries, file)
        labels = decoder(file)
        if labels.shape == size:
            return np.array([*decoder.classes, *[''] * (256 - len(decoder.classes))], object)[labels]
    return None


def _is_within(box: Sequence[float], other: Sequence[float]) -> bool:
    """But for two pixels."""
    return all(a >= b - 2 for a, b in zip(box[:2], other[:2])) and all(a <= b + 2 for a, b in zip(box[2:], other[2:]))


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(0.0, width) * max(0.0, height)
    return both / sum([(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)] + [-both])


def write(dataset: AnnotatedDataset, output: Output) -> None:
    """``Annotations``, ``JPEGImages``, ``ImageSets/Main`` and ``labelmap.txt`` as CVAT has it; where there are masks, their
    pixels in ``SegmentationClass`` and ``SegmentationObject``. Corners keep their fractions; a confidence becomes
    ``confidence``."""
    lists: dict[str, list[str]] = {}
    masks, hidden = any(item.segmentation for image in dataset.images for item in image.objects), 0
    classes = ['background', *(name for name in dataset.classes if name.lower() not in BACKGROUND)]
    for image in dataset.images:
        name = output.image(image, 'JPEGImages', unique_stem=True)
        stem = str(PurePosixPath(name).with_suffix(''))
        lists.setdefault(image.split or 'train', []).append(stem)
        output.bytes(f'Annotations/{stem}.xml', _xml_of(image, name))
        if masks:
            numbers, labels = _numbered(image, classes)
            hidden += sum(item.segmentation is not None for item in image.objects) - len(set(np.unique(numbers)) - {0})
            output.bytes(f'SegmentationObject/{stem}.png', label_map_bytes(numbers))
            output.bytes(f'SegmentationClass/{stem}.png', label_map_bytes(labels))
    if hidden:
        output.notes.append(f'{hidden} masks lie behind others, which Pascal VOC has no place for: their boxes are written')
    for split, stems in lists.items():
        for folder in ('Main', *(['Segmentation'] if masks else [])):
            output.text(f'ImageSets/{folder}/{split}.txt', ''.join(f'{stem}\n' for stem in stems))
    output.text('labelmap.txt', write_colour_table(classes, voc_palette(len(classes))))


def _numbered(image: AnnotatedImage, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(height, width) uint8 of the objects' numbers, from 1 on, and of their classes; later ones hide earlier ones. Raises
    InputError for more than VOC numbers."""
    if len(image.objects) >= UNKNOWN:
        raise InputError(f'{image.name} has {len(image.objects)} objects, but masks of VOC number 254; write another format')
    drawn = replace(image, objects=[item for item in image.objects if item.segmentation is not None])
    numbers = np.zeros((image.height, image.width), np.uint8)
    for number, item in enumerate(image.objects, 1):
        if item.segmentation is not None:
            numbers[mask_of(item, image.height, image.width)] = number
    return numbers, label_map_of(drawn, classes, 0)


def _xml_of(image: AnnotatedImage, name: str) -> bytes:
    root = ElementTree.Element('annotation')

    def add(parent: ElementTree.Element, tag: str, value: object = None) -> ElementTree.Element:
        child = ElementTree.SubElement(parent, tag)
        child.text = None if value is None else str(value)
        return child

    add(root, 'folder', 'JPEGImages')
    add(root, 'filename', name)
    size = add(root, 'size')
    for tag, value in (('width', image.width), ('height', image.height), ('depth', 3)):
        add(size, tag, value)
    add(root, 'segmented', int(any(item.segmentation for item in image.objects)))
    for item in image.objects:
        entry = add(root, 'object')
        for tag, value in (('name', item.category), ('pose', 'Unspecified'), ('truncated', 0), ('difficult', int(item.crowd))):
            add(entry, tag, value)
        if item.score is not None:
            add(entry, 'confidence', f'{item.score:.6g}')
        box = add(entry, 'bndbox')
        for tag, side in zip(('xmin', 'ymin', 'xmax', 'ymax'), item.box):
            add(box, tag, f'{side:.10g}')
    ElementTree.indent(root)
    buffer = BytesIO()
    ElementTree.ElementTree(root).write(buffer, 'utf-8')
    return buffer.getvalue() + b'\n'
