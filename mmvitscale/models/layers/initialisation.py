"""Initial values of weights."""

from torch import Tensor, nn

from mmvitscale.models.layers.transforms import tensors_hold_numbers


def truncated_normal_(weight: Tensor) -> None:
    """N(0, 0.02), truncated at -2 and 2, in place."""
    if tensors_hold_numbers():  # of one without values PyTorch 2.13 asks which are out of range
        nn.init.trunc_normal_(weight, std=0.02)
