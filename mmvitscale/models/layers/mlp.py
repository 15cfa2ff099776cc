"""The two-layer perceptron of a transformer block."""

import torch
from torch import Tensor, nn

from mmvitscale.models.layers.attachments import is_plain

# Hidden values that are there at a time where no gradient needs them, the largest tensor of a block by far: what fits into a
# cache, but no fewer rows than a product of matrices needs to be fast.
_CHUNK, _ROWS = 2**20, 1024

# PyTorch before 2.7 does not distinguish exporting from compiling.
_is_exporting = getattr(torch.compiler, 'is_exporting', torch.compiler.is_compiling)


class MLP(nn.Module):
    """(..., C) -> (..., C): linear to ``hidden`` channels, GELU, linear back."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        # What is attached to a layer sees whole tensors that nobody overwrites. A graph that is exported has no number of
        # pieces: it may be for every size, and its runtime has ways of its own.
        if torch.is_grad_enabled() or _is_exporting() or not self._is_plain():
            return self.fc2(self.act(self.fc1(x)))
        rows = x.flatten(0, -2)
        step = max(_CHUNK // self.fc1.out_features, _ROWS)
        # PyTorch's own GELU need not keep its input here; another activation runs as it is.
        act = torch.ops.aten.gelu_ if type(self.act) is nn.GELU and self.act.approximate == 'none' else self.act
        outs = [self.fc2(act(self.fc1(some))) for some in rows.split(step)]
        return (outs[0] if len(outs) == 1 else torch.cat(outs)).view(x.shape)

    def _is_plain(self) -> bool:
        return is_plain(self.fc1, nn.Linear) and is_plain(self.fc2, nn.Linear) and is_plain(self.act, type(self.act))
