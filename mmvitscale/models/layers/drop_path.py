"""Stochastic depth."""

from torch import Tensor, nn

from mmvitscale.errors import InputError


def check_rate(name: str, rate: float) -> None:
    """Raise InputError unless it is a probability below 1: what is kept is divided by 1 - rate."""
    if not isinstance(rate, (int, float)) or not 0 <= rate < 1:
        raise InputError(f'{name} {rate!r} found, but it is at least 0 and below 1')


def drop_path_rates(last: float, depth: int) -> list[float]:
    """The rate of each block: from 0 for the first, linearly to ``last`` for the last."""
    return [last * i / max(depth - 1, 1) for i in range(depth)]


class DropPath(nn.Module):
    """(B, ...) -> (B, ...): in training a sample's whole branch is zeroed with probability ``rate``, and the kept
    ones are divided by 1 - rate (Huang et al. 2016, Deep Networks with Stochastic Depth)."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0 or not self.training:
            return x
        keep = 1 - self.rate
        return x * x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        """What ``repr`` shows of it."""
        return f'{self.rate:.3f}'
