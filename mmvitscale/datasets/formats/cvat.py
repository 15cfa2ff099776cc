"""CVAT for images 1.1: one XML file of all images with box, polygon, ellipse and mask (run lengths of its box), names of the
labels in ``meta``, the split in ``subset`` (https://docs.cvat.ai/docs/dataset_management/formats/format-cvat)."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import StringIO
from math import radians
from pathlib import Path, PurePosixPath
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from mmvitscale.datasets.folders import SPLITS, ImageIndex, files_below, split_of
from mmvitscale.datasets.formats.annotations import (
    AnnotatedDataset,
    AnnotatedImage,
    AnnotatedObject,
    Entries,
    ordered_classes,
)
from mmvitscale.datasets.formats.outlines import crop_of, ellipse, join_objects, mask_of, turned_around
from mmvitscale.datasets.formats.output import Output
from mmvitscale.errors import InputError
from mmvitscale.utils.safe_xml import Element, elements, root_tag

_WITHOUT_AREA = ('points', 'polyline', 'skeleton', 'cuboid')


def recognise(root: Path) -> str | None:
    """How a folder shows that it is in this format, or None."""
    file = next(_files(root, ('annotations',)), None)
    return f'{file.relative_to(root)} has annotations of CVAT' if file is not None else None


def _files(root: Path, tags: Sequence[str | None] = ('annotations', None)) -> Iterator[Path]:
    """XML files that begin with one of these elements; None: that cannot be read, and are not passed over."""
    return (path for path in files_below(root, '.xml') if root_tag(path) in tags)


def read(root: Path, entries: Entries) -> AnnotatedDataset:
    """A folder in this format. Raises InputError for what cannot be read as a whole; ``entries`` keeps invalid objects."""
    index = ImageIndex(root)
    images: list[AnnotatedImage] = []
    of: dict[Path, str] = {}
    listed: list[str] = []
    for file in list(_files(root)) or files_below(root, '.xml'):  # none of this format: the first says what it is
        for element in elements(file, ('meta', 'image', 'track')):
            if element.tag == 'meta':
                listed += [name for name in _labels(element) if name not in listed]
                continue
            if element.tag == 'track':
                raise InputError(
                    f'{file}, line {element.line}, has tracks of a video; export the task as "CVAT for images 1.1", with images'
                )
            with entries.entry():
                image = _image(element, file, root, index, entries)
                where = f'{file}, line {element.line}'
                if of.setdefault(image.path, where) != where:
                    raise InputError(f'{of[image.path]} and {where} are both of the image {image.path.name}; keep one of them')
                images.append(image)
    bare = len(set(index.paths) - set(of))
    notes = [f'{bare} images are in no file of CVAT and are left out as not annotated'] if bare else []
    found = [item.category for image in images for item in image.objects]
    return AnnotatedDataset(root, ordered_classes(found, listed or None, entries, 'meta'), images, notes)


def _labels(meta: Element) -> list[str]:
    """Names of labels with an area; those of skeletons' points have a parent."""
    found = []
    for label in meta.iter('label'):
        name = label.find('name')
        if name is not None and label.find('parent') is None:
            found.append((name.text or '').strip())
    return found


def _image(element: Element, file: Path, root: Path, index: ImageIndex, entries: Entries) -> AnnotatedImage:
    where = f'{file}, line {element.line},'
    name = element.get('name')
    if not name:
        raise InputError(f'{where} has an image without name; export the task again')
    path = _found(name, element.get('subset'), file, index, where)
    stated = tuple(round(_number(element, key, where)) for key in ('height', 'width') if element.get(key))
    size = entries.size(path, stated if len(stated) == 2 else None, where)
    own = PurePosixPath(element.get('subset') or '')
    split = split_of(root / own, root) if own.name else None
    split = split or split_of(path.parent, root) or split_of(file, root)
    image = AnnotatedImage(path, path.relative_to(root).as_posix(), *size, split=split)
    groups: dict[tuple[str, str], AnnotatedObject] = {}
    shapes = sorted(element.children(), key=_z_order)
    for shape in shapes:
        if shape.tag == 'tag':
            continue  # of the whole image
        with entries.entry():
            item = _object(shape, f'{file}, line {shape.line}, {shape.tag},', size, entries)
            item.score = _score(shape)
            group = shape.get('group_id') or '0'
            key = (item.category, group)
            if group != '0' and key in groups and groups[key].segmentation is not None and item.segmentation is not None:
                join_objects(groups[key], item, size)
            else:
                groups.setdefault(key, item)
                image.objects.append(item)
    return image


def _score(shape: Element) -> float | None:
    """The attribute of a prediction that was imported."""
    text = next((attribute.text for attribute in shape.children('attribute') if attribute.get('name') == 'score'), None)
    with suppress(TypeError, ValueError):
        score = float(text)  # type: ignore[arg-type]
        return score if 0 <= score <= 1 else None
    return None


def _found(name: str, subset: str | None, file: Path, index: ImageIndex, where: str) -> Path:
    """The image; of projects, those of a subset are in a folder of its name."""
    if subset:
        for start in ('', 'images'):
            path = file.parent / start / subset / name
            if path.is_file():
                return path
    return index.find(name, file.parent, where)


def _z_order(shape: Element) -> int:
    text = shape.get('z_order') or '0'
    return int(text) if text.lstrip('-').isdigit() else 0


def _number(element: Element, key: str, where: str, default: str | None = None) -> float:
    text = element.get(key, default)
    try:
        return float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise InputError(f'{where} has {key} {text!r}, but it is a number; correct or remove it') from error


