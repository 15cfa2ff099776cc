"""The public checkpoints' layout, from our own weights."""

import torch

from mmvitscale.checkpoints.metadata import STATE_DICT_KEY


@torch.no_grad()
def official_state_dict(ours, windows, pretrained_windows):
    """Our backbone's weights as the official code saves them: its names, tables, indices and masks."""
    state = {}
    for key, value in ours.state_dict().items():
        if key == STATE_DICT_KEY or key.startswith('out_norms.') and not key.startswith('out_norms.3.'):
            continue
        key = key.replace('attn.position_bias.mlp', 'attn.cpb_mlp').replace('out_norms.3', 'norm')
        if key.startswith('stages.'):
            _, stage, rest = key.split('.', 2)
            key = f'layers.{int(stage) - rest.startswith("downsample")}.{rest}'
        state[key] = value
    for stage, (depth, window, pretrained_window) in enumerate(zip(ours.depths, windows, pretrained_windows)):
        offsets = torch.arange(1 - window, window, dtype=torch.float32, device='cpu')
        table = torch.stack(torch.meshgrid(offsets, offsets, indexing='ij'), dim=-1)[None] * 8 / (pretrained_window - 1)
        table = torch.sign(table) * torch.log2(table.abs() + 1.0) / 3.0
        for block in range(depth):
            name = f'layers.{stage}.blocks.{block}'
            state[f'{name}.attn.relative_coords_table'] = table
            state[f'{name}.attn.relative_position_index'] = torch.zeros(2, 2, dtype=torch.long, device='cpu')
            if block % 2:
                state[f'{name}.attn_mask'] = torch.zeros(4, 2, 2, device='cpu')
    state['head.weight'], state['head.bias'] = torch.zeros(10, 4), torch.zeros(10)
    return state
