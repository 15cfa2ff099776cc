"""Label Studio: one JSON file of all tasks, whose regions are rectangles, ellipses and polygons in percent of the image, and
brush strokes as run lengths (https://labelstud.io/guide/export, JSON and JSON-MIN)."""

import base64
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from math import radians
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlparse
from xml.sax.saxutils import quoteattr

import numpy as np

from mmvitscale.datasets.folders import IMAGES, ImageIndex, files_below, files_in, split_of
from mmvitscale.datasets.formats.annotations import (
    AnnotatedDataset,
    AnnotatedImage,
    AnnotatedObject,
    Entries,
    mentions,
    ordered_classes,
    read_json,
    starts_with,
)
from mmvitscale.datasets.formats.outlines import ellipse, mask_of, turned_around
from mmvitscale.datasets.formats.output import Output
from mmvitscale.errors import InputError, some_of
from mmvitscale.utils.safe_xml import elements, root_tag

_LABEL_CONFIG = 'label_config.xml'
# Results that are of the whole image, or of two regions.
_NO_REGIONS = ('choices', 'taxonomy', 'textarea', 'rating', 'number', 'datetime', 'relation', 'pairwise', 'ranker')
_OF_REGIONS = ('original_width', 'original_height', 'image_rotation', 'score')
# Bits of run lengths that Label Studio's own programs choose from.
_RUN_BITS = (3, 4, 8, 16)


def recognise(root: Path) -> str | None:
    """How a folder shows that it is in this format, or None."""
    file = next(_files(root), None)
    return f'{file.relative_to(root)} has tasks of Label Studio' if file is not None else None


def _files(root: Path) -> Iterator[Path]:
    return filter(is_label_studio, files_below(root, '.json'))


def is_label_studio(path: Path) -> bool:
    """Whether a JSON file is Label Studio's: a list with keys of tasks."""
    of_tasks = mentions(path, b'"original_width"') or mentions(path, b'"annotations"', b'"data"')
    return of_tasks and starts_with(path, b'[')


def read(root: Path, entries: Entries) -> AnnotatedDataset:
    """A folder in this format. Raises InputError for what cannot be read as a whole; ``entries`` keeps invalid objects."""
    index = ImageIndex(root)
    images: list[AnnotatedImage] = []
    of: dict[Path, str] = {}
    left_out = guessed = 0
    for file in _files(root):
        tasks = [(f'{file}, task [{i}],', task) for i, task in enumerate(read_json(file))]
        annotated = any(results for _, task in tasks for results in _annotations(task))
        for where, task in tasks:
            with entries.entry():
                if not isinstance(task, dict):
                    raise InputError(f'{where} is {str(task)[:40]!r}, but a task has data and annotations; export it again')
                found = _annotations(task) if annotated else _predictions(task) or _annotations(task)
                if not found:
                    left_out += 1
                    continue
                guessed += not annotated
                image = _image(task, found, where, file, root, index, entries)
                if of.setdefault(image.path, where) != where:
                    raise InputError(f'{of[image.path]} and {where} are both of {image.path.name}; keep one of them')
                images.append(image)
    notes = [f'{left_out} tasks have no annotation and are left out'] if left_out else []
    if guessed:
        notes.append(f'{guessed} tasks have predictions alone, which are taken as annotations')
    images.sort(key=lambda image: image.name)
    found = [item.category for image in images for item in image.objects]
    listed = _listed_classes(root)
    return AnnotatedDataset(root, ordered_classes(found, listed, entries, _LABEL_CONFIG), images, notes)


def _listed_classes(root: Path) -> list[str] | None:
    """Names of a labelling interface beside the tasks."""
    for file in files_in(root, '.xml'):
        if root_tag(file) == 'View':
            view = next(iter(elements(file, ('View',), 0)))
            names = [label.get('value') for label in view.iter('Label')]
            return list(dict.fromkeys(name for name in names if name))
    return None


