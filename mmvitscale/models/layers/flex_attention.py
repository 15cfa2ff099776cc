"""Window attention through PyTorch's FlexAttention: all windows of a map in one call, whatever their shapes, the bias read
from the table of offsets where a score is made, and nothing of heads x N x N is ever there.

The tokens of all windows stand in one sequence. A mask lets a token see its own window alone, as it keeps documents apart in
language models, and blocks of the sequence without a common window are skipped. Each token has a number, its row times
2 w - 1 plus its column for windows of at most (h, w) tokens; the difference of two numbers is the place of their offset in
the table, counted from its middle. The table's gradient is summed where scores are, never per window.
"""

from functools import lru_cache
from inspect import signature
from typing import Callable, Optional, Sequence, Tuple

import torch
from torch import Tensor

from .cosine import scaled_query_key
from .position_bias import largest
from .windows import WindowGroup

# Tokens of a block, FlexAttention's own choice.
_BLOCK = 128


def flex_attention(qkv: Tensor, scale: Optional[Tensor], table: Tensor, groups: Sequence[WindowGroup]) -> Tensor:
    """qkv (T, 3, heads, d), the scale (heads,) or None for the dot product, the table of biases (heads, 2 h - 1, 2 w - 1) of
    a window that all fit into -> (T, heads, d)."""
    make = _cut_sequence if torch.compiler.is_compiling() else _kept_sequence
    window, queries, keys, mask = make(tuple(groups), qkv.device)
    # Cloned, for PyTorch 2.13's compiled FlexAttention gives no gradient to a view.
    table = table.flatten(1).clone(memory_format=torch.contiguous_format)
    return compiled()(qkv, scale, table, window, queries, keys, mask)


def _attend(qkv: Tensor, scale: Optional[Tensor], table: Tensor, window: Tensor, queries: Tensor, keys: Tensor,
            mask: tuple) -> Tensor:
    # Where it is needed: PyTorch 2.4 has none.
    from torch.nn.attention.flex_attention import BlockMask
    from torch.nn.attention.flex_attention import flex_attention as attend

    def same_window(batch, head, query, key):
        return window[query] == window[key]

    def add_bias(score, batch, head, query, key):
        return score + table[head, queries[query] - keys[key]]

    q, k, v = qkv.unbind(1)
    q, k = scaled_query_key(q, k, scale)
    q, k, v = (x.to(qkv.dtype).transpose(0, 1)[None].contiguous() for x in (q, k, v))
    tokens = len(qkv)
    block_mask = BlockMask.from_kv_blocks(*mask, BLOCK_SIZE=_BLOCK, mask_mod=same_window, seq_lengths=(tokens, tokens))
    return attend(q, k, v, score_mod=add_bias, block_mask=block_mask, scale=1.0)[0].transpose(0, 1)


@lru_cache(maxsize=1)
def compiled() -> Callable[..., Tensor]:
    """What computes it; uncompiled FlexAttention would fill the memory with T x T scores, and so would a part of a graph.

    PyTorch makes a graph for each number of heads, for training and inference, and for sequences of one block and of more;
    sizes that change do not count from their second value on. It gives up after 8 unless told otherwise, which PyTorch before
    2.12 takes in its own settings alone.
    """
    more = {'recompile_limit': 64} if 'recompile_limit' in signature(torch.compile).parameters else {}
    return torch.compile(_attend, fullgraph=True, **more)


# Window, number as a query and number as a key of each token, and the blocks of keys that blocks of queries see.
Layout = Tuple[Tensor, Tensor, Tensor, Tuple[Tensor, Tensor, Tensor, Tensor]]


@lru_cache(maxsize=64)
def _kept_sequence(groups: Tuple[WindowGroup, ...], device: torch.device) -> Layout:
    with torch.inference_mode(False):  # a tensor made under inference mode could not serve a later training step
        return _cut_sequence(groups, device)


def _cut_sequence(groups: Tuple[WindowGroup, ...], device: torch.device) -> Layout:
    """For each token its window, its number as a query and as a key (the table's place is their difference); and the blocks
    of keys that a block of queries sees in part and entirely: how many, and which come first."""
    height, width = largest([group.window for group in groups])
    sizes, numbers = [], []
    for group in groups:
        y, x = (torch.arange(side, device=device) for side in group.window)
        sizes.append(torch.full((group.count, ), group.window[0] * group.window[1], device=device))
        numbers.append((y[:, None] * (2 * width - 1) + x).flatten().repeat(group.count))
    size = torch.cat(sizes)
    window = torch.arange(len(size), device=device).repeat_interleave(size)
    keys = torch.cat(numbers)
    queries = keys + (height - 1) * (2 * width - 1) + width - 1

    tokens = len(window)
    starts = torch.arange(0, tokens, _BLOCK, device=device)
    first, last = window[starts], window[(starts + _BLOCK - 1).clamp_max(tokens - 1)]  # windows that a block has tokens of
    seen = (first[:, None] <= last) & (first <= last[:, None])
    whole = (starts + _BLOCK <= tokens) & (first == last)
    entirely = whole[:, None] & whole & (first[:, None] == first)
    mask = []
    for blocks in (seen & ~entirely, entirely):
        mask += [blocks.sum(dim=-1, dtype=torch.int32), blocks.int().argsort(dim=-1, descending=True, stable=True).int()]
    return window, queries, keys, (mask[0][None, None], mask[1][None, None], mask[2][None, None], mask[3][None, None])
