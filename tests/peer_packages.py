"""Makes the packages of ``<venv>/peers`` importable: torchvision, and what the tests compare with on top of it.

They are kept apart since a torchvision that does not load breaks every package that would use it if it is there. A
CPU build of PyTorch has no torchvision of its own: the one from PyPI is built for CUDA, and its compiled operators do
not load. Its Python part, all that the peers need, works once the operators are declared.
"""

import sys
from pathlib import Path

import torch

_UNUSED_OPERATORS = ('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
                     'qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
_library = None

peers = str(Path(sys.prefix, 'peers'))
if peers not in sys.path:
    sys.path.append(peers)
try:
    import torchvision  # noqa: F401
except RuntimeError:
    for name in [name for name in sys.modules if name.split('.')[0] == 'torchvision']:
        del sys.modules[name]
    _library = torch.library.Library('torchvision', 'DEF')
    for operator in _UNUSED_OPERATORS:
        _library.define(operator)
    import torchvision  # noqa: F401

import mmpretrain.utils.dependency  # noqa: E402

mmpretrain.utils.dependency.WITH_MULTIMODAL = False  # its multimodal models need transformers 4, and nothing here
