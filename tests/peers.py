"""SwinV2 of Hugging Face transformers: an independent implementation to compare with."""

import re

import torch

_BLOCK = {
    'attention.self.logit_scale': 'attn.logit_scale',
    'attention.self.continuous_position_bias_mlp.0.weight': 'attn.position_bias.mlp.0.weight',
    'attention.self.continuous_position_bias_mlp.0.bias': 'attn.position_bias.mlp.0.bias',
    'attention.self.continuous_position_bias_mlp.2.weight': 'attn.position_bias.mlp.2.weight',
    'attention.self.query.bias': 'attn.q_bias',
    'attention.self.value.bias': 'attn.v_bias',
    'attention.output.dense.weight': 'attn.proj.weight',
    'attention.output.dense.bias': 'attn.proj.bias',
    'layernorm_before.weight': 'norm1.weight',
    'layernorm_before.bias': 'norm1.bias',
    'intermediate.dense.weight': 'mlp.fc1.weight',
    'intermediate.dense.bias': 'mlp.fc1.bias',
    'output.dense.weight': 'mlp.fc2.weight',
    'output.dense.bias': 'mlp.fc2.bias',
    'layernorm_after.weight': 'norm2.weight',
    'layernorm_after.bias': 'norm2.bias',
}


def huggingface_swin_v2(arch, image_size, window_size):
    """A Swinv2Backbone that returns every stage before patch merging."""
    from transformers import Swinv2Backbone, Swinv2Config
    config = Swinv2Config(
        image_size=image_size,
        window_size=window_size,
        embed_dim=arch['embed_dims'],
        depths=list(arch['depths']),
        num_heads=list(arch['num_heads']),
        out_features=[f'stage{i + 1}' for i in range(len(arch['depths']))])
    return Swinv2Backbone(config).eval()


def our_state_dict(peer, ours):
    """The weights of a Swinv2Backbone under our names; reference windows are those of ``ours``."""
    theirs = peer.state_dict()
    state = {f'stages.{i}.reference_window': stage.reference_window for i, stage in enumerate(ours.stages)}
    for name in ('weight', 'bias'):
        state[f'patch_embed.proj.{name}'] = theirs.pop(f'embeddings.patch_embeddings.projection.{name}')
        state[f'patch_embed.norm.{name}'] = theirs.pop(f'embeddings.norm.{name}')
    blocks = {re.match(r'(encoder\.layers\.(\d+)\.blocks\.(\d+)\.)', key).groups() for key in theirs if 'blocks' in key}
    for prefix, stage, block in blocks:
        target = f'stages.{stage}.blocks.{block}.'
        for name, our_name in _BLOCK.items():
            state[target + our_name] = theirs.pop(prefix + name)
        qkv = [theirs.pop(f'{prefix}attention.self.{name}.weight') for name in ('query', 'key', 'value')]
        state[f'{target}attn.qkv.weight'] = torch.cat(qkv)
    for key in [key for key in theirs if 'downsample' in key]:
        stage, name = re.match(r'encoder\.layers\.(\d+)\.(.*)', key).groups()
        state[f'stages.{int(stage) + 1}.{name}'] = theirs.pop(key)
    assert not theirs, f'not carried over: {sorted(theirs)}'
    return state

