"""Learning rates by depth, bfloat16, and optimizer states sharded."""

from mmvitscale.engine.optim.bf16 import BF16OptimWrapper
from mmvitscale.engine.optim.layer_decay import LayerDecayOptimWrapperConstructor
from mmvitscale.engine.optim.zero_redundancy import ZeroRedundancyOptimizer

__all__ = ['BF16OptimWrapper', 'LayerDecayOptimWrapperConstructor', 'ZeroRedundancyOptimizer']
