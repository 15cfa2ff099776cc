"""Window attention token by token, from the definition alone: no windows, no rolling, no masks."""

import torch
import torch.nn.functional as F


def cell(position, length, window, shifted):
    """The cell of a position along one axis; tokens of equal cells on both axes attend to each other."""
    if length <= window:
        return 0
    shift = window // 2 if shifted else 0
    return (position + window - shift) // window


def log_coordinate(offset, pretrained_window):
    u = torch.tensor(8.0 * offset / (pretrained_window - 1), dtype=torch.float64)
    return torch.sign(u) * torch.log2(1 + u.abs()) / torch.log2(torch.tensor(8.0, dtype=torch.float64))


def log_cpb(mlp, offset, pretrained_window):
    """(heads,) bias of one (vertical, horizontal) offset."""
    coordinates = torch.stack([log_coordinate(d, p) for d, p in zip(offset, pretrained_window)]).to(mlp[0].weight.dtype)
    return 16 * torch.sigmoid(mlp(coordinates))


@torch.no_grad()
def attention(attn, x, window, shifted, pretrained_window):
    """What ``attn`` (a WindowAttention with log-CPB) should make of one (H, W, C) map."""
    height, width, dim = x.shape
    heads = attn.num_heads
    q, k, v = attn.qkv(x).view(height, width, 3, heads, -1).unbind(2)
    q = q + attn.q_bias.view(heads, -1)
    v = v + attn.v_bias.view(heads, -1)
    scale = attn.logit_scale.view(heads).exp().clamp(max=100)
    biases = {}
    out = torch.empty_like(x)
    for i in range(height):
        for j in range(width):
            own = cell(i, height, window[0], shifted), cell(j, width, window[1], shifted)
            keys = [
                (a, b)
                for a in range(height)
                for b in range(width)
                if (cell(a, height, window[0], shifted), cell(b, width, window[1], shifted)) == own
            ]
            bias = []
            for a, b in keys:
                if (i - a, j - b) not in biases:
                    biases[i - a, j - b] = log_cpb(attn.position_bias.mlp, (i - a, j - b), pretrained_window)
                bias.append(biases[i - a, j - b])
            k_cell = torch.stack([k[a, b] for a, b in keys])  # (keys, heads, d)
            v_cell = torch.stack([v[a, b] for a, b in keys])
            logits = F.cosine_similarity(q[i, j], k_cell, dim=-1) * scale + torch.stack(bias)
            weights = logits.softmax(dim=0)
            out[i, j] = (weights[..., None] * v_cell).sum(0).reshape(dim)
    return attn.proj(out)


@torch.no_grad()
def block(module, x, window, shifted, pretrained_window):
    """What a SwinBlockV2 should make of one (H, W, C) map."""
    x = x + module.norm1(attention(module.attn, x, window, shifted, pretrained_window))
    return x + module.norm2(module.mlp.fc2(F.gelu(module.mlp.fc1(x))))