def _annotations(task: Any) -> list[list]:
    """Results of annotators who did not skip the task; those that were marked as ground truth, if there are any."""
    if not isinstance(task, dict):
        return []
    if not isinstance(task.get('annotations'), list):  # JSON-MIN: regions in lists beside the image
        regions = [v for v in task.values() if isinstance(v, list) and all(_is_region(item) for item in v)]
        has_image = any(isinstance(v, str) and _looks_like_image(v) for v in task.values())
        return [[item for v in regions for item in v]] if regions or (has_image and 'annotation_id' in task) else []
    found = [one for one in task['annotations'] if isinstance(one, dict) and not one.get('was_cancelled')]
    found = [one for one in found if one.get('ground_truth')] or found
    return [one['result'] for one in found if isinstance(one.get('result'), list)]


def _predictions(task: Any) -> list[list]:
    found = task.get('predictions') if isinstance(task, dict) else None
    return [one['result'] for one in found or () if isinstance(one, dict) and isinstance(one.get('result'), list)][:1]


def _is_region(item: Any) -> bool:
    return isinstance(item, dict) and ('original_width' in item or any(str(key).endswith('labels') for key in item))


def _looks_like_image(text: str) -> bool:
    return PurePosixPath(_path_of(text)).suffix.lower() in IMAGES


def _path_of(reference: str) -> str:
    """The path within a URL of Label Studio: of a local file, an upload or a cloud."""
    url = urlparse(reference)
    query = parse_qs(url.query)
    if 'd' in query and url.path.endswith('/local-files/'):
        return query['d'][0]
    if 'fileuri' in query:  # of storage that Label Studio resolves
        with suppress(ValueError):
            return unquote(urlparse(base64.urlsafe_b64decode(query['fileuri'][0] + '==').decode()).path)
    return unquote(url.path if url.scheme or url.path.startswith('/data/') else reference)


def _image(
    task: dict, found: list[list], where: str, file: Path, root: Path, index: ImageIndex, entries: Entries
) -> AnnotatedImage:
    reference = _reference(task, found[0], where)
    if len(found) > 1:
        raise InputError(
            f'{where} has the annotations of {len(found)} annotators; mark one as ground truth in Label Studio, or remove the '
            'others'
        )
    name = _path_of(reference)
    upload = PurePosixPath(name)
    plain = re.sub(r'^[0-9a-f]{8}-', '', upload.name)
    if plain != upload.name and not index.has(upload.stem):
        name = str(upload.with_name(plain))
    path = index.find(name, file.parent, where)
    regions = _regions(found[0], where, entries)
    size = entries.size(path, next((stated for _, region in regions if (stated := _stated(region))), None), where)
    split = split_of(path.parent, root) or split_of(file, root)
    image = AnnotatedImage(path, path.relative_to(root).as_posix(), *size, split=split)
    for place, region in regions:
        with entries.entry():
            image.objects.append(_object(region, place, size, entries))
    return image


def _reference(task: dict, results: list, where: str) -> str:
    """What a task calls its image. Raises InputError where there is none, or several that its regions may be on."""
    data = task.get('data') if isinstance(task.get('data'), dict) else task
    texts = {key: value for key, value in data.items() if isinstance(value, str)} if data else {}
    images = {key: value for key, value in texts.items() if _looks_like_image(value)}
    if not images:
        found = some_of(list(texts.values())) or 'nothing'
        raise InputError(f'{where} names no image ({found}), so it cannot be learned; leave it out of the export')
    tags = {result.get('to_name') for result in results if isinstance(result, dict) and result.get('to_name')}
    if len(images) > 1 and len(tags) == 1 and tags <= set(images):
        return images[tags.pop()]
    if len(images) > 1 or len(tags) > 1:
        raise InputError(
            f'{where} has several images or pages ({some_of([*images])}), and its regions may be on any; make a task of each'
        )
    return next(iter(images.values()))


def _stated(region: dict) -> tuple[int, int] | None:
    height, width = region.get('original_height'), region.get('original_width')
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _regions(results: list, where: str, entries: Entries) -> list[tuple[str, dict]]:
    """Where each region stands, and what it has: results of one id are of one region, its shape and its label."""
    found: dict[str, tuple[str, dict]] = {}
    for number, result in enumerate(results):
        place = f'{where} result [{number}],'
        with entries.entry():
            if not isinstance(result, dict):
                raise InputError(f'{place} is {str(result)[:40]!r}, but a result has type and value; export it again')
            if result.get('type') in _NO_REGIONS:
                continue
            value, identity = result.get('value'), result.get('id')
            value = value if isinstance(value, dict) else result  # JSON-MIN: without it
            identity = identity if isinstance(identity, str) else str(number)
            merged = found.setdefault(identity, (place, {}))[1]
            merged.update({key: result[key] for key in _OF_REGIONS if key in result})
            merged.update(value)
    return list(found.values())


