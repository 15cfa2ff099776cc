"""torchvision where its compiled operators do not load. mmpretrain imports it, for image transforms; segmentation and
detection do not need it."""

import importlib.util
import sys
from pathlib import Path

_UNUSED_OPERATORS = (
    'nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
    'qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
)
_libraries = []


def make_torchvision_importable() -> bool:
    """Make torchvision, and what needs it, importable, from ``<environment>/baselines`` where it is not installed; whether it
    is.

    It may be kept apart there since a torchvision that does not load breaks every package that would use it if it is there.
    A CPU build of PyTorch may have no torchvision of its own: the one from PyPI is built for CUDA, and its compiled
    operators do not load. Its Python part, all that mmpretrain, timm and transformers need here, works once the operators
    are declared. Call it before any of them is imported.
    """
    folder = str(Path(sys.prefix, 'baselines'))
    if folder not in sys.path:
        sys.path.append(folder)
    if importlib.util.find_spec('torchvision') is None:
        return False
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return False
    except RuntimeError:
        for name in [name for name in sys.modules if name.split('.')[0] == 'torchvision']:
            del sys.modules[name]
        import torch

        _libraries.append(torch.library.Library('torchvision', 'DEF'))
        for operator in _UNUSED_OPERATORS:
            _libraries[-1].define(operator)
    try:
        import mmpretrain.utils.dependency as dependency

        # Its multimodal models need transformers 4, and nothing here; mmdet and mmseg import it, too, where they can.
        dependency.WITH_MULTIMODAL = False
    except ImportError:
        pass
    return True
