"""What a training of a config takes on each GPU, without a GPU: parameters, gradients and optimizer states by closed form
for each way of sharing them out (ZeRO, arXiv 1910.02054), activations from the meta device (``live_tensors``)."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmvitscale.config.view import ConfigView
from mmvitscale.errors import InputError
from mmvitscale.models import DeepViT, SwinTransformerV2
from mmvitscale.profiling.live_tensors import Step, as_on, step
from mmvitscale.registry import type_name
from mmvitscale.utils.choices import STRATEGIES

# How weights meet 16-bit activations: autocast makes copies of float32 ones and keeps them until the forward pass ends; or,
# as with FSDP, lets go of each as soon as it may; or they have 16 bits themselves (DeepSpeed's own bf16 and fp16).
WEIGHTS = ('float32', 'float32, no copies kept', '16 bits')
# DeepSpeed's buffer of gradients that are communicated together, in elements: its reduce_bucket_size.
_DEEPSPEED_BUCKET = 5e8


@dataclass(frozen=True)
class Setting:
    """How the backbone computes. checkpointing: blocks are computed again in the backward pass. attention: a kernel, or
    'sequential-2' for sequential attention in the first two stages, as SwinV2 does for 1536 x 1536 (section 3.5)."""

    checkpointing: bool
    attention: str

    def apply(self, backbone: nn.Module) -> None:
        """Make a backbone compute so."""
        if isinstance(backbone, SwinTransformerV2):
            for i, stage in enumerate(backbone.stages):
                stage.with_cp = self.checkpointing
                kernel = ('sequential' if i < 2 else 'auto') if self.attention == 'sequential-2' else self.attention
                for block in stage.blocks:
                    block.attn.kernel = kernel
        else:
            backbone.with_cp = self.checkpointing
            for block in backbone.transformer_blocks():
                if hasattr(block.attn, 'kernel'):
                    block.attn.kernel = self.attention

    def __str__(self) -> str:
        attention = {
            'auto': 'fused attention',
            'eager': 'eager attention',
            'flex': 'flex attention',
            'sequential': 'sequential attention',
            'sequential-2': 'sequential attention in two stages',
        }[self.attention]
        return f'{"checkpointing, " if self.checkpointing else ""}{attention}'


def settings_of(backbone: nn.Module) -> tuple[list[Setting], list[Setting]]:
    """Those worth a choice, from the fastest to the leanest, and those that are only shown for comparison."""
    is_swin = isinstance(backbone, SwinTransformerV2)
    kernels = ('auto', 'sequential-2', 'sequential') if is_swin else ('sequential',)
    compared = ('eager', 'flex') if is_swin else ('eager',)
    return (
        [Setting(checkpointing, kernel) for checkpointing in (False, True) for kernel in kernels],
        [Setting(checkpointing, kernel) for kernel in compared for checkpointing in (False, True)],
    )


def configured_setting(backbone: nn.Module) -> Setting | None:
    """The one that a backbone has been built with, None for a mixture without a name."""
    for setting in (item for group in settings_of(backbone) for item in group):
        other = copy.deepcopy(backbone)
        setting.apply(other)
        if _signature(other) == _signature(backbone):
            return setting
    return None


def _signature(backbone: nn.Module) -> list:
    same = {'auto': 'sequential'} if isinstance(backbone, DeepViT) else {}
    kernels: list[Any] = [getattr(block.attn, 'kernel', None) for block in backbone.transformer_blocks()]
    checkpointed = (
        [stage.with_cp for stage in backbone.stages] if isinstance(backbone, SwinTransformerV2) else [backbone.with_cp]
    )
    return [[same.get(kernel, kernel) for kernel in kernels], checkpointed]


@dataclass(frozen=True)
class Sizes:
    """Numbers of parameters. blocks: of each block of the backbone. state_bytes: of the optimizer, for each trained one.
    copies: whole ones of the model beside it (averages)."""

    parameters: int
    trained: int
    blocks: tuple[int, ...]
    state_bytes: int
    copies: int = 0


def sizes_of(model: nn.Module, cfg: Config) -> Sizes:
    """Of a config's model."""
    blocks = model.backbone.transformer_blocks()
    optimizer = dict((cfg.get('optim_wrapper') or {}).get('optimizer') or dict(type='AdamW'))
    kind = str(optimizer.get('optimizer_type', optimizer['type'])).split('.')[-1]
    state_bytes = 8  # two moments, as Adam and its kin
    if kind == 'SGD':
        state_bytes = 4 if optimizer.get('momentum') else 0
    return Sizes(
        _count(model.parameters()),
        _count(p for p in model.parameters() if p.requires_grad),
        tuple(_count(block.parameters()) for block in blocks),
        state_bytes,
        len(ConfigView(cfg).hooks('EMAHook')),
    )


def _count(parameters) -> int:
    return sum(parameter.numel() for parameter in parameters)


