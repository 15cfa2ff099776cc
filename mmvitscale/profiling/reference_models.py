"""SwinV2 of other libraries, and DeepViT in its official form: independent implementations to compare with.

Each builder of a SwinV2 takes the arch (sizes), the side of the image in pixels, one window per stage, and one reference
window per stage or None; it returns the model and a function from an image to the raw output of every stage, NCHW. Those of a
DeepViT take the arch and the side, and their function gives one map, that of the last block after the norm.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

ReferenceModel = tuple[nn.Module, Callable[[Tensor], list[Tensor]]]


def _record(modules, to_nchw):
    """Let the modules keep what they return; the function that collects it."""
    outputs = {}
    for i, module in enumerate(modules):
        module.register_forward_hook(lambda module, inputs, output, i=i: outputs.update({i: to_nchw(output)}))
    return lambda: [outputs[i] for i in range(len(modules))]


def huggingface(
    arch: dict, image_size: int, windows: Sequence[int], pretrained_windows: Sequence[int] | None
) -> ReferenceModel:
    """That of Hugging Face transformers."""
    from transformers import Swinv2Backbone, Swinv2Config

    config = Swinv2Config(
        image_size=image_size,
        window_size=max(windows),
        pretrained_window_sizes=pretrained_windows or [0] * 4,
        embed_dim=arch['embed_dims'],
        depths=list(arch['depths']),
        num_heads=list(arch['num_heads']),
        out_features=[f'stage{i + 1}' for i in range(len(arch['depths']))],
    )
    model = Swinv2Backbone(config).eval()
    return model, lambda image: list(model(image).feature_maps)


def timm(arch: dict, image_size: int, windows: Sequence[int], pretrained_windows: Sequence[int] | None) -> ReferenceModel:
    """That of timm."""
    from timm.models.swin_transformer_v2 import SwinTransformerV2

    model = SwinTransformerV2(
        img_size=image_size,
        window_size=max(windows),
        pretrained_window_sizes=pretrained_windows or (0,) * 4,
        embed_dim=arch['embed_dims'],
        depths=arch['depths'],
        num_heads=arch['num_heads'],
        num_classes=10,
    ).eval()
    collect = _record(model.layers, lambda output: output.permute(0, 3, 1, 2))
    return model, lambda image: (model(image), collect())[1]


def mmpretrain(arch: dict, image_size: int, windows: Sequence[int], pretrained_windows: Sequence[int] | None) -> ReferenceModel:
    """That of mmpretrain."""
    from mmpretrain.models import SwinTransformerV2

    model = SwinTransformerV2(
        arch=dict(
            {key: arch[key] for key in ('embed_dims', 'depths', 'num_heads')},
            extra_norm_every_n_blocks=arch.get('extra_norm_every', 0),
        ),
        img_size=image_size,
        window_size=list(windows),
        pretrained_window_sizes=list(pretrained_windows or [0] * 4),
    )
    model.eval()  # returns nothing there

    def to_nchw(output):
        tokens, (height, width) = output
        return tokens.transpose(1, 2).unflatten(2, (height, width))

    collect = _record(model.stages, to_nchw)
    return model, lambda image: (model(image), collect())[1]


def torchvision(
    arch: dict, image_size: int, windows: Sequence[int], pretrained_windows: Sequence[int] | None
) -> ReferenceModel:
    """That of torchvision, which knows no pretrained windows."""
    from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2

    assert pretrained_windows is None, 'torchvision knows no pretrained windows'
    model = SwinTransformer(
        patch_size=[4, 4],
        embed_dim=arch['embed_dims'],
        depths=list(arch['depths']),
        num_heads=list(arch['num_heads']),
        window_size=[max(windows)] * 2,
        block=SwinTransformerBlockV2,
        downsample_layer=PatchMergingV2,
    ).eval()
    collect = _record(model.features[1::2], lambda output: output.permute(0, 3, 1, 2))
    return model, lambda image: (model(image), collect())[1]


REFERENCE_MODELS: dict[str, Callable[[dict, int, Sequence[int], Sequence[int] | None], ReferenceModel]] = {
    'Hugging Face': huggingface,
    'timm': timm,
    'mmpretrain': mmpretrain,
    'torchvision': torchvision,
}


class _OfficialBlock(nn.Module):
    """A block of DeepViT as its official code computes it, with PyTorch's own modules; their names are the official ones."""

    def __init__(self, arch: dict):
        super().__init__()
        dim, heads, hidden = arch['embed_dims'], arch['num_heads'], int(arch['mlp_ratio'] * arch['embed_dims'])
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn = nn.ModuleDict(
            dict(
                qkv=nn.Linear(dim, 3 * dim),
                reatten_matrix=nn.Conv2d(heads, heads, 1),
                var_norm=nn.BatchNorm2d(heads),
                proj=nn.Linear(dim, dim),
            )
        )
        self.mlp = nn.ModuleDict(dict(fc1=nn.Linear(dim, hidden), fc2=nn.Linear(hidden, dim)))

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        qkv = self.attn['qkv'](self.norm1(x)).reshape(batch, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        maps = (q @ k.transpose(-2, -1) * self.scale).softmax(dim=-1)
        maps = self.attn['var_norm'](self.attn['reatten_matrix'](maps))
        x = x + self.attn['proj']((maps @ v).transpose(1, 2).reshape(batch, tokens, dim))
        return x + self.mlp['fc2'](nn.functional.gelu(self.mlp['fc1'](self.norm2(x))))


class _OfficialDeepViT(nn.Module):
    def __init__(self, arch: dict, image_size: int):
        super().__init__()
        dim, self.side = arch['embed_dims'], -(-image_size // 16)
        self.patch_embed = nn.ModuleDict(dict(proj=nn.Conv2d(3, dim, 16, 16)))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.side**2, dim))
        self.blocks = nn.ModuleList(_OfficialBlock(arch) for _ in range(arch['depth']))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.checkpointing = False

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.patch_embed['proj'](image).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), dim=1) + self.pos_embed
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpointing else block(x)
        return [self.norm(x)[:, 1:].transpose(1, 2).unflatten(2, (self.side, self.side))]


