"""Predictions as data: label maps, scores and logits as arrays, what an image holds as JSON, and detections in the formats
of COCO."""

import json
from collections.abc import Iterable, Mapping, Sequence
from inspect import signature
from itertools import count
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import BaseDataElement, InstanceData

from mmvitscale.config.view import ConfigView, plain_datasets
from mmvitscale.datasets.coco_masks import encode_mask
from mmvitscale.datasets.delivered import class_of
from mmvitscale.errors import InputError
from mmvitscale.inference.annotation_ids import AnnotationIds, Id
from mmvitscale.inference.class_names import distinct_names
from mmvitscale.utils.atomic_write import atomic_write


def annotations_of(instances: InstanceData) -> list[dict]:
    """Predicted instances -> for each ``label`` (index of the class), ``score``, ``bbox`` (left, top, width, height) and, if
    there are masks, ``segmentation``. Where a model has no boxes, those of the masks."""
    found = []
    masks = instances.get('masks')
    for i in range(len(instances)):
        entry: dict = dict(label=int(instances.labels[i]), score=float(instances.scores[i]))
        left, top, right, bottom = (float(side) for side in instances.bboxes[i])
        entry['bbox'] = [left, top, right - left, bottom - top]
        if masks is not None:
            mask = masks[i]
            entry['segmentation'] = mask if isinstance(mask, dict) else encode_mask(np.asarray(mask).astype(bool))
        found.append(entry)
    return found


