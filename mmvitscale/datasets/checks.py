"""Data sets checked before a run starts: folders, annotation files, numbers of classes."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS

from mmvitscale.config.view import ConfigView, as_list
from mmvitscale.datasets.annotation_losses import Counts, Use
from mmvitscale.datasets.coco import check_coco
from mmvitscale.datasets.coco_evaluation import check_evaluator
from mmvitscale.datasets.delivered import (
    LabelMaps,
    check_label_maps,
    class_of,
    classes_without_pixels,
    delivered_objects,
    is_coco,
)
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
        datasets = ConfigView(cfg).datasets(split)
        for dataset in datasets:
            _check_dataset(cfg, dataset, split)
        images[split] = _check_coco_files(cfg, [one for one in datasets if is_coco(class_of(cfg, one))], split)
        check_evaluator(cfg, split)
    _check_folders_of_classes(cfg, splits)
    if is_first_process():
        with DATASETS.switch_scope_and_registry(ConfigView(cfg).scope):
            for split, paths in _check_label_maps(cfg, splits).items():
                images[split] |= paths
    shared = images.get('train', set()) & images.get('val', set())
    if shared:
        _note(
            f'{len(shared)} of {len(images["val"])} images for validation are also in training (the first: {min(shared)}), so '
            'the score says nothing of new images; keep them apart'
        )


def _note(text: str) -> None:
    if is_first_process():
        print(f'note: {text}', file=sys.stderr)


def _check_dataset(cfg: Config, dataset: ConfigDict, split: str) -> None:
    root = Path(dataset.get('data_root') or '')
    prefixes = dataset.get('data_prefix') or {}
    for key, folder in prefixes.items() if isinstance(prefixes, dict) else [('', prefixes)]:
        if isinstance(folder, str):
            _check_folder(root / folder, _absolute(folder, f'{split}_dataloader.dataset.data_prefix.{key}'))
    if not prefixes and not dataset.get('ann_file') and dataset.get('data_root'):  # mmpretrain's ImageNet
        _check_folder(root / (dataset.get('split') or ''))
        _check_class_folders(root / (dataset.get('split') or ''), _classes_of(cfg, dataset))
    if dataset.get('ann_file'):
        if not isinstance(dataset.ann_file, (str, Path)):
            raise InputError(
                f'the {split} data set has ann_file={dataset.ann_file!r}, but a data set reads one file; give several '
                "as dict(type='ConcatDataset', datasets=[dict(...), dict(...)])"
            )
        keys = f'{split}_dataloader.dataset.ann_file'
        if split != 'train' and ConfigView(cfg).task == 'detection':
            keys += f'=PATH {split}_evaluator.ann_file'
        _check_file(root / dataset.ann_file, _absolute(dataset.ann_file, keys))
    _check_classes(cfg, dataset, split)
    _check_masks(dataset)


def _check_coco_files(cfg: Config, datasets: Sequence[ConfigDict], split: str) -> set[Path]:
    """The annotation files of a split's data sets in mmdet's COCO format, by themselves and together; returns the paths of
    their images."""
    training = split == 'train'
    metrics = [] if training else as_list(cfg.get(f'{split}_evaluator'))
    scores = [metric for metric in metrics if type_name(metric).endswith('CocoMetric') and not metric.get('format_only')]
    with_masks = any('segm' in as_list(metric.get('metric')) for metric in metrics)
    images: set[Path] = set()
    every: list[Counts] = []
    for dataset in datasets:
        root, folder = Path(dataset.get('data_root') or ''), (dataset.get('data_prefix') or {}).get('img', '')
        own_masks = with_masks or any(step.get('with_mask', False) for step in dataset.get('pipeline', []))
        filters = {} if dataset.get('test_mode') else dataset.get('filter_cfg') or {}
        use = Use(training, own_masks, filters.get('min_size', 0))
        counts, notes = check_coco(root / dataset.ann_file, root / folder, _classes_of(cfg, dataset), use)
        for note in notes:
            _note(note)
        images |= {(root / folder / name).absolute() for name in counts.images}
        every.append(counts)
    if not every:
        return images
    files = [Path(dataset.get('data_root') or '', dataset.ann_file) for dataset in datasets]
    classes, together = _classes_of(cfg, datasets[0]), sum(every[1:], every[0])
    if scores and not together.listed:
        raise InputError(
            f'{files[0]} has no annotation of any class, so there is nothing to compare predictions with; '
            'tools/predict.py writes them, or set format_only=True and outfile_prefix in the evaluator'
        )
    together.check(files, classes, training)
    unlearned = [name for name in classes if training and not together.listed[name]]
    if unlearned:
        _note(f'{some_of([str(file) for file in files])}: no annotation of class {some_of(unlearned)}, which cannot be learned')
    if training and is_first_process():
        for dataset, counts in zip(datasets, every):
            _compare_with_delivered(cfg, dataset, counts)
    return images


def _compare_with_delivered(cfg: Config, dataset: ConfigDict, counts: Counts) -> None:
    """A note where the data set, loaded and filtered by its own class, delivers fewer objects than the file's annotations
    explain."""
    with DATASETS.switch_scope_and_registry(ConfigView(cfg).scope):
        delivered = delivered_objects(dataset)
    fewer = [f'{count - delivered[name]} of {count} of class {name}' for name, count in counts.used.items()]
    fewer = [text for text in fewer if not text.startswith(('0 ', '-'))]
    if fewer:
        _note(
            f'{Path(dataset.get("data_root") or "", dataset.ann_file)}: the data set leaves out {some_of(fewer)} by options of '
            'its own (indices, filter_cfg, ...)'
        )


def _check_label_maps(cfg: Config, splits: Sequence[str]) -> dict[str, set[Path]]:
    """The label maps of a training of mmsegmentation hold something to learn; returns the paths of the images of its splits."""
    images: dict[str, set[Path]] = {}
    zero: dict[str, set[bool]] = {}
    if ConfigView(cfg).scope != 'mmseg' or 'train' not in splits:
        return images
    for split in (split for split in ('train', 'val') if split in splits):
        datasets = [one for one in ConfigView(cfg).datasets(split) if hasattr(class_of(cfg, one), 'get_label_map')]
        every = [LabelMaps.of(dataset) for dataset in datasets]
        zero[split] = {bool(maps.reduce_zero_label) for maps in every}
        if len(zero[split]) == 1 and zero['train'] == {not value for value in zero[split]}:
            validation = zero[split].pop()
            raise InputError(
                f'reduce_zero_label is {not validation} for training and {validation} for validation, so that a label is '
                'another class in each; give both the same, and the test, too'
            )
        for dataset, maps in zip(datasets, every):
            if not maps.classes:
                raise InputError(
                    f'the {split} data set {type_name(dataset)} names no classes, which the evaluation needs; add '
                    'metainfo=dict(classes=(...)), or METAINFO=dict(classes=..., palette=...) in small letters to its class'
                )
        if split == 'train' and every:
            ignored = [value for value in ConfigView(cfg).model_values('ignore_index') if isinstance(value, int)]
            check_label_maps(every, ignored, len(every[0].classes))
            unseen = classes_without_pixels(every, every[0].classes)
            if unseen:
                _note(
                    f'no pixel of class {some_of(unseen)} in the label maps for training, so it cannot be learned; if that is '
                    'unexpected look at reduce_zero_label, which takes 1 off each label'
                )
        images[split] = {Path(sample['img_path']).absolute() for maps in every for sample in maps.samples}
    return images


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


def class_folders(folder: Path) -> list[str]:
    """Names of the folders of classes in it, in the order in which mmpretrain numbers them. Raises InputError for hidden ones,
    which it would number, too."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    hidden = [name for name in names if name.startswith('.')]
    if hidden:
        raise InputError(f'{folder} has the hidden folder {hidden[0]}, which would be taken for a class; remove it')
    return names


