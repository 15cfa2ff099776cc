import pytest
import torch

from mmvitscale.analysis.bias_surfaces import bias_surfaces
from mmvitscale.errors import InputError
from mmvitscale.models import SwinTransformerV2
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.unit

ARCH = dict(embed_dims=8, depths=(1, 1), num_heads=(2, 2))


def test_offsets_beyond_the_pretrained_window_are_marked_outside():
    backbone = randomise(SwinTransformerV2(ARCH, 4, pretrained_window_sizes=4))
    small, large = bias_surfaces(backbone, [4, (6, 4)])
    assert not small.outside().any() and large.surface.shape == (2, 11, 7)
    assert large.outside().sum() == (11 - 7) * 7 and not large.outside()[2:9].any()
    assert torch.equal(large.surface[:, 2:9], small.surface)
    assert small.summary()['outside'] is None and large.summary()['outside'][0] >= 0


def test_bias_surfaces_of_a_table_leave_the_backbone_unchanged():
    backbone = randomise(SwinTransformerV2(ARCH, 4, position_bias='table')).eval()
    image = torch.randn(1, 3, 40, 40)
    expected = backbone(image)[1]
    own, grown = bias_surfaces(backbone, [4, 8], stage=1)
    assert torch.equal(own.surface, backbone.stages[1].blocks[0].attn.position_bias.table)
    assert grown.learned == (4, 4) and grown.surface.shape == (2, 15, 15)
    assert torch.equal(backbone(image)[1], expected)
    with pytest.raises(InputError, match='stage 2 found'):
        bias_surfaces(backbone, [4], stage=2)
