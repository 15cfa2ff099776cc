# Add to any config (second in _base_, or train.py --strategy fsdp): parameters, gradients and optimizer states are shared
# out, and put together block by block (FSDP; ZeRO stage 3). --amp computes in bfloat16.
strategy = dict(type='mmvitscale.FSDPStrategy', reshard_after_forward=True, cpu_offload=False)
