"""A baseline by colour alone on the synthetic mini dataset: what a network has to exceed."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from mmvitscale.datasets.mini import CLASSES, SPLITS

_LEVELS = 16  # per channel; finer bins are too empty to learn from


def colour_baseline(root: str | Path) -> float:
    """Folder of ``ADEChallengeData2016`` -> mIoU in [0, 1] of a per-pixel colour classifier on its validation scenes.

    Every training pixel votes for its class in its colour's bin, and a validation pixel takes the class its bin
    voted for, either outright or relative to how frequent the class is; the better of the two counts.
    """
    votes = np.zeros((_LEVELS**3, len(CLASSES)))
    for bins, labels in _pixels(Path(root), SPLITS[0]):
        np.add.at(votes, (bins, labels), 1)
    frequency = votes.sum(0)
    votes += 1e-6 * frequency  # an empty bin falls back on the most frequent class
    predictions = votes.argmax(1), (votes / frequency.clip(1)).argmax(1)

    confusion = np.zeros((len(predictions), len(CLASSES), len(CLASSES)))
    for bins, labels in _pixels(Path(root), SPLITS[1]):
        for matrix, prediction in zip(confusion, predictions):
            np.add.at(matrix, (labels, prediction[bins]), 1)
    return max(_mean_iou(matrix) for matrix in confusion)


def _pixels(root: Path, split: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Colour bins and class indices of the labelled pixels, an image at a time."""
    for path in sorted((root / 'images' / split).glob('*.jpg')):
        image = cv2.imread(str(path)).astype(int) * _LEVELS // 256
        labels = cv2.imread(str(root / 'annotations' / split / f'{path.stem}.png'), cv2.IMREAD_UNCHANGED)
        bins = (image[..., 0] * _LEVELS + image[..., 1]) * _LEVELS + image[..., 2]
        yield bins[labels > 0], labels[labels > 0].astype(int) - 1


def _mean_iou(confusion: np.ndarray) -> float:
    """(ground truth, prediction) counts -> IoU averaged over the classes that occur in either."""
    union = confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    return float(np.mean(np.diag(confusion)[union > 0] / union[union > 0]))
