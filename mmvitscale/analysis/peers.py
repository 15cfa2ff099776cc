"""SwinV2 of other libraries: independent implementations to compare with.

Each builder takes the arch (sizes), the side of the image in pixels, one window per stage, and one reference window per
stage or None; it returns the model and a function from an image to the raw output of every stage, NCHW.
"""

from typing import Callable, Dict, List, Optional, Sequence, Tuple

from torch import Tensor, nn

Peer = Tuple[nn.Module, Callable[[Tensor], List[Tensor]]]


def _record(modules, to_nchw):
    """Let the modules keep what they return; the function that collects it."""
    outputs = {}
    for i, module in enumerate(modules):
        module.register_forward_hook(lambda module, inputs, output, i=i: outputs.update({i: to_nchw(output)}))
    return lambda: [outputs[i] for i in range(len(modules))]


def huggingface(arch: dict, image_size: int, windows: Sequence[int], references: Optional[Sequence[int]]) -> Peer:
    """That of Hugging Face transformers."""
    from transformers import Swinv2Backbone, Swinv2Config
    config = Swinv2Config(
        image_size=image_size,
        window_size=max(windows),
        pretrained_window_sizes=references or [0] * 4,
        embed_dim=arch['embed_dims'],
        depths=list(arch['depths']),
        num_heads=list(arch['num_heads']),
        out_features=[f'stage{i + 1}' for i in range(len(arch['depths']))])
    model = Swinv2Backbone(config).eval()
    return model, lambda image: list(model(image).feature_maps)


def timm(arch: dict, image_size: int, windows: Sequence[int], references: Optional[Sequence[int]]) -> Peer:
    """That of timm."""
    from timm.models.swin_transformer_v2 import SwinTransformerV2
    model = SwinTransformerV2(
        img_size=image_size,
        window_size=max(windows),
        pretrained_window_sizes=references or (0, ) * 4,
        embed_dim=arch['embed_dims'],
        depths=arch['depths'],
        num_heads=arch['num_heads'],
        num_classes=10).eval()
    collect = _record(model.layers, lambda output: output.permute(0, 3, 1, 2))
    return model, lambda image: (model(image), collect())[1]


def mmpretrain(arch: dict, image_size: int, windows: Sequence[int], references: Optional[Sequence[int]]) -> Peer:
    """That of mmpretrain."""
    from mmpretrain.models import SwinTransformerV2
    model = SwinTransformerV2(
        arch=dict(
            {key: arch[key] for key in ('embed_dims', 'depths', 'num_heads')},
            extra_norm_every_n_blocks=arch.get('extra_norm_every', 0)),
        img_size=image_size,
        window_size=list(windows),
        pretrained_window_sizes=list(references or [0] * 4))
    model.eval()  # returns nothing there

    def to_nchw(output):
        tokens, (height, width) = output
        return tokens.transpose(1, 2).unflatten(2, (height, width))

    collect = _record(model.stages, to_nchw)
    return model, lambda image: (model(image), collect())[1]


def torchvision(arch: dict, image_size: int, windows: Sequence[int], references: Optional[Sequence[int]]) -> Peer:
    """That of torchvision, which knows no reference windows."""
    from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2
    assert references is None, 'torchvision knows no reference windows'
    model = SwinTransformer(
        patch_size=[4, 4],
        embed_dim=arch['embed_dims'],
        depths=list(arch['depths']),
        num_heads=list(arch['num_heads']),
        window_size=[max(windows)] * 2,
        block=SwinTransformerBlockV2,
        downsample_layer=PatchMergingV2).eval()
    collect = _record(model.features[1::2], lambda output: output.permute(0, 3, 1, 2))
    return model, lambda image: (model(image), collect())[1]


PEERS: Dict[str, Callable[[dict, int, Sequence[int], Optional[Sequence[int]]], Peer]] = {
    'Hugging Face': huggingface,
    'timm': timm,
    'mmpretrain': mmpretrain,
    'torchvision': torchvision,
}
