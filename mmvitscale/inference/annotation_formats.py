"""Predictions as data sets of annotation tools, for the next round of annotation: made of the files of each image."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from mmengine.config import Config
from PIL import Image

from mmvitscale.config.view import ConfigView
from mmvitscale.datasets.formats.annotations import AnnotatedDataset, AnnotatedImage, AnnotatedObject
from mmvitscale.datasets.formats.registry import write_dataset
from mmvitscale.errors import InputError
from mmvitscale.inference.output import PredictOptions


def with_files_for(options: PredictOptions, cfg: Config) -> PredictOptions:
    """The options with the files of each image that the formats are made of. Raises InputError for a task that has none."""
    if not options.formats:
        return options
    needed = dict(detection='json', segmentation='labels').get(ConfigView(cfg).task)
    if needed is None or (needed == 'labels' and options.tile):
        why = 'large label maps of tiles' if options.tile else f'a model of {ConfigView(cfg).task}'
        raise InputError(
            f'--save {options.formats[0]} found, but annotation tools have no place for {why}; save json or labels'
        )
    return replace(options, save=[*options.save, *([] if needed in options.save else [needed])])


def write_formats(out: Path, options: PredictOptions, files: Mapping[Path, tuple[str, Path]]) -> None:
    """Write each format into a folder of its name.

    Args:
        out: the folder of the predictions, with ``classes.json``.
        options: formats, and the least score of an object.
        files: path of an image -> its name, and its file of predictions (JSON, or PNG of a label map).
    """
    entries = json.loads((out / 'classes.json').read_text())
    classes = [entry['name'] for entry in entries]
    images = []
    for path, (name, file) in files.items():
        if file.suffix == '.json':
            images.append(_of_json(path, name, json.loads(file.read_text()), options.score_thr))
        else:
            images.append(_of_label_map(path, name, file, [entry['value'] for entry in entries]))
    dataset = AnnotatedDataset(out, classes, images)
    for format in options.formats:
        write_dataset(dataset, out / format, format, overwrite=True, copy_images=False)


def _of_json(path: Path, name: str, content: dict, least: float) -> AnnotatedImage:
    image = AnnotatedImage(path, name, content['height'], content['width'])
    for entry in content.get('annotations', ()):
        left, top, width, height = entry['bbox']
        if entry['score'] >= least:
            box = (left, top, left + width, top + height)
            image.objects.append(AnnotatedObject(entry['category'], box, entry.get('segmentation'), score=entry['score']))
    return image


def _of_label_map(path: Path, name: str, file: Path, values: Sequence[int]) -> AnnotatedImage:
    with Image.open(file) as picture:  # its size alone: there may be many
        width, height = picture.size
    return AnnotatedImage(path, name, height, width, label_map=partial(_read_labels, file, values))


def _read_labels(file: Path, values: Sequence[int]) -> np.ndarray:
    with Image.open(file) as picture:
        labels = np.array(picture)
    indices = np.full(max(int(labels.max()), *values) + 1, 255, np.uint8)
    indices[list(values)] = np.arange(len(values))
    return indices[labels]
