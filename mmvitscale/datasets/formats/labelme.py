"""LabelMe: a JSON file of each image with its shapes: polygon, rectangle, circle, mask; shapes of one class with the same
``group_id`` are parts of one object (https://github.com/wkentaro/labelme). The image may lie inside the file."""

import base64
import binascii
import io
import json
from collections.abc import Callable, Iterator
from math import hypot
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from PIL import Image

from mmvitscale.datasets.folders import IMAGES, ImageIndex, files_below, files_in, folders_of, split_of
from mmvitscale.datasets.formats.annotations import (
    AnnotatedDataset,
    AnnotatedImage,
    AnnotatedObject,
    Entries,
    mentions,
    ordered_classes,
    read_json,
    read_text,
)
from mmvitscale.datasets.formats.outlines import crop_of, ellipse, join_objects, mask_of
from mmvitscale.datasets.formats.output import Output
from mmvitscale.errors import InputError

_POLYGONS = ('polygon', 'oriented_rectangle', 'rotation', 'quadrilateral')  # the last two of X-AnyLabeling
_OUTLINES = ('polygon', 'rectangle', 'circle', 'mask', *_POLYGONS[1:])
_IGNORED = '__ignore__'  # of shapes that LabelMe's own programs leave out


def recognise(root: Path) -> str | None:
    """How a folder shows that it is in this format, or None."""
    file = next(_files(root), None)
    return f'{file.relative_to(root)} has shapes and imagePath' if file is not None else None


def _files(root: Path) -> Iterator[Path]:
    return filter(is_labelme, files_below(root, '.json'))


def _broken_files(root: Path, index: ImageIndex) -> list[Path]:
    """JSON files named as images, in folders of files of this format, that are none themselves: cut off, say."""
    found = []
    for folder in sorted({file.parent for file in _files(root)}):
        found += [path for path in files_in(folder, '.json') if index.has(path.stem) and not is_labelme(path)]
    return found


def is_labelme(path: Path) -> bool:
    """Whether a JSON file is LabelMe's, by its keys."""
    return mentions(path, b'"shapes"', b'"imagePath"')


def read(root: Path, entries: Entries) -> AnnotatedDataset:
    """A folder in this format. Raises InputError for what cannot be read as a whole; ``entries`` keeps invalid objects."""
    index = ImageIndex(root)
    images: list[AnnotatedImage] = []
    of: dict[Path, Path] = {}  # image -> its file
    for file in [*_files(root), *_broken_files(root, index)]:
        with entries.entry():
            image = _image(file, root, index, entries)
            if of.setdefault(image.path, file) != file:
                raise InputError(f'{of[image.path]} and {file} are both of the image {image.path.name}; remove one of them')
            image.split = split_of(file.parent, root) or split_of(image.path.parent, root)
            images.append(image)
    images.sort(key=lambda image: image.name)
    bare = len(set(index.paths) - set(of))
    notes = [f'{bare} images have no JSON file and are left out as not annotated'] if bare else []
    names = _listed_classes(root)
    found = [item.category for image in images for item in image.objects]
    classes = ordered_classes(found, names and names[0], entries, names[1] if names else '')
    return AnnotatedDataset(root, classes, images, notes)


def _listed_classes(root: Path) -> tuple[list[str], str] | None:
    """Names of ``labels.txt``, which LabelMe takes; those with underscores around are its own."""
    for folder in folders_of(root):
        for file in (folder / 'labels.txt', folder / 'classes.txt'):
            if file.is_file():
                names = [line.strip() for line in read_text(file).splitlines()]
                return [name for name in names if name and not (name.startswith('__') or name == '_background_')], str(file)
    return None


