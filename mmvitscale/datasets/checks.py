"""Data sets checked before a run starts: folders, annotation files, numbers of classes."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS

from mmvitscale.config.view import ConfigView, plain_datasets
from mmvitscale.datasets.annotation_losses import Counts, Use
from mmvitscale.datasets.coco import check_coco
from mmvitscale.datasets.coco_evaluation import check_evaluator, listed_evaluators
from mmvitscale.datasets.delivered import check_label_maps, delivered_objects, label_map_infos
from mmvitscale.errors import InputError, some_of
from mmvitscale.registry import type_name
from mmvitscale.utils.processes import is_first_process

# How to get the data, by the folder that OpenMMLab's configs expect it in.
_DATA_SOURCES = {
    'ADEChallengeData2016': 'unpack ADEChallengeData2016.zip of the MIT scene parsing benchmark there',
    'coco': 'unpack train2017, val2017 and annotations of COCO 2017 there',
    'stuffthingmaps': 'unpack stuffthingmaps_trainval2017.zip of COCO-Stuff there, or take the config without the semantic '
    'branch (htc-without-semantic_...)',
    'cityscapes': 'unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip of Cityscapes there and run '
    'csCreateTrainIdLabelImgs',
    'imagenet': 'unpack ImageNet there, a folder for each class under train and val',
    'own': 'let tools/new_config.py write a config for your data, or put them there as configs/_base_/datasets/own_*.py say',
    'mini': 'make it with: python tools/make_mini_dataset.py --out data/mini (and --depth for images of four channels)',
}


def check_datasets(cfg: Config, splits: Sequence[str]) -> None:
    """Raise InputError unless every data set of these splits (train, val, test) has its folders, images and, in COCO
    format, usable annotations, and the model has as many classes. Says on stderr what will be left out."""
    images: dict[str, set[Path]] = {}
    for split in splits:
        for loader in ConfigView(cfg).loaders(split):
            for dataset in plain_datasets(loader.dataset):
                images.setdefault(split, set()).update(_check_dataset(cfg, dataset, split))
        check_evaluator(cfg, split)
    shared = images.get('train', set()) & images.get('val', set())
    if shared and is_first_process():
        print(
            f'note: {len(shared)} of {len(images["val"])} images for validation are also in training (the first: '
            f'{min(shared)}), so the score says nothing of new images; keep them apart',
            file=sys.stderr,
        )


def _check_dataset(cfg: Config, dataset: ConfigDict, split: str) -> set[Path]:
    """Returns the paths of its images where it is in mmdet's COCO format or has mmsegmentation's folders."""
    root = Path(dataset.get('data_root') or '')
    prefixes = dataset.get('data_prefix') or {}
    for folder in prefixes.values() if isinstance(prefixes, dict) else [prefixes]:
        if isinstance(folder, str):
            _check_folder(root / folder)
    if not prefixes and not dataset.get('ann_file') and dataset.get('data_root'):  # mmpretrain's ImageNet
        _check_folder(root / (dataset.get('split') or ''))
        _check_class_folders(root / (dataset.get('split') or ''), _classes_of(cfg, dataset))
    if dataset.get('ann_file'):
        if not isinstance(dataset.ann_file, (str, Path)):
            raise InputError(
                f'the {split} data set has ann_file={dataset.ann_file!r}, but a data set reads one file; give several '
                "as dict(type='ConcatDataset', datasets=[dict(...), dict(...)])"
            )
        _check_file(root / dataset.ann_file)
    _check_classes(cfg, dataset, split)
    _check_masks(dataset)
    dataset_class = class_of(cfg, dataset)
    if _is_coco(dataset_class):
        return _check_coco(cfg, dataset, split)
    if ConfigView(cfg).scope == 'mmseg' and hasattr(dataset_class, 'get_label_map') and is_first_process():
        with DATASETS.switch_scope_and_registry('mmseg'):
            infos = label_map_infos(dataset)
            if split == 'train':
                ignored = [value for value in ConfigView(cfg).model_values('ignore_index') if isinstance(value, int)]
                check_label_maps(dataset, infos, ignored, len(_classes_of(cfg, dataset)))
        return {Path(info['img_path']).absolute() for info in infos}
    return set()


def class_of(cfg: Config, dataset: ConfigDict) -> type | None:
    """The class of a data set's config, looked up in the config's scope; None if nobody knows it."""
    if 'type' in dataset and not isinstance(dataset.type, str):
        return dataset.type  # a config in pure Python
    with DATASETS.switch_scope_and_registry(ConfigView(cfg).scope) as registry:
        return registry.get(dataset.type) if 'type' in dataset else None


def _check_classes(cfg: Config, dataset: ConfigDict, split: str) -> None:
    classes = _classes_of(cfg, dataset)
    if not classes:
        return
    # What is found by its name has no fixed number of classes.
    by_words = any(key in cfg.model for key in ('language_model', 'text_encoder'))
    for path, count in [] if by_words else _numbers_of_classes(cfg.model, 'model'):
        if count != len(classes):
            raise InputError(
                f'{path} is {count}, but the {split} data set has {len(classes)} classes ({some_of(classes)}); make them equal'
            )


def _check_coco(cfg: Config, dataset: ConfigDict, split: str) -> set[Path]:
    """The annotation file of a data set that reads it as mmdet's CocoDataset does; returns the paths of its images."""
    root, folder = Path(dataset.get('data_root') or ''), (dataset.get('data_prefix') or {}).get('img', '')
    metrics = listed_evaluators(cfg.get(f'{split}_evaluator')) if split != 'train' else []
    with_mask = any(step.get('with_mask', False) for step in dataset.get('pipeline', []))
    with_mask = with_mask or any('segm' in listed_evaluators(metric.get('metric')) for metric in metrics)
    filters = {} if dataset.get('test_mode') else dataset.get('filter_cfg') or {}
    use = Use(split == 'train', with_mask, filters.get('min_size', 0))
    counts, notes = check_coco(root / dataset.ann_file, root / folder, _classes_of(cfg, dataset), use)
    scores = [metric for metric in metrics if type_name(metric).endswith('CocoMetric') and not metric.get('format_only')]
    if scores and not counts.listed:
        raise InputError(
            f'{root / dataset.ann_file} has no annotation of any class, so there is nothing to compare predictions with; '
            'tools/predict.py writes them, or set format_only=True in the evaluator'
        )
    if is_first_process():
        for note in [*notes, *(_compare_with_delivered(cfg, dataset, counts) if use.training else [])]:
            print(f'note: {note}', file=sys.stderr)
    return {(root / folder / name).absolute() for name in counts.images}