def _object(shape: Element, where: str, size: tuple[int, int], entries: Entries) -> AnnotatedObject:
    label = shape.get('label')
    if shape.tag in _WITHOUT_AREA:
        raise InputError(f'{where} is a {shape.tag}, which has no area; draw a box, polygon, ellipse or mask, or remove it')
    turned = radians(_number(shape, 'rotation', where, '0'))
    if shape.tag == 'box':
        left, top, right, bottom = (_number(shape, key, where) for key in ('xtl', 'ytl', 'xbr', 'ybr'))
        if not turned:
            return entries.object(where, size, label, box=(left, top, right, bottom))
        x, y, w, h = (left + right) / 2, (top + bottom) / 2, (right - left) / 2, (bottom - top) / 2
        polygon = turned_around(x, y, [(-w, -h), (w, -h), (w, h), (-w, h)], turned)
        return entries.object(where, size, label, polygons=[polygon])
    if shape.tag == 'ellipse':
        x, y, rx, ry = (_number(shape, key, where) for key in ('cx', 'cy', 'rx', 'ry'))
        return entries.object(where, size, label, polygons=[ellipse(x, y, rx, ry, turned)])
    if shape.tag == 'polygon':
        return entries.object(where, size, label, polygons=[_points(shape, where)])
    if shape.tag == 'mask':
        left, top, width, height = (int(_number(shape, key, where)) for key in ('left', 'top', 'width', 'height'))
        return entries.object(where, size, label, mask=(_decoded(shape, width, height, where), (left, top)))
    raise InputError(f'{where} is of a kind that is not known here; draw a box, polygon, ellipse or mask, or remove it')


def _points(shape: Element, where: str) -> list[float]:
    text = shape.get('points') or ''
    try:
        pairs = [[float(value) for value in pair.split(',')] for pair in text.split(';') if pair.strip()]
    except ValueError as error:
        raise InputError(f'{where} has the points {text[:60]!r}, but they are x,y;x,y;...; correct or remove it') from error
    if any(len(pair) != 2 for pair in pairs):
        raise InputError(f'{where} has the points {text[:60]!r}, but they are x,y;x,y;...; correct or remove it')
    return [value for pair in pairs for value in pair]


def _decoded(shape: Element, width: int, height: int, where: str) -> np.ndarray:
    """(height, width) bool of run lengths along the rows, zeros first."""
    try:
        runs = np.array([int(word) for word in (shape.get('rle') or '').split(',')], np.int64)
    except (OverflowError, ValueError) as error:
        raise InputError(f'{where} has the rle {(shape.get("rle") or "")[:40]!r}, but it is numbers with commas') from error
    total = int(runs.sum()) if len(runs) and runs.min() >= 0 and runs.max() < 2**40 else -1
    if width < 1 or height < 1 or total != width * height:
        raise InputError(
            f'{where} has run lengths of {total if total >= 0 else "negative"} pixels, but its box has {width} x {height}; '
            'export the task again'
        )
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)


def write(dataset: AnnotatedDataset, output: Output) -> None:
    """``annotations.xml`` and the folder ``images``. Several polygons of an object become a group; a confidence the attribute
    ``score``."""
    text = StringIO()
    labels = ''.join(
        f'<label><name>{escape(name)}</name><type>any</type><attributes>{_SCORE}</attributes></label>'
        for name in dataset.classes
    )
    text.write(f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n<meta><task><labels>{labels}')
    text.write('</labels></task></meta>\n')
    names = dict(train='Train', val='Validation', test='Test')
    for number, image in enumerate(dataset.images):
        name = output.image(image, 'images')
        subset = f' subset={quoteattr(names[image.split])}' if image.split in SPLITS else ''
        text.write(f'<image id="{number}" name={quoteattr(name)}{subset} width="{image.width}" height="{image.height}">\n')
        for group, item in enumerate(image.objects, 1):
            for shape in _shapes_of(item, group, image):
                text.write(f'{shape}\n')
        text.write('</image>\n')
    text.write('</annotations>\n')
    output.text('annotations.xml', text.getvalue())


_SCORE = (
    '<attribute><name>score</name><mutable>False</mutable><input_type>text</input_type><default_value></default_value>'
    '<values></values></attribute>'
)


def _shapes_of(item: AnnotatedObject, group: int, image: AnnotatedImage) -> Iterator[str]:
    score = '' if item.score is None else f'<attribute name="score">{item.score:.6g}</attribute>'
    common = f'label={quoteattr(item.category)} source="manual" occluded="0" z_order="0"'
    if item.segmentation is None:
        sides = ' '.join(f'{key}="{side:.10g}"' for key, side in zip(('xtl', 'ytl', 'xbr', 'ybr'), item.box))
        yield f'<box {common} {sides}>{score}</box>'
    elif isinstance(item.segmentation, dict):
        part, left, top = crop_of(mask_of(item, image.height, image.width))
        if part.size:
            runs = ', '.join(map(str, runs_of(part)))
            height, width = part.shape
            yield f'<mask {common} rle="{runs}" left="{left}" top="{top}" width="{width}" height="{height}">{score}</mask>'
    else:
        several = f' group_id="{group}"' if len(item.segmentation) > 1 else ''
        for part in item.segmentation:
            points = ';'.join(f'{part[i]:.10g},{part[i + 1]:.10g}' for i in range(0, len(part), 2))
            yield f'<polygon {common}{several} points="{points}">{score}</polygon>'


def runs_of(mask: np.ndarray) -> list[int]:
    """Run lengths of a mask along its rows, zeros first."""
    flat = mask.flatten()
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.r_[0, edges, flat.size]).tolist()
    return [0, *runs] if flat[0] else runs
