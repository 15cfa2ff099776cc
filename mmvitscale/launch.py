"""From a config file and command-line options to a runner, whatever the task: what the tools share."""

import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from typing import Callable, Dict, Iterator, Optional, Sequence, Tuple

import mmengine
import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from torch import nn

from .checkpoints.files import read_checkpoint
from .datasets.coco import check_coco
from .errors import InputError, some_of

# How to get the data, by the folder that OpenMMLab's configs expect it in.
_DATA_SOURCES = {
    'ADEChallengeData2016':
    'unpack ADEChallengeData2016.zip of the MIT scene parsing benchmark there',
    'coco':
    'unpack train2017, val2017 and annotations of COCO 2017 there',
    'mini':
    'make it with: python tools/make_mini_dataset.py --out data/mini',
}


def run_command(main: Callable[[], Optional[int]]) -> None:
    """Run a tool and exit with its status: 0, or 1 after one line on stderr if the input cannot work."""
    try:
        sys.exit(main() or 0)
    except InputError as error:
        if is_first_process():
            print(f'error: {error}', file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def is_first_process() -> bool:
    """Whether this process speaks for all: known before they are connected, from what torchrun or Slurm sets."""
    return int(os.environ.get('RANK', os.environ.get('SLURM_PROCID', 0))) == 0


class Runner(mmengine.runner.Runner):
    """MMEngine's runner, but checkpoint files are read without running code from them, and weights that are to be
    tested must fit the model entirely."""

    weights_must_fit = False

    def load_checkpoint(self, filename, map_location='cpu', strict=False, revise_keys=((r'^module.', ''), )):
        checkpoint = read_checkpoint(filename, map_location)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        model = self.model.module if is_model_wrapper(self.model) else self.model
        if self.weights_must_fit:
            check_fit(model, checkpoint, filename)
        _load_checkpoint_to_model(model, checkpoint, strict, revise_keys=list(revise_keys))
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint


def weights_of(checkpoint: dict) -> Dict[str, torch.Tensor]:
    """A checkpoint -> its state dict, at the top or under ``state_dict``, without the prefix of a wrapper."""
    weights = checkpoint.get('state_dict', checkpoint)
    return {key.removeprefix('module.'): value for key, value in weights.items()}


def check_fit(model: nn.Module, checkpoint: dict, filename: str) -> None:
    """Raise InputError unless the checkpoint has exactly the weights of the model."""
    model = model.module if isinstance(model, BaseTTAModel) else model
    expected, found = model.state_dict(), weights_of(checkpoint)
    missing = [key for key in expected if key not in found]
    unexpected = [key for key in found if key not in expected]
    shapes = [f'{key} is {tuple(found[key].shape)} instead of {tuple(expected[key].shape)}'
              for key in expected if key in found and found[key].shape != expected[key].shape]
    problems = [f'{len(keys)} weights {what} ({some_of(keys)})'
                for what, keys in (('missing', missing), ('unknown', unexpected), ('of another shape', shapes)) if keys]
    if problems:
        raise InputError(f'checkpoint {filename} does not fit the config: {"; ".join(problems)}; give the config the '
                         'checkpoint was trained with')


def load_config(path: str, options: Optional[dict] = None) -> Config:
    """Path of a config and ``key=value`` overrides -> the config.

    An override of ``data_root`` moves every path that lay under the old one, in datasets and evaluators alike.
    """
    if not Path(path).is_file():
        raise InputError(f'config {path} is not there; the configs are listed in configs/')
    try:
        cfg = Config.fromfile(path)
    except ImportError as error:
        raise InputError(f'config {path} needs a package that is not installed ({error}); install it, for detection '
                         "with: pip install -c constraints.txt -e '.[det]'") from error
    except (OSError, SyntaxError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f'config {path} cannot be read: {type(error).__name__}: {error}') from error
    if options:
        old_root = cfg.get('data_root')
        cfg.merge_from_dict(options)
        if 'data_root' in options and old_root:
            for key, value in cfg.items():
                cfg[key] = _rebase(value, str(old_root).rstrip('/'), str(options['data_root']).rstrip('/'))
    return cfg


def _rebase(value, old: str, new: str):
    """Every string ``old`` or ``old/...`` inside nested dicts and lists, with ``new`` in place of ``old``."""
    if isinstance(value, dict):
        return ConfigDict({key: _rebase(item, old, new) for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        return type(value)(_rebase(item, old, new) for item in value)
    if isinstance(value, str) and (value.rstrip('/') == old or value.startswith(old + '/')):
        return new + value[len(old):]
    return value


def adapt_to_machine(cfg: Config, launcher: str = 'none') -> None:
    """Make a config written for several GPUs run on what is there: gloo and plain BatchNorm without a GPU, and no
    more loading processes than processors."""
    for loader in _dataloaders(cfg, ('train', 'val', 'test')):
        loader.num_workers = min(loader.get('num_workers', 0), os.cpu_count() or 1)
    cfg.launcher = launcher
    if get_device() != 'cpu':
        return
    cfg.pop('sync_bn', None)  # PyTorch synchronises BatchNorm on GPUs only
    if launcher == 'none':
        return
    if launcher != 'pytorch':
        raise InputError(f'--launcher {launcher} needs GPUs, and none is there; use --launcher pytorch (dist_train.sh)')
    # MMEngine would choose a CUDA device for each process; a process group that is there already it leaves alone.
    torch.distributed.init_process_group('gloo')
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel',
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False))


def check_operators(cfg: Config) -> None:
    """Raise InputError if the config's task needs mmcv's compiled operators and they are not there."""
    needs = cfg.get('default_scope') == 'mmdet' or 'mmdet' in str(cfg.get('custom_imports', ''))
    if needs and importlib.util.find_spec('mmcv._ext') is None:
        raise InputError(f'{cfg.filename} needs the compiled operators of mmcv (NMS, RoIAlign), but mmcv is installed '
                         'without them; get them with: python tools/install_mmcv_ops.py')


def use_mixed_precision(cfg: Config) -> None:
    """float16 with loss scaling on a GPU, bfloat16 on a CPU."""
    if get_device() == 'cpu':
        cfg.optim_wrapper.type = 'mmvitscale.CPUAmpOptimWrapper'
    else:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def use_work_dir(cfg: Config, config_path: str, work_dir: Optional[str]) -> None:
    """Where logs and checkpoints go: the option, else the config's ``work_dir``, else work_dirs/<config name>."""
    cfg.work_dir = work_dir or cfg.get('work_dir') or str(Path('work_dirs', Path(config_path).stem))
    check_writable(cfg.work_dir)


def check_writable(folder: str) -> Path:
    """Make the folder if need be. Raises InputError unless files can be written into it."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f'cannot write into {folder} ({error.strerror}); give a folder that can be written') from error
    return Path(folder)


def check_datasets(cfg: Config, splits: Sequence[str]) -> None:
    """Raise InputError unless every data set of these splits (train, val, test) has its folders, images and, in COCO
    format, usable annotations, and the model has as many classes. Says on stderr what will be left out."""
    for split in splits:
        for loader in _dataloaders(cfg, [split]):
            for dataset in _plain_datasets(loader.dataset):
                root = Path(dataset.get('data_root') or '')
                for key, folder in dataset.get('data_prefix', {}).items():
                    if isinstance(folder, str):
                        _check_folder(root / folder, dataset)
                if dataset.get('ann_file') and not (root / dataset.ann_file).is_file():
                    raise InputError(f'annotation file {root / dataset.ann_file} is not there; {_how_to_get(root)}')
                _check_classes(cfg, dataset, split)
        _check_evaluator(cfg, split)


def class_of(cfg: Config, dataset: ConfigDict) -> Optional[type]:
    """The class of a data set's config, looked up in the config's scope; None if nobody knows it."""
    from mmengine.registry import DATASETS
    with DATASETS.switch_scope_and_registry(cfg.get('default_scope', 'mmengine')) as registry:
        return registry.get(dataset.type) if 'type' in dataset else None


def _check_classes(cfg: Config, dataset: ConfigDict, split: str) -> None:
    dataset_class = class_of(cfg, dataset)
    classes = (dataset.get('metainfo') or {}).get('classes') or getattr(dataset_class, 'METAINFO', {}).get('classes')
    if not classes:
        return
    for path, count in _numbers_of_classes(cfg.model, 'model'):
        if count != len(classes):
            raise InputError(f'{path} is {count}, but the {split} data set has {len(classes)} classes '
                             f'({some_of(classes)}); make them equal')
    if _is_coco(dataset_class):
        root = Path(dataset.get('data_root') or '')
        with_mask = any(step.get('with_mask', False) for step in dataset.get('pipeline', []))
        notes = check_coco(root / dataset.ann_file, root / dataset.data_prefix.get('img', ''), classes,
                           split == 'train', with_mask)
        for note in notes if is_first_process() else []:
            print(f'note: {note}', file=sys.stderr)


def _is_coco(dataset_class: Optional[type]) -> bool:
    """Whether the data set reads its annotations as mmdet's CocoDataset does."""
    if not dataset_class or not dataset_class.__module__.startswith('mmdet.'):
        return False
    from mmdet.datasets import CocoDataset
    return getattr(dataset_class, 'load_data_list', None) is CocoDataset.load_data_list


def _numbers_of_classes(model, path: str) -> Iterator[Tuple[str, int]]:
    """(where, how many) for each num_classes of a model's config; a semantic branch counts classes of its own."""
    if isinstance(model, (list, tuple)):
        model = {str(i): item for i, item in enumerate(model)}
    if isinstance(model, dict):
        for key, value in model.items():
            if key == 'num_classes' and isinstance(value, int):
                yield f'{path}.{key}', value
            elif key != 'semantic_head':
                yield from _numbers_of_classes(value, f'{path}.{key}')


def _check_evaluator(cfg: Config, split: str) -> None:
    """An evaluator with an annotation file of its own must read that of its data set."""
    loader, evaluators = cfg.get(f'{split}_dataloader'), cfg.get(f'{split}_evaluator')
    if not loader or not evaluators:
        return
    files = [Path(dataset.get('data_root') or '', dataset.ann_file)
             for dataset in _plain_datasets(loader.dataset) if dataset.get('ann_file')]
    for evaluator in evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]:
        own = evaluator.get('ann_file')
        if own and files and Path(own).absolute() not in [file.absolute() for file in files]:
            raise InputError(f'{split}_evaluator reads {own}, but the {split} data set {files[0]}; give both the same '
                             'ann_file')


