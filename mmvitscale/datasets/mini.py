"""The synthetic mini dataset: synthetic images drawn on the spot, for the demo and the tests.

A scene is a few textured regions under overlapping objects. A class is a texture, of objects also a shape; colours are
drawn at random for every region and object, so that no pixel's colour determines its class. The same scenes are written both as
ADE20K lays its files out (label 0 is ignored, labels 1 to 10 are the classes) and as COCO does (objects only), with a
class for each image (its dominant object), and if wanted as TIFF files of colour and depth.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tifffile

from mmvitscale.errors import InputError

Texture = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
Shape = Callable[[np.ndarray, np.ndarray], np.ndarray]


# Textures: pixel coordinates -> brightness in [0, 1].


def _waves(period: float, square: bool = False) -> Texture:

    def texture(y, x, rng):
        phase = rng.uniform(0, 2 * np.pi)
        wave = np.sin(2 * np.pi * x / period + phase)
        return (wave > 0).astype(float) if square else (wave + 1) / 2

    return texture


def _checks(side: float) -> Texture:
    return lambda y, x, rng: ((np.floor(y / side) + np.floor(x / side)) % 2).astype(float)


def _dots(y, x, rng):
    pitch = rng.uniform(12, 15)
    return ((y % pitch - pitch / 2) ** 2 + (x % pitch - pitch / 2) ** 2 < (0.3 * pitch) ** 2).astype(float)


def _grain(y, x, rng):
    return rng.uniform(0, 1, y.shape)


def _blocks(y, x, rng):
    grid = rng.uniform(0, 1, (64, 64))
    return grid[np.floor(y / 6).astype(int) % 64, np.floor(x / 6).astype(int) % 64]


def _glow(y, x, rng):
    return np.clip(1 - np.hypot(y, x) / 40, 0, 1)


def _ripples(y, x, rng):
    return (np.sin(2 * np.pi * np.hypot(y, x) / 8) + 1) / 2


def _plain(y, x, rng):
    return np.full(y.shape, 0.5)


# Shapes: coordinates in units of the object's radius -> inside or not.


def _star(y, x):
    angle = np.arctan2(y, x)
    return np.hypot(y, x) < 0.7 + 0.3 * np.cos(5 * angle)


REGIONS: dict[str, Texture] = {
    'stripes': _waves(16),
    'checks': _checks(9),
    'dots': _dots,
    'grain': _grain,
}
OBJECTS: dict[str, tuple[Shape, Texture]] = {
    'disc': (lambda y, x: y**2 + x**2 < 0.8, _glow),
    'square': (lambda y, x: np.maximum(abs(y), abs(x)) < 0.75, _waves(8, square=True)),
    'triangle': (lambda y, x: (y < 0.6) & (y > 2 * abs(x) - 1), _checks(4)),
    'ring': (lambda y, x: abs(np.hypot(y, x) - 0.72) < 0.28, _ripples),
    'cross': (lambda y, x: (np.minimum(abs(y), abs(x)) < 0.3) & (np.maximum(abs(y), abs(x)) < 0.95), _plain),
    'star': (_star, _blocks),
}
CLASSES: tuple[str, ...] = (*REGIONS, *OBJECTS)
PALETTE = (
    (120, 120, 120),
    (180, 120, 60),
    (6, 120, 230),
    (80, 170, 80),
    (240, 60, 60),
    (240, 200, 20),
    (20, 210, 210),
    (160, 60, 220),
    (250, 130, 190),
    (100, 60, 20),
)

SPLITS = ('training', 'validation')
_COCO_SPLITS = {'training': 'train2017', 'validation': 'val2017'}
_MARKER = 'mini.json'


@dataclass(frozen=True)
class Instance:
    """One visible object: its name and its (H, W) bool mask."""

    name: str
    mask: np.ndarray


@dataclass(frozen=True)
class Scene:
    """image: (H, W, 3) uint8 BGR; depth: (H, W) uint8, as a camera above sees it: 215 for regions, the less the later an
    object was laid on top; labels: (H, W) uint8, 0 unlabelled, k + 1 for CLASSES[k]; instances: visible."""

    image: np.ndarray
    depth: np.ndarray
    labels: np.ndarray
    instances: list[Instance]


def draw_scene(size: int, rng: np.random.Generator, object_scale: float | None = None) -> Scene:
    """One (size, size) scene. Equal generators give equal scenes. object_scale: of objects and textures, 1 for those of a scene
    of 256 pixels; they grow with the scene if it is None."""
    y, x = np.mgrid[:size, :size].astype(float)
    unit = object_scale or size / 256
    image, labels = np.zeros((size, size, 3)), np.zeros((size, size), np.uint8)
    owner = np.full((size, size), -1)

    def paint(where, texture, centre, scale=1.0):
        turn = rng.uniform(0, 2 * np.pi)
        dy, dx = (y - centre[0]) / (unit * scale), (x - centre[1]) / (unit * scale)
        v, u = np.cos(turn) * dy - np.sin(turn) * dx, np.sin(turn) * dy + np.cos(turn) * dx
        dark, bright = _two_colours(rng)
        image[where] = (dark + (bright - dark) * texture(v, u, rng)[..., None])[where]

    sites = rng.uniform(0, size, (rng.integers(2, 5), 2))
    nearest = np.argmin([(y - a) ** 2 + (x - b) ** 2 for a, b in sites], axis=0)
    for i, name in enumerate(rng.permutation(list(REGIONS))[: len(sites)]):
        paint(nearest == i, REGIONS[name], sites[i])
        labels[nearest == i] = CLASSES.index(name) + 1

    count = rng.integers(5, 10)
    if object_scale:  # as many on an area
        count = max(1, round(count * (size / 256 / object_scale) ** 2))
    names = list(rng.choice(list(OBJECTS), count))
    for i, name in enumerate(names):
        shape, texture = OBJECTS[name]
        centre, radius, turn = rng.uniform(0.1, 0.9, 2) * size, rng.uniform(26, 50) * unit, rng.uniform(0, 2 * np.pi)
        dy, dx = (y - centre[0]) / radius, (x - centre[1]) / radius
        inside = shape(np.cos(turn) * dy - np.sin(turn) * dx, np.sin(turn) * dy + np.cos(turn) * dx)
        paint(inside, texture, centre)
        labels[inside], owner[inside] = CLASSES.index(name) + 1, i

    if rng.uniform() < 0.25:  # a smudge that belongs to no class, over everything
        centre = rng.uniform(0, size, 2)
        inside = ((y - centre[0]) / 1.6) ** 2 + (x - centre[1]) ** 2 < (9 * unit) ** 2
        paint(inside, _plain, centre)
        labels[inside], owner[inside] = 0, -1

    light = 1 + 0.25 * (rng.uniform(-1, 1) * (y / size - 0.5) + rng.uniform(-1, 1) * (x / size - 0.5))
    image = image * light[..., None] + rng.normal(0, 6, image.shape)
    masks = [Instance(name, owner == i) for i, name in enumerate(names)]
    visible = [instance for instance in masks if instance.mask.sum() >= 40 * unit**2]
    depth = 215 - 18 * (owner + 1) + rng.normal(0, 6, owner.shape)
    image, depth = (values.clip(0, 255).round().astype(np.uint8) for values in (image, depth))
    return Scene(image, depth, labels, visible)


def dominant_object(labels: np.ndarray) -> int:
    """(H, W) labels of a scene -> the class of objects with the most pixels, a number of OBJECTS; the first of equals."""
    counts = np.bincount(labels.ravel(), minlength=len(CLASSES) + 1)
    return int(counts[1 + len(REGIONS) :].argmax())


def _two_colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two random BGR colours at least 90 apart."""
    while True:
        first, second = rng.uniform(20, 235, (2, 3))
        if np.linalg.norm(first - second) >= 90:
            return first, second


