"""What a training leaves behind in its model."""

import copy
import io

import pytest
import torch

from tests.helpers import toy

pytestmark = pytest.mark.unit

SWIN = dict(type='mmvitscale.SwinTransformerV2', arch=dict(embed_dims=8, depths=(1, 1), num_heads=(1, 1)), window_size=4)
VIT = dict(
    type='mmvitscale.DeepViT',
    arch=dict(embed_dims=12, depth=2, re_attention=2, num_heads=3),
    img_size=32,
    similarity_loss_weight=0.1,
)


@pytest.mark.parametrize('backbone', [SWIN, VIT], ids=['SwinV2', 'DeepViT'])
def test_a_model_that_has_been_trained_can_be_saved_whole_and_copied(backbone, tmp_path):
    model = toy.train(tmp_path, backbone, max_iters=2).model
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = model.eval().backbone(image)[-1]
        for other in (torch.load(file, weights_only=False), copy.deepcopy(model)):
            assert torch.equal(other.eval().backbone(image)[-1], expected)