def _check_folder(folder: Path, dataset: dict) -> None:
    if not folder.is_dir() or not any(folder.iterdir()):
        state = 'is empty' if folder.is_dir() else 'is not there'
        raise InputError(f'data set folder {folder} {state}; {_how_to_get(Path(dataset.get("data_root") or "."))}')


def _how_to_get(root: Path) -> str:
    known = [how for part, how in _DATA_SOURCES.items() if part in root.parts]
    return (f'{known[-1] if known else "put the data set there"}, name another place with --cfg-options '
            'data_root=PATH, or try the embedded scenes: python tools/make_mini_dataset.py --out data/mini, then a '
            'config of configs/mini')


def _dataloaders(cfg: Config, splits: Sequence[str]) -> Iterator[ConfigDict]:
    loaders = (cfg.get(f'{split}_dataloader') for split in splits)
    return (loader for loader in loaders if loader is not None)


def _plain_datasets(dataset: ConfigDict) -> Iterator[ConfigDict]:
    """The data sets inside wrappers such as ConcatDataset and RepeatDataset."""
    inner = dataset.get('datasets') or ([dataset.dataset] if 'dataset' in dataset else [])
    if not inner:
        yield dataset
    for item in inner:
        yield from _plain_datasets(item)


def build_model(cfg: Config) -> nn.Module:
    """The config's model, built in its scope, in evaluation mode on the best device."""
    from mmengine.registry import MODELS
    check_operators(cfg)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    return MODELS.build(cfg.model).eval().to(get_device())
