"""SimMIM with our backbones inside mmpretrain's own model."""

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from mmvitscale.checkpoints.loading import adapt_checkpoint
from mmvitscale.errors import InputError
from mmvitscale.models import SwinTransformerV2
from mmvitscale.models.pretraining import MaskedDeepViT, MaskedSwinTransformerV2
from mmvitscale.models.pretraining.local_normalization import LocallyNormalizedTarget, local_statistics, normalize_locally
from tests.helpers.official_layout import official_state_dict
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.integration

ARCH = dict(embed_dims=8, depths=(1, 1, 2, 1), num_heads=(1, 1, 2, 2))
VIT = dict(embed_dims=12, depth=3, re_attention=1, num_heads=3)
SWIN = dict(type='mmvitscale.MaskedSwinTransformerV2', arch=ARCH, window_size=4, out_indices=[3], drop_path_rate=0.0)


def simmim(backbone, channels, stride, patch, loss=None):
    init_default_scope('mmpretrain')
    loss = loss or dict(type='PixelReconstructionLoss', criterion='L1', channel=3)
    return MODELS.build(
        dict(
            type='SimMIM',
            backbone=backbone,
            neck=dict(type='SimMIMLinearDecoder', in_channels=channels, encoder_stride=stride),
            head=dict(type='SimMIMHead', patch_size=patch, loss=loss),
        )
    )


def samples(mask):
    from mmpretrain.structures import DataSample

    found = [DataSample() for _ in mask]
    for sample, own in zip(found, mask):
        sample.set_mask(own)
    return found


def half_masked(rows, columns):
    return (torch.rand(2, rows, columns, generator=torch.Generator().manual_seed(0)) < 0.6).long()


def test_the_simmim_loss_equals_its_formula():
    """mmpretrain's SimMIM around our backbone, against tokens replaced by hand in the plain backbone, decoded and
    compared."""
    model = randomise(simmim(SWIN, 64, 32, 4)).train()
    image, mask = torch.randn(2, 3, 64, 96), half_masked(16, 24)
    loss = model.loss(image, samples(mask))['loss']

    plain = SwinTransformerV2(ARCH, 4, out_indices=[3], drop_path_rate=0.0)
    plain.load_state_dict({key: value for key, value in model.backbone.state_dict().items() if key != 'mask_token'})
    tokens = plain.patch_embed(image)
    for b, row, column in mask.nonzero().tolist():
        tokens[b, row, column] = model.backbone.mask_token[0, 0]
    features = plain.forward_tokens(tokens)[0]
    weight, bias = model.neck.decoder[0].weight[:, :, 0, 0], model.neck.decoder[0].bias
    pixels = torch.einsum('oc,bcij->bijo', weight, features) + bias
    pixels = pixels.view(2, 2, 3, 3, 32, 32).permute(0, 3, 1, 4, 2, 5).reshape(2, 3, 64, 96)
    where = torch.kron(mask, torch.ones(4, 4))[:, None]
    expected = ((pixels - image).abs() * where).sum() / where.sum() / 3
    assert abs(loss - expected) < 1e-5 * expected
    loss.backward()
    assert model.backbone.mask_token.grad.abs().sum() > 0


def test_masked_deepvit_ignores_masked_pixels_and_trains_all_parameters():
    backbone = dict(type='mmvitscale.MaskedDeepViT', arch=VIT, img_size=64, drop_path_rate=0.0)
    model = randomise(simmim(backbone, 12, 16, 16)).train()
    image, mask = torch.randn(2, 3, 64, 64), half_masked(4, 4)
    before = model.loss(image, samples(mask))['loss']
    seen = image.clone()
    seen[torch.kron(mask, torch.ones(16, 16)).bool()[:, None].expand_as(seen)] = 7.0  # what is masked is not seen
    assert torch.equal(model.backbone(seen, mask)[0], model.backbone(image, mask)[0])
    before.backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize('backbone', [MaskedSwinTransformerV2(ARCH, 4), MaskedDeepViT(VIT, 64)])
