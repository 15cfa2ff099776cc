"""How large the activations of the main branch are, block by block (SwinV2, section 3.2, figure 2)."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from mmvitscale.analysis.recorder import blocks_of


def amplitude(x: Tensor) -> float:
    """The root mean square of all values."""
    return x.float().square().mean().sqrt().item()


@contextmanager
def recorded_amplitudes(model: nn.Module) -> Iterator[dict[str, list[float]]]:
    """Within it every forward pass appends the amplitude of what each block of our backbones returns, by the block's
    name."""
    blocks = blocks_of(model)
    amplitudes: dict[str, list[float]] = {name: [] for name in blocks}

    def record(name):
        return lambda module, inputs, output: amplitudes[name].append(
            amplitude(output[0] if isinstance(output, tuple) else output)
        )

    hooks = [block.register_forward_hook(record(name)) for name, block in blocks.items()]
    try:
        yield amplitudes
    finally:
        for hook in hooks:
            hook.remove()