class Results:
    """From data samples to what is written, in the terms of a data set.

    Args:
        cfg: its test data set says whether label maps in its files count from 1, 0 being no class (``reduce_zero_label``).
        dataset_meta: ``classes`` and, if there is one, ``palette``.
            Names that several classes have get their number (``distinct_names``). ``category_ids``: those of an earlier call.
        annotations: of a COCO file, whose ids of images (by file name) and of categories (by name) are to be used.
    """

    def __init__(self, cfg: Config, dataset_meta: dict, annotations: AnnotationIds | None = None):
        self.classes: Sequence[str] = distinct_names(dataset_meta['classes'])
        self.palette = dataset_meta.get('palette')
        self.values = values_of(cfg, dataset_meta['classes'])  # of the classes in label maps
        self.annotations = annotations
        self.category_ids: Sequence[Id] = dataset_meta.get('category_ids') or (
            annotations.of_classes(dataset_meta['classes']) if annotations else range(1, len(self.classes) + 1)
        )

    def classes_file(self) -> list[dict]:
        """Of every class the value in label maps, the id in COCO files, the name and, where known, the colour."""
        return [
            dict(
                value=self.values[i],
                category_id=self.category_ids[i],
                name=name,
                **({'colour': list(self.palette[i])} if isinstance(self.palette, (list, tuple)) else {}),
            )
            for i, name in enumerate(self.classes)
        ]

    @property
    def no_class(self) -> int:
        """The value of no class in label maps: 255, or 65535 where there are more classes than 8 bits have values."""
        return 255 if max(self.values, default=0) < 255 else 65535

    def label_values(self, labels: np.ndarray) -> np.ndarray:
        """(H, W) class indices -> the values that files have: as in the data set's own annotations, or ``no_class``."""
        kind = np.uint8 if self.no_class == 255 else np.uint16
        table = np.array([*self.values, self.no_class], kind)
        return table[np.minimum(labels, len(self.classes))]

    def labels(self, sample: BaseDataElement) -> np.ndarray:
        """(H, W) uint8 or uint16, as ``label_values``; of a panoptic map (H, W, 3) uint8 BGR, ids as COCO writes them.
        Raises InputError where there are none."""
        if 'pred_panoptic_seg' in sample:
            ids, _ = self._segments(sample)
            return np.stack([ids // 65536, ids // 256 % 256, ids % 256], axis=-1).astype(np.uint8)
        if 'pred_sem_seg' not in sample:
            raise not_predicted('labels', sample)
        return self.label_values(sample.pred_sem_seg.data.squeeze(0).numpy().astype(np.int64))

    def logits(self, sample: BaseDataElement) -> np.ndarray:
        """(classes, H, W) float32, as the model returns them. Raises InputError where there are none."""
        if 'seg_logits' not in sample:
            raise not_predicted('logits', sample)
        return sample.seg_logits.data.float().numpy()

    def scores(self, sample: BaseDataElement) -> np.ndarray:
        """(classes, H, W) float16 probabilities: softmax over the classes, sigmoid of a single one. Raises InputError where
        there are none."""
        if 'seg_logits' not in sample:
            raise not_predicted('scores', sample)
        logits = sample.seg_logits.data.float()
        return (logits.softmax(0) if len(logits) > 1 else logits.sigmoid()).half().numpy()

    def json(self, sample: BaseDataElement, name: str, size: tuple[int, int], output: str = '') -> dict:
        """What an image holds: instances, segments, the share of pixels of each class, or the class with all scores.

        Args:
            name: of the image's file.
            size: its height and width.
            output: name of its label map, without suffix.
        """
        content = dict(file_name=name, width=size[1], height=size[0])
        if 'pred_panoptic_seg' in sample:
            content.update(label_map=f'{output}.png', segments_info=self._segments(sample)[1])
        elif 'pred_instances' in sample:
            content['annotations'] = self._named(annotations_of(sample.pred_instances))
        elif 'pred_sem_seg' in sample:
            content['shares'] = self.shares(torch.bincount(sample.pred_sem_seg.data.flatten().long()).tolist())
        elif 'pred_label' in sample:
            best = int(sample.pred_label.flatten()[0])
            content.update(label=self.classes[best], scores=dict(zip(self.classes, sample.pred_score.tolist())))
        return content

    def shares(self, counts: Sequence[int]) -> dict[str, float]:
        """Pixels by class index -> the share of each class that there is, the largest first. Pixels of no class are not
        counted."""
        counts = counts[: len(self.classes)]
        total = sum(counts) or 1
        found = {self.classes[i]: n / total for i, n in enumerate(counts) if n}
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def _named(self, annotations: list[dict]) -> list[dict]:
        return [
            dict(category=self.classes[entry['label']], category_id=self.category_ids[entry.pop('label')], **entry)
            for entry in annotations
        ]

    def _segments(self, sample: BaseDataElement) -> tuple[np.ndarray, list[dict]]:
        """(H, W) ids from 1, 0 being nothing, and of each segment its id, category and area."""
        from mmdet.evaluation.functional import INSTANCE_OFFSET

        data = sample.pred_panoptic_seg.sem_seg.squeeze(0).numpy()
        ids, segments = np.zeros(data.shape, np.int64), []
        for value in np.unique(data):
            label = int(value) % INSTANCE_OFFSET
            if label < len(self.classes):
                mask = data == value
                ids[mask] = len(segments) + 1
                segments.append(
                    dict(
                        id=len(segments) + 1,
                        category=self.classes[label],
                        category_id=self.category_ids[label],
                        area=int(mask.sum()),
                    )
                )
        return ids, segments

    def merge(self, paths: Iterable[Path], out: Path, places: Mapping[str, Path]) -> int:
        """JSON files of images -> ``coco.json``, a data set with images, categories and scored annotations (or the segments
        of panoptic maps), and ``coco_results.json``, the list that COCO's evaluation reads. Written as they are read.

        Args:
            paths: of the JSON files.
            out: folder of the two.
            places: the file name in each of them -> where the image is.

        Returns:
            How many images the annotation file does not have, or not in one place only.
        """
        known = self.annotations.of_images(places) if self.annotations else {}
        unused = self.annotations.unused() if self.annotations else count(1)
        with (
            atomic_write(out / 'coco.json') as whole,
            atomic_write(out / 'coco_results.json') as results,
            open(whole, 'w') as whole,
            open(results, 'w') as results,
        ):
            images, number = [], 0
            whole.write('{"annotations": [')
            results.write('[')
            for path in paths:
                content = json.loads(path.read_text())
                name = content['file_name']
                image_id = known[name] if name in known else next(unused)
                images.append(dict(id=image_id, **{key: content[key] for key in ('file_name', 'width', 'height')}))
                entries = content.get('annotations')
                if entries is None:
                    entries = [dict(segments_info=content['segments_info'], file_name=content['label_map'])]
                for entry in entries:
                    entry = {'image_id': image_id, **{k: v for k, v in entry.items() if k != 'category'}}
                    separator = ',\n' if number else '\n'
                    results.write(separator + json.dumps(entry))
                    number += 1
                    box = entry.get('bbox')
                    more = dict(id=number, iscrowd=0, area=box[2] * box[3]) if box else {}
                    if 'segmentation' in entry:
                        from pycocotools import mask as coco

                        more['area'] = float(coco.area(entry['segmentation']))
                    whole.write(separator + json.dumps({**entry, **more}))
            categories = [dict(id=i, name=name) for i, name in zip(self.category_ids, self.classes)]
            whole.write(f'\n], "images": {json.dumps(images)}, "categories": {json.dumps(categories)}}}\n')
            results.write('\n]\n')
        return len(images) - len(known) if self.annotations else 0

    @staticmethod
    def can_merge(content: dict) -> bool:
        """Whether the JSON of an image has something for COCO's formats."""
        return 'annotations' in content or 'segments_info' in content


def values_of(cfg: Config, classes: Sequence[str]) -> list[int]:
    """Of each class the value in the data set's own label maps: its place, or, where the config has chosen some of the classes
    that the data set's own class declares (``label_map``), the place among those; from 1 on where 0 is no class."""
    first = int(counts_from_one(cfg))
    datasets = plain_datasets(cfg.test_dataloader.dataset) if cfg.get('test_dataloader') else ()
    for dataset in datasets if ConfigView(cfg).task == 'segmentation' else ():
        every = list(getattr(class_of(cfg, dataset), 'METAINFO', {}).get('classes') or ())
        if set(classes) <= set(every) and len(set(classes)) == len(classes):
            return [every.index(name) + first for name in classes]
    return [place + first for place in range(len(classes))]


def counts_from_one(cfg: Config) -> bool:
    """Whether the label maps of the config's test data count classes from 1, as the data set or its class says."""
    if ConfigView(cfg).task != 'segmentation' or not cfg.get('test_dataloader'):
        return False
    for dataset in plain_datasets(cfg.test_dataloader.dataset):
        kind = class_of(cfg, dataset)
        own = signature(kind).parameters.get('reduce_zero_label') if kind else None
        if dataset.get('reduce_zero_label', own.default if own is not None else False) is True:
            return True
    return False


def check_kinds(cfg: Config, save: Sequence[str], tiled: bool) -> None:
    """Raise InputError for what models of the config's task do not have, before anything is predicted."""
    task: str = ConfigView(cfg).task
    panoptic = any(ConfigView(cfg).model_values('panoptic_fusion_head')) and False not in ConfigView(cfg).model_values(
        'panoptic_on'
    )
    task = 'panoptic segmentation' if task == 'detection' and panoptic else task
    missing = {
        'detection': ('labels', 'scores', 'logits'),
        'classification': ('labels', 'scores', 'logits'),
        'panoptic segmentation': ('scores', 'logits'),
    }.get(task, ())
    for kind in save:
        if kind in missing:
            raise _lacks(kind, task)
    if tiled and task in ('classification', 'panoptic segmentation'):
        raise InputError(NOT_JOINED)


NOT_JOINED = (
    '--tile found, but only semantic maps and instances of tiles can be joined, and this model predicts others; predict the '
    'image whole'
)


def _lacks(kind: str, task: str) -> InputError:
    return InputError(f'--save {kind} found, but this model does {task}, which has none; save json')


def not_predicted(kind: str, sample: BaseDataElement) -> InputError:
    """What to raise where a kind was asked for that the model's task does not have."""
    task = (
        'detection' if 'pred_instances' in sample else 'classification' if 'pred_label' in sample else 'panoptic segmentation'
    )
    return _lacks(kind, task)