def test_a_zero_mask_equals_no_mask_and_wrong_mask_shapes_are_refused(backbone):
    image = torch.randn(2, 3, 64, 64)
    patches = 16 if isinstance(backbone, MaskedSwinTransformerV2) else 4
    unmasked = backbone.eval()(image, torch.zeros(2, patches, patches))[0]
    assert torch.equal(backbone(image)[0], unmasked)
    with pytest.raises(InputError, match=r'a mask of \(3, 3\) patches found for an image of \(64, 64\) pixels, which has'):
        backbone(image, torch.zeros(2, 3, 3))
    assert backbone.get_layer_depth('backbone.mask_token', 'backbone.')[0] == 0
    assert 'mask_token' in backbone.no_weight_decay()


# The normalised target


def test_normalisation_equals_brute_force():
    image = 5 + torch.randn(1, 2, 9, 11, dtype=torch.float64)
    mean, deviation = local_statistics(image, 5)
    for row, column in ((0, 0), (4, 5), (8, 3), (2, 10)):
        near = image[:, :, max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3].flatten(2)
        assert torch.allclose(mean[:, :, row, column], near.mean(-1))
        assert torch.allclose(deviation[:, :, row, column], (near.var(-1) + 1e-6).sqrt())
    far = normalize_locally(image.float() + 1000, 5)
    assert (far - normalize_locally(image, 5)).abs().max() < 1e-2  # a constant changes nothing, in float32 either


def test_a_perfect_prediction_of_the_normalised_target_has_no_loss():
    loss = simmim(
        SWIN,
        64,
        32,
        4,
        dict(
            type='mmvitscale.LocallyNormalizedTarget',
            size=7,
            loss=dict(type='PixelReconstructionLoss', criterion='L1', channel=3),
        ),
    ).head.loss_module
    image, mask = torch.randn(1, 3, 16, 16), torch.ones(1, 1, 16, 16)
    normalised = normalize_locally(image, 7)
    assert loss(normalised, image, mask) == 0 and loss(image, image, mask) > 0.01
    assert torch.allclose(loss.restore(normalised, image), image, atol=1e-5)
    with pytest.raises(InputError, match='a neighbourhood of 46 pixels'):
        LocallyNormalizedTarget(46, {})


# Weights


def official_simmim(model, windows):
    """Our SimMIM as the official code saves it."""
    plain = SwinTransformerV2(ARCH, windows, out_indices=[3])
    plain.load_state_dict({key: value for key, value in model.backbone.state_dict().items() if key != 'mask_token'})
    encoder = official_state_dict(plain, windows, windows)
    weights = {f'encoder.{key}': value for key, value in encoder.items() if not key.startswith('head.')}
    return {
        **weights,
        'encoder.mask_token': model.backbone.mask_token.data,
        **{key.replace('neck.', ''): value for key, value in model.neck.state_dict(prefix='neck.').items()},
    }


@pytest.mark.parametrize('exact', [False, True])
def test_official_simmim_checkpoints_load_with_their_decoder(exact):
    source, target = (randomise(simmim(SWIN, 64, 32, 4)).eval() for _ in range(2))
    content = dict(model=official_simmim(source, (4,) * 4))
    adapt_checkpoint(target, content, 'simmim.pth', exact)
    target.load_state_dict(content['state_dict'])
    image, mask = torch.randn(2, 3, 64, 64), half_masked(16, 16)
    assert torch.equal(target.loss(image, samples(mask))['loss'], source.loss(image, samples(mask))['loss'])


def test_simmim_encoder_weights_load_into_a_plain_backbone():
    """init_cfg of a plain backbone: the mask token and the decoder are left out, windows of any size."""
    model = randomise(simmim(SWIN, 64, 32, 4))
    backbone = SwinTransformerV2(ARCH, 8)
    entry = backbone.load_checkpoint(dict(state_dict=model.state_dict()), 'simmim.pth')
    assert set(entry.unexpected) == {'neck.decoder.0.weight', 'neck.decoder.0.bias', 'mask_token'}
    assert [stage.pretrained_window for stage in backbone.stages] == [(4, 4)] * 4
    assert torch.equal(backbone.stages[2].blocks[1].mlp.fc1.weight, model.backbone.stages[2].blocks[1].mlp.fc1.weight)
