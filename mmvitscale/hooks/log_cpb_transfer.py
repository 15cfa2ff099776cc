"""The hook that reports with which windows a training starts, and records them in its checkpoints."""

from mmengine.hooks import Hook

from ..checkpoints.lineage import WindowLineage, swin_backbones
from ..registry import HOOKS


@HOOKS.register_module()
class LogCPBTransferHook(Hook):
    """Logs, before training, how far each stage's window reaches beyond the one its position bias was learned with,
    and writes the window lineage into the meta of each checkpoint, as ``meta['window_lineage']``.

    A model without a SwinV2 backbone is left alone.
    """

    def before_train(self, runner) -> None:
        for backbone in swin_backbones(runner.model):
            runner.logger.info('Windows of the SwinV2 backbone, in tokens, and how far the coordinates of its position '
                               f'bias leave the range they were learned in:\n{WindowLineage.of(backbone).report()}')

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        backbones = swin_backbones(runner.model)
        if backbones:
            checkpoint['meta']['window_lineage'] = WindowLineage.of(backbones[0]).as_dict()
