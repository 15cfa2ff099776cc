"""Writers of LabelMe's, CVAT's and Label Studio's own files.

Written from wkentaro/labelme, docs.cvat.ai (XML annotation format 1.1) and labelstud.io (task format, tags, JSON-MIN).
"""

import base64
import json
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from tests.helpers import annotation_samples as samples
from tests.helpers import brush_rle
from tests.helpers.annotation_samples import HEIGHT, OBJECT_CLASSES, WIDTH, Expected
from tests.helpers.annotation_writers import BOX, POLYGON, Flavour, put

# LabelMe


def labelme_shape(shape, form: str, number: int) -> list[dict]:
    """form: rectangle, polygon, parts, circle or mask. Its rectangle may be drawn from any corner."""
    common = dict(label=shape.name, group_id=None, description='', flags={}, mask=None)
    left, top, right, bottom = shape.box
    if form == 'rectangle':
        corners = [[left, top], [right, bottom]] if number % 2 else [[right, top], [left, bottom]]
        return [dict(common, shape_type='rectangle', points=corners)]
    if form == 'circle':
        x, y, radius = samples.circle_of(shape)
        return [dict(common, shape_type='circle', points=[[x, y], [x + radius * 0.6, y - radius * 0.8]])]
    if form == 'mask':
        import cv2

        part = shape.mask[top:bottom, left:right].astype(np.uint8) * 255
        coded = base64.b64encode(cv2.imencode('.png', part)[1].tobytes()).decode()
        return [dict(common, shape_type='mask', points=[[left, top], [right - 1, bottom - 1]], mask=coded)]
    parts = shape.parts if form == 'parts' else shape.parts[:1]
    group = number if len(parts) > 1 else None
    return [dict(common, shape_type='polygon', group_id=group, points=[list(p) for p in part]) for part in parts]


def labelme(form, image='{file}', label='{stem}.json', path='{file}', embed=False):
    def write(pictures, root):
        for picture in pictures:
            shapes = [item for number, shape in enumerate(picture.shapes) for item in labelme_shape(shape, form, number)]
            content = dict(version='5.5.0', flags={}, shapes=shapes, imagePath=path.format(file=picture.file))
            content['imageData'] = base64.b64encode(picture.content).decode() if embed else None
            names = dict(split=picture.split, file=picture.file, stem=picture.stem)
            put(root / label.format(**names), json.dumps(dict(content, imageHeight=HEIGHT, imageWidth=WIDTH), indent=2))
            if image:
                put(root / image.format(**names), picture.content)

    return write


# CVAT


def _run_lengths_in_rows(mask) -> list[int]:
    counts, value = [0], False
    for pixel in mask.ravel().tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


def cvat_shapes(picture, form: str) -> list[str]:
    lines = []
    for number, shape in enumerate(picture.shapes, 1):
        common = f'label={quoteattr(shape.name)} source="manual" occluded="0"'
        left, top, right, bottom = shape.box
        if form == 'box':
            corners = f'xtl="{left:.2f}" ytl="{top:.2f}" xbr="{right:.2f}" ybr="{bottom:.2f}"'
            attribute = '<attribute name="colour">red</attribute>'
            lines.append(f'<box {common} {corners} z_order="0">{attribute}</box>')
        elif form == 'mask':
            rle = ', '.join(map(str, _run_lengths_in_rows(shape.mask[top:bottom, left:right])))
            place = f'left="{left}" top="{top}" width="{right - left}" height="{bottom - top}"'
            lines.append(f'<mask {common} rle="{rle}" {place} z_order="0"></mask>')
        else:
            parts = shape.parts if form == 'parts' else shape.parts[:1]
            group = f' group_id="{number}"' if len(parts) > 1 else ''
            for part in parts:
                points = ';'.join(f'{x:.2f},{y:.2f}' for x, y in part)
                lines.append(f'<polygon {common} points="{points}" z_order="0"{group}></polygon>')
    return lines


