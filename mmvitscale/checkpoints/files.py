"""Reading checkpoint files without running code from them."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Union

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer

from ..errors import InputError


def _statistic_of_history(owner, name: str):
    """All that a checkpoint may ask of ``getattr``: MMEngine's HistoryBuffer pickles its statistics that way."""
    if owner is not HistoryBuffer or name not in ('mean', 'max', 'min', 'current', 'statistics'):
        raise UnpicklingError(f'Unsupported global: getattr({owner!r}, {name!r})')
    return getattr(owner, name)


# What MMEngine's own checkpoints hold beside tensors and plain containers: training statistics as NumPy arrays.
_multiarray = (np._core if hasattr(np, '_core') else np.core).multiarray
_SAFE_TYPES = [
    HistoryBuffer, (_statistic_of_history, 'builtins.getattr'), np.ndarray, np.dtype, _multiarray._reconstruct, _multiarray.scalar,
    *{type(np.dtype(name)) for name in ('float64', 'float32', 'int64', 'int32', 'uint32', 'uint8', 'bool')}
]


def read_checkpoint(path: Union[str, Path], map_location='cpu') -> dict:
    """Path of a ``.pth`` file -> the dict in it. Nothing in the file is executed.

    Raises:
        InputError: for a file that is missing, is no checkpoint or is cut short, or that asks to run code.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f'checkpoint {path} is not there; check the path')
    try:
        with torch.serialization.safe_globals(_SAFE_TYPES):
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except UnpicklingError as error:
        if 'unsupported global' in str(error).lower():
            raise InputError(f'checkpoint {path} holds Python objects whose loading would run code, so it was not '
                             'loaded; save it again with tensors, numbers and strings only') from error
        raise InputError(f'{path} is no PyTorch checkpoint or is damaged; download or save it again') from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise InputError(f'{path} is no PyTorch checkpoint or is damaged; download or save it again') from error
    if not isinstance(checkpoint, dict):
        raise InputError(f'{path} holds a {type(checkpoint).__name__}, but a checkpoint is a dict of weights')
    return checkpoint
