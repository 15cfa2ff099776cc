"""MMEngine's strategies for models that one GPU does not hold, with checkpoints that any of them, or a single process, can
load."""

from mmvitscale.engine.strategies.deepspeed_zero import DeepSpeedStrategy
from mmvitscale.engine.strategies.fully_sharded import FSDPStrategy

__all__ = ['DeepSpeedStrategy', 'FSDPStrategy']