def cvat(form, meta='task', subset=True, folder='images/'):
    """meta: task, project or job: where the labels stand."""

    def write(pictures, root):
        labels = ''.join(
            f'<label><name>{name}</name><color>#ff00cc</color><type>any</type><attributes></attributes></label>'
            for name in OBJECT_CLASSES
        )
        lines = ['<?xml version="1.0" encoding="utf-8"?>', '<annotations>', '<version>1.1</version>', '<meta>']
        lines += [f'<{meta}><id>4</id><name>scenes</name><labels>{labels}</labels></{meta}>']
        lines += ['<dumped>2024-05-02 11:38:28.799808+00:00</dumped>', '</meta>']
        for number, picture in enumerate(pictures):
            put(root / folder / picture.file, picture.content)
            part = f' subset="{picture.split.capitalize().replace("Val", "Validation")}"' if subset else ''
            size = f'width="{WIDTH}" height="{HEIGHT}"'
            lines.append(f'<image id="{number}" name={quoteattr(picture.file)}{part} {size}>')
            lines += [*cvat_shapes(picture, form), '</image>']
        put(root / 'annotations.xml', [*lines, '</annotations>'])

    return write


# Label Studio

ROTATIONS = (0, 30, 345)  # degrees clockwise about the rectangle's own first corner


def rotated(shape, number: int) -> tuple[list[tuple[float, float]], float]:
    """Corners of a small rectangle in an object's middle, turned, and its rotation."""
    left, top, right, bottom = shape.box
    rotation = ROTATIONS[number % len(ROTATIONS)]
    x, y, width, height = (left + right) / 2, (top + bottom) / 2, 9.0, 5.0
    turn = np.deg2rad(rotation)
    along, down = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
    corners = [(x, y) + a * width * along + b * height * down for a, b in ((0, 0), (1, 0), (1, 1), (0, 1))]
    return [tuple(corner.tolist()) for corner in corners], rotation


def rotated_rectangles(picture) -> list[Expected]:
    """The boxes around them; beyond the image they may be cut."""
    return [Expected(shape.name, samples.extent([rotated(shape, i)[0]])) for i, shape in enumerate(picture.shapes)]


def ellipses(picture) -> list[Expected]:
    found = []
    for shape in picture.shapes:
        x, y, _ = samples.circle_of(shape)
        mask = samples.disc(x, y, 12, 7, 20)
        turn = np.deg2rad(20)
        half = np.hypot(12 * np.cos(turn), 7 * np.sin(turn)), np.hypot(12 * np.sin(turn), 7 * np.cos(turn))
        found.append(Expected(shape.name, (x - half[0], y - half[1], x + half[0], y + half[1]), mask))
    return found


def circles(picture) -> list[Expected]:
    found = []
    for shape in picture.shapes:
        x, y, radius = samples.circle_of(shape)
        found.append(Expected(shape.name, (x - radius, y - radius, x + radius, y + radius), samples.disc(x, y, radius, radius)))
    return found


def label_studio_value(shape, form: str, number: int) -> tuple[str, dict]:
    left, top, right, bottom = shape.box
    across, down = 100 / WIDTH, 100 / HEIGHT
    if form == 'polygon':
        points = [[x * across, y * down] for x, y in shape.parts[0]]
        return 'polygonlabels', dict(points=points, closed=True)
    if form == 'brush':
        return 'brushlabels', dict(format='rle', rle=brush_rle.encode(shape.mask, single=number % 2 == 1))
    if form == 'ellipse':
        x, y, _ = samples.circle_of(shape)
        return 'ellipselabels', dict(x=x * across, y=y * down, radiusX=12 * across, radiusY=7 * down, rotation=20)
    rotation = 0
    if form == 'rotated':
        (x, y), rotation = rotated(shape, number)[0][0], rotated(shape, number)[1]
        left, top, right, bottom = x, y, x + 9, y + 5
    value = dict(x=left * across, y=top * down, width=(right - left) * across, height=(bottom - top) * down)
    return 'rectanglelabels', dict(value, rotation=rotation)


def label_studio_results(picture, form: str) -> list[dict]:
    size = dict(original_width=WIDTH, original_height=HEIGHT, image_rotation=0)
    results = []
    for number, shape in enumerate(picture.shapes):
        kind, value = label_studio_value(shape, form, number)
        value[kind] = [shape.name]
        about = dict(id=f'r{number}', type=kind, from_name='label', to_name='image', origin='manual')
        results.append(dict(size, value=value, **about))
    return results


