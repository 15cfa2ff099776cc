"""mmvitscale: SwinV2 and DeepViT backbones for dense prediction with OpenMMLab.

``checkpoints`` reads weight files, brings them under our names and knows what they were trained with; ``models`` holds
the networks (``backbones`` built from ``layers``), which take their weights through ``checkpoints``; ``analysis`` measures
them; ``hooks``, ``optim``, ``strategies`` and ``runner`` tie all to MMEngine; ``datasets`` reads, checks and draws images;
``config``, ``machine``, ``inference``, ``launch`` and ``commands`` are what the tools are made of. Nothing needs to be
imported: configs name ``mmvitscale.<Type>`` and MMEngine finds it.

``list_configs`` and ``load_config`` give the package's configs by name, and a config of one's own may inherit them:
``_base_ = 'mmvitscale::swinv2_upernet_ade20k'``.
"""

from mmvitscale.config.loading import list_configs, load_config

__all__ = ['list_configs', 'load_config']
__version__ = '0.3.0'