def _compare_with_delivered(cfg: Config, dataset: ConfigDict, counts: Counts) -> list[str]:
    """A note where the data set, loaded and filtered by its own class, delivers fewer objects than the file's annotations
    explain. Raises InputError where that leaves a class empty."""
    with DATASETS.switch_scope_and_registry(ConfigView(cfg).scope):
        delivered, images = delivered_objects(dataset)
    fewer = {name: count - delivered[name] for name, count in counts.used.items() if delivered[name] < count}
    where = Path(dataset.get('data_root') or '', dataset.ann_file)
    empty = [name for name in fewer if not delivered[name]]
    if empty:
        raise InputError(
            f'the data set of {where} delivers none of the {counts.used[empty[0]]} objects of class {empty[0]}: '
            f'{images} images are left; correct its options (indices, filter_cfg, ...), or leave the class out of '
            'metainfo.classes'
        )
    named = ', '.join(f'{count} of {name}' for name, count in fewer.items())
    return [f'{where}: the data set leaves out {named} by options of its own (indices, filter_cfg, ...)'] if fewer else []


def _classes_of(cfg: Config, dataset: ConfigDict) -> Sequence[str]:
    """The names of a data set's classes, as far as the config or its class contains them. Raises InputError for a text, which
    is taken for a name a letter, unless it is that of a file with a name in each line."""
    classes = (
        (dataset.get('metainfo') or {}).get('classes')
        or dataset.get('classes')
        or getattr(class_of(cfg, dataset), 'METAINFO', {}).get('classes')
        or ()
    )
    if isinstance(classes, str):
        if Path(classes).is_file():
            return ()
        raise InputError(
            f'classes={classes!r} found, a text, of which every letter would be a class; write a list of names, also of one: '
            f'classes=({classes!r},)'
        )
    return classes


def _check_class_folders(folder: Path, classes: Sequence[str]) -> None:
    """Where classes are known, a data set of a folder for each has as many."""
    found = sum(path.is_dir() for path in folder.iterdir())
    if classes and found != len(classes):
        raise InputError(
            f'{folder} has {found} folders, but a folder for each of {len(classes)} classes is expected; sort '
            'the images into folders of their classes (the validation images of ImageNet come without)'
        )


def _check_masks(dataset: ConfigDict) -> None:
    """The mask generator of SimMIM wants whole patches."""
    for step in dataset.get('pipeline', []):
        if type_name(step) == 'SimMIMMaskGenerator':
            image, mask, patch = (
                step.get(key, default)
                for key, default in (('input_size', 192), ('mask_patch_size', 32), ('model_patch_size', 4))
            )
            if image % mask or mask % patch:
                raise InputError(
                    f'SimMIMMaskGenerator has images of {image} pixels, masked patches of {mask} and patches '
                    f'of {patch}, but each is a multiple of the next; change input_size or mask_patch_size'
                )


def _is_coco(dataset_class: type | None) -> bool:
    """Whether the data set reads its annotations as mmdet's CocoDataset does."""
    if not dataset_class or not dataset_class.__module__.startswith('mmdet.'):
        return False
    from mmdet.datasets import CocoDataset

    return getattr(dataset_class, 'load_data_list', None) is CocoDataset.load_data_list


def _numbers_of_classes(model, path: str) -> Iterator[tuple[str, int]]:
    """(where, how many) for each num_classes of a model's config that counts those of the data. A semantic branch, proposals,
    the detector of a tracker and heads for boundaries count others."""
    if isinstance(model, (list, tuple)):
        model = {str(i): item for i, item in enumerate(model)}
    if isinstance(model, dict):
        for key, value in model.items():
            if key == 'num_classes' and isinstance(value, int):
                yield f'{path}.{key}', value
            elif key not in ('semantic_head', 'rpn_head', 'detector') and not (
                isinstance(value, dict) and 'boundary_threshold' in value
            ):
                yield from _numbers_of_classes(value, f'{path}.{key}')


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise InputError(f'annotation file {path} is not there; {_how_to_get(path)}')


def _check_folder(folder: Path) -> None:
    if not folder.is_dir() or not any(folder.iterdir()):
        state = 'is empty' if folder.is_dir() else 'is not there'
        raise InputError(f'data set folder {folder} {state}; {_how_to_get(folder)}')


def _how_to_get(folder: Path) -> str:
    known = [how for part, how in _DATA_SOURCES.items() if part in folder.parts]
    return (
        f'{known[-1] if known else "put the data set there"}, name another place with --cfg-options '
        'data_root=PATH, or try the synthetic mini dataset: python tools/make_mini_dataset.py --out data/mini, then a '
        'config of configs/mini'
    )
