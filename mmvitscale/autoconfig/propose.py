"""A config proposed for data: inspected and written in one call."""

from collections.abc import Sequence
from math import inf
from pathlib import Path

import torch

from mmvitscale.autoconfig.inspect_dataset import inspect_dataset
from mmvitscale.autoconfig.write_config import write_config
from mmvitscale.config.training_options import TrainingOptions
from mmvitscale.errors import InputError


def propose_config(
    data: str | Path,
    out: str | Path,
    task: str | None = None,
    format: str | None = None,
    classes: Sequence[str] | None = None,
    gpu_memory: float | None = None,
    frozen: bool = False,
    skip_invalid: bool = False,
    overwrite: bool = False,
    options: TrainingOptions | None = None,
) -> list[str]:
    """Inspect data and write a config for them; return lines for the user.

    Args:
        data: a folder of annotations and images in any of the formats, or a COCO file.
        out: the config's path, ending in .py.
        task, format, classes, skip_invalid: as in ``inspect_dataset``.
        gpu_memory: in GB; None: of this machine's GPU. Without one a small model from scratch is proposed.
        frozen: keep the pretrained backbone as it is.
        overwrite: replace the config.
        options: of the training, such as EMA, written into the config.

    Raises:
        InputError: for data that cannot be trained on.
    """
    if gpu_memory is None and torch.cuda.is_available():
        gpu_memory = torch.cuda.mem_get_info()[1] / 2**30
    if gpu_memory is not None and not 0 < gpu_memory < inf:
        raise InputError(f'--gpu-memory {gpu_memory:g} found, but it is the memory of a GPU in GB, a number above 0')
    found = inspect_dataset(data, task, classes, format, skip_invalid)
    messages = write_config(found, Path(out), gpu_memory, frozen, overwrite, options)
    return [*found.lines, *(f'note: {note}' for note in found.notes), *messages]
