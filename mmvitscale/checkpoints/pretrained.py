"""``init_cfg=dict(type='Pretrained', checkpoint=...)`` on a backbone: any known checkpoint, windows transferred."""

from pathlib import Path

from mmengine.model.weight_init import update_init_info
from torch import nn

from mmvitscale.checkpoints.io import read_checkpoint
from mmvitscale.checkpoints.loading import EXTRA_CHANNELS
from mmvitscale.checkpoints.names import is_url
from mmvitscale.errors import InputError
from mmvitscale.registry import WEIGHT_INITIALIZERS


@WEIGHT_INITIALIZERS.register_module()
class Pretrained:
    """Backbone -> the backbone with the weights of a checkpoint, whatever library it came from.

    The windows stay the config's; the windows that the position biases were trained with are the checkpoint's. On our
    backbones ``type='Pretrained'`` means this one.

    Args:
        checkpoint: path or URL of a .pth, .bin or .safetensors file in any layout that ``convert`` knows.
        prefix: what the names of the backbone's weights stand behind in it, None to find it.
        map_location: MMEngine's argument; files are always read into the main memory, and weights go from there to where
            the backbone is.
        extra_channels: how an RGB stem goes to an image of another number of channels: 'repeat' (R, G, B, R, ...
            rescaled; one channel takes the sum) or, for more than three, 'zero'.
    """

    def __init__(
        self, checkpoint: str | Path, prefix: str | None = None, map_location: str = 'cpu', extra_channels: str = 'repeat'
    ):
        if extra_channels not in EXTRA_CHANNELS:
            raise InputError(f'extra_channels {extra_channels!r} found in init_cfg; choose one of {", ".join(EXTRA_CHANNELS)}')
        self.checkpoint = str(checkpoint)
        self.prefix = prefix
        self.extra_channels = extra_channels

    def __call__(self, module: nn.Module) -> None:
        if not hasattr(module, 'load_checkpoint'):
            raise InputError(
                f"init_cfg type 'mmvitscale.Pretrained' was given to a {type(module).__name__}, but it is "
                'for the backbones of mmvitscale; move it into the config of the backbone'
            )
        if not is_url(self.checkpoint) and not Path(self.checkpoint).expanduser().is_file():
            raise InputError(
                f'pretrained weights {self.checkpoint} are not there; put the file there '
                f'({module.weights_source}), or name it with --cfg-options '
                'model.backbone.init_cfg.checkpoint=FILE; to train from scratch: --cfg-options '
                'model.backbone.init_cfg=None'
            )
        module.load_checkpoint(read_checkpoint(self.checkpoint), self.checkpoint, self.prefix, self.extra_channels)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=f'mmvitscale.Pretrained: {self.checkpoint}')