def label_studio(form, url='/data/upload/1/0a1b2c3d-{quoted}', image='images/0a1b2c3d-{file}'):
    def write(pictures, root):
        tasks = []
        for number, picture in enumerate(pictures, 1):
            put(root / image.format(file=picture.file), picture.content)
            annotation = dict(id=number + 50, completed_by=1, was_cancelled=False, ground_truth=False, task=number, project=1)
            annotation['result'] = label_studio_results(picture, form)
            task = dict(id=number, annotations=[annotation], drafts=[], predictions=[], meta={}, project=1)
            data = dict(image=url.format(file=picture.file, quoted=quote(picture.file)))
            tasks.append(dict(task, file_upload=f'0a1b2c3d-{picture.file}', data=data))
        put(root / 'project-1-at-2024-05-02-11-38-0a1b2c3d.json', json.dumps(tasks))

    return write


def json_min(form, key='label'):
    """Tasks without objects have no key for them."""

    def write(pictures, root):
        tasks = []
        for number, picture in enumerate(pictures, 1):
            put(root / f'0a1b2c3d-{picture.file}', picture.content)
            size = dict(original_width=WIDTH, original_height=HEIGHT)
            regions = [dict(result['value'], **size) for result in label_studio_results(picture, form)]
            about = dict(annotator=1, annotation_id=number, created_at='2024-05-02T11:38:28Z', lead_time=3.2)
            task = dict(image=f'/data/upload/1/0a1b2c3d-{quote(picture.file)}', id=number, **about)
            tasks.append({**task, **({key: regions} if regions else {})})
        put(root / 'project-1-at-2024-05-02-11-38-0a1b2c3d.json', json.dumps(tasks))

    return write


PART, MASK = samples.grouped, samples.masks
LOCAL = dict(url='/data/local-files/?d=scenes/images/{quoted}', image='images/{file}')
REMOTE = dict(url='https://files.example.org/a/{quoted}?X-Amz-Date=1', image='{file}')
UNSORTED = dict(classes=None, splits=False)  # names and splits are written nowhere
TOOLS = {
    'LabelMe, rectangles': Flavour('labelme', labelme('rectangle'), BOX, **UNSORTED),
    'LabelMe, polygons': Flavour('labelme', labelme('polygon'), POLYGON, **UNSORTED),
    'LabelMe, groups': Flavour('labelme', labelme('parts'), PART, **UNSORTED),
    'LabelMe, circles': Flavour('labelme', labelme('circle'), circles, overlap=0.95, resolution=0.5, **UNSORTED),
    'LabelMe, masks': Flavour('labelme', labelme('mask'), MASK, **UNSORTED),
    'LabelMe, image within': Flavour('labelme', labelme('polygon', image='', embed=True), POLYGON, **UNSORTED),
    'LabelMe, backslashes': Flavour(
        'labelme', labelme('rectangle', 'img/{file}', 'json/{stem}.json', '..\\img\\{file}'), BOX, **UNSORTED
    ),
    'LabelMe, paths of another machine': Flavour(
        'labelme', labelme('rectangle', path='D:\\data\\scenes\\{file}'), BOX, **UNSORTED
    ),
    'LabelMe, splits': Flavour('labelme', labelme('polygon', '{split}/{file}', '{split}/{stem}.json'), POLYGON, None),
    'CVAT, boxes': Flavour('cvat', cvat('box'), BOX),
    'CVAT, polygons, no subsets': Flavour('cvat', cvat('polygon', subset=False), POLYGON, splits=False),
    'CVAT, groups, project': Flavour('cvat', cvat('parts', 'project'), PART),
    'CVAT, masks, job': Flavour('cvat', cvat('mask', 'job', folder='.'), MASK),
    'Label Studio, rectangles': Flavour('label-studio', label_studio('rectangle'), BOX, **UNSORTED),
    'Label Studio, turned': Flavour('label-studio', label_studio('rotated'), rotated_rectangles, **UNSORTED),
    'Label Studio, polygons': Flavour('label-studio', label_studio('polygon', **LOCAL), POLYGON, **UNSORTED),
    'Label Studio, ellipses': Flavour(
        'label-studio', label_studio('ellipse'), ellipses, overlap=0.93, resolution=0.5, **UNSORTED
    ),
    'Label Studio, brush': Flavour('label-studio', label_studio('brush', **REMOTE), MASK, **UNSORTED),
    'Label Studio, files without prefix': Flavour('label-studio', label_studio('rectangle', image='{file}'), BOX, **UNSORTED),
    'Label Studio, JSON-MIN': Flavour('label-studio', json_min('rectangle'), BOX, **UNSORTED),
    'Label Studio, JSON-MIN, brush': Flavour('label-studio', json_min('brush', 'tag'), MASK, **UNSORTED),
}
