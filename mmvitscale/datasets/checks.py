"""Data sets checked before a run starts: folders, annotation files, numbers of classes."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict

from mmvitscale.config.view import ConfigView, plain_datasets
from mmvitscale.datasets.coco import check_coco
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
    for split in splits:
        for loader in ConfigView(cfg).loaders(split):
            for dataset in plain_datasets(loader.dataset):
                root = Path(dataset.get('data_root') or '')
                prefixes = dataset.get('data_prefix') or {}
                for folder in prefixes.values() if isinstance(prefixes, dict) else [prefixes]:
                    if isinstance(folder, str):
                        _check_folder(root / folder)
                if not prefixes and not dataset.get('ann_file') and dataset.get('data_root'):  # mmpretrain's ImageNet
                    _check_folder(root / (dataset.get('split') or ''))
                    _check_class_folders(root / (dataset.get('split') or ''), _classes_of(cfg, dataset))
                if dataset.get('ann_file'):
                    _check_file(root / dataset.ann_file)
                _check_classes(cfg, dataset, split)
                _check_masks(dataset)
        _check_evaluator(cfg, split)


def class_of(cfg: Config, dataset: ConfigDict) -> type | None:
    """The class of a data set's config, looked up in the config's scope; None if nobody knows it."""
    from mmengine.registry import DATASETS

    if 'type' in dataset and not isinstance(dataset.type, str):
        return dataset.type  # a config in pure Python
    with DATASETS.switch_scope_and_registry(ConfigView(cfg).scope) as registry:
        return registry.get(dataset.type) if 'type' in dataset else None


def _check_classes(cfg: Config, dataset: ConfigDict, split: str) -> None:
    dataset_class, classes = class_of(cfg, dataset), _classes_of(cfg, dataset)
    if not classes:
        return
    # What is found by its name has no fixed number of classes.
    by_words = any(key in cfg.model for key in ('language_model', 'text_encoder'))
    for path, count in [] if by_words else _numbers_of_classes(cfg.model, 'model'):
        if count != len(classes):
            raise InputError(
                f'{path} is {count}, but the {split} data set has {len(classes)} classes ({some_of(classes)}); make them equal'
            )
    if _is_coco(dataset_class):
        root = Path(dataset.get('data_root') or '')
        with_mask = any(step.get('with_mask', False) for step in dataset.get('pipeline', []))
        notes = check_coco(
            root / dataset.ann_file, root / dataset.data_prefix.get('img', ''), classes, split == 'train', with_mask
        )
        for note in notes if is_first_process() else []:
            print(f'note: {note}', file=sys.stderr)


def _classes_of(cfg: Config, dataset: ConfigDict) -> Sequence[str]:
    """The names of a data set's classes, as far as the config or its class contains them."""
    classes = (
        (dataset.get('metainfo') or {}).get('classes')
        or dataset.get('classes')
        or getattr(class_of(cfg, dataset), 'METAINFO', {}).get('classes')
        or ()
    )
    return () if isinstance(classes, str) else classes  # mmpretrain: a file with a name in each line


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


def _check_evaluator(cfg: Config, split: str) -> None:
    """An evaluator with an annotation file of its own must read that of its data set."""
    loader, evaluators = cfg.get(f'{split}_dataloader'), cfg.get(f'{split}_evaluator')
    if not loader or not evaluators:
        return
    files = [
        Path(dataset.get('data_root') or '', dataset.ann_file)
        for dataset in plain_datasets(loader.dataset)
        if dataset.get('ann_file')
    ]
    for evaluator in evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]:
        own = evaluator.get('ann_file')
        if own and files and Path(own).absolute() not in [file.absolute() for file in files]:
            raise InputError(f'{split}_evaluator reads {own}, but the {split} data set {files[0]}; give both the same ann_file')


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
