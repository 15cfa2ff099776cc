"""What ties windows, lineage and monitoring to MMEngine's training loop."""

from .attention_monitor import AttentionMonitorHook
from .checkpoint import CheckpointHook
from .comparison_pictures import ComparisonPictureHook
from .exact_resume import ExactResumeHook
from .finite_loss import FiniteLossHook
from .log_cpb_transfer import LogCPBTransferHook
from .progressive_window import ProgressiveWindowHook

__all__ = [
    'AttentionMonitorHook',
    'CheckpointHook',
    'ComparisonPictureHook',
    'ExactResumeHook',
    'FiniteLossHook',
    'LogCPBTransferHook',
    'ProgressiveWindowHook',
]
