"""The BatchNorm of Re-attention as two numbers a head, at any number of tokens.

A head's normalised map is a S' + b: S' = sum_g W_hg (A_g - 1 / N) is what is special in the mixed map (re_attention.py), the
gain is a = gamma / sqrt(var(S') + eps), and b is beta but for what is left between the statistics and the maps. Trained with
N0 tokens and used with N, r = N / N0:

- The mean of a mixed map, w / N + c, is known for every N.
- Its variance falls as var r^-p: p is 1 for maps that look at a fixed number of tokens and 2 for maps that look at a fixed
  share of the image, and measured in between.
- eps is added to that variance, so it must fall with it. 1e-5 is more than all of the variance of an even map of 1024 tokens.
- Rows of A sum to 1, so A' v is an average of values, whatever N is. The gain of N tokens, r^(p / 2) times that of N0, gives
  outputs that grow with the image, and so does b, which meets the sum of all values. Both would be new to the layers behind.

``token_invariant`` therefore keeps the gain of N0 and takes b of an average, b / r: the network computes what it learned, on
more tokens. In training statistics are of the batch, brought to N0 by the law of p, so that what is trained with one number of
tokens holds for the others. With N0 tokens all is the official BatchNorm.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from mmvitscale.errors import InputError
from mmvitscale.models.layers.attachments import gain_and_shift_in_evaluation, is_plain
from mmvitscale.models.layers.sync_batch_norm import SyncBatchNorm
from mmvitscale.models.layers.transforms import in_functorch

# One number of tokens for all images, or (B,), one for each.
Tokens: TypeAlias = int | Tensor

# Where nothing is known: the average of small models on images of several sizes with objects of one (docs/deepvit.md).
_USUAL_EXPONENT = 1.7
# How much spread of log N, as a variance, has the weight of the usual exponent.
_PRIOR = 0.02
# Of BatchNorm's momentum: a slope needs more batches than a mean.
_MOMENTUM = 0.2


class VariancePowerLaw(nn.Module):
    """How the variance of the mixed maps depends on the number of tokens: var(N) = var(N0) (N / N0)^-p, p for each head.

    The exponents are those of a straight line through log var over log N of the training batches, whose sums run along as
    BatchNorm's statistics do; where all batches have one N they stay at the usual one.

    Args:
        heads: of the maps.
        trained_tokens: N0, the tokens that the statistics are of.
    """

    def __init__(self, heads: int, trained_tokens: int = 1):
        super().__init__()
        self.trained_tokens = trained_tokens
        # What runs along: the weight of all batches, the mean of log r and its variance; the mean of log var, and its
        # covariance with log r. Centred, for half precision.
        self.register_buffer('tokens', torch.zeros(3))
        self.register_buffer('moments', torch.zeros(2, heads))

    def exponent(self) -> Tensor:
        """(heads,): p, 1 to 2."""
        wide = torch.promote_types(self.tokens.dtype, torch.float32)
        spread, covariance = self.tokens[2].to(wide), self.moments[1].to(wide)
        return ((_PRIOR * _USUAL_EXPONENT - covariance) / (spread + _PRIOR)).clamp(1, 2)

    def ratio(self, tokens: Tokens) -> float | Tensor:
        """N / N0, a number or (B, 1)."""
        return _column(tokens) / self.trained_tokens

    def growth(self, tokens: Tokens, power: float = 1.0) -> float | Tensor:
        """(N / N0)^(p power), (heads,) or (B, heads); exactly 1 for N0."""
        ratio = self.ratio(tokens)
        return 1.0 if isinstance(ratio, float) and ratio == 1 else ratio ** (power * self.exponent())

    @torch.no_grad()
    def observed(self, var: Tensor, tokens: Tokens, count: Tensor) -> Tensor:
        """(3 + 2 heads,): the sums of 1, log r, its square, log var and log r log var over a batch, from the variance of each
        image, (B, heads), over so many elements, (B, 1)."""
        share = count * (var > 0).all(1, keepdim=True)
        share = share / share.sum().clamp_min(1)
        x = (_filled(tokens, var) / self.trained_tokens).log()
        y = var.clamp_min(torch.finfo(var.dtype).tiny).log()
        return torch.cat([share, share * x, share * x * x, share * y, share * x * y], 1).sum(0)

    @torch.no_grad()
    def update(self, observed: Tensor, momentum: float) -> None:
        """Update the running means with what was observed."""
        (x, xx), (y, xy) = (part / observed[0] for part in (observed[1:3], observed[3:].view(2, -1)))
        (seen, old_x, old_xx), (old_y, old_xy) = self.tokens.to(x.dtype), self.moments.to(x.dtype)
        weight = seen + momentum * (1 - seen)
        rate = momentum / weight if momentum else 0.0  # so that the first batch counts whole
        new_tokens = torch.stack(
            [
                weight,
                old_x + rate * (x - old_x),
                (1 - rate) * (old_xx + rate * (x - old_x) ** 2) + rate * (xx - x * x).clamp_min(0),
            ]
        )
        new_moments = torch.stack(
            [old_y + rate * (y - old_y), (1 - rate) * (old_xy + rate * (x - old_x) * (y - old_y)) + rate * (xy - x * y)]
        )
        # One batch with NaN or Inf, or that has no map, must not spoil all that follows.
        finite = observed.isfinite().all() & (observed[0] > 0)
        for mean, new in ((self.tokens, new_tokens), (self.moments, new_moments)):
            mean.copy_(torch.where(finite, new.to(mean.dtype), mean))

    @torch.no_grad()
    def restore(self, learned: Sequence[Tensor]) -> None:
        """Take ``tokens`` and ``moments`` from another time."""
        self.tokens.copy_(learned[0])
        self.moments.copy_(learned[1])

    def extra_repr(self) -> str:
        """What ``repr`` shows of it."""
        return f'trained_tokens={self.trained_tokens}'


def gain_and_offset(
    norm: nn.Module,
    law: VariancePowerLaw,
    mixing: Tensor,
    bias: Tensor,
    var: Tensor | None,
    tokens: Tokens,
    statistics: str,
    image_share: float,
) -> tuple[Tensor, Tensor]:
    """a and b of the normalised maps a S' + b, each (heads,) or (B, heads); in training the running statistics are updated.

    Args:
        norm: BatchNorm2d or SyncBatchNorm over heads, in training or not.
        law: of the same heads.
        mixing: (heads, heads), W.
        bias: (heads,), c.
        var: (B, heads), the variance of S' of each image; for training and for ``image``.
        tokens: N.
        statistics: one of ``utils.choices.STATISTICS``.
        image_share: with ``image``, the share of its own variance, the rest is of ``scaled``.
    """
    total = mixing.sum(1)
    running = _running(norm, bias)
    if normalises_batch(norm):
        return _of_batch(norm, running, law, total, bias, var, tokens, statistics)
    # What is left between running mean and maps: nothing, but that the mean lags behind W.
    left = total / (_column(tokens) if statistics == 'running' else law.trained_tokens) + bias - running.mean
    if statistics in ('running', 'token_invariant'):
        gain = running.weight * (running.var + running.eps).rsqrt()
        offset = gain * left + running.bias
        return gain, offset / law.ratio(tokens) if statistics == 'token_invariant' else offset
    share = image_share if statistics == 'image' else 0.0
    fallen = law.growth(tokens, -1.0)
    if isinstance(norm, nn.Identity) and (share or isinstance(fallen, Tensor)):
        raise InputError(
            f'reatten_statistics={statistics!r} found with a var_norm that was fused into reatten_matrix, where the variance '
            'of an image, or of another number of tokens, has no place; fuse the stem alone, or use token_invariant'
        )
    mixed_var = (1 - share) * running.var * fallen + (share * var if share and var is not None else 0.0)
    gain = running.weight * (mixed_var + running.eps * fallen).rsqrt()
    return gain, gain * ((1 - share) * left) + running.bias


class _Running(NamedTuple):
    """Of a BatchNorm over heads: (heads,) each, and eps."""

    weight: Tensor
    bias: Tensor
    mean: Tensor
    var: Tensor
    eps: float


_BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, SyncBatchNorm)


def normalises_batch(norm: nn.Module) -> bool:
    """Whether a norm is a BatchNorm in training."""
    return norm.training and getattr(norm, 'num_batches_tracked', None) is not None


def _running(norm: nn.Module, like: Tensor) -> _Running:
    """What a norm multiplies with and shifts by, with whatever is attached to it. like: (heads,). Raises InputError for a norm
    that is none of the batch."""
    if is_plain(norm, *_BATCH_NORMS):
        return _Running(norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps)
    if isinstance(norm, nn.Identity):  # a BatchNorm that was fused into the convolution before it
        one, zero = torch.ones_like(like), torch.zeros_like(like)
        return _Running(one, zero, zero, one, 0.0)
    if getattr(norm, 'running_var', None) is None:
        raise InputError(
            f'Re-attention found {type(norm).__name__} as its var_norm, but that is a BatchNorm with running statistics; leave '
            'the layer as it was built'
        )
    gain, shift = gain_and_shift_in_evaluation(norm, like)
    mean, var = (buffer.detach().clone() for buffer in (norm.running_mean, norm.running_var))
    return _Running(gain * (var + norm.eps).sqrt(), shift + gain * mean, mean, var, norm.eps)


def _filled(tokens: Tokens, var: Tensor) -> Tensor:
    """(B, 1), of the type of var, (B, heads), and without a copy from the host."""
    return tokens[:, None].to(var.dtype) if isinstance(tokens, Tensor) else var.new_full((len(var), 1), tokens)


def _column(tokens: Tokens) -> int | Tensor:
    return tokens[:, None] if isinstance(tokens, Tensor) else tokens


def _of_batch(
    norm: nn.Module,
    running: _Running,
    law: VariancePowerLaw,
    total: Tensor,
    bias: Tensor,
    var: Tensor,
    tokens: Tokens,
    statistics: str,
) -> tuple[Tensor, Tensor]:
    """With the statistics of the batch, over all processes if the norm is synchronised; the running ones are updated."""
    _check_batch(var, tokens)
    official = statistics == 'running'
    count = _filled(tokens, var) ** 2
    if isinstance(tokens, Tensor):
        count = count * (count > 1)  # windows of padding hold the class token alone
    own_mean = 1 / _column(tokens)  # of an image's plain maps
    observed = [] if official else [law.observed(var.detach(), tokens, count)]
    sums = torch.cat([count.sum()[None], (count * own_mean).sum()[None], *observed])
    group, synchronised = _processes(norm)
    if synchronised:
        dist.all_reduce(sums, group=group)
    elements = sums[0].clamp_min(2)  # none where all is padding
    mean = sums[1] / elements
    if official:  # maps of different N have different means, which count as variance, too
        pooled = (count * (var + (total * (own_mean - mean)) ** 2)).sum(0)
    else:
        pooled = (count * var * law.growth(tokens)).sum(0)
    pooled = (all_reduce(pooled, group=group) if synchronised else pooled) / elements
    gain = running.weight * (pooled + norm.eps).rsqrt()
    # The bias shifts mean and maps equally, so it cancels; it stays in the graph for its (zero) gradient.
    left = (total * (own_mean - mean) if official else 0.0) + 0 * bias
    offset = gain * left + running.bias
    if statistics == 'token_invariant':
        offset = offset / law.ratio(tokens)
    elif not official:
        gain = gain * law.growth(tokens, 0.5)
    _update_running_statistics(
        norm,
        law,
        total * (mean if official else 1 / law.trained_tokens) + bias,
        torch.where(sums[0] > 0, pooled * (elements / (elements - 1)), torch.nan),  # of no image at all
        None if official else sums[2:] / (dist.get_world_size(group) if synchronised else 1),
    )
    return gain, offset


def _check_batch(var: Tensor, tokens: Tokens) -> None:
    """Raise InputError where a batch has no statistics, or they cannot be kept."""
    if len(var) == 1 and not isinstance(tokens, Tensor) and tokens == 1:
        raise InputError(
            'Re-attention cannot normalise a single value in training (one image, one token); use larger '
            'images or evaluation mode'
        )
    if in_functorch():
        raise InputError(
            'Re-attention in training found under torch.func, which cannot update its running statistics; call eval() first'
        )


def _processes(norm: nn.Module) -> tuple[Any, bool]:
    """Those that the norm is synchronised over, and whether there are several."""
    if not isinstance(norm, (nn.SyncBatchNorm, SyncBatchNorm)) or not dist.is_initialized():
        return None, False
    return norm.process_group or dist.group.WORLD, dist.get_world_size(norm.process_group) > 1


@torch.no_grad()
def _update_running_statistics(
    norm: nn.Module, law: VariancePowerLaw, mean: Tensor, var: Tensor, observed: Tensor | None
) -> None:
    """Running statistics as BatchNorm's own forward would leave them."""
    norm.num_batches_tracked += 1
    momentum = 1 / norm.num_batches_tracked.item() if norm.momentum is None else norm.momentum
    for running, of_batch in ((norm.running_mean, mean), (norm.running_var, var)):
        # One batch with NaN or Inf must not spoil all that follows.
        running.copy_(torch.where(torch.isfinite(var), running.lerp(of_batch.to(running.dtype), momentum), running))
    if observed is not None:
        law.update(observed, _MOMENTUM * momentum)


class frozen_statistics:
    """Within it a forward pass leaves the running statistics of every BatchNorm in the module as they are, and uses the
    exponents of when it was made: for the second forward pass of activation checkpointing, which sees the same batch again. May
    be entered again, once for every backward pass through the same graph."""

    def __init__(self, module: nn.Module):
        self.norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        self.laws = [(m, m.tokens.clone(), m.moments.clone()) for m in module.modules() if isinstance(m, VariancePowerLaw)]

    def __enter__(self) -> None:
        self.before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in self.norms]
        self.laws_before = [(law.tokens.clone(), law.moments.clone()) for law, *_ in self.laws]
        for norm in self.norms:
            norm.momentum = 0.0
        for law, *learned in self.laws:
            law.restore(learned)

    def __exit__(self, *error: Any) -> None:
        for norm, (momentum, batches) in zip(self.norms, self.before):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(batches)
        for (law, *_), learned in zip(self.laws, self.laws_before):
            law.restore(learned)
