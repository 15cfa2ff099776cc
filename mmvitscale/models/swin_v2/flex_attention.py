"""Window attention through PyTorch's FlexAttention: all windows of a map in one call, whatever their shapes, the bias read
from the table of offsets where a score is made, and nothing of heads x N x N is ever there.

The tokens of all windows stand in one sequence. A mask lets a token see its own window alone, as it keeps documents apart in
language models, and blocks of the sequence without a common window are skipped. Each token has a number, its row times
2 w - 1 plus its column for windows of at most (h, w) tokens; the difference of two numbers is the place of their offset in
the table, counted from its middle. The table's gradient is summed where scores are, never per window.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from mmvitscale.models.layers.transforms import may_cache
from mmvitscale.models.swin_v2.attention import scaled_query_key
from mmvitscale.models.swin_v2.position_bias import largest
from mmvitscale.models.swin_v2.windows import WindowGroup

# Tokens of a block, FlexAttention's own choice.
_BLOCK = 128


# A block that is compiled has a gap here, and this its own graph: in a larger one PyTorch 2.13 loses the table's gradient.
@torch.compiler.disable(recursive=False)
def flex_attention(qkv: Tensor, scale: Tensor | None, table: Tensor, groups: Sequence[WindowGroup]) -> Tensor:
    """qkv (T, 3, heads, d), the scale (heads,) or None for the dot product, the table of biases (heads, 2 h - 1, 2 w - 1) of
    a window that all fit into -> (T, heads, d)."""
    # Cloned, for PyTorch 2.13's compiled FlexAttention gives no gradient to a view.
    table = table.flatten(1).clone(memory_format=torch.contiguous_format)
    layout = _cached_layout if may_cache() else _cut_sequence
    return compiled()(qkv, scale, table, *layout(tuple(groups), qkv.device))


def _attend(
    qkv: Tensor, scale: Tensor | None, table: Tensor, window: Tensor, queries: Tensor, keys: Tensor, mask: tuple[Any, ...]
) -> Tensor:
    from torch.nn.attention.flex_attention import BlockMask
    from torch.nn.attention.flex_attention import flex_attention as attend

    def same_window(batch: Any, head: Any, query: Any, key: Any) -> Any:
        return window[query] == window[key]

    def add_bias(score: Any, batch: Any, head: Any, query: Any, key: Any) -> Any:
        return score + table[head, queries[query] - keys[key]]

    q, k, v = qkv.unbind(1)
    q, k = scaled_query_key(q, k, scale)
    q, k, v = (x.to(qkv.dtype).transpose(0, 1)[None].contiguous() for x in (q, k, v))
    tokens = len(qkv)
    # Tokens see each other or not: a block of keys is seen by the blocks that it sees as one of queries.
    partly, which_partly, entirely, which_entirely = mask
    block_mask = BlockMask(
        seq_lengths=(tokens, tokens),
        BLOCK_SIZE=(_BLOCK, _BLOCK),
        mask_mod=same_window,
        kv_num_blocks=partly,
        kv_indices=which_partly,
        full_kv_num_blocks=entirely,
        full_kv_indices=which_entirely,
        q_num_blocks=partly,
        q_indices=which_partly,
        full_q_num_blocks=entirely,
        full_q_indices=which_entirely,
    )
    return attend(q, k, v, score_mod=add_bias, block_mask=block_mask, scale=1.0)[0].transpose(0, 1)


@lru_cache(maxsize=1)
def compiled() -> Callable[..., Tensor]:
    """What computes it, as a whole: where PyTorch fell back to uncompiled FlexAttention, T x T scores would fill the memory.

    PyTorch makes a graph for each number of heads, for training and inference, and for sequences of one block and of more;
    sizes that change do not count from their second value on. It gives up after 8 by default, which PyTorch before
    2.12 takes in its own settings alone.
    """
    more = {'recompile_limit': 64} if 'recompile_limit' in signature(torch.compile).parameters else {}
    return torch.compile(_attend, fullgraph=True, **more)


# Window, number as a query and number as a key of each token, and the blocks of keys that blocks of queries see.
Layout = tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]


@lru_cache(maxsize=16)
def _cached_layout(groups: tuple[WindowGroup, ...], device: torch.device) -> Layout:
    with torch.inference_mode(False):  # a tensor made under inference mode could not serve a later training step
        return _cut_sequence(groups, device)


def _cut_sequence(groups: tuple[WindowGroup, ...], device: torch.device) -> Layout:
    """For each token its window, its number as a query and as a key (the table's place is their difference); and the blocks
    of keys that a block of queries sees in part and entirely: how many, and which come first."""
    height, width = largest([group.window for group in groups])
    windows, numbers, before = [], [], 0
    for group in groups:
        y, x = (torch.arange(side, device=device) for side in group.window)
        slots = group.slots
        windows.append(torch.arange(before, before + group.count, device=device)[:, None].expand(-1, slots).flatten())
        numbers.append((y[:, None] * (2 * width - 1) + x).flatten().repeat(group.count))
        before += group.count
    window, keys = torch.cat(windows), torch.cat(numbers)
    queries = keys + (height - 1) * (2 * width - 1) + width - 1

    # Windows stand in order, so a block sees its neighbours, and no more of them than the largest window reaches over.
    tokens = len(window)
    blocks = -(-tokens // _BLOCK)
    reach = (_BLOCK + max(group.slots for group in groups) - 2) // _BLOCK
    starts = torch.arange(0, tokens, _BLOCK, device=device)
    first, last = window[starts], window[(starts + _BLOCK - 1).clamp_max(tokens - 1)]  # windows that a block has tokens of
    whole = (starts + _BLOCK <= tokens) & (first == last)
    columns = min(blocks, 2 * reach + 1)
    leftmost = (torch.arange(blocks, device=device) - reach).clamp(0, blocks - columns)
    other = leftmost[:, None] + torch.arange(columns, device=device)
    seen = (first[:, None] <= last[other]) & (first[other] <= last[:, None])
    entirely = whole[:, None] & whole[other] & (first[:, None] == first[other])
    mask = []
    for chosen in (seen & ~entirely, entirely):
        order = chosen.int().argsort(dim=-1, descending=True, stable=True)
        mask += [chosen.sum(dim=-1, dtype=torch.int32)[None, None], other.gather(1, order).int()[None, None]]
    return window, queries, keys, (mask[0], mask[1], mask[2], mask[3])