def run_lengths(mask: np.ndarray) -> dict:
    """(H, W) bool -> COCO's uncompressed RLE: lengths of runs down the columns, beginning with zeros."""
    flat = np.concatenate([[False], mask.ravel(order='F'), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], edges, [mask.size]]))
    return {'counts': [int(c) for c in (counts if counts[-1] else counts[:-1])], 'size': list(mask.shape)}


def write_dataset(
    out: str,
    train: int = 64,
    val: int = 16,
    size: int = 256,
    seed: int = 0,
    depth: bool = False,
    object_scale: float | None = None,
) -> Path:
    """Draw ``train`` and ``val`` scenes of size x size pixels and write them under ``out``:

    ``ADEChallengeData2016/{images,annotations}/{training,validation}``,
    ``ADEChallengeData2016/labels/{training,validation}.txt`` (image and class, a number of OBJECTS, in each line) and
    ``coco/{train2017,val2017,annotations/instances_*.json}``; with ``depth`` also ``ADEChallengeData2016/rgbd/...``, TIFF
    files of four channels: red, green, blue and depth; ``object_scale`` as in ``draw_scene``. The same arguments give the same
    bytes. The folder appears complete or not at all; an earlier one made here is replaced.

    Raises:
        InputError: for counts or a size that make no data set, or a folder that holds something else or cannot be
            written.
    """
    out = Path(out)
    if object_scale is not None and not 0.1 <= object_scale <= 10:
        raise InputError(f'object_scale {object_scale} found, but it is 0.1 to 10')
    if train < 1 or val < 1 or size < 32:
        raise InputError(
            f'{train} training and {val} validation scenes of {size} pixels asked for; at least 1, 1 and 32 are needed'
        )
    if out.exists() and not (out / _MARKER).exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f'{out} exists and was not written by this command, so it is left alone; give another --out')
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f'.{out.name}-', dir=out.parent))
    except OSError as error:
        raise InputError(
            f'cannot write to {out.parent} ({error.strerror}); give an --out in a folder that can be written'
        ) from error
    try:
        draft.chmod(0o755)
        for number, (split, count) in enumerate(zip(SPLITS, (train, val))):
            scenes = (draw_scene(size, np.random.default_rng([seed, number, i]), object_scale) for i in range(count))
            _write_split(draft, split, scenes, depth)
        marker = dict(
            about='Synthetic scenes.',
            train=train,
            val=val,
            size=size,
            seed=seed,
            depth=depth,
            object_scale=object_scale,
            classes=CLASSES,
        )
        (draft / _MARKER).write_text(json.dumps(marker, indent=1) + '\n')
        if out.exists():
            shutil.rmtree(out)
        os.replace(draft, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return out


def _write_split(root: Path, split: str, scenes, depth: bool) -> None:
    ade = root / 'ADEChallengeData2016'
    images, annotations = ade / 'images' / split, ade / 'annotations' / split
    coco_images, coco_json = root / 'coco' / _COCO_SPLITS[split], root / 'coco' / 'annotations'
    for folder in (images, annotations, coco_images, coco_json):
        folder.mkdir(parents=True, exist_ok=True)

    coco: dict = dict(
        info=dict(description='Synthetic scenes.'),
        images=[],
        annotations=[],
        categories=[dict(id=i + 1, name=name) for i, name in enumerate(OBJECTS)],
    )
    lines = []
    for number, scene in enumerate(scenes):
        name = f'scene_{number:05d}'
        _write_image(images / f'{name}.jpg', scene.image, [cv2.IMWRITE_JPEG_QUALITY, 95])
        _write_image(annotations / f'{name}.png', scene.labels, [])
        if depth:
            _write_rgbd(ade / 'rgbd' / split / f'{name}.tif', scene)
        shutil.copyfile(images / f'{name}.jpg', coco_images / f'{name}.jpg')
        lines.append(f'{name}.jpg {dominant_object(scene.labels)}')
        height, width = scene.labels.shape
        coco['images'].append(dict(id=number + 1, file_name=f'{name}.jpg', height=height, width=width))
        for instance in scene.instances:
            rows, columns = np.flatnonzero(instance.mask.any(1)), np.flatnonzero(instance.mask.any(0))
            box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
            coco['annotations'].append(
                dict(
                    id=len(coco['annotations']) + 1,
                    image_id=number + 1,
                    iscrowd=0,
                    category_id=list(OBJECTS).index(instance.name) + 1,
                    bbox=[int(v) for v in box],
                    area=int(instance.mask.sum()),
                    segmentation=run_lengths(instance.mask),
                )
            )
    labels = ade / 'labels' / f'{split}.txt'
    labels.parent.mkdir(exist_ok=True)
    labels.write_text('\n'.join([*lines, '']))
    (coco_json / f'instances_{_COCO_SPLITS[split]}.json').write_text(json.dumps(coco))


def _write_rgbd(path: Path, scene: Scene) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = np.dstack([scene.image[..., ::-1], scene.depth])
    try:
        tifffile.imwrite(path, channels, photometric='rgb', extrasamples=['unspecified'], metadata=None, software=False)
    except OSError as error:
        raise InputError(f'cannot write {path} ({error.strerror}); free some space or give another --out') from error


def _write_image(path: Path, image: np.ndarray, options: list) -> None:
    if not cv2.imwrite(str(path), image, options):
        raise InputError(f'cannot write {path}; free some space or give another --out')
