"""The two-layer perceptron of a transformer block."""

import torch
from torch import Tensor, nn


class FeedForward(nn.Module):
    """(..., C) -> (..., C): linear to ``hidden`` channels, GELU, linear back."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1(x)
        # In place where no gradient needs the input: the largest tensor of a block need not be there twice.
        return self.fc2(self.act(hidden) if torch.is_grad_enabled() else torch.ops.aten.gelu_(hidden))
