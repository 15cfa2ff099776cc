"""Which classes are taken for which: confusion matrices of every task."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

from mmvitscale.analysis.figure_text import literal
from mmvitscale.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ConfusionMatrix:
    """Counts of ground truth (rows) against prediction (columns): pixels, images or objects.

    Of objects a last row and column stand for the background: what was found where nothing is, and what was missed. A
    prediction belongs to the object that it covers best, whatever its class; the best-scored choose first.

    Args:
        classes: their names.
        score_thr: predicted objects below it are not counted.
        iou_thr: intersection over union from which on a box covers an object.

    Raises:
        InputError: where there are no classes.
    """

    def __init__(self, classes: Sequence[str], score_thr: float = 0.3, iou_thr: float = 0.5):
        self.classes = list(classes)
        if not self.classes:
            raise InputError('the test data set has no names of classes; add metainfo=dict(classes=[...]) to it in the config')
        self.score_thr, self.iou_thr = score_thr, iou_thr
        self.counts: Any = None  # (n, n) once something is counted
        self.unit = ''

    @property
    def names(self) -> list:
        """Of rows and columns."""
        return [*self.classes, 'background'] if self.unit == 'objects' else self.classes

    def add(self, sample: BaseDataElement) -> np.ndarray:
        """Count a data sample with ground truth and prediction; returns its own counts. Raises InputError for one without
        ground truth."""
        n = len(self.classes)
        if 'gt_sem_seg' in sample and 'pred_sem_seg' in sample:
            self.unit = 'pixels'
            ground_truth, found = (sample.get(f'{kind}_sem_seg').data.flatten().long() for kind in ('gt', 'pred'))
            known = (ground_truth < n) & (found < n)
            own = torch.bincount(ground_truth[known] * n + found[known], minlength=n * n).view(n, n).numpy()
        elif 'gt_instances' in sample and 'pred_instances' in sample:
            self.unit = 'objects'
            own = self._objects(sample)
        elif 'gt_label' in sample and 'pred_label' in sample:
            self.unit = 'images'
            own = np.zeros((n, n), np.int64)
            own[int(sample.gt_label.flatten()[0]), int(sample.pred_label.flatten()[0])] = 1
        else:
            raise InputError(
                'the test data come without ground truth (no annotations in the pipeline of test_dataloader), so nothing '
                'can be compared; add LoadAnnotations there'
            )
        self.counts = own if self.counts is None else self.counts + own
        return own

    def _objects(self, sample: BaseDataElement) -> np.ndarray:
        n = len(self.classes)
        counts = np.zeros((n + 1, n + 1), np.int64)
        ground_truth, found = sample.gt_instances, sample.pred_instances
        found = found[found.scores >= self.score_thr]
        boxes = ground_truth.bboxes.tensor if hasattr(ground_truth.bboxes, 'tensor') else ground_truth.bboxes
        overlaps = box_overlaps(found.bboxes.float(), torch.as_tensor(boxes).float())
        taken = torch.zeros(len(ground_truth.labels), dtype=torch.bool)
        for i in found.scores.argsort(descending=True).tolist():
            free = torch.where(taken, torch.full_like(overlaps[i], -1), overlaps[i])
            best = int(free.argmax()) if len(free) else -1
            if best >= 0 and free[best] >= self.iou_thr:
                taken[best] = True
                counts[int(ground_truth.labels[best]), int(found.labels[i])] += 1
            else:
                counts[n, int(found.labels[i])] += 1
        for label in ground_truth.labels[~taken].tolist():
            counts[label, n] += 1
        return counts

    def quality(self, own: np.ndarray) -> float | None:
        """What ``add`` returned for an image -> how good its prediction is, 0 to 1: the mean intersection over union of the
        classes that occur in ground truth or prediction. None where there are none."""
        hit, union = self._hits_and_unions(own)
        there = union > 0
        return float((hit[there] / union[there]).mean()) if there.any() else None

    def _hits_and_unions(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of each class, the background left out."""
        counts, n = counts.astype(np.float64), len(self.classes)
        hit = counts.diagonal()
        return hit[:n], (counts.sum(1) + counts.sum(0) - hit)[:n]

    def per_class(self) -> list:
        """Of each class its count, recall, precision and intersection over union; None where nothing is there."""
        hit, union = self._hits_and_unions(self.counts)
        ground_truth, found = self.counts.sum(1), self.counts.sum(0)

        def share(part, whole):
            return None if whole == 0 else part / whole

        return [
            dict(
                name=name,
                count=int(ground_truth[i]),
                recall=share(hit[i], ground_truth[i]),
                precision=share(hit[i], found[i]),
                iou=share(hit[i], union[i]),
            )
            for i, name in enumerate(self.classes)
        ]


def box_overlaps(one: Tensor, other: Tensor) -> Tensor:
    """(n, 4), (m, 4) left, top, right, bottom -> (n, m) intersections over unions."""
    corner = torch.maximum(one[:, None, :2], other[:, :2])
    shared = (torch.minimum(one[:, None, 2:], other[:, 2:]) - corner).clamp(min=0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1) for boxes in (one, other)]
    return shared / (areas[0][:, None] + areas[1] - shared).clamp(min=1e-9)


def draw_confusion(matrix: ConfusionMatrix) -> 'Figure':
    """A matplotlib figure: each row in percent of its ground truth, with numbers while there is room for them."""
    from matplotlib.figure import Figure

    counts, names = matrix.counts.astype(np.float64), matrix.names
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(max(4.0, 0.45 * len(names) + 2), 24)
    figure = Figure(figsize=(side + 1, side))
    axes = figure.subplots()
    shown = axes.imshow(shares, vmin=0, vmax=100, cmap='Blues')
    labels = [literal(name) for name in names]
    size = min(9, 400 / max(len(names), 1))
    axes.set_xticks(range(len(names)), labels, rotation=90, fontsize=size)
    axes.set_yticks(range(len(names)), labels, fontsize=size)
    axes.set(xlabel='prediction', ylabel='ground truth', title=f'percent of the {matrix.unit} of each row')
    if len(names) <= 25:
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.5:
                axes.text(
                    column,
                    row,
                    f'{share:.0f}',
                    ha='center',
                    va='center',
                    fontsize=7,
                    color='white' if share > 60 else 'black',
                )
    figure.colorbar(shown, shrink=0.8)
    return figure
