"""Learning rates by depth, bfloat16, and optimizer states shared out."""

from .bf16 import BF16OptimWrapper
from .layer_decay import LayerDecayOptimWrapperConstructor
from .zero_redundancy import ZeroRedundancyOptimizer

__all__ = ['BF16OptimWrapper', 'LayerDecayOptimWrapperConstructor', 'ZeroRedundancyOptimizer']
