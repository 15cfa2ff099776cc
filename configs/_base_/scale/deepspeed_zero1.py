# Add to any config (second in _base_, or train.py --strategy deepspeed_zero1): the same by DeepSpeed (pip install
# deepspeed). --amp computes in bfloat16; bf16=dict(enabled=True), or fp16, holds 16-bit weights and shares out float32 ones.
strategy = dict(type='mmvitscale.DeepSpeedStrategy', zero_optimization=dict(stage=1))
