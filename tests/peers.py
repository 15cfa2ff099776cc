"""SwinV2 of other libraries: independent implementations to compare with.

Each builder takes the arch (sizes), the side of the image in pixels, one window per stage, and one reference window per
stage or None; it returns the model and a function from an image to the raw output of every stage, NCHW.
"""

import torch


def _record(modules, to_nchw):
    """Let the modules keep what they return; the function that collects it."""
    outputs = {}
    for i, module in enumerate(modules):
        module.register_forward_hook(lambda module, inputs, output, i=i: outputs.update({i: to_nchw(output)}))
    return lambda: [outputs[i] for i in range(len(modules))]


def huggingface(arch, image_size, windows, references):
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


def timm(arch, image_size, windows, references):
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


def mmpretrain(arch, image_size, windows, references):
    from mmpretrain.models import SwinTransformerV2
    model = SwinTransformerV2(
        arch={**arch, 'extra_norm_every_n_blocks': 0},
        img_size=image_size,
        window_size=list(windows),
        pretrained_window_sizes=list(references or [0] * 4))
    model.eval()  # returns nothing there

    def to_nchw(output):
        tokens, (height, width) = output
        return tokens.transpose(1, 2).unflatten(2, (height, width))

    collect = _record(model.stages, to_nchw)
    return model, lambda image: (model(image), collect())[1]


def torchvision(arch, image_size, windows, references):
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


PEERS = {'Hugging Face': huggingface, 'timm': timm, 'mmpretrain': mmpretrain, 'torchvision': torchvision}


@torch.no_grad()
def official_state_dict(ours, windows, references):
    """Our backbone's weights as the official code saves them: its names, tables, indices and masks."""
    state = {}
    for key, value in ours.state_dict().items():
        if key.endswith('reference_window') or key.startswith('out_norms.') and not key.startswith('out_norms.3.'):
            continue
        key = key.replace('attn.position_bias.mlp', 'attn.cpb_mlp').replace('out_norms.3', 'norm')
        if key.startswith('stages.'):
            _, stage, rest = key.split('.', 2)
            key = f'layers.{int(stage) - rest.startswith("downsample")}.{rest}'
        state[key] = value
    for stage, (depth, window, reference) in enumerate(zip(ours.depths, windows, references)):
        offsets = torch.arange(1 - window, window, dtype=torch.float32, device='cpu')
        table = torch.stack(torch.meshgrid(offsets, offsets, indexing='ij'), dim=-1)[None] * 8 / (reference - 1)
        table = torch.sign(table) * torch.log2(table.abs() + 1.0) / 3.0
        for block in range(depth):
            name = f'layers.{stage}.blocks.{block}'
            state[f'{name}.attn.relative_coords_table'] = table
            state[f'{name}.attn.relative_position_index'] = torch.zeros(2, 2, dtype=torch.long, device='cpu')
            if block % 2:
                state[f'{name}.attn_mask'] = torch.zeros(4, 2, 2, device='cpu')
    state['head.weight'], state['head.bias'] = torch.zeros(10, 4), torch.zeros(10)
    return state
