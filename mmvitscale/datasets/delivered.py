"""What data sets deliver, by their own loading and filtering and the annotation steps of their pipelines: objects by class, and
label maps with something to learn."""

import io
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DATASETS, TRANSFORMS

from mmvitscale.config.view import ConfigView
from mmvitscale.datasets.pipeline_errors import NamedPipeline
from mmvitscale.errors import InputError
from mmvitscale.registry import type_name

# MMEngine packs what a data set lists for loading processes, and collects garbage for it, which takes a second.
_FEW = 300  # label maps that are read in a second
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


def class_of(cfg: Config, dataset: Mapping[str, Any]) -> type | None:
    """The class of a data set's config, looked up in the config's scope; None if nobody knows it."""
    if 'type' in dataset and not isinstance(dataset['type'], str):
        return dataset['type']  # a config in pure Python
    with DATASETS.switch_scope_and_registry(ConfigView(cfg).scope) as registry:
        return registry.get(dataset['type']) if 'type' in dataset else None


def is_coco(dataset_class: type | None) -> bool:
    """Whether the data set reads its annotations as mmdet's CocoDataset does: boxes, not segments of panoptic maps."""
    if not dataset_class or not dataset_class.__module__.startswith('mmdet.'):
        return False
    from mmdet.datasets import CocoDataset

    loads = getattr(dataset_class, 'load_data_list', None) is CocoDataset.load_data_list
    return loads and getattr(dataset_class, 'COCOAPI', None) is CocoDataset.COCOAPI


def _annotation_steps(described: Mapping[str, Any]) -> list[Any]:
    return [TRANSFORMS.build(step) for step in described.get('pipeline', []) if type_name(step) == 'LoadAnnotations']


def delivered_objects(described: Mapping[str, Any]) -> Counter[str]:
    """Objects by class that a data set of mmdet's COCO format delivers to the loss."""
    with redirect_stdout(io.StringIO()):  # pycocotools prints what it does
        dataset = build_dataset({**described, **_FOR_A_LOOK})
    masks = [step for step in _annotation_steps(described) if step.with_mask]
    classes, found = dataset.metainfo['classes'], Counter[str]()
    for info in dataset.data_list:
        for step in masks:
            step._process_masks(info)  # marks objects without a mask as ignored; draws none
        found.update(classes[item['bbox_label']] for item in info['instances'] if not item['ignore_flag'])
    return found


@dataclass
class LabelMaps:
    """The label maps of a data set of mmsegmentation.

    described: its config. samples: ``img_path`` and ``seg_map_path`` of each. classes: their names. reduce_zero_label: whether
    1 is taken off each label.
    """

    described: Mapping[str, Any]
    samples: Sequence[dict]
    classes: Sequence[str]
    reduce_zero_label: bool

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> 'LabelMaps':
        """Built in the scope that is current. Raises InputError for a data set without images."""
        dataset = build_dataset({**described, **_FOR_A_LOOK})
        names = dataset.metainfo.get('classes') or ()
        return cls(described, getattr(dataset, 'data_list', ()), names, getattr(dataset, 'reduce_zero_label', False))

    def labels(self) -> Iterator[set[int]]:
        """Of each label map, as the pipeline loads it. None are read where steps of somebody else may change them."""
        steps = self.described.get('pipeline', [])
        with TRANSFORMS.switch_scope_and_registry(None) as registry:
            kinds = [registry.get(step['type']) if isinstance(step['type'], str) else step['type'] for step in steps]
        packages = {getattr(kind, '__module__', '').split('.')[0] for kind in kinds}
        if not packages <= {'mmcv', 'mmseg', 'mmvitscale'}:
            return
        read = NamedPipeline(Compose(_annotation_steps(self.described)))
        for sample in self.samples:
            loaded = read(dict(sample)) or {}
            if 'gt_seg_map' not in loaded:
                return
            yield set(np.unique(loaded['gt_seg_map']).tolist())


def classes_without_pixels(every: Sequence[LabelMaps], names: Sequence[str]) -> list[str]:
    """Names of the classes that none of the label maps has. Of more than some hundred nothing is said: it would take long."""
    if sum(len(maps.samples) for maps in every) > _FEW:
        return []
    seen = set().union(*(labels for maps in every for labels in maps.labels()))
    return [name for label, name in enumerate(names) if label not in seen] if seen else []


def check_label_maps(every: Sequence[LabelMaps], ignored: Collection[int], classes: int) -> None:
    """Read the label maps of all training data until two classes were seen (one, where there is one alone): usually the first
    has them.

    Args:
        every: of each data set.
        ignored: labels that the loss leaves out.
        classes: how many there are.

    Raises:
        InputError: where all maps hold less, so that there is nothing to learn.
    """
    seen, values = set[int](), set[int]()
    for maps in every:
        own = {int(maps.described.get('ignore_index', 255)), *ignored}
        read = False
        for labels in maps.labels():
            read = True
            values |= labels
            seen |= labels - own
            if len(seen) >= min(2, classes) or max(seen, default=0) >= classes:
                return  # the latter is reported where the image is loaded
        if not read:
            return  # what cannot be looked at may hold anything
    if not every:
        return
    folder, whole = Path(every[0].samples[0]['seg_map_path']).parent, ', '.join(str(value) for value in sorted(values))
    if not seen:
        raise InputError(
            f'every pixel of the label maps in {folder} is ignored (labels {whole} after loading), so there is nothing to '
            'learn; write the number of its class into each pixel, or correct reduce_zero_label and ignore_index'
        )
    raise InputError(
        f'every labelled pixel of the label maps in {folder} is of one class (labels {whole} after loading), so there is '
        'nothing to distinguish; write the number of another class where it is, such as 1 in place of 255'
    )
