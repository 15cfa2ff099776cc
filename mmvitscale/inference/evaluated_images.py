"""The test set, image by image, with ground truth and prediction: for what looks at single images."""

from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS
from mmengine.structures import BaseDataElement
from torch import nn

from mmvitscale.errors import InputError
from mmvitscale.inference.images import ImageReader
from mmvitscale.inference.predictor import pipeline_of


class EvaluatedImages:
    """A config's test set under a model; iterating predicts.

    Args:
        cfg: of any task.
        model: the config's, as ``load_model`` gives it.
        limit: how many images, spread evenly over the set; None for all.
    """

    __test__ = False  # no test class, whatever pytest takes its name for

    def __init__(self, cfg: Config, model: nn.Module, limit: int | None = None):
        if limit is not None and limit < 1:
            raise InputError(f'--limit {limit} found, but it is 1 or more')
        self.read_image = ImageReader(pipeline_of(cfg))
        self.model = model
        self.dataset = DATASETS.build(cfg.test_dataloader.dataset)
        self.dataset_meta = self.dataset.metainfo
        count = len(self.dataset)
        limit = min(limit or count, count)
        self.indices = [i * count // limit for i in range(limit)]

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[tuple[int, Path, BaseDataElement]]:
        """(index in the set, path, data sample on the CPU)."""
        for index in self.indices:
            yield self.one(index)

    def one(self, index: int) -> tuple[int, Path, BaseDataElement]:
        """One image by its index in the set."""
        data = pseudo_collate([self.dataset[index]])
        with torch.inference_mode():
            sample = self.model.test_step(data)[0].cpu()
        return index, Path(sample.img_path), sample