def _image(file: Path, root: Path, index: ImageIndex, entries: Entries) -> AnnotatedImage:
    content = read_json(file)
    shapes = content.get('shapes') if isinstance(content, dict) else None
    if not isinstance(shapes, list):
        raise InputError(f'{file} has no list of shapes; save it again with LabelMe')
    reference = content.get('imagePath')
    if not isinstance(reference, str) or not reference or '\0' in reference:
        raise InputError(f'{file} has the imagePath {str(reference)[:60]!r}, but it is the path of its image; correct it')
    reference = PureWindowsPath(reference).as_posix() if '\\' in reference else reference
    stated = tuple(content.get(key) for key in ('imageHeight', 'imageWidth'))
    embedded = None
    try:
        path = index.find(reference, file.parent, f'{file}, imagePath,')
        size = entries.size(path, stated if all(stated) else None, str(file))
    except InputError:
        if not content.get('imageData') or index.has(PurePosixPath(reference).stem):
            raise
        embedded = _reader_of(file)
        path = file.with_name(PurePosixPath(reference).name)
        size = _embedded_size(embedded, file)
        if all(stated) and stated != size:
            raise InputError(
                f'{file} says that its image is {stated[1]} x {stated[0]}, but imageData {size[1]} x {size[0]}; save it again'
            ) from None
    name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
    image = AnnotatedImage(path, name, *size, embedded=embedded)
    image.objects = _objects(shapes, file, size, entries)
    return image


def _reader_of(file: Path) -> Callable[[], bytes]:
    def read_image() -> bytes:
        try:
            return base64.b64decode(read_json(file)['imageData'], validate=False)
        except (binascii.Error, TypeError, ValueError) as error:
            raise InputError(f'{file} has an imageData that is not base64 ({error}); save it again with LabelMe') from error

    return read_image


def _embedded_size(embedded: Callable[[], bytes], file: Path) -> tuple[int, int]:
    """(height, width). The header alone is read."""
    try:
        with Image.open(io.BytesIO(embedded())) as image:
            width, height = image.size
            if image.format is None or f'.{image.format.lower()}' not in (*IMAGES, '.mpo'):
                raise OSError(f'format {image.format}')
            turned = image.getexif().get(0x0112, 1) >= 5
    except InputError:
        raise
    except Exception as error:  # whatever damaged bytes make the readers raise
        raise InputError(f'{file} has an imageData that is no image ({type(error).__name__}); save it again') from error
    return (width, height) if turned else (height, width)


def _objects(shapes: list[Any], file: Path, size: tuple[int, int], entries: Entries) -> list[AnnotatedObject]:
    """Objects of the shapes, those of one class and group joined, in the place of the first."""
    found: list[AnnotatedObject] = []
    groups: dict[tuple, AnnotatedObject] = {}
    for number, shape in enumerate(shapes):
        if isinstance(shape, dict) and shape.get('label') == _IGNORED:
            continue
        with entries.entry():
            where = f'{file}, shapes[{number}],'
            if not isinstance(shape, dict):
                raise InputError(f'{where} is {str(shape)[:40]!r}, but a shape has label, points and shape_type; correct it')
            item = _object(shape, where, size, entries)
            group = shape.get('group_id')
            key = (item.category, str(group))
            if group is not None and key in groups:
                join_objects(groups[key], item, size)
            else:
                groups[key] = item
                found.append(item)
    return found


