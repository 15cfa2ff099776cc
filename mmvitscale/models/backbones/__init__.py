from .swin_v2 import SwinTransformerV2

__all__ = ['SwinTransformerV2']