@dataclass(frozen=True)
class Shares:
    """Bytes on each GPU. parameters, gradients, states: what stays from step to step. gathered: parameters and gradients of
    others that are there for a while, and buffers. update: what the optimizer makes while it updates, when no activation
    is there."""

    parameters: int
    gradients: int
    states: int
    gathered: int
    update: int

    @property
    def lasting(self) -> int:
        """All but the update's."""
        return self.parameters + self.gradients + self.states + self.gathered

    def total(self, activations: int) -> int:
        """The peak of a step, for activations of so many bytes."""
        return self.lasting + max(activations, self.update)


def shares(sizes: Sizes, strategy: str, gpus: int, sixteen_bit_weights: bool = False) -> Shares:
    """What each of ``gpus`` holds, whatever the images.

    Weights, gradients and moments are in float32 under autocast, too. ``sixteen_bit_weights`` (DeepSpeed's own bf16 and
    fp16): 2 bytes for weights and gradients, and float32 weights among the states. ``update``: PyTorch's optimizers work on
    lists of tensors on GPUs, and hold one list of results.
    """
    p, t, n = sizes.parameters, sizes.trained, gpus
    states, copies = sizes.state_bytes * t, 4 * p * sizes.copies
    if strategy == 'ddp' or n == 1 and strategy != 'deepspeed_zero1':
        return Shares(4 * p + copies, 4 * t, states, 0, 4 * t)
    if strategy == 'zero1':
        return Shares(4 * p + copies, 4 * t, states // n, 0, 4 * t // n)
    if strategy == 'deepspeed_zero1':
        width = 2 if sixteen_bit_weights else 4
        bucket = int(min(_DEEPSPEED_BUCKET, t)) * width
        return Shares(width * p + copies, width * t, (states + 4 * t) // n, bucket, 8 * t // n)
    if strategy == 'fsdp':
        outside = p - sum(sizes.blocks)
        block = max(sizes.blocks)
        # The rest of the model and its gradients, a block at work and the next one on its way, a block's gradients and
        # what is sent of them.
        return Shares(4 * p // n, 4 * t // n, states // n, 8 * outside + 4 * 4 * block, 4 * t // n)
    raise InputError(f'strategy {strategy} found, but it is one of {", ".join(STRATEGIES)}')


def weights_of(strategy: str, precision: str, sixteen_bit_weights: bool) -> str:
    """Which of WEIGHTS a strategy works with."""
    if precision == 'fp32':
        return WEIGHTS[0]
    if strategy == 'deepspeed_zero1' and sixteen_bit_weights:
        return WEIGHTS[2]
    return WEIGHTS[1] if strategy == 'fsdp' else WEIGHTS[0]


def take_step(
    model: nn.Module,
    images: int,
    size: tuple[int, int],
    setting: Setting | None,
    device: str = 'cuda',
    precision: str = 'fp32',
    weights: str = 'float32',
    gradients: bool = False,
) -> Step:
    """The activations of a training step of a model on the meta device: of its backbone, its neck, and the heads that run on
    features alone, with the loss of segmentation.

    Args:
        model: as the config builds it.
        images: in a batch.
        size: (height, width) of the images.
        setting: of the backbone; None leaves it as it is.
        device: 'cuda' or 'cpu', what the meta device stands for.
        precision: one of ``utils.choices.PRECISIONS``.
        weights: one of WEIGHTS.
        gradients: see ``live_tensors.step``.
    """
    backbone = model.backbone
    if setting is not None:
        setting.apply(backbone)
    channels = next(m.in_channels for m in backbone.patch_embed.modules() if isinstance(m, nn.Conv2d))
    if weights == '16 bits':
        model = copy.deepcopy(model).bfloat16()
        backbone = model.backbone
    x = torch.empty(images, channels, *size, device='meta', dtype=next(model.parameters()).dtype)
    heads = runnable_heads(model, x)

    def forward() -> Tensor:
        features = backbone(x)
        if 'neck' in heads:
            features = model.neck(features)
        losses = [_loss(name, model.get_submodule(name)(features), size) for name in heads if name != 'neck']
        return sum(losses) if losses else _mean(features)

    watched: dict[str, nn.Module] = {}
    if isinstance(backbone, SwinTransformerV2):
        watched = {f'stage {i}': stage for i, stage in enumerate(backbone.stages)}
    elif isinstance(backbone, DeepViT):
        watched = {'backbone': backbone}
    watched.update({name: model.get_submodule(name) for name in heads})
    return step(
        forward,
        model,
        device=device,
        mixed=precision != 'fp32' and weights != '16 bits',
        cached=weights == 'float32',
        gradients=gradients,
        watched=watched,
    )


def runnable_heads(model: nn.Module, x: Tensor) -> list[str]:
    """Names of the neck and heads that run on features alone. BatchNorm in them is set to evaluation."""
    found: list[str] = []
    for module in (m for name, part in model.named_children() if name != 'backbone' for m in part.modules()):
        if isinstance(module, _BatchNorm):
            module.eval()  # holds as much, and takes a batch of one where other processes bring theirs
    with as_on('cuda', mixed=False) as kernels, kernels, torch.no_grad():
        features = model.backbone(x)
        children = sorted(model.named_children(), key=lambda item: item[0] != 'neck')
        for name, module in children:
            if name in ('backbone', 'data_preprocessor') or not any(True for _ in module.parameters()):
                continue
            try:
                outputs = module(features)
            except (TypeError, NotImplementedError, RuntimeError, AttributeError, ValueError, AssertionError, KeyError):
                continue
            found.append(name)
            features = outputs if name == 'neck' else features
    return found


def _loss(name: str, outputs, size: tuple[int, int]) -> Tensor:
    if name in ('decode_head', 'auxiliary_head') and isinstance(outputs, Tensor) and outputs.ndim == 4:
        logits = F.interpolate(outputs, size=size, mode='bilinear')
        return F.cross_entropy(logits, torch.empty(len(logits), *size, dtype=torch.long, device='meta'))
    return _mean(outputs)


def _mean(outputs) -> Tensor:
    tensors = list(_tensors(outputs))
    return sum(tensor.float().mean() for tensor in tensors)


def _tensors(outputs) -> Iterator[Tensor]:
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, (list, tuple)):
        for item in outputs:
            yield from _tensors(item)


def training_size(cfg: Config) -> tuple[int, int]:
    """(height, width) of the images that the config trains with, the largest if they vary. Raises InputError where it does
    not contain it."""
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    sizes = _pairs(preprocessor.get('size'))
    for augment in preprocessor.get('batch_augments') or []:
        sizes += _pairs(augment.get('size'))
    if not sizes:
        sizes = [
            size
            for dataset in _datasets((cfg.get('train_dataloader') or {}).get('dataset') or {})
            for size in _last_sizes(dataset.get('pipeline') or [])
        ]
    if not sizes:
        raise InputError(f'{cfg.filename} does not contain the size of its training images; give it with --image-size')
    height, width = max(sizes, key=lambda size: size[0] * size[1])
    return int(height), int(width)


# Steps that set the size of images, and whether they name the width first.
_SIZING = {
    'RandomCrop': False,
    'CenterCrop': False,
    'RandomResizedCrop': False,
    'Pad': False,
    'Resize': True,
    'RandomResize': True,
    'RandomChoiceResize': True,
}


def _last_sizes(pipeline) -> list[tuple[int, int]]:
    """(height, width) that the last step of a pipeline which sets a size may give, of every branch."""
    sizes: list[tuple[int, int]] = []
    for item in pipeline:
        branches = item.get('transforms') or []
        branches = [branch if isinstance(branch, (list, tuple)) else [branch] for branch in branches]
        found = [size for branch in branches for size in _last_sizes(branch)]
        width_first = _SIZING.get(type_name(item))
        if width_first is not None:
            for key in ('crop_size', 'size', 'scale', 'scales'):
                found += [size[::-1] if width_first else size for size in _pairs(item.get(key))]
        sizes = found or sizes
    return sizes


def _pairs(value) -> list:
    """A size, or several -> pairs."""
    if isinstance(value, int):
        return [(value, value)]
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(side, int) for side in value):
        return [tuple(value)]
    return [pair for item in value for pair in _pairs(item)] if isinstance(value, (list, tuple)) else []


def _datasets(dataset) -> Iterator[dict]:
    """A data set's config and those in it."""
    yield dataset
    for item in dataset.get('datasets') or ([dataset['dataset']] if 'dataset' in dataset else []):
        yield from _datasets(item)


@dataclass(frozen=True)
class Plan:
    """A setting of the backbone with its step, and what a way of sharing makes of it on each GPU."""

    strategy: str
    gpus: int
    shares: Shares
    setting: Setting | None
    activations: int

    @property
    def total(self) -> int:
        """Bytes at the peak of a step."""
        return self.shares.total(self.activations)


def cheapest(plans: Sequence[Plan], capacity: float) -> Plan | None:
    """The first of plans, from the fastest to the leanest, that fits."""
    return next((plan for plan in plans if plan.total <= capacity), None)


def one_block(backbone: SwinTransformerV2, stage: int) -> dict:
    """Arguments of a backbone that is one block of this stage, at its true width and window."""
    arch = backbone.arch
    first = backbone.stages[stage]
    return dict(
        arch=dict(
            embed_dims=arch['embed_dims'] * 2**stage,
            depths=(1,),
            num_heads=(arch['num_heads'][stage],),
            mlp_ratio=arch['mlp_ratio'],
        ),
        window_size=[first.window],
        pretrained_window_sizes=[first.pretrained_window],
        position_bias=backbone.position_bias,
        drop_path_rate=0.0,
    )


def map_of(stage: int, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a stage's map, for images of this size."""
    return tuple(-(-side // (4 * 2**stage)) for side in size)