def _object(region: dict, where: str, size: tuple[int, int], entries: Entries) -> AnnotatedObject:
    labels = next((v for key, v in region.items() if str(key).endswith('labels') and isinstance(v, list) and v), None)
    if labels is None:
        raise InputError(f'{where} has no label; give it one in Label Studio, or remove it')
    if len(labels) > 1:
        raise InputError(
            f'{where} has the labels {some_of([str(label) for label in labels])}, but an object has one; remove the others'
        )
    if region.get('image_rotation'):
        raise InputError(f'{where} was drawn on a turned image ({region["image_rotation"]} degrees); turn the image itself')
    score = region.get('score')
    score = float(score) if isinstance(score, (int, float)) and not isinstance(score, bool) else None
    height, width = size
    if 'rle' in region:
        mask = _decoded(region['rle'], size, where)
        return entries.object(where, size, labels[0], mask=(mask, (0, 0)), score=score)
    if 'points' in region:
        points = region['points']
        if not isinstance(points, list) or not all(isinstance(p, (list, tuple)) and len(p) == 2 for p in points):
            raise InputError(
                f'{where} has the points {str(points)[:60]!r}, but they are pairs of percent; correct or remove it'
            )
        polygon = [_share(v, where) * side for point in points for v, side in zip(point, (width, height))]
        return entries.object(where, size, labels[0], polygons=[polygon], score=score)
    keys = ('x', 'y', 'radiusX', 'radiusY') if 'radiusX' in region else ('x', 'y', 'width', 'height')
    if not all(key in region for key in keys):
        raise InputError(f'{where} has no area (it has {some_of(sorted(map(str, region)))}); draw it again, or remove it')
    x, y, w, h = (_share(region[key], where) * side for key, side in zip(keys, (width, height, width, height)))
    turned = radians(_share(region.get('rotation') or 0, where) * 100)
    if 'radiusX' in region:
        polygon = ellipse(x, y, w, h, turned)
    elif not turned:
        return entries.object(where, size, labels[0], box=(x, y, x + w, y + h), score=score)
    else:
        polygon = turned_around(x, y, [(0.0, 0.0), (w, 0.0), (w, h), (0.0, h)], turned)
    return entries.object(where, size, labels[0], polygons=[polygon], score=score)


