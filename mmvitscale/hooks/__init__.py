from .comparison_pictures import ComparisonPictureHook
from .log_cpb_transfer import LogCPBTransferHook

__all__ = ['ComparisonPictureHook', 'LogCPBTransferHook']
