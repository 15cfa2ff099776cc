import pytest
import torch

from mmvitscale.models import DeepViT, SwinTransformerV2
from mmvitscale.profiling.benchmark import Case, matrix_products
from mmvitscale.profiling.flops import count_backbone, multiply_adds

pytestmark = pytest.mark.unit


def meta(build):
    with torch.device('meta'):
        return build().eval()


def test_swin_has_the_multiply_adds_of_its_closed_form():
    """SwinV2-T at 256 pixels with windows of 8; published: 5.9G."""
    parts, outputs = count_backbone(meta(lambda: SwinTransformerV2('tiny', 8)), 256, 256)
    closed = sum(a * b * c * d * n for (a, b, c, d), n in matrix_products(Case('tiny', 256, 8)).items())
    assert parts[-1].multiply_adds == pytest.approx(closed, rel=0.01) and parts[-1].multiply_adds > closed  # the bias's MLP
    assert parts[-1].multiply_adds == pytest.approx(5.9e9, rel=0.01)
    assert [part.name for part in parts] == [
        'patch embedding',
        *(f'stage {i}' for i in range(4)),
        'norms, embeddings',
        'backbone',
    ]
    assert sum(part.parameters for part in parts[:-1]) == parts[-1].parameters == pytest.approx(27.58e6, rel=1e-3)
    assert outputs[-1].shape == (1, 768, 8, 8)


def test_deepvit_has_the_multiply_adds_of_its_closed_form():
    parts, _ = count_backbone(meta(lambda: DeepViT('deepvit-32b', 224)), 224, 224)
    tokens, dim, heads = 197, 384, 12
    block = tokens * dim * dim * (4 + 2 * 3) + 2 * tokens**2 * dim + tokens**2 * heads**2
    assert parts[-1].multiply_adds == pytest.approx(32 * block + 196 * 768 * dim, rel=0.01)


@pytest.mark.parametrize(
    'build',
    [
        lambda: SwinTransformerV2(dict(embed_dims=8, depths=(2, 2), num_heads=(1, 2)), 4),
        lambda: DeepViT(dict(embed_dims=12, depth=4, re_attention=2, num_heads=3), 64, out_indices=[1, 3]),
    ],
)
def test_counting_restores_kernels_and_gives_the_same_on_meta_device(build):
    image = torch.randn(1, 3, 64, 64)
    model = build().eval()
    counts, outputs = multiply_adds(model, image)
    assert outputs[-1].shape == model(image)[-1].shape
    assert counts[''] == multiply_adds(meta(build), image.to('meta'))[0][''] > 0
    kernels = {module.kernel for module in model.modules() if hasattr(module, 'kernel')}
    assert 'eager' not in kernels
    names = [part.name for part in count_backbone(model, 64, 64)[0]]
    assert names[1:3] in (['stage 0', 'stage 1'], ['blocks 0 to 1', 'blocks 2 to 3'])