def _object(shape: dict, where: str, size: tuple[int, int], entries: Entries) -> AnnotatedObject:
    kind, label, points = shape.get('shape_type') or 'polygon', shape.get('label'), shape.get('points')
    if kind not in _OUTLINES:
        raise InputError(f'{where} is a {str(kind)[:40]}, which has no area; draw a {", ".join(_OUTLINES[:4])}, or remove it')
    if not isinstance(points, list) or not all(isinstance(p, (list, tuple)) and len(p) == 2 for p in points):
        raise InputError(f'{where} has the points {str(points)[:60]!r}, but they are pairs x, y; correct or remove it')
    numbers = [value for point in points for value in point]
    if kind in _POLYGONS:
        return entries.object(where, size, label, polygons=[numbers])
    if len(points) != 2 and not (kind == 'rectangle' and len(points) == 4):
        raise InputError(f'{where} is a {kind} of {len(points)} points, but it takes two; draw it again or remove it')
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < 1e9 for v in numbers):
        raise InputError(f'{where} has the points {str(points)[:60]!r}, but they are finite numbers; correct or remove it')
    x, y = numbers[0::2], numbers[1::2]
    if kind == 'rectangle':
        return entries.object(where, size, label, box=(min(x), min(y), max(x), max(y)))
    if kind == 'circle':
        radius = hypot(x[1] - x[0], y[1] - y[0])
        return entries.object(where, size, label, polygons=[ellipse(x[0], y[0], radius, radius)])
    mask = _decoded(shape.get('mask'), where)
    corner = (round(min(x)), round(min(y)))
    # The second point is the last pixel, or the one behind it where the mask ends at the border.
    beyond = (round(max(x)) - corner[0] + 1 - mask.shape[1], round(max(y)) - corner[1] + 1 - mask.shape[0])
    if not {*beyond} <= {0, 1}:
        raise InputError(
            f'{where} has a mask of {mask.shape[1]} x {mask.shape[0]} pixels, but its points span '
            f'{round(max(x)) - corner[0] + 1} x {round(max(y)) - corner[1] + 1}; draw it again or remove it'
        )
    return entries.object(where, size, label, mask=(mask, corner))


def _decoded(text: object, where: str) -> np.ndarray:
    """(h, w) bool of a PNG in base64."""
    try:
        if not isinstance(text, str):
            raise TypeError('no text')
        with Image.open(io.BytesIO(base64.b64decode(text))) as image:
            return np.array(image.convert('L')) > 0
    except Exception as error:  # whatever damaged bytes make the readers raise
        raise InputError(f'{where} has a mask that is no PNG in base64 ({type(error).__name__}); draw it again') from error


def write(dataset: AnnotatedDataset, output: Output) -> None:
    """A JSON file beside each image, in folders of the splits, and ``labels.txt``. Boxes become rectangles, several polygons of
    an object a group, run lengths masks. A confidence stands in ``description``."""
    for image in dataset.images:
        folder = image.split or '.'
        name = output.image(image, folder, unique_stem=True)
        place = PurePosixPath(folder, name)
        shapes = [shape for number, item in enumerate(image.objects, 1) for shape in _shapes_of(item, number, image)]
        content = dict(
            version='5.5.0',
            flags={},
            shapes=shapes,
            imagePath=output.path_to(image, str(place), str(place.parent)),
            imageData=None,
            imageHeight=image.height,
            imageWidth=image.width,
        )
        output.text(str(place.with_suffix('.json')), json.dumps(content, ensure_ascii=False, indent=1) + '\n')
    output.text('labels.txt', ''.join(f'{name}\n' for name in dataset.classes))


def _shapes_of(item: AnnotatedObject, number: int, image: AnnotatedImage) -> Iterator[dict]:
    common: dict[str, Any] = dict(label=item.category, group_id=None, flags={})
    common['description'] = '' if item.score is None else f'score {item.score:.6g}'
    if item.segmentation is None:
        left, top, right, bottom = item.box
        yield dict(common, points=[[left, top], [right, bottom]], shape_type='rectangle', mask=None)
    elif isinstance(item.segmentation, dict):
        part, left, top = crop_of(mask_of(item, image.height, image.width))
        if not part.size:
            return
        buffer = io.BytesIO()
        Image.fromarray(part.astype(np.uint8) * 255).save(buffer, 'PNG')
        corners = [[left, top], [left + part.shape[1] - 1, top + part.shape[0] - 1]]
        yield dict(common, points=corners, shape_type='mask', mask=base64.b64encode(buffer.getvalue()).decode())
    else:
        for part in item.segmentation:
            points = [[part[i], part[i + 1]] for i in range(0, len(part), 2)]
            group = number if len(item.segmentation) > 1 else None
            yield dict(common, points=points, group_id=group, shape_type='polygon', mask=None)
