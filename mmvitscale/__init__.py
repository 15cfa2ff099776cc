"""mmvitscale: SwinV2 and DeepViT backbones for dense prediction with OpenMMLab.

``models`` holds the networks (``backbones`` built from ``layers``), ``checkpoints`` reads weight files and knows
with which windows they were learned, ``hooks`` and ``optim`` tie both to MMEngine's runner, ``datasets`` draws the
embedded scenes, and ``launch`` turns a config and a few command-line options into a runner or a predictor.
Nothing needs to be imported: configs name ``mmvitscale.<Type>`` and MMEngine finds it.
"""

__version__ = '0.1.0'
