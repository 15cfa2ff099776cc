"""Hooks of MMEngine's training loop: windows, checkpoints, exact resume, early stopping, NaN and Inf, monitoring."""

from mmvitscale.engine.hooks.attention_monitor import AttentionMonitorHook
from mmvitscale.engine.hooks.checkpoint import CheckpointHook
from mmvitscale.engine.hooks.comparison_images import ComparisonPictureHook
from mmvitscale.engine.hooks.early_stopping import EarlyStoppingHook
from mmvitscale.engine.hooks.embedded_config import EmbeddedConfigHook
from mmvitscale.engine.hooks.exact_resume import ExactResumeHook
from mmvitscale.engine.hooks.finite_loss import FiniteLossHook
from mmvitscale.engine.hooks.log_cpb_transfer import LogCPBTransferHook
from mmvitscale.engine.hooks.progressive_window import ProgressiveWindowHook
from mmvitscale.engine.hooks.training_batch_picture import TrainingBatchPictureHook
from mmvitscale.engine.hooks.training_signal import TrainingSignalHook

__all__ = [
    'AttentionMonitorHook',
    'CheckpointHook',
    'ComparisonPictureHook',
    'EarlyStoppingHook',
    'EmbeddedConfigHook',
    'ExactResumeHook',
    'FiniteLossHook',
    'LogCPBTransferHook',
    'ProgressiveWindowHook',
    'TrainingBatchPictureHook',
    'TrainingSignalHook',
]
