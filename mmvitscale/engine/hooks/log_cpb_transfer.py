"""The hook that reports and checks the transfer of windows before training, records it in each checkpoint, and leads
matches what ``load_from`` loads under other runners than ours."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmvitscale.analysis.extrapolation import report, swin_backbones
from mmvitscale.checkpoints.loading import adapt_checkpoint, is_adapted
from mmvitscale.checkpoints.metadata import META_KEY
from mmvitscale.engine.hooks.ema_metadata import sync_ema_metadata
from mmvitscale.errors import InputError
from mmvitscale.registry import HOOKS


@HOOKS.register_module()
class LogCPBTransferHook(Hook):
    """Reports and records the windows of a SwinV2 backbone; a model without one is left alone.

    A checkpoint in any known layout, of a backbone or of a whole model, given as ``load_from``, is put into the model,
    whichever runner reads it. Before training the log gets a table: for each stage the pretrained window and where it is from,
    the window, how far its largest log-coordinate leaves the trained range and the share of offsets outside it. Each
    checkpoint's meta gets them, as ``meta[META_KEY]`` (``checkpoints/metadata.py``).

    Args:
        strict: refuse to train weights that were loaded from a checkpoint while their pretrained windows are only
            assumed (neither the checkpoint nor the config contains them).
    """

    # Before EMAHook, which expects a state dict under our names.
    priority = 'ABOVE_NORMAL'

    def __init__(self, strict: bool = False):
        self.strict = strict

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Matches the content of the file with the model, where no runner of ours has done so. Raises InputError."""
        if not is_adapted(checkpoint):  # else our own runner has matched it
            name = str(getattr(runner, '_load_from', None) or 'the checkpoint')
            adapt_checkpoint(runner.model, checkpoint, name, log=runner.logger.info)

    def before_train(self, runner: Runner) -> None:
        """Reports the windows. Raises InputError where ``strict`` requires it."""
        for backbone in swin_backbones(runner.model):
            runner.logger.info(
                'Windows of the SwinV2 backbone, in tokens, and how far its position bias is used outside '
                f'the range it was learned in:\n{report(backbone)}'
            )
            assumed = [i for i, stage in enumerate(backbone.stages) if stage.pretrained_window_source == 'assumed']
            if self.strict and assumed:
                raise InputError(
                    f'the pretrained windows of the stages {assumed} are only assumed to be window_size, and '
                    'LogCPBTransferHook is strict; set pretrained_window_sizes in the config'
                )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Writes what the weights are trained with, of the averages, too."""
        sync_ema_metadata(runner)  # under other runners: ours has done it. This hook runs before EMAHook
        backbones = swin_backbones(runner.model)
        if backbones:
            checkpoint['meta'][META_KEY] = backbones[0].weight_metadata.as_dict()
