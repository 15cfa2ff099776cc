"""DeepViT (Zhou et al. 2021, DeepViT: Towards Deeper Vision Transformer, arXiv 2103.11886), and plain ViTs to compare it with.

To read in this order: ``re_attention`` (the module and the eager formula), ``re_attention_norm`` (its BatchNorm, and other
numbers of tokens), ``backbone`` (blocks, the network). Beside them ``kernels`` (Re-attention without attention maps),
``windowed_attention`` (for detection), ``similarity_loss`` (against attention collapse), ``position_embedding``, ``variants``,
``checkpoint_formats`` (other libraries' names) and ``checkpoint_policy`` (what happens when weights are loaded).
"""

from mmvitscale.models.deepvit.backbone import DeepViT

__all__ = ['DeepViT']
