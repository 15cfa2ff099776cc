import pytest
import torch
from torch import nn

from mmvitscale.models.layers.patch_embed import embed_patches, pad_to_patches

pytestmark = pytest.mark.unit


@pytest.mark.parametrize('size', [(64, 1), (37, 1), (1, 64), (9, 22), (16, 16)])
def test_patches_are_embedded_as_the_convolution_says(size):
    """Also in bfloat16, where the convolution itself is wrong on a CPU if its output is one column wide."""
    proj = nn.Conv2d(3, 12, 4, 4)
    image = torch.randn(2, 3, *size)
    expected = proj(pad_to_patches(image, 4)).permute(0, 2, 3, 1)
    assert torch.allclose(embed_patches(image, proj, 4), expected, atol=1e-5)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.allclose(embed_patches(image, proj, 4).float(), expected, atol=0.05)
