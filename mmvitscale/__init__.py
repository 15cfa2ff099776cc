"""mmvitscale: SwinV2 and DeepViT backbones for dense prediction with OpenMMLab.

``checkpoints`` reads weight files, brings them under our names and knows what they were learned with; ``models`` holds
the networks (``backbones`` built from ``layers``), which take their weights through ``checkpoints``; ``analysis`` measures
them; ``hooks``, ``optim`` and ``runner`` tie all to MMEngine; ``datasets`` reads, checks and draws images; ``config``,
``machine``, ``inference`` and ``commands`` are what the tools are made of. Nothing needs to be imported: configs name
``mmvitscale.<Type>`` and MMEngine finds it.
"""

__version__ = '0.2.0'
