"""What data sets deliver, by their own loading and filtering and the annotation steps of their pipelines: objects by class, and
label maps with something to learn."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dataset import Compose
from mmengine.registry import DATASETS, TRANSFORMS

from mmvitscale.datasets.pipeline_errors import NamedPipeline
from mmvitscale.errors import InputError
from mmvitscale.registry import type_name

# MMEngine packs what a data set lists for loading processes, and collects garbage for it, which takes a second.
_FOR_A_LOOK = dict(pipeline=[], serialize_data=False)


def build_dataset(described: Mapping[str, Any]) -> Any:
    """A data set from its config, loaded, in the scope that is current. Raises InputError for one without images."""
    empty = 'has no image to use: none is there, or filter_cfg, ann_file and suffixes leave none; correct them'
    try:
        dataset = DATASETS.build(dict(described))
        if hasattr(dataset, 'full_init'):
            dataset.full_init()
    except ValueError as error:
        if 'need at least one array' in str(error):  # MMEngine packs what there is
            raise InputError(f'a data set of type {described.get("type")} {empty}') from error
        raise
    if hasattr(dataset, '__len__') and not len(dataset):
        raise InputError(f'the data set {type(dataset).__name__} ({_where(dataset)}) {empty}')
    return dataset


def _where(dataset: Any) -> str:
    """Where a data set is, for messages."""
    while not getattr(dataset, 'data_root', None) and hasattr(dataset, 'dataset'):
        dataset = dataset.dataset
    places = [getattr(dataset, name, None) for name in ('data_root', 'ann_file')]
    return ', '.join(str(place) for place in places if place) or 'no data_root'


def _annotation_steps(described: Mapping[str, Any]) -> list[Any]:
    return [TRANSFORMS.build(step) for step in described.get('pipeline', []) if type_name(step) == 'LoadAnnotations']


def delivered_objects(described: Mapping[str, Any]) -> tuple[Counter[str], int]:
    """Objects by class that a data set of mmdet's COCO format delivers to the loss, and in how many images."""
    dataset = build_dataset({**described, **_FOR_A_LOOK})
    masks = [step for step in _annotation_steps(described) if step.with_mask]
    classes, found = dataset.metainfo['classes'], Counter[str]()
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        for step in masks:
            step._process_masks(info)  # marks objects without a mask as ignored; draws none
        found.update(classes[item['bbox_label']] for item in info['instances'] if not item['ignore_flag'])
    return found, len(dataset)


def label_map_infos(described: Mapping[str, Any]) -> list[dict]:
    """``img_path`` and ``seg_map_path`` of each sample of a data set of mmsegmentation."""
    dataset = build_dataset({**described, **_FOR_A_LOOK})
    return [dataset.get_data_info(index) for index in range(len(dataset))]


def check_label_maps(described: Mapping[str, Any], infos: Sequence[dict], ignored: Collection[int], classes: int) -> None:
    """Read label maps until two classes were seen (one, where there is one alone): usually the first has them.

    Args:
        described: config of a data set of mmsegmentation.
        infos: ``label_map_infos`` of it.
        ignored: labels that the loss leaves out.
        classes: how many there are.

    Raises:
        InputError: where all maps hold less, so that there is nothing to learn.
    """
    steps, seen, values, path = _annotation_steps(described), set[int](), set[int](), ''
    ignored = {int(described.get('ignore_index', 255)), *ignored}
    read = NamedPipeline(Compose(steps))
    for info in infos if steps else ():
        if not info.get('seg_map_path'):
            return
        path = path or info['seg_map_path']
        loaded = read(info) or {}
        found = set(np.unique(loaded['gt_seg_map']).tolist())
        values |= found
        seen |= found - ignored
        if len(seen) >= min(2, classes) or max(seen, default=0) >= classes:
            return  # the latter is said where the image is loaded
    if not path:
        return
    folder, whole = Path(path).parent, ', '.join(str(value) for value in sorted(values))
    if not seen:
        raise InputError(
            f'every pixel of the label maps in {folder} is ignored (labels {whole} after loading), so there is nothing to '
            'learn; write the number of its class into each pixel, or correct reduce_zero_label and ignore_index'
        )
    raise InputError(
        f'every labelled pixel of the label maps in {folder} is of one class (labels {whole} after loading; {max(ignored)} is '
        'left out), so there is nothing to distinguish; write the number of another class where it is, such as 1 in place '
        'of 255'
    )
