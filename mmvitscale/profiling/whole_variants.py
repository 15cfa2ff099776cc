"""What becomes of a config's model before its step is measured: nothing, ``torch.compile``, an exported file in its place."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from mmvitscale.errors import InputError
from mmvitscale.export import FORMATS, ExportRequest, export_model
from mmvitscale.export.runtime import run_instead
from mmvitscale.utils.choices import EXPORTED_VARIANTS

# Parts of segmentors and detectors whose forward pass is a graph: from maps to maps, logits or boxes before suppression.
_COMPILED_PARTS = ('backbone', 'neck', 'decode_head', 'auxiliary_head', 'rpn_head', 'bbox_head')


def _compile(model: nn.Module, size: int | None, folder: Path) -> None:
    """Compile the forward pass of backbone, neck and heads; losses, RoI heads and suppression remain as they are."""
    for name in _COMPILED_PARTS:
        part = getattr(model, name, None)
        for module in part if isinstance(part, nn.ModuleList) else filter(None, [part]):
            module.forward = torch.compile(module.forward)


def _export(format: str, model: nn.Module, size: int | None, folder: Path) -> None:
    """Let a file that is exported to a folder do the model's work."""
    if size is None:
        raise InputError(f'--variant {format} found without --image-size, for which the file is written; give one')
    path = folder / f'model{FORMATS[format]}'
    export_model(model, ExportRequest(format=format, size=(size, size)), path)
    run_instead(model, path)


# Each changes a model in place. size: side of the images, in pixels, or None for that of the config; folder: an empty one.
VARIANTS: dict[str, Callable[[nn.Module, int | None, Path], None]] = {
    'plain': lambda model, size, folder: None,
    'compiled': _compile,
    **{name: partial(_export, name) for name in EXPORTED_VARIANTS},
}
