"""How each library names a SwinV2: one table a library, read in both directions (``format_table.py``).

The official repository (classifiers and SimMIM encoders), timm, Hugging Face transformers, mmpretrain, torchvision, and our
own.
"""

import re
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mmvitscale.checkpoints.convert import ClassName, State, register
from mmvitscale.checkpoints.metadata import Size
from mmvitscale.models.swin_v2.coordinates_table import coordinates_table, position_index
from mmvitscale.models.swin_v2.format_table import OURS, Place, Regrouping, Sizes, SwinV2Format


def _tables(window: Size, pretrained_window: Size) -> State:
    return dict(
        relative_coords_table=coordinates_table(window, pretrained_window), relative_position_index=position_index(window)
    )


def _tables_flat(window: Size, pretrained_window: Size) -> State:
    tables = _tables(window, pretrained_window)
    return {**tables, 'relative_position_index': tables['relative_position_index'].flatten()}


def _merges_in_first_stage(keys: State) -> bool:
    """The official code has a patch merging at the end of a stage, timm at the start of the next."""
    return any(key.startswith('layers.0.downsample.') for key in keys)


def _anchor(name: str) -> re.Pattern[str]:
    return re.compile(rf'(.*?\.)?{name}')


# Hugging Face holds q, k and v apart.
_QUERY_KEY_VALUE = Regrouping(
    ours=('attn.qkv.weight',),
    theirs=('attn.query.weight', 'attn.key.weight', 'attn.value.weight'),
    to_ours=lambda q, k, v: (torch.cat((q, k, v)),),
    to_theirs=lambda qkv: qkv.chunk(3),
)
# torchvision holds one bias for q, k and v, and zeroes that of k when it runs.
_QKV_BIAS = Regrouping(
    ours=('attn.q_bias', 'attn.v_bias'),
    theirs=('attn.qkv.bias',),
    to_ours=lambda bias: tuple(part.clone() for part in (bias.chunk(3)[0], bias.chunk(3)[2])),
    to_theirs=lambda q, v: (torch.cat((q, torch.zeros_like(q), v)),),
)


def _by_token(weight: Tensor) -> tuple[Tensor, ...]:
    return (weight.view(len(weight), -1, 4).transpose(1, 2)[:, [0, 2, 1, 3]].reshape(weight.shape),)


def _by_channel(weight: Tensor) -> tuple[Tensor, ...]:
    return (weight.view(len(weight), 4, -1)[:, [0, 2, 1, 3]].transpose(1, 2).reshape(weight.shape),)


# mmpretrain reads the 2 x 2 tokens of a patch merging channel by channel and row by row; the published order is token by token
# and column by column.
_MERGING_ORDER = Regrouping(
    ('downsample.reduction.weight',), ('downsample.reduction.weight',), to_ours=_by_token, to_theirs=_by_channel
)


def _constructor_arguments(sizes: Sizes) -> dict[str, object]:
    """Of the official class, and of timm's."""
    return dict(
        img_size=sizes.image, in_chans=sizes.channels, num_classes=sizes.classes, embed_dim=sizes.dim,
        depths=list(sizes.depths), num_heads=list(sizes.heads), window_size=max(sizes.windows), mlp_ratio=sizes.mlp_ratio,
        pretrained_window_sizes=list(sizes.pretrained_windows),
    )  # fmt: skip


def _mmpretrain_arguments(sizes: Sizes) -> dict[str, object]:
    arch = dict(
        embed_dims=sizes.dim, depths=list(sizes.depths), num_heads=list(sizes.heads),
        extra_norm_every_n_blocks=sizes.extra_norm_every,
    )  # fmt: skip
    return dict(
        arch=arch, img_size=sizes.image, in_channels=sizes.channels, window_size=list(sizes.windows),
        pretrained_window_sizes=list(sizes.pretrained_windows), out_indices=tuple(range(len(sizes.depths))),
    )  # fmt: skip


def _torchvision_arguments(sizes: Sizes) -> dict[str, object]:
    return dict(
        patch_size=[4, 4], embed_dim=sizes.dim, depths=list(sizes.depths), num_heads=list(sizes.heads),
        window_size=[max(sizes.windows)] * 2, mlp_ratio=sizes.mlp_ratio, num_classes=sizes.classes or 1000,
        block=ClassName('SwinTransformerBlockV2'), downsample_layer=ClassName('PatchMergingV2'),
    )  # fmt: skip


def _huggingface_class(sizes: Sizes) -> str:
    return 'Swinv2ForImageClassification' if sizes.classes else 'Swinv2Model'


def _huggingface_config(sizes: Sizes) -> dict[str, Any]:
    labels = {f'LABEL_{i}': i for i in range(sizes.classes)}
    named = dict(id2label={str(i): label for label, i in labels.items()}, label2id=labels) if labels else {}
    return dict(
        architectures=[_huggingface_class(sizes)], model_type='swinv2', image_size=sizes.image, patch_size=4,
        num_channels=sizes.channels, embed_dim=sizes.dim, depths=list(sizes.depths), num_heads=list(sizes.heads),
        window_size=max(sizes.windows), mlp_ratio=sizes.mlp_ratio, pretrained_window_sizes=list(sizes.pretrained_windows),
        qkv_bias=True, hidden_act='gelu', layer_norm_eps=1e-5, use_absolute_embeddings=False, torch_dtype='float32', **named,
    )  # fmt: skip


