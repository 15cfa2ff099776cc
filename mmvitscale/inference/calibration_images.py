"""Images as the network gets them: read, resized and normalised as the config says. For what looks at numbers, not at data
samples."""

import copy

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS
from torch import Tensor, nn

from mmvitscale.config.view import plain_datasets
from mmvitscale.errors import InputError
from mmvitscale.inference.predictor import pipeline_of


def training_images(cfg: Config, model: nn.Module, count: int, size: tuple[int, int] | None, batch: int = 1) -> list[Tensor]:
    """Training images as they would be tested, spread evenly over the set.

    Args:
        cfg: of a task with a test pipeline and a training set.
        model: the config's, whose data preprocessor normalises them.
        count: how many.
        size: (height, width) that is cut out of their middle; smaller ones are filled with the normalised image's mean, zero.
            None leaves them as they are.
        batch: how many times each stands in its batch.

    Returns:
        (batch, channels, H, W) each.

    Raises:
        InputError: for a config without a training set.
    """
    if not cfg.get('train_dataloader'):
        raise InputError(
            f'{cfg.filename} has no train_dataloader, so there are no images to take ranges from; give the config of a training'
        )
    described = copy.deepcopy(next(plain_datasets(cfg.train_dataloader.dataset)))
    described.pipeline = pipeline_of(cfg)
    dataset = DATASETS.build(described)
    count = min(count, len(dataset))
    images = []
    for i in range(count):
        data = model.data_preprocessor(pseudo_collate([dataset[i * len(dataset) // count]]), False)
        image = data['inputs']
        image = image if isinstance(image, Tensor) else torch.stack(list(image))
        images.append((image if size is None else _middle(image, size)).repeat(batch, 1, 1, 1))
    return images


def _middle(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(1, channels, H, W) -> (1, channels, *size)."""
    out = image.new_zeros(*image.shape[:2], *size)
    cut = [min(own, asked) for own, asked in zip(image.shape[2:], size)]
    top, left = ((own - part) // 2 for own, part in zip(image.shape[2:], cut))
    out[..., : cut[0], : cut[1]] = image[..., top : top + cut[0], left : left + cut[1]]
    return out
