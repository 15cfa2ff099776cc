"""Our backbones as mmpretrain's classifiers, and classification checkpoints of other libraries in them."""

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from mmvitscale.checkpoints.loading import adapt_checkpoint
from mmvitscale.errors import InputError
from mmvitscale.models import DeepViT, SwinTransformerV2
from mmvitscale.profiling import reference_models
from tests.helpers.layouts import ARCH, IMAGE, SIDE, VIT, official_deepvit
from tests.helpers.official_layout import official_state_dict
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.integration

SWIN = dict(type='mmvitscale.SwinTransformerV2', arch=ARCH, window_size=4, out_indices=[3], drop_path_rate=0.0)


def classifier(backbone, channels=64, classes=10, neck=True):
    init_default_scope('mmpretrain')
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=backbone,
            neck=dict(type='GlobalAveragePooling') if neck else None,
            head=dict(type='LinearClsHead', in_channels=channels, num_classes=classes),
        )
    )
    return randomise(model).eval()


def test_mmpretrains_model_and_ours_give_the_same_logits():
    from mmpretrain.models import SwinTransformerV2 as Theirs

    theirs = classifier(
        dict(
            SWIN,
            type='SwinTransformerV2',
            img_size=SIDE,
            arch=dict(ARCH, extra_norm_every_n_blocks=0),
            window_size=[4, 4, 4, 4],
            pretrained_window_sizes=[0] * 4,
        )
    )
    assert isinstance(theirs.backbone, Theirs)
    content = dict(state_dict=theirs.state_dict())
    ours = classifier(SWIN)
    adapt_checkpoint(ours, content, 'theirs.pth', strict=True)
    ours.load_state_dict(content['state_dict'])
    with torch.no_grad():
        expected, found = theirs(IMAGE), ours(IMAGE)
    assert expected.std() > 0.1 and (found - expected).abs().max() < 1e-5 * expected.abs().max()


def files():
    source = randomise(SwinTransformerV2(ARCH, 4, out_indices=[3]))
    head = dict(weight=torch.randn(10, 64), bias=torch.randn(10))
    official = {**official_state_dict(source, (4,) * 4, (4,) * 4), **{f'head.{key}': value for key, value in head.items()}}
    hugging_face, _ = reference_models.REFERENCE_MODELS['Hugging Face'](ARCH, SIDE, (4,) * 4, None)
    hugging_face = {f'swinv2.{key}': value for key, value in randomise(hugging_face).state_dict().items()}
    hugging_face |= {'swinv2.layernorm.weight': torch.ones(64), 'swinv2.layernorm.bias': torch.zeros(64)}
    return [
        ('official', dict(model=official), head, {}),
        ('timm', peer_file('timm', 'head.fc.', head), head, dict(pretrained_window_sizes=4)),
        (
            'Hugging Face',
            {**hugging_face, **{f'classifier.{key}': value for key, value in head.items()}},
            head,
            dict(pretrained_window_sizes=4),
        ),
        ('torchvision', peer_file('torchvision', 'head.', head), head, {}),
    ]


def peer_file(name, prefix, head):
    model, _ = reference_models.REFERENCE_MODELS[name](ARCH, SIDE, (4,) * 4, None)
    weights = {key: value for key, value in randomise(model).state_dict().items() if not key.startswith('head.')}
    return {**weights, **{prefix + key: value for key, value in head.items()}}


@pytest.mark.parametrize('name, content, head, options', files(), ids=lambda value: value if isinstance(value, str) else '')
def test_classifier_heads_of_other_libraries_are_loaded_for_testing(name, content, head, options):
    model = classifier(dict(SWIN, **options))
    adapt_checkpoint(model, content, f'{name}.pth', strict=True)
    model.load_state_dict(content['state_dict'])
    assert torch.equal(model.head.fc.weight, head['weight']) and torch.equal(model.head.fc.bias, head['bias'])


def test_an_official_deepvit_classifier_gives_its_class_token_logits():
    source = randomise(DeepViT(VIT, SIDE)).eval()
    content = official_deepvit(source)
    content['head.weight'], content['head.bias'] = torch.randn(10, 12), torch.randn(10)
    expected = []
    source.norm.register_forward_hook(lambda module, inputs, output: expected.append(output[:, 0]))
    model = classifier(dict(type='mmvitscale.DeepViT', arch=VIT, img_size=SIDE, out_type='cls_token'), 12, neck=False)
    with torch.no_grad():
        source(IMAGE)
        logits = expected[0] @ content['head.weight'].T + content['head.bias']
        adapt_checkpoint(model, content, 'deepvit.pth', strict=True)
        model.load_state_dict(content['state_dict'])
        assert torch.allclose(model(IMAGE), logits, atol=1e-5)


def test_another_number_of_classes_is_refused_unless_fine_tuning():
    source, model = classifier(SWIN), classifier(SWIN, classes=7)
    content = dict(state_dict=source.state_dict())
    with pytest.raises(
        InputError,
        match=r'a.pth does not fit the config: 2 size mismatches \(head.fc.weight is '
        r'\(10, 64\) instead of \(7, 64\)',
    ):
        adapt_checkpoint(model, dict(content), 'a.pth', strict=True)
    lines = []
    adapt_checkpoint(model, dict(content), 'a.pth', log=lines.append)  # to fine-tune: said, and the head stays new
    assert '2 size mismatches (head.fc.weight' in lines[0]


def test_a_simmim_checkpoint_is_refused_as_a_classifier():
    backbone = dict(SWIN, type='mmvitscale.MaskedSwinTransformerV2')
    init_default_scope('mmpretrain')
    simmim = MODELS.build(
        dict(
            type='SimMIM',
            backbone=backbone,
            neck=dict(type='SimMIMLinearDecoder', in_channels=64, encoder_stride=32),
            head=dict(type='SimMIMHead', patch_size=4, loss=dict(type='PixelReconstructionLoss', criterion='L1')),
        )
    )
    with pytest.raises(
        InputError,
        match='a.pth does not fit the config: .*missing keys .*head.fc.weight.*it comes from '
        'masked pretraining: fine-tune from it with init_cfg',
    ):
        adapt_checkpoint(classifier(SWIN), dict(state_dict=simmim.state_dict()), 'a.pth', strict=True)
