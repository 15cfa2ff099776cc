"""The hook that draws what the network is fed: the first training batch, after augmentation."""

from collections.abc import Sequence
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from mmvitscale.checkpoints.loading import unwrapped
from mmvitscale.config.view import ConfigView
from mmvitscale.errors import InputError
from mmvitscale.inference import Visualizer
from mmvitscale.inference.images import as_picture
from mmvitscale.inference.text import draw_text, fit_text, text_mask
from mmvitscale.registry import HOOKS, type_name
from mmvitscale.utils.atomic_write import atomic_write
from mmvitscale.utils.error_translation import message_of

FILE = 'train_batch.jpg'
_LONGEST_SIDE = 448  # of an image in the grid
_TEXT = 18  # pixels


@HOOKS.register_module()
class TrainingBatchPictureHook(Hook):
    """Writes ``train_batch.jpg`` into the work dir, and hands it to the visualizer's backends: the first batch of a training as
    it leaves the data preprocessor, normalisation undone, with its ground truth. A picture that cannot be drawn is a line in
    the log.

    It looks at the batch that is trained on, and draws nothing at random: the training is the same with it and without it.
    ``default_hooks=dict(training_batch_picture=None)`` leaves it out of ``tools/train.py``.

    Args:
        images: so many of the batch at most.
    """

    def __init__(self, images: int = 16):
        if images < 1:
            raise InputError(f'images={images} found in training_batch_picture, but it is at least 1')
        self.images = images
        self._waits = False

    def before_train(self, runner: Runner) -> None:
        """Waits for the first batch."""
        self._waits = is_main_process()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Looks at what the data preprocessor makes of the first one."""
        preprocessor = getattr(unwrapped(runner.model), 'data_preprocessor', None)
        if not self._waits or not isinstance(preprocessor, nn.Module):
            return
        self._waits = False

        def look(module: nn.Module, given: Any, made: Any) -> None:
            handle.remove()
            try:
                self._write(runner, module, made)
            except Exception as error:  # a training is worth more than a picture
                runner.logger.warning(f'no picture of the first training batch ({message_of(error)})')

        handle = preprocessor.register_forward_hook(look)

    def _write(self, runner: Runner, preprocessor: nn.Module, batch: dict) -> None:
        inputs, samples = batch['inputs'], batch.get('data_samples')
        inputs = inputs[0] if isinstance(inputs, (list, tuple)) and inputs[0].ndim == 4 else inputs  # one of several views
        count = min(self.images, len(inputs))
        known = isinstance(samples, (list, tuple)) and len(samples) == len(inputs)
        meta = dict(getattr(runner.train_dataloader.dataset, 'metainfo', None) or {})
        visualizer = Visualizer({**meta, 'classes': meta.get('classes') or ()})
        shown = [
            draw(to_picture(inputs[i], preprocessor, runner.cfg), samples[i] if known and samples else None, visualizer)
            for i in range(count)
        ]
        picture = grid(shown)
        encoded = cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
        with atomic_write(Path(runner.work_dir, FILE)) as part:
            part.write_bytes(encoded.tobytes())
        runner.visualizer.add_image('train_batch', np.ascontiguousarray(picture[..., ::-1]), runner.iter)


def to_picture(image: Tensor, preprocessor: nn.Module, cfg: Config) -> np.ndarray:
    """(C, H, W) as the network takes it -> (H, W, 3) uint8 BGR, normalisation undone; of more than three channels those that
    the config shows."""
    array = image.detach().float().cpu().numpy().transpose(1, 2, 0)
    steps = {type_name(step): step for data in ConfigView(cfg).datasets('train')[:1] for step in data.get('pipeline') or ()}
    mean, std = getattr(preprocessor, 'mean', None), getattr(preprocessor, 'std', None)
    if isinstance(mean, Tensor) and isinstance(std, Tensor):
        mean, std = (value.detach().float().cpu().numpy().reshape(-1) for value in (mean, std))
    else:
        normalised = steps.get('NormalizeChannels') or {}
        mean, std = (np.float32(normalised.get(key, fallback)) for key, fallback in (('mean', [0]), ('std', [1])))
    if len(mean) > 1:
        array = array[..., : len(mean)]  # a channel more marks padding
    array = array * std + mean
    if 'LoadMultispectralImage' in steps:
        from mmvitscale.datasets.multispectral import LoadMultispectralImage

        options = {key: value for key, value in steps['LoadMultispectralImage'].items() if key != 'type'}
        return LoadMultispectralImage(**options).picture_of(array, Path('the first training batch'))
    is_rgb = getattr(preprocessor, '_channel_conversion', False) or getattr(preprocessor, 'to_rgb', False)
    picture = as_picture(array.round())
    return np.ascontiguousarray(picture[..., ::-1]) if is_rgb else picture


def draw(picture: np.ndarray, sample: Any, visualizer: Visualizer) -> np.ndarray:
    """(H, W, 3) BGR and its data sample -> boxes, masks or label map over a legend, names of classes in the corner, or masked
    patches in grey; BGR."""
    if sample is None:
        return picture
    label, mask = getattr(sample, 'gt_label', None), getattr(sample, 'mask', None)
    if label is not None:
        return _named(picture, _names(label, getattr(sample, 'gt_score', None), visualizer.classes))
    if mask is not None:
        masked = torch.as_tensor(mask).cpu().numpy().astype(np.uint8).squeeze()
        masked = cv2.resize(masked, picture.shape[1::-1], interpolation=cv2.INTER_NEAREST).astype(bool)
        return np.where(masked[..., None], np.uint8(127) // 2 + picture // 4, picture)
    return visualizer.ground_truth(picture, sample)


def _names(label: Any, score: Any, classes: Sequence[str]) -> str:
    """Of an image, or of those that Mixup and CutMix made it of, with their shares."""
    shares = {int(number): 1.0 for number in torch.as_tensor(label).flatten().tolist()}
    if isinstance(score, Tensor):
        shares = {i: share for i, share in enumerate(score.tolist()) if share > 0.05}
    named = sorted(shares.items(), key=lambda pair: -pair[1])[:3]
    return ', '.join(
        (str(classes[number]) if number < len(classes) else f'class {number}') + (f' {share:.2f}' if share < 0.99 else '')
        for number, share in named
    )


def _named(picture: np.ndarray, name: str) -> np.ndarray:
    picture, name = picture.copy(), fit_text(name, _TEXT, picture.shape[1])
    height, width = text_mask(name, _TEXT).shape
    cv2.rectangle(picture, (0, 0), (width, height), (255, 255, 255), -1)
    draw_text(picture, name, (0, 0), _TEXT, (0, 0, 0))
    return picture


def grid(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures (H, W, 3), made smaller where they are large -> one, in rows, on white."""
    small = []
    for picture in pictures:
        factor = min(1.0, _LONGEST_SIDE / max(picture.shape[:2]))
        small.append(cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA) if factor < 1 else picture)
    height, width = (max(picture.shape[axis] for picture in small) + 4 for axis in (0, 1))
    columns = ceil(sqrt(len(small)))
    rows = ceil(len(small) / columns)
    whole = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for i, picture in enumerate(small):
        top, left = i // columns * height, i % columns * width
        whole[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return whole