def _check_folders_of_classes(cfg: Config, splits: Sequence[str]) -> None:
    """Raise InputError where folders of classes differ between splits, or from the names in the config: labels are the places
    of the folders in order."""
    first: tuple[Path, list[str]] | None = None
    for split in splits:
        for dataset in ConfigView(cfg).datasets(split):
            prefix = dataset.get('data_prefix') or dataset.get('split') or ''
            prefix = prefix.get('img_path', '') if isinstance(prefix, dict) else prefix
            folder = Path(dataset.get('data_root') or '', prefix)
            of_folders = type_name(dataset) in ('CustomDataset', 'ImageNet') and dataset.get('with_label', True)
            if not of_folders or dataset.get('ann_file') or not folder.is_dir():
                continue
            names, classes = class_folders(folder), list(_classes_of(cfg, dataset))
            if set(names) == set(classes) and names != classes:
                raise InputError(
                    f'classes {some_of(classes)} found, but labels are numbered in the order of the folders of {folder} '
                    f'({some_of(names)}); give the classes in that order'
                )
            if first and names != first[1]:
                different = sorted(set(names) ^ set(first[1]))
                raise InputError(
                    f'{folder} and {first[0]} differ in the folders of classes ({some_of(different)}), so that a label is '
                    'another class in each; make the missing folders, empty ones, too'
                )
            first = first or (folder, names)


def _check_class_folders(folder: Path, classes: Sequence[str]) -> None:
    """Where classes are known, a data set of a folder for each has as many."""
    found = len(class_folders(folder))
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


def _absolute(path: str | Path, key: str) -> str:
    """The config's key for a path that does not depend on data_root; '' for others."""
    return key if Path(path).is_absolute() else ''


def _check_file(path: Path, key: str = '') -> None:
    """key: of the config, where it is not below data_root."""
    if not path.is_file():
        raise InputError(f'annotation file {path} is not there; {_how_to_get(path, key)}')


def _check_folder(folder: Path, key: str = '') -> None:
    if not folder.is_dir() or not any(folder.iterdir()):
        state = 'is empty' if folder.is_dir() else 'is not there'
        raise InputError(f'data set folder {folder} {state}; {_how_to_get(folder, key)}')


def _how_to_get(folder: Path, key: str = '') -> str:
    if key:  # what new_config.py writes beside a config
        return f'bring it along with the config that it was written for, and name its place with --cfg-options {key}=PATH'
    known = [how for part, how in _DATA_SOURCES.items() if part in folder.parts]
    return (
        f'{known[-1] if known else "put the data set there"}, name another place with --cfg-options '
        'data_root=PATH, or try the synthetic mini dataset: python tools/make_mini_dataset.py --out data/mini, then a '
        'config of configs/mini'
    )
