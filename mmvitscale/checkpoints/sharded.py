"""Folders in which DeepSpeed (ZeRO stages 0 to 2) or torch.distributed.checkpoint leave a model in pieces -> one dict, as
``read_checkpoint`` gives it. Weights only: optimizer states stay where they are. Code in the files is not run."""

import pickle
import re
import warnings
from collections import OrderedDict
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from mmvitscale.checkpoints.io import read_checkpoint
from mmvitscale.errors import InputError


def is_sharded(source: str | Path) -> bool:
    """Whether it is a folder of one of these kinds."""
    return Path(source).is_dir()


def read_sharded(folder: str | Path) -> dict[str, Any]:
    """Folder -> dict(state_dict=..., meta=dict(source=...)), weights in float32 where DeepSpeed keeps them so.

    A folder of DeepSpeed is that of one step, or the one above it, whose ``latest`` names a step.

    Raises:
        InputError: for a folder of another kind, one whose pieces are not all there, or files that are damaged or would run
            code.
    """
    folder = Path(folder)
    if (folder / '.metadata').is_file():
        return dict(state_dict=_of_torch(folder), meta=dict(source='torch.distributed.checkpoint'))
    if (folder / 'latest').is_file():
        folder = folder / (folder / 'latest').read_text().strip()
    models = sorted(folder.glob('*mp_rank_*_model_states.pt'))
    if not models:
        raise InputError(
            f'{folder} holds no checkpoint of DeepSpeed (mp_rank_00_model_states.pt) or '
            'torch.distributed.checkpoint (.metadata); give such a folder, or a checkpoint file'
        )
    if len(models) > 1 or models[0].name != 'mp_rank_00_model_states.pt':
        raise InputError(
            f'{folder} holds {len(models)} model states ({models[0].name}, ...), of ZeRO stage 3 or of a model split '
            "over GPUs, but stages 0 to 2 of a whole one are known; make one file of it with DeepSpeed's "
            'zero_to_fp32.py, which lies beside it'
        )
    return dict(state_dict=_of_deepspeed(folder, models[0]), meta=dict(source='DeepSpeed'))


def _of_deepspeed(folder: Path, model: Path) -> dict[str, torch.Tensor]:
    content = _read_of_deepspeed(model)
    state = OrderedDict(
        (name, value.float() if value.is_floating_point() else value) for name, value in content['module'].items()
    )
    pieces = sorted(folder.glob('*zero_pp_rank_*_mp_rank_00_optim_states.pt'), key=_rank_of)
    if not pieces:  # stage 0, or saved without
        return state
    optimizers = [_read_of_deepspeed(path)['optimizer_state_dict'] for path in pieces]
    counts = optimizers[0]['partition_count']
    expected = max(counts) if isinstance(counts, (list, tuple)) else int(counts)
    if [_rank_of(path) for path in pieces] != list(range(expected)):
        raise InputError(
            f'{folder} holds the pieces of {len(pieces)} processes, but {expected} saved it; copy all of '
            'zero_pp_rank_*_optim_states.pt'
        )
    # Each process has a part of every group: its parameters one after the other, in their order.
    for number, shapes in enumerate(content['param_shapes']):
        flat = torch.cat([optimizer['single_partition_of_fp32_groups'][number].flatten() for optimizer in optimizers])
        start = 0
        for name, shape in shapes.items():
            length = shape.numel()
            if start + length > len(flat):
                raise InputError(f'{folder} holds fewer numbers than its parameters have; copy it again')
            state[name] = flat[start : start + length].view(shape).clone()
            start += length
    return state


def _rank_of(path: Path) -> int:
    match = re.search(r'zero_pp_rank_(\d+)_', path.name)
    return int(match[1]) if match else 0


def _read_of_deepspeed(path: Path) -> dict[str, Any]:
    """The content of a file, DeepSpeed's own types as plain data."""
    plain = [
        (_Placeholder, f'deepspeed.runtime.{name}')
        for name in ('fp16.loss_scaler.LossScaler', 'fp16.loss_scaler.DynamicLossScaler', 'zero.config.ZeroStageEnum')
    ]
    plain += [(_Placeholder, 'deepspeed.utils.tensor_fragment.fragment_address')]
    with torch.serialization.safe_globals(plain):
        content = read_checkpoint(path)
    if 'module' not in content and 'optimizer_state_dict' not in content:
        raise InputError(f'{path} is no file of a checkpoint of DeepSpeed; give the folder as it was saved')
    return content


class _Placeholder(OrderedDict[str, Any]):
    """In the place of DeepSpeed's objects, of which nothing is needed."""

    def __init__(self, *_: Any) -> None:
        super().__init__()


class _MetadataReader(pickle.Unpickler):
    """Reads what torch.distributed.checkpoint records of the shards; nothing but its own descriptions and plain containers."""

    _PLAIN = {
        ('collections', 'OrderedDict'),
        ('builtins', 'set'),
        ('builtins', 'dict'),
        ('builtins', 'list'),
        ('torch', 'Size'),
        ('torch.serialization', '_get_layout'),
        ('torch', 'device'),
        ('pathlib', 'PosixPath'),
        ('pathlib', 'PurePosixPath'),
    }

    def find_class(self, module: Any, name: Any) -> Any:
        described = module in ('torch.distributed.checkpoint.metadata', 'torch.distributed.checkpoint.filesystem')
        dtype = module == 'torch' and isinstance(getattr(torch, name, None), (torch.dtype, torch.memory_format))
        if described and not name.startswith('_get') or dtype or (module, name) in self._PLAIN:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f'unsupported global {module}.{name}')


def _of_torch(folder: Path) -> dict[str, torch.Tensor]:
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint import CheckpointException, FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    class Reader(FileSystemReader):
        def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
            with open(folder / '.metadata', 'rb') as file:
                return _MetadataReader(file).load()

    reader = Reader(str(folder))
    try:
        metadata = reader.read_metadata()
        tensors = {
            name: torch.empty(entry.size, dtype=entry.properties.dtype)
            for name, entry in metadata.state_dict_metadata.items()
            if isinstance(entry, TensorStorageMetadata)
        }
        with warnings.catch_warnings():  # that there is one process
            warnings.simplefilter('ignore')
            if 'no_dist' in signature(checkpoint.load).parameters:
                checkpoint.load(tensors, storage_reader=reader, no_dist=True)
            else:  # PyTorch 2.6
                checkpoint.load_state_dict(tensors, reader, no_dist=True)
    except (Exception, CheckpointException) as error:  # whatever damaged files make the reader raise
        if isinstance(error, pickle.UnpicklingError) and 'unsupported global' in str(error):
            raise InputError(
                f'{folder}/.metadata holds Python objects whose loading would run code, so it was not loaded; save it '
                'again with torch.distributed.checkpoint'
            ) from error
        raise InputError(
            f'{folder} is no checkpoint of torch.distributed.checkpoint or is damaged; copy or save it again'
        ) from error
    names: list[str] = [name for name in tensors if not name.startswith(('optimizer.', 'optim.'))]
    return OrderedDict((name.removeprefix('state_dict.').removeprefix('model.'), tensors[name]) for name in names)
