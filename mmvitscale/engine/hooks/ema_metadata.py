"""Averages of weights hold what the weights were trained with, as the model does."""

from mmengine.hooks import EMAHook
from mmengine.runner import Runner

from mmvitscale.checkpoints.loading import backbones_of


def sync_ema_metadata(runner: Runner) -> None:
    """Before a checkpoint is written: give the copies of the model in which EMA hooks average its weights the windows,
    pretrained windows and tokens of the model.

    MMEngine makes the copies before weights are loaded, updates their parameters alone, and saves them in the model's
    place.
    """
    for hook in runner.hooks:
        if isinstance(hook, EMAHook) and hasattr(hook, 'ema_model'):
            for average, backbone in zip(backbones_of(hook.ema_model).values(), backbones_of(runner.model).values()):
                average.sync_metadata(backbone)
