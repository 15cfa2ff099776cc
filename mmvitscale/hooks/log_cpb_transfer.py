"""The hook that carries windows over: it lets ``load_from`` take any checkpoint, reports and checks the transfer before
training, and records it in each checkpoint."""

from mmengine.hooks import Hook

from ..checkpoints.convert import convert_checkpoint
from ..checkpoints.lineage import WindowLineage, swin_backbones
from ..checkpoints.pretrained import load_into_backbone
from ..errors import InputError
from ..launch import weights_of
from ..registry import HOOKS


@HOOKS.register_module()
class LogCPBTransferHook(Hook):
    """Ties the window lineage of a SwinV2 backbone to the runner; a model without one is left alone.

    A checkpoint of a backbone alone, in any known layout, given as ``load_from``, is put into the model's backbone.
    Before training the log gets a table: for each stage the reference window and who told it, the window, how far its
    largest log-coordinate leaves the trained range and the share of offsets outside it. Each checkpoint's meta gets
    the lineage, as ``meta['window_lineage']``.

    Args:
        strict: refuse to train weights that were loaded from a checkpoint while their reference windows are only
            assumed (neither the checkpoint nor the config tells them).
    """

    def __init__(self, strict: bool = False):
        self.strict = strict
        self._loaded = False

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        self._loaded = True
        backbones = swin_backbones(runner.model)
        weights = weights_of(checkpoint)
        model = getattr(runner.model, 'module', runner.model)
        if not backbones or any(key in weights for key in model.state_dict()):
            return
        load_into_backbone(backbones[0], convert_checkpoint(checkpoint), 'load_from')
        # The runner goes on to load what stands here: the same, under the model's names.
        name, = (name for name, module in model.named_modules() if module is backbones[0])
        checkpoint['state_dict'] = {f'{name}.{key}': value for key, value in backbones[0].state_dict().items()}

    def before_train(self, runner) -> None:
        for backbone in swin_backbones(runner.model):
            lineage = WindowLineage.of(backbone)
            runner.logger.info('Windows of the SwinV2 backbone, in tokens, and how far its position bias is used outside '
                               f'the range it was learned in:\n{lineage.report()}')
            assumed = [i for i, stage in enumerate(lineage.stages) if stage.origin == 'window_size']
            if self.strict and assumed and (self._loaded or backbone.init_cfg):
                raise InputError(f'the reference windows of the stages {assumed} are only assumed to be window_size, and '
                                 'LogCPBTransferHook is strict; set pretrained_window_sizes in the config')

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        backbones = swin_backbones(runner.model)
        if backbones:
            checkpoint['meta']['window_lineage'] = WindowLineage.of(backbones[0]).as_dict()
