"""A checkpoint, ready to predict."""

import zlib
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, default_collate, pseudo_collate
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement
from PIL import Image
from torch import nn

from mmvitscale.checkpoints.io import read_checkpoint
from mmvitscale.checkpoints.loading import adapt_checkpoint
from mmvitscale.checkpoints.window_policy import apply_checkpoint_windows
from mmvitscale.config.embedded import load_embedded_config
from mmvitscale.config.loading import load_test_config
from mmvitscale.config.runtime import check_packages
from mmvitscale.config.view import ConfigView, plain_datasets
from mmvitscale.errors import InputError
from mmvitscale.export import is_exported, run_instead
from mmvitscale.inference.class_names import dataset_meta_of
from mmvitscale.inference.images import ImageReader
from mmvitscale.inference.nodata import empty_pixels, without_empty
from mmvitscale.inference.to_supervision import to_supervision
from mmvitscale.inference.visualizer import Visualizer
from mmvitscale.registry import type_name

# Steps that make images larger or smaller and nothing else.
_RESIZES = ('Resize', 'FixScaleResize', 'ResizeShortestEdge', 'ResizeEdge')


def pipeline_of(cfg: Config) -> Sequence[dict]:
    """The steps that an image goes through before the model predicts; where the test set is put together of several (as by
    ConcatDataset), those of the first one that has any. Raises InputError for a config without."""
    if ConfigView(cfg).task == 'masked modelling':
        return cfg.predict_pipeline
    if not cfg.get('test_dataloader'):
        raise InputError(f'{cfg.filename} has no test_dataloader, so there is nothing to predict with it')
    outer = cfg.test_dataloader.dataset
    pipelines = (dataset.get('pipeline') for dataset in (*plain_datasets(outer), outer))
    found = next(filter(None, pipelines), None)
    if found is None:
        raise InputError(
            f'the test data set of {cfg.filename} has no pipeline, so no image can be read as it is tested; add one'
        )
    return found


def build_model(cfg: Config) -> nn.Module:
    """The config's model, built in its scope, in evaluation mode on the best device."""
    check_packages(cfg)
    init_default_scope(ConfigView(cfg).scope)
    return MODELS.build(ConfigView(cfg).model).eval().to(get_device())


def load_model(cfg: Config, checkpoint: str) -> tuple[nn.Module, dict]:
    """A config's model with exactly the weights of a checkpoint, and what the file held. Raises InputError where they do not
    fit.

    An exported file (``export``) takes the place of the weights, and of the network.

    Where the config grows windows, those that the weights last ran with are used (``test_windows`` in the config decides
    otherwise).
    """
    if is_exported(checkpoint):
        model = build_model(cfg)
        about = run_instead(model, checkpoint)
        meta = dict(classes=about['classes'], palette=about['palette']) if about['classes'] else None
        return model, dict(meta=dict(dataset_meta=meta))
    content = read_checkpoint(checkpoint)
    model = build_model(cfg)
    entries = adapt_checkpoint(model, content, checkpoint, strict=True, log=lambda line: print_log(line, 'current'))
    for line in apply_checkpoint_windows(model, entries, cfg):
        print_log(f'{checkpoint}: {line}', 'current')
    model.load_state_dict(content['state_dict'])
    return model, content


def at_own_size(pipeline: Sequence[dict]) -> list[dict]:
    """A test pipeline whose images keep their size."""
    return [
        dict(type=step['type'] if type_name(step) == 'Resize' else 'Resize', scale_factor=1.0, keep_ratio=True)
        if type_name(step) in _RESIZES
        else step
        for step in pipeline
    ]


