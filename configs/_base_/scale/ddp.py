# Add to any config (second in _base_, or train.py --strategy ddp) to train on several GPUs that each hold all of the model.
# Gradients live in the buckets that are communicated, not beside them: 4 bytes a parameter less.
model_wrapper_cfg = dict(
    type='MMDistributedDataParallel', broadcast_buffers=False, find_unused_parameters=False, gradient_as_bucket_view=True
)