MMVITSCALE = SwinV2Format(
    name=OURS,
    anchor=_anchor(r'stages\.\d+\.blocks\.\d+\.attn\.position_bias\.'),
    head='head.fc',
    norms='out_norms.{i}',
    dropped=(),
)
OFFICIAL = SwinV2Format(
    name='official',
    library='official',
    anchor=_anchor(r'layers[._]\d+\.blocks\.\d+\.attn\.cpb_mlp\.'),
    fits=_merges_in_first_stage,
    blocks=Place('layers.{i}.blocks.{block}.'),
    merging=Place('layers.{i}.', first=-1),
    renamed={'attn.position_bias.mlp.': 'attn.cpb_mlp.'},
    decoder='decoder.0',
    derived=_tables,
    wrap=lambda weights: dict(model=weights),
    builder='SwinTransformerV2',
    arguments=_constructor_arguments,
)
TIMM = replace(
    OFFICIAL,
    name='timm',
    library='timm',
    fits=lambda keys: not _merges_in_first_stage(keys),
    blocks=Place('layers.{i}.blocks.{block}.', underscores=True),
    merging=Place('layers.{i}.', underscores=True),
    head='head.fc',
    derived=lambda window, pretrained_window: {},
    wrap=lambda weights: weights,
    builder='timm.models.swin_transformer_v2.SwinTransformerV2',
)
HUGGING_FACE = SwinV2Format(
    name='Hugging Face',
    library='huggingface',
    anchor=_anchor(r'encoder\.layers\.\d+\.blocks\.\d+\.attention\.self\.continuous_position_bias_mlp\.'),
    blocks=Place('encoder.layers.{i}.blocks.{block}.'),
    merging=Place('encoder.layers.{i}.', first=-1),
    renamed={
        'attn.position_bias.mlp.': 'attention.self.continuous_position_bias_mlp.',
        'attn.query.': 'attention.self.query.',
        'attn.key.': 'attention.self.key.',
        'attn.value.': 'attention.self.value.',
        'attn.q_bias': 'attention.self.query.bias',
        'attn.v_bias': 'attention.self.value.bias',
        'attn.logit_scale': 'attention.self.logit_scale',
        'attn.proj.': 'attention.output.dense.',
        'norm1.': 'layernorm_before.',
        'norm2.': 'layernorm_after.',
        'mlp.fc1.': 'intermediate.dense.',
        'mlp.fc2.': 'output.dense.',
        'patch_embed.proj.': 'embeddings.patch_embeddings.projection.',
        'patch_embed.norm.': 'embeddings.norm.',
        'mask_token': 'embeddings.mask_token',
    },
    norms='layernorm',
    stage_norms=re.compile(r'hidden_states_norms\.stage(\d+)\.(weight|bias)'),  # of Swinv2Backbone
    head='classifier',
    decoder='decoder.0',
    dropped=(r'classifier\..*', r'decoder\..*', r'hidden_states_norms\.stem\..*'),
    regroupings=(_QUERY_KEY_VALUE,),
    backbone_prefix='swinv2.',
    builder=lambda sizes: f'transformers.{_huggingface_class(sizes)}.from_pretrained',
    config=_huggingface_config,
)
MMPRETRAIN = SwinV2Format(
    name='mmpretrain',
    library='mmpretrain',
    anchor=_anchor(r'stages\.\d+\.blocks\.\d+\.attn\.w_msa\.cpb_mlp\.'),
    renamed={
        'attn.position_bias.mlp.': 'attn.w_msa.cpb_mlp.',
        'attn.': 'attn.w_msa.',
        'extra_norm.': 'norm3.',
        'mlp.fc1.': 'ffn.layers.0.0.',
        'mlp.fc2.': 'ffn.layers.1.',
        'patch_embed.proj.': 'patch_embed.projection.',
    },
    norms='norm{i}',
    head='head.fc',
    regroupings=(_MERGING_ORDER,),
    backbone_prefix='backbone.',
    derived=_tables,
    wrap=lambda weights: dict(state_dict=weights, meta={}),
    builder='mmpretrain.models.SwinTransformerV2',
    arguments=_mmpretrain_arguments,
    extra_norm=True,
    window_per_stage=True,
)
TORCHVISION = SwinV2Format(
    name='torchvision',
    library='torchvision',
    anchor=_anchor(r'features\.\d+\.\d+\.attn\.cpb_mlp\.'),
    # features: 0 is the stem, then blocks and patch merging by turns.
    blocks=Place('features.{i}.{block}.', step=2, first=1),
    merging=Place('features.{i}.', step=2),
    renamed={
        'attn.position_bias.mlp.': 'attn.cpb_mlp.',
        'mlp.fc1.': 'mlp.0.',
        'mlp.fc2.': 'mlp.3.',
        'downsample.': '',
        'patch_embed.proj.': 'features.0.0.',
        'patch_embed.norm.': 'features.0.2.',
    },
    decoder='decoder.0',
    regroupings=(_QKV_BIAS,),
    derived=_tables_flat,
    builder='torchvision.models.swin_transformer.SwinTransformer',
    arguments=_torchvision_arguments,
    any_pretrained_window=False,
)

register(MMVITSCALE, OFFICIAL, TIMM, HUGGING_FACE, MMPRETRAIN, TORCHVISION)
