"""``init_cfg=dict(type='mmvitscale.Pretrained', checkpoint=...)``: any known checkpoint into a backbone, windows
carried over."""

import logging
from pathlib import Path
from typing import Union

from mmengine.logging import print_log
from mmengine.model.weight_init import update_init_info
from torch import nn

from ..errors import InputError, some_of
from ..models.backbones import DeepViT, SwinTransformerV2
from ..registry import WEIGHT_INITIALIZERS
from .convert import Converted, convert_checkpoint, describe_arch
from .files import read_checkpoint

Backbone = Union[SwinTransformerV2, DeepViT]
_SWIN = ('embed_dims', 'depths', 'num_heads')
_DEEPVIT = ('embed_dims', 'depth', 're_attention')


@WEIGHT_INITIALIZERS.register_module()
class Pretrained:
    """Backbone -> the backbone with the weights of a checkpoint, whatever library it came from.

    The windows stay the config's; the windows that the position biases were learned with are the checkpoint's.

    Args:
        checkpoint: path or URL of a .pth, .bin or .safetensors file in any layout that ``convert`` knows.
    """

    def __init__(self, checkpoint: Union[str, Path]):
        self.checkpoint = str(checkpoint)

    def __call__(self, module: nn.Module) -> None:
        if not isinstance(module, (SwinTransformerV2, DeepViT)):
            raise InputError(f"init_cfg type 'mmvitscale.Pretrained' was given to a {type(module).__name__}, but it is "
                             'for the backbones of mmvitscale; move it into the config of the backbone')
        load_into_backbone(module, convert_file(self.checkpoint), self.checkpoint)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=f'mmvitscale.Pretrained: {self.checkpoint}')


def convert_file(checkpoint: str) -> Converted:
    """Path or URL -> converted; what is wrong with the content is told together with the file's name."""
    content = read_checkpoint(checkpoint)
    try:
        return convert_checkpoint(content)
    except InputError as error:
        raise InputError(f'{checkpoint}: {error}') from error


def load_into_backbone(backbone: Backbone, converted: Converted, name: str) -> None:
    """Put converted weights into a backbone, and the reference windows of a SwinV2 with them.

    Norms of outputs that pretraining does not have keep their initialisation; stages and blocks that the checkpoint has
    and the backbone leaves out are left out.

    Raises:
        InputError: if the checkpoint is of another arch, or learned with other windows than the config says.
    """
    _check_arch(backbone, converted, name)
    if converted.model == 'SwinV2':
        _check_references(backbone, converted, name)
        _tell_assumptions(backbone, converted, name)
    expected = backbone.state_dict()
    weights = {key: value for key, value in converted.state_dict().items() if key in expected}
    unused = [key for key in converted.weights if key not in expected]
    missing = [key for key in backbone.load_state_dict(weights, strict=False).missing_keys
               if not key.endswith('reference_window')]
    lost = [key for key in missing if not key.startswith(('out_norms.', 'norm.'))]
    if lost:
        raise InputError(f'{name} fits the arch, but not its options: {len(lost)} weights missing '
                         f'({", ".join(lost[:3])}); its position_bias is '
                         f'{"a table" if any(key.endswith("table") for key in converted.weights) else "an MLP"}')
    dropped = [*converted.dropped, *unused]
    print_log(f'{name}: {describe_arch(converted.arch)} from {converted.source}; {len(weights)} weights taken over, '
              f'{len(dropped)} left out{_examples(dropped)}, newly initialised: '
              f'{", ".join(missing) if missing else "none"}', 'current')


def _examples(keys) -> str:
    return f' ({some_of(keys)})' if keys else ''


def _check_arch(backbone: Backbone, converted: Converted, name: str) -> None:
    # What weights do not tell (the residual scale of a DeepViT) the config decides.
    own = {key: backbone.arch.get(key) for key in converted.arch}
    if own != converted.arch:
        known = {key: backbone.arch[key] for key in (_DEEPVIT if isinstance(backbone, DeepViT) else _SWIN)}
        raise InputError(f'{name} is a {describe_arch(converted.arch)}, but the config builds a {describe_arch(known)}; '
                         'change arch, or take the checkpoint of that variant')


def _check_references(backbone: SwinTransformerV2, converted: Converted, name: str) -> None:
    for i, (stage, found) in enumerate(zip(backbone.stages, converted.references)):
        if found and stage.reference_origin == 'config' and found != stage.reference:
            given = [stage.reference for stage in backbone.stages]
            raise InputError(f'{name} learned its position biases with the windows {list(converted.references)}, but '
                             f'the config says pretrained_window_sizes {given} (stage {i} differs); remove '
                             'pretrained_window_sizes to take them from the checkpoint')


def _tell_assumptions(backbone: SwinTransformerV2, converted: Converted, name: str) -> None:
    assumed = {i: stage.reference for i, (stage, found) in enumerate(zip(backbone.stages, converted.references))
               if not found and stage.reference_origin == 'window_size'}
    if assumed:
        print_log(f'{name} does not say with which windows its position biases were learned, and neither does the '
                  f'config: window_size is assumed, {list(assumed.values())} in the stages {list(assumed)}. If that is '
                  'not so, the biases come out wrong; set pretrained_window_sizes, e.g. 8 for *_window8_256', 'current',
                  level=logging.WARNING)
