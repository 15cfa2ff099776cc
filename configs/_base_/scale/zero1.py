# Add to any config (second in _base_, or train.py --strategy zero1): DDP whose processes share out the optimizer's states, 8
# bytes a parameter with AdamW (ZeRO stage 1, arXiv 1910.02054), by PyTorch's ZeroRedundancyOptimizer.
shard_optimizer = True
model_wrapper_cfg = dict(
    type='MMDistributedDataParallel', broadcast_buffers=False, find_unused_parameters=False, gradient_as_bucket_view=True
)