def _share(value: Any, where: str) -> float:
    """Percent -> share. Raises InputError for what is no number."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) < 1e6:
        raise InputError(
            f'{where} has the coordinate {str(value)[:40]!r}, but coordinates are percent of the image; correct it'
        )
    return value / 100


def _decoded(content: Any, size: tuple[int, int], where: str) -> np.ndarray:
    """(height, width) bool of a brush: bytes as numbers, whose bits are the number of values (32), the bits of a value less
    one (5), four times the bits of a run length less one (4), then the runs of the red, green, blue and alpha of each pixel."""
    try:
        bits = np.unpackbits(np.array(content, np.uint8))
        values = _runs(bits, 4 * size[0] * size[1])
    except (IndexError, OverflowError, TypeError, ValueError) as error:
        raise InputError(f'{where} has an rle that cannot be read ({error}); draw it again in Label Studio') from error
    return values.reshape(*size, 4)[..., 3] > 0


def _runs(bits: np.ndarray, expected: int) -> np.ndarray:
    place = 0
    text = bits.astype(np.uint8).tobytes().translate(bytes.maketrans(b'\0\1', b'01')).decode()

    def take(count: int) -> int:
        nonlocal place
        place += count
        if place > len(text):
            raise ValueError('it ends early')
        return int(text[place - count : place], 2)

    total = take(32)
    if total != expected:
        raise ValueError(f'it has {total} values, but the image {expected}')
    word = take(5) + 1
    lengths = [take(4) + 1 for _ in range(4)]
    values = np.zeros(total, np.uint32)
    done = 0
    while done < total:
        repeated = take(1)
        count = take(lengths[take(2)]) + 1
        if done + count > total:
            raise ValueError('it has more values than the image')
        if repeated:
            values[done : done + count] = take(word)
        else:
            values[done : done + count] = [take(word) for _ in range(count)]
        done += count
    return values


def _encoded(mask: np.ndarray) -> list[int]:
    """(H, W) bool -> what ``_decoded`` reads."""
    flat = np.repeat(mask.flatten(), 4)
    edges = np.flatnonzero(np.diff(flat)) + 1
    starts, ends = np.r_[0, edges].tolist(), np.r_[edges, flat.size].tolist()
    text = [f'{flat.size:032b}', f'{7:05b}', *(f'{bits - 1:04b}' for bits in _RUN_BITS)]
    for start, end in zip(starts, ends):
        while start < end:
            count = min(end - start, 1 << _RUN_BITS[-1])
            kind = next(i for i, bits in enumerate(_RUN_BITS) if count <= 1 << bits)
            text.append(f'1{kind:02b}{count - 1:0{_RUN_BITS[kind]}b}{255 * int(flat[start]):08b}')
            start += count
    bits = np.frombuffer(''.join(text).encode(), np.uint8) - ord('0')
    return np.packbits(bits).tolist()


def write(dataset: AnnotatedDataset, output: Output) -> None:
    """``tasks.json`` to import, ``label_config.xml``, the labelling interface, and the folder ``images``, which local storage
    serves. Objects with a confidence become predictions, others annotations; an object of several polygons or of run lengths
    is a brush."""
    tasks = []
    predicted = any(item.score is not None for image in dataset.images for item in image.objects)
    for image in dataset.images:
        folder = PurePosixPath('images', image.split or '.')
        place = str(folder / output.image(image, str(folder)))
        results = [_result(item, number, image) for number, item in enumerate(image.objects, 1)]
        if predicted:
            scores = [item.score for item in image.objects if item.score is not None]
            regions: dict[str, Any] = dict(
                predictions=[dict(model_version='mmvitscale', score=min(scores, default=0.0), result=results)]
            )
        else:
            regions = dict(annotations=[dict(result=results, was_cancelled=False, ground_truth=False)])
        tasks.append(dict(data=dict(image=f'/data/local-files/?d={quote(place)}'), **regions))
    output.text('tasks.json', json.dumps(tasks, ensure_ascii=False) + '\n')
    labels = ''.join(f'<Label value={quoteattr(name)}/>' for name in dataset.classes)
    kinds = ''.join(f'<{kind} name="{kind.lower()}" toName="image">{labels}</{kind}>' for kind in _kinds(dataset))
    output.text(_LABEL_CONFIG, f'<View><Image name="image" value="$image"/>{kinds}</View>\n')


def _kind(item: AnnotatedObject) -> str:
    if item.segmentation is None:
        return 'RectangleLabels'
    return 'PolygonLabels' if isinstance(item.segmentation, list) and len(item.segmentation) == 1 else 'BrushLabels'


def _kinds(dataset: AnnotatedDataset) -> Sequence[str]:
    return sorted({_kind(item) for image in dataset.images for item in image.objects}) or ['RectangleLabels']


def _result(item: AnnotatedObject, number: int, image: AnnotatedImage) -> dict:
    width, height, kind = image.width, image.height, _kind(item).lower()
    value: dict[str, Any] = {kind: [item.category]}
    if kind == 'rectanglelabels':
        left, top, right, bottom = item.box
        value.update(x=100 * left / width, y=100 * top / height, rotation=0)
        value.update(width=100 * (right - left) / width, height=100 * (bottom - top) / height)
    elif kind == 'polygonlabels':
        assert isinstance(item.segmentation, list)
        (part,) = item.segmentation
        value.update(points=[[100 * part[i] / width, 100 * part[i + 1] / height] for i in range(0, len(part), 2)], closed=True)
    else:
        value.update(format='rle', rle=_encoded(mask_of(item, height, width)))
    score = {} if item.score is None else dict(score=item.score)
    common = dict(original_width=width, original_height=height, image_rotation=0, from_name=kind, to_name='image')
    return dict(id=f'r{number}', type=kind, value=value, **common, **score)
