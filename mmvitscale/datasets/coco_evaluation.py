"""COCO's evaluation of annotation files as people have them: ids from 0, without ``iscrowd``, several files at once.

pycocotools marks a match with the id of its annotation, so that one of id 0 counts as missed (cocoapi#332), and reads
``iscrowd`` of each. mmdet's metrics read a single file, whatever data sets are evaluated.
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.evaluator import Evaluator

from mmvitscale.config.view import ConfigView, as_list
from mmvitscale.datasets.coco_masks import polygons_of
from mmvitscale.datasets.delivered import class_of, is_coco
from mmvitscale.errors import InputError
from mmvitscale.registry import type_name


def evaluated_files(cfg: Config, split: str) -> list[tuple[Path, Path]]:
    """Annotation file and folder of images of each data set of a split that has such a file."""
    found: list[tuple[Path, Path]] = []
    if ConfigView(cfg).scope == 'mmpretrain':
        return found
    for dataset in ConfigView(cfg).datasets(split):
        file = dataset.get('ann_file')
        if file and isinstance(file, (str, Path)) and is_coco(class_of(cfg, dataset)):
            root, prefix = Path(dataset.get('data_root') or ''), dataset.get('data_prefix') or {}
            found.append((root / file, root / (prefix.get('img', '') if isinstance(prefix, dict) else prefix)))
    return found


def check_evaluator(cfg: Config, split: str) -> None:
    """Raise InputError unless an evaluator with annotation files of its own reads those of its data sets."""
    files = [file.absolute() for file, _ in evaluated_files(cfg, split)]
    for evaluator in as_list(cfg.get(f'{split}_evaluator')):
        for own in as_list(evaluator.get('ann_file')):
            if files and Path(own).absolute() not in files:
                raise InputError(
                    f'{split}_evaluator reads {own}, but the {split} data set {files[0]}; give both the same ann_file'
                )


def without_further_files(evaluator: Any) -> Any:
    """An evaluator's config as mmdet can build it: with the first of several annotation files."""
    if isinstance(evaluator, (list, tuple)):
        return [without_further_files(item) for item in evaluator]
    if isinstance(evaluator, dict) and type_name(evaluator).endswith('CocoMetric'):
        files = as_list(evaluator.get('ann_file'))
        return ConfigDict({**evaluator, 'ann_file': str(files[0]) if files else None})
    return evaluator


def complete_ground_truths(evaluator: Evaluator, described: Any, files: Sequence[tuple[Path, Path]]) -> None:
    """Let the metrics of an evaluator that derive from mmdet's CocoMetric score all annotations of all their files.

    Args:
        evaluator: as it was built from ``described``.
        described: its config: of one metric, or a list.
        files: ``evaluated_files`` of the split.
    """
    metrics = [metric for metric in evaluator.metrics if _is_coco_metric(metric)]
    together = type(evaluator) is Evaluator  # another may have a metric for each data set
    sort = any(item.get('sort_categories') for item in as_list(described) if isinstance(item, dict))
    for metric in metrics:
        complete_ground_truth(metric, files if together else (), sort)


def _is_coco_metric(metric: Any) -> bool:
    known = sys.modules.get('mmdet.evaluation.metrics')  # whoever has built one has imported it
    return known is not None and isinstance(metric, known.CocoMetric) and not isinstance(metric, known.LVISMetric)


def complete_ground_truth(metric: Any, files: Sequence[tuple[Path, Path]], sort: bool = False) -> None:
    """The same for a metric.

    Args:
        metric: mmdet's CocoMetric or one derived from it.
        files: annotation file and folder of images of each data set; the metric has read the first that it was given.
        sort: categories are in the order of their ids.

    Raises:
        InputError: for files that list the same image, or other categories.
    """
    if len(files) > 1:
        metric._coco_api, ids = _merged(files, sort)
        metric.process = _with_ids(metric.process, ids)
    api: Any = metric._coco_api
    if api is None:
        return
    sizes = {image['id']: (image['height'], image['width']) for image in api.dataset['images']}
    for number, item in enumerate(api.dataset.get('annotations', []), start=1):
        item['id'], item['iscrowd'] = number, int(item.get('iscrowd') or 0)
        if isinstance(item.get('segmentation'), list):
            parts = polygons_of(item['segmentation'])
            height, width = sizes.get(item['image_id'], (1, 1))
            item['segmentation'] = parts or dict(counts=[height * width], size=[height, width])
    _index(api)


def _index(api: Any) -> None:
    """As mmdet's own class does when it has read a file."""
    api.createIndex()
    api.img_ann_map, api.cat_img_map = api.imgToAnns, api.catToImgs


def _merged(files: Sequence[tuple[Path, Path]], sort: bool) -> tuple[Any, dict[str, int]]:
    """One ground truth of several files, with image ids from 1, and the id of each image by its path."""
    from mmdet.datasets.api_wrappers import COCO

    whole: dict[str, list] = dict(images=[], annotations=[], categories=[])
    ids: dict[str, int] = {}
    for file, folder in files:
        content = COCO(str(file)).dataset
        categories = sorted(content['categories'], key=lambda item: item['id']) if sort else content['categories']
        whole['categories'] = whole['categories'] or categories
        if [item['name'] for item in categories] != [item['name'] for item in whole['categories']]:
            raise InputError(
                f'{file} has other categories, or in another order, than {files[0][0]}; data sets that are evaluated together '
                'need the same'
            )
        category_ids = {own['id']: first['id'] for own, first in zip(categories, whole['categories'])}
        image_ids = {}
        for image in content['images']:
            path = os.path.abspath(folder / image['file_name'])
            if path in ids:
                raise InputError(f'{path} is listed twice in the data sets that are evaluated ({file}); list it once')
            ids[path] = image_ids[image['id']] = len(ids) + 1
            whole['images'].append({**image, 'id': ids[path]})
        for item in content.get('annotations', []):
            if item['image_id'] in image_ids and item['category_id'] in category_ids:
                changed = dict(image_id=image_ids[item['image_id']], category_id=category_ids[item['category_id']])
                whole['annotations'].append({**item, **changed})
    api = COCO()
    api.dataset = whole
    return api, ids


def _with_ids(process: Callable, ids: dict[str, int]) -> Callable:
    """A metric's ``process`` that knows images by their path: ids are unique within a file only."""

    def process_with_ids(data_batch: Any, data_samples: Sequence[dict]) -> None:
        known = [{**sample, 'img_id': ids[os.path.abspath(sample['img_path'])]} for sample in data_samples]
        process(data_batch, known)

    return process_with_ids
