"""Averages of weights hold what the weights were learned with, as the model does."""

from mmengine.hooks import EMAHook
from mmengine.runner import Runner

from ..analysis.extrapolation import swin_backbones


def let_averages_follow(runner: Runner) -> None:
    """Before a checkpoint is written: give the copies of the model in which EMA hooks average its weights the windows and
    reference windows of the model.

    MMEngine makes the copies before weights are loaded, updates their parameters alone, and saves them in the model's
    place.
    """
    for hook in runner.hooks:
        if isinstance(hook, EMAHook) and hasattr(hook, 'ema_model'):
            for average, backbone in zip(swin_backbones(hook.ema_model), swin_backbones(runner.model)):
                average.follow(backbone)
