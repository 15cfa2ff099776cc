"""What ties windows, lineage and monitoring to MMEngine's training loop."""

from .attention_monitor import AttentionMonitorHook
from .comparison_pictures import ComparisonPictureHook
from .log_cpb_transfer import LogCPBTransferHook
from .progressive_window import ProgressiveWindowHook

__all__ = ['AttentionMonitorHook', 'ComparisonPictureHook', 'LogCPBTransferHook', 'ProgressiveWindowHook']