def official_deepvit(arch: dict, image_size: int) -> ReferenceModel:
    """The official form: every block mixes its maps, which are all there."""
    model = _OfficialDeepViT(arch, image_size).eval()
    return model, model


def timm_vit(arch: dict, image_size: int) -> ReferenceModel:
    """timm's plain ViT of the same size: what it takes without Re-attention."""
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(
        img_size=16 * -(-image_size // 16),
        embed_dim=arch['embed_dims'],
        depth=arch['depth'],
        num_heads=arch['num_heads'],
        mlp_ratio=arch['mlp_ratio'],
        num_classes=0,
        global_pool='',
    ).eval()

    def outputs(image: Tensor) -> list[Tensor]:
        side = image.shape[-1] // 16
        return [model(image)[:, 1:].transpose(1, 2).unflatten(2, (side, side))]

    return model, outputs


TIMM_VIT = 'timm, plain ViT'
DEEPVIT_REFERENCE_MODELS: dict[str, Callable[[dict, int], ReferenceModel]] = {
    'official form': official_deepvit,
    TIMM_VIT: timm_vit,
}


def checkpoint_blocks(model: nn.Module) -> bool:
    """Let a baseline compute activations again in the backward pass, in its own way; False if it has none."""
    if hasattr(model, 'set_grad_checkpointing'):  # timm
        model.set_grad_checkpointing()
    elif hasattr(model, 'gradient_checkpointing_enable'):  # Hugging Face
        model.gradient_checkpointing_enable()
    elif hasattr(model, 'checkpointing'):
        model.checkpointing = True
    else:  # mmpretrain
        parts = [part for part in model.modules() if hasattr(part, 'with_cp')]
        for part in parts:
            part.with_cp = True
        return bool(parts)
    return True
