"""The two-layer perceptron of a transformer block."""

from torch import Tensor, nn


class FeedForward(nn.Module):
    """(..., C) -> (..., C): linear to ``hidden`` channels, GELU, linear back."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))
