"""What of a model goes into a file: tensors in, tensors out."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvitscale.errors import InputError
from mmvitscale.export.constant_folding import fold_biases
from mmvitscale.export.dynamic_shapes import plain_attention, with_dynamic_shapes
from mmvitscale.models import DeepViT, SwinTransformerV2

_ELSEWHERE = 'export its backbone and neck with --part backbone, or the whole of it with mmdeploy'


@dataclass
class Graph:
    """A module to trace.

    module: (B, channels, H, W), as the data preprocessor gives it -> a tensor or a tuple of tensors. outputs: their names.
    example: an image to trace it with. any_size: whether it holds for every batch, height and width. suppress: of a detector,
    what its last step, non-maximum suppression, wants: iou_threshold, score_threshold, max_per_image.
    """

    module: nn.Module
    outputs: list[str]
    example: Tensor
    any_size: bool
    suppress: dict[str, float] | None = None


class Features(nn.Module):
    """A backbone, and the neck behind it if there is one: (B, channels, H, W) -> maps."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.backbone = model.backbone if hasattr(model, 'backbone') else model
        self.neck = getattr(model, 'neck', None)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        maps = self.backbone(image)
        return tuple(maps if self.neck is None else self.neck(maps))


class Segmentor(nn.Module):
    """A segmentor of mmsegmentation: (B, channels, H, W) -> logits (B, classes, H, W)."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.features, self.head, self.align_corners = Features(model), model.decode_head, model.align_corners

    def forward(self, image: Tensor) -> Tensor:
        logits = self.head(self.features(image))
        return F.interpolate(logits, size=image.shape[2:], mode='bilinear', align_corners=self.align_corners)


class Classifier(nn.Module):
    """A classifier of mmpretrain: (B, channels, H, W) -> logits (B, classes)."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.features, self.head = Features(model), model.head

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.features(image))


class DenseDetector(nn.Module):
    """A detector of mmdetection with anchors and sigmoid scores, RetinaNet above all: (1, channels, H, W) -> the best boxes
    (K, 4) as corners in pixels, their scores (K,) and labels (K,), before non-maximum suppression."""

    def __init__(self, model: nn.Module, image: Tensor):
        super().__init__()
        self.features, self.head = Features(model), model.bbox_head
        self.per_level = int(model.test_cfg.get('nms_pre', 1000))
        self.smallest = float(model.test_cfg.get('min_bbox_size', -1))
        self.size = tuple(image.shape[2:])
        maps = self.features(image)
        anchors = self.head.prior_generator.grid_priors(
            [tuple(part.shape[2:]) for part in self.head(maps)[0]], device=image.device
        )
        for i, level in enumerate(anchors):
            self.register_buffer(f'anchors{i}', level)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = []
        for i, (scores, deltas) in enumerate(zip(*self.head(self.features(image)))):
            classes = self.head.cls_out_channels
            scores = scores[0].permute(1, 2, 0).reshape(-1).sigmoid()
            deltas = deltas[0].permute(1, 2, 0).reshape(-1, 4)
            best, index = scores.topk(min(self.per_level, len(scores)))
            place = index // classes
            boxes = self.head.bbox_coder.decode(getattr(self, f'anchors{i}')[place], deltas[place], max_shape=self.size)
            large = ((boxes[:, 2:] - boxes[:, :2]) > self.smallest).all(dim=1)
            found.append((boxes, torch.where(large, best, torch.zeros_like(best)), index % classes))
        return tuple(torch.cat(parts) for parts in zip(*found))


def graph_of(model: nn.Module, part: str, size: tuple[int, int] | None, batch: int = 1) -> Graph:
    """A model in evaluation mode, or a backbone -> what to trace. The model itself stays as it is.

    Args:
        model: of mmsegmentation, mmdetection or mmpretrain, or a backbone alone.
        part: 'model', or 'backbone' for the maps of backbone and neck.
        size: (height, width) of the images; None for every size and batch.
        batch: how many images, where the size is given.

    Raises:
        InputError: for a model whose whole has no such form, and for one that holds for one size alone where every size is
            asked for.
    """
    model = copy.deepcopy(model).eval().cpu().requires_grad_(False)
    backbone = model.backbone if hasattr(model, 'backbone') else model
    if not isinstance(backbone, (SwinTransformerV2, DeepViT)):
        raise InputError(
            f'its backbone is a {type(backbone).__name__}, but SwinTransformerV2 and DeepViT are what can be exported here'
        )
    if part == 'model' and hasattr(model, 'backbone'):
        _check_whole(model, size, batch)
    stem: Any = backbone.patch_embed
    channels = (stem.conv1 if hasattr(stem, 'conv1') else stem.proj).in_channels
    # Odd on purpose, and large enough for several windows: what holds for one size alone is to show.
    shape = (2, channels, 97, 131) if size is None else (batch, channels, *size)
    example = torch.rand(shape, dtype=next(backbone.parameters()).dtype)
    with torch.no_grad():
        if size is None:
            model = with_dynamic_shapes(model)
        elif isinstance(backbone, SwinTransformerV2):
            fold_biases(backbone, example)
        else:
            plain_attention(backbone)
        module, names, suppress = _module_of(model, part, example)
        outputs = module(example)
    if names is None:
        names = [f'map{i}' for i in range(len(outputs))]
    return Graph(module.eval(), names, example, size is None, suppress)


def _check_whole(model: nn.Module, size: tuple[int, int] | None, batch: int) -> None:
    kind = _kind_of(model)
    if kind is None:
        raise InputError(f'a {type(model).__name__} has no whole form in one file; {_ELSEWHERE}')
    if kind == 'detector' and size is None:
        raise InputError('the anchors of a detector are constants of one size; give sizes instead of --any-size')
    if kind == 'detector' and batch != 1:
        raise InputError(f'batch {batch} found, but a detector goes image by image; leave --batch-size out')


def _kind_of(model: nn.Module) -> str | None:
    """segmentor, detector or classifier, where the whole of it can be traced."""
    names = {base.__name__ for base in type(model).__mro__}
    if 'EncoderDecoder' in names and any(base.__name__ == 'BaseDecodeHead' for base in type(model.decode_head).__mro__):
        return 'segmentor'
    if 'SingleStageDetector' in names and type(model.bbox_head).__name__ == 'RetinaHead' and model.bbox_head.use_sigmoid_cls:
        return 'detector'
    if 'ImageClassifier' in names and type(model.head).__name__ in ('LinearClsHead', 'VisionTransformerClsHead'):
        return 'classifier'
    return None


def _module_of(model: nn.Module, part: str, example: Tensor) -> tuple[nn.Module, list[str] | None, dict[str, float] | None]:
    kind = _kind_of(model) if part == 'model' else None
    if kind == 'segmentor':
        return Segmentor(model), ['logits'], None
    if kind == 'classifier':
        return Classifier(model), ['logits'], None
    if kind == 'detector':
        test = model.test_cfg
        nms = dict(
            iou_threshold=float(test.nms.iou_threshold),
            score_threshold=float(test.score_thr),
            max_per_image=int(test.max_per_img),
        )
        return DenseDetector(model, example), ['boxes', 'scores', 'labels'], nms
    return Features(model), None, None