class Predictor:
    """A trained checkpoint, ready to predict: ``Predictor('best.pth')``, or with a config ``Predictor(cfg, 'best.pth')``.

    Args:
        cfg: config, its path or its name, of any task whose model has ``test_step``; without ``checkpoint`` the checkpoint's
            path, whose own config is taken.
        checkpoint: path of a file with exactly the model's weights (``load_model``).
        own_size: images keep their size, whatever the config's pipeline resizes them to.

    Raises:
        InputError: for a checkpoint that holds no config, or one that a stranger's file may not have
            (``config/embedded.py``), and for weights that do not fit.
    """

    def __init__(self, cfg: Config | str | Path, checkpoint: str | Path | None = None, own_size: bool = False):
        cfg, checkpoint = _with_config(cfg, checkpoint)
        pipeline = pipeline_of(cfg)
        self.model, content = load_model(cfg, checkpoint)
        self.read_image = ImageReader(pipeline)
        steps = [step for step in pipeline[1:] if 'Annotations' not in type_name(step)]
        self.pipeline = Compose(at_own_size(steps) if own_size else steps)
        self._find_meta = partial(dataset_meta_of, cfg, dict(meta=content.get('meta')), self.model)

    @cached_property
    def dataset_meta(self) -> dict:
        """``classes`` and, where known, ``palette``. Raises InputError where nobody knows how many classes there are."""
        return self._find_meta()

    def prepare(self, fields: dict) -> dict:
        """What ``read_image.read`` gives -> what ``predict`` takes. Raises InputError for an image that the config's
        pipeline cannot take."""
        try:
            return self.pipeline(dict(fields))
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f'{fields["img_path"]} does not go through the pipeline of the config ({type(error).__name__}: {error})'
            ) from error

    def predict(self, batch: Sequence[dict]) -> list[BaseDataElement]:
        """Prepared images of one size -> the task's data samples with predictions, on the CPU."""
        with torch.inference_mode():
            return [sample.cpu() for sample in self.model.test_step(pseudo_collate(list(batch)))]

    def __call__(self, path: Path) -> BaseDataElement:
        """Path of an image -> the task's data sample with predictions, on the CPU."""
        return self.predict([self.prepare(self.read_image.read(path)[0])])[0]

    def detections(self, path: str | Path, score_thr: float = 0.3) -> Any:
        """Path of an image -> ``supervision.Detections``; instances below the score are left out. Raises InputError where
        supervision is not installed."""
        return to_supervision(self(Path(path)), self.dataset_meta['classes'], score_thr)

    def draw(self, path: str | Path, score_thr: float = 0.3) -> Image.Image:
        """Path of an image -> the image with the prediction drawn on it, over a legend of the classes in sight.

        Args:
            path: of an image of any kind that the config reads.
            score_thr: instances below this score are not drawn.
        """
        fields, picture = self.read_image.read(Path(path))
        sample = self.predict([self.prepare(fields)])[0]
        empty = empty_pixels(Path(path), picture.shape[:2], self.read_image)
        sample = without_empty(sample, empty, len(self.dataset_meta['classes']))
        return Image.fromarray(Visualizer(self.dataset_meta, score_thr).paint(picture, sample)[..., ::-1])


def _with_config(cfg: Config | str | Path, checkpoint: str | Path | None) -> tuple[Config, str]:
    """What a predictor is given -> a config and the path of its checkpoint."""
    if checkpoint is not None:
        return cfg if isinstance(cfg, Config) else load_test_config(str(cfg)), str(checkpoint)
    if isinstance(cfg, Config):
        raise InputError('a config without a checkpoint found, but predicting needs weights; give both, or a checkpoint alone')
    return load_embedded_config(str(cfg)), str(cfg)


class Reconstructor:
    """A config of masked image modelling and its checkpoint, ready to draw what the model makes of masked images.

    Args:
        cfg: of mmpretrain's SimMIM; its ``predict_pipeline`` loads an image and masks it.
        checkpoint: path of a file with exactly the model's weights.
    """

    def __init__(self, cfg: Config, checkpoint: str):
        self.model, _ = load_model(cfg, checkpoint)
        self.read_image = ImageReader(cfg.predict_pipeline)
        self.pipeline = Compose(cfg.predict_pipeline)

    def __call__(self, path: Path) -> tuple[np.ndarray, float]:
        """Path of an image -> the masked image, what the model fills in and the original side by side, (H, 3 W, 3) uint8
        BGR, and the loss. Equal paths are masked equally."""
        np.random.seed(zlib.crc32(path.name.encode()))
        data = self.model.data_preprocessor(default_collate([self.pipeline(dict(img_path=str(path)))]), False)
        image = data['inputs']
        mask = torch.stack([sample.mask for sample in data['data_samples']]).to(image.device)
        head = self.model.head
        with torch.inference_mode():
            filled = self.model.neck(self.model.backbone(image, mask)[0])
            loss = head.loss(filled, image, mask).item()
        if hasattr(head.loss_module, 'restore'):
            filled = head.loss_module.restore(filled, image)
        where = mask.repeat_interleave(head.patch_size, 1).repeat_interleave(head.patch_size, 2)[:, None].bool()
        panels = torch.cat((torch.where(where, torch.zeros_like(image), image), torch.where(where, filled, image), image), 3)
        preprocessor = self.model.data_preprocessor
        pixels = (panels * preprocessor.std + preprocessor.mean)[0].clamp(0, 255).round().byte()
        return np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy()[..., ::-1]), loss


def build_predictor(cfg: Config, checkpoint: str) -> Predictor | Reconstructor:
    """What the config calls for; called with the path of an image, either runs the model on it."""
    return (Reconstructor if ConfigView(cfg).task == 'masked modelling' else Predictor)(cfg, checkpoint)
