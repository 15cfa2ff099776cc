"""Predictions as data: label maps, scores and logits as arrays, what an image holds as JSON, and detections in the formats
of COCO."""

import json
from collections.abc import Iterable, Sequence
from inspect import signature
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import BaseDataElement, InstanceData

from mmvitscale.config.view import ConfigView, plain_datasets
from mmvitscale.datasets.checks import class_of
from mmvitscale.errors import InputError
from mmvitscale.utils.atomic_write import atomic_write

KINDS = ('labels', 'scores', 'logits', 'json')


def encode_mask(mask: np.ndarray, corner: tuple[int, int] = (0, 0), size: tuple[int, int] | None = None) -> dict:
    """(h, w) bool -> its run lengths as COCO writes them. It may be a part of a larger mask of zeros.

    Args:
        corner: left and top of the part.
        size: height and width of the whole, the mask's own if None.
    """
    from pycocotools import mask as coco

    height, width = size or mask.shape
    columns, rows = np.nonzero(mask.T)  # runs go down the columns
    places = (columns.astype(np.int64) + corner[0]) * height + rows + corner[1]
    breaks = np.flatnonzero(np.diff(places) != 1)
    starts = places[np.r_[0, breaks + 1]] if len(places) else places
    stops = places[np.r_[breaks, len(places) - 1]] + 1 if len(places) else places
    edges = np.stack([starts, stops], axis=1).flatten()
    counts = np.diff(np.r_[0, edges, height * width])
    counts = counts[:-1] if len(counts) > 1 and counts[-1] == 0 else counts  # as COCO's own program ends
    encoded = coco.frPyObjects(dict(counts=counts.tolist(), size=[height, width]), height, width)
    return dict(size=[height, width], counts=encoded['counts'].decode())


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
        annotations: a COCO file, whose ids of images (by file name) and of categories (by name) are to be used.
    """

    def __init__(self, cfg: Config, dataset_meta: dict, annotations: str | None = None):
        self.classes: Sequence[str] = dataset_meta['classes']
        self.palette = dataset_meta.get('palette')
        self.first_value = int(counts_from_one(cfg))
        self.image_ids: dict[str, int] = {}
        self.category_ids = list(range(1, len(self.classes) + 1))
        if annotations:
            self._take_ids(annotations)

    def _take_ids(self, path: str) -> None:
        try:
            content = json.loads(Path(path).read_text())
            self.image_ids = {image['file_name']: image['id'] for image in content['images']}
            ids = {category['name']: category['id'] for category in content['categories']}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f'{path} cannot be read as a COCO file with images and categories '
                f'({type(error).__name__}: {error}); give an annotation file'
            ) from error
        missing = [name for name in self.classes if name not in ids]
        if missing:
            raise InputError(
                f'{path} has no category {missing[0]!r}, which the model predicts; give the annotation file of '
                'the data that it was trained for'
            )
        self.category_ids = [ids[name] for name in self.classes]

    def classes_file(self) -> list[dict]:
        """Of every class the value in label maps, the id in COCO files, the name and, where known, the colour."""
        return [
            dict(
                value=i + self.first_value,
                category_id=self.category_ids[i],
                name=name,
                **({'colour': list(self.palette[i])} if isinstance(self.palette, (list, tuple)) else {}),
            )
            for i, name in enumerate(self.classes)
        ]

    def label_values(self, labels: np.ndarray) -> np.ndarray:
        """(H, W) class indices -> the values that files have: as in the data set's own annotations. 255, or 65535 where
        there are more classes, is no class."""
        small = len(self.classes) + self.first_value <= 255
        kind, ignored = (np.uint8, 255) if small else (np.uint16, 65535)
        return np.where(labels < len(self.classes), labels + self.first_value, ignored).astype(kind)

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
        """Pixels by class index -> the share of each class that there is, the largest first."""
        total = sum(counts) or 1
        found = {self.classes[i]: n / total for i, n in enumerate(counts[: len(self.classes)]) if n}
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

    def merge(self, paths: Iterable[Path], out: Path) -> None:
        """JSON files of images -> ``coco.json``, a data set with images, categories and scored annotations (or the segments
        of panoptic maps), and ``coco_results.json``, the list that COCO's evaluation reads. Written as they are read."""
        with (
            atomic_write(out / 'coco.json') as whole,
            atomic_write(out / 'coco_results.json') as results,
            open(whole, 'w') as whole,
            open(results, 'w') as results,
        ):
            images, count = [], 0
            # Images that the annotation file does not have come after all of its own.
            beyond = max(self.image_ids.values(), default=0)
            whole.write('{"annotations": [')
            results.write('[')
            for number, path in enumerate(paths, start=1):
                content = json.loads(path.read_text())
                name = content['file_name']
                image_id = self.image_ids.get(name, self.image_ids.get(name.rsplit('/', 1)[-1], beyond + number))
                images.append(dict(id=image_id, **{key: content[key] for key in ('file_name', 'width', 'height')}))
                entries = content.get('annotations')
                if entries is None:
                    entries = [dict(segments_info=content['segments_info'], file_name=content['label_map'])]
                for entry in entries:
                    entry = {'image_id': image_id, **{k: v for k, v in entry.items() if k != 'category'}}
                    separator = ',\n' if count else '\n'
                    results.write(separator + json.dumps(entry))
                    count += 1
                    box = entry.get('bbox')
                    more = dict(id=count, iscrowd=0, area=box[2] * box[3]) if box else {}
                    if 'segmentation' in entry:
                        from pycocotools import mask as coco

                        more['area'] = float(coco.area(entry['segmentation']))
                    whole.write(separator + json.dumps({**entry, **more}))
            categories = [dict(id=i, name=name) for i, name in zip(self.category_ids, self.classes)]
            whole.write(f'\n], "images": {json.dumps(images)}, "categories": {json.dumps(categories)}}}\n')
            results.write('\n]\n')

    @staticmethod
    def can_merge(content: dict) -> bool:
        """Whether the JSON of an image has something for COCO's formats."""
        return 'annotations' in content or 'segments_info' in content


def counts_from_one(cfg: Config) -> bool:
    """Whether the label maps of the config's test data count classes from 1, as the data set or its class says."""
    if ConfigView(cfg).scope != 'mmseg' or not cfg.get('test_dataloader'):
        return False
    for dataset in plain_datasets(cfg.test_dataloader.dataset):
        kind = class_of(cfg, dataset)
        own = signature(kind).parameters.get('reduce_zero_label') if kind else None
        if dataset.get('reduce_zero_label', own.default if own is not None else False) is True:
            return True
    return False


def not_predicted(kind: str, sample: BaseDataElement) -> InputError:
    """What to raise where a kind was asked for that the model's task does not have."""
    task = (
        'detection' if 'pred_instances' in sample else 'classification' if 'pred_label' in sample else 'panoptic segmentation'
    )
    return InputError(f'--save {kind} found, but this model does {task}, which has none; save json')
