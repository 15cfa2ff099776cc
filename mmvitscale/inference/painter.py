"""Predictions drawn on their image."""

from typing import Sequence, Tuple

import cv2
import numpy as np
from mmengine.structures import BaseDataElement

_FONT = cv2.FONT_HERSHEY_SIMPLEX


class Painter:
    """Draws data samples: instances and panoptic maps by mmdetection's visualizer, classes of images by mmpretrain's, and
    semantic maps as mmsegmentation's would, but over a legend of the classes in sight instead of text on regions, and with
    pixels that have no label left as they are.

    Args:
        dataset_meta: ``classes`` and, if there is one, ``palette`` (RGB).
        score_thr: instances below this score are not drawn.
    """

    def __init__(self, dataset_meta: dict, score_thr: float = 0.3):
        self.classes: Sequence[str] = dataset_meta['classes']
        palette = dataset_meta.get('palette') if self.classes else ()
        if not isinstance(palette, (list, tuple)) or len(palette) < len(self.classes):
            hues = np.linspace(0, 179, len(self.classes), endpoint=False).astype(np.uint8)
            hsv = np.stack([hues, np.full_like(hues, 200), np.full_like(hues, 230)], axis=-1)
            palette = cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0].tolist()
        self.palette = [tuple(int(c) for c in colour) for colour in palette]
        self.score_thr = score_thr
        self._visualizers = {}

    def compare(self, image: np.ndarray, sample: BaseDataElement) -> np.ndarray:
        """(H, W, 3) BGR -> image, truth and prediction side by side over a legend, BGR."""
        truth, shown_truth = self._overlay(image, sample, 'gt')
        prediction, shown_prediction = self._overlay(image, sample, 'pred')
        return self._with_legend(np.hstack([image, truth, prediction]), shown_truth | shown_prediction)

    def truth(self, image: np.ndarray, sample: BaseDataElement) -> np.ndarray:
        """(H, W, 3) BGR -> the image with the truth drawn, over a legend, BGR."""
        return self._with_legend(*self._overlay(image, sample, 'gt'))

    def paint(self, image: np.ndarray, sample: BaseDataElement, legend: bool = True) -> np.ndarray:
        """(H, W, 3) BGR -> the image with the prediction drawn, over a legend if asked for, BGR."""
        picture, shown = self._overlay(image, sample, 'pred')
        return self._with_legend(picture, shown) if legend else picture

    def _overlay(self, image: np.ndarray, sample: BaseDataElement, source: str) -> Tuple[np.ndarray, set]:
        """The image with the truth (gt) or the prediction (pred) drawn on it, and the class indices drawn without their
        name."""
        if f'{source}_panoptic_seg' in sample or f'{source}_instances' in sample:
            return self._by_mmdet(image, sample, source), set()
        if f'{source}_sem_seg' in sample:
            return self.overlay_labels(image, sample.get(f'{source}_sem_seg').data.squeeze(0).cpu().numpy())
        if f'{source}_label' in sample:
            return self._by_mmpretrain(image, sample, source), set()
        return image, set()

    def overlay_labels(self, image: np.ndarray, labels: np.ndarray) -> Tuple[np.ndarray, set]:
        """(H, W, 3) BGR, and (H, W) class indices, 255 and others without a class being none -> the image with the classes'
        colours, and which there are."""
        known = labels < len(self.classes)
        colours = np.array(self.palette, np.uint8)[:, ::-1][np.where(known, labels, 0)]
        blend = cv2.addWeighted(image, 0.4, colours, 0.6, 0)
        return np.where(known[..., None], blend, image), set(np.unique(labels[known]).tolist())

    def _by_mmdet(self, image: np.ndarray, sample: BaseDataElement, source: str) -> np.ndarray:
        from mmdet.visualization import DetLocalVisualizer

        visualizer = self._visualizer(DetLocalVisualizer)
        # It draws on RGB. Below 13 pixels a side matplotlib has no room for a figure.
        visualizer.add_datasample(
            'image',
            np.ascontiguousarray(image[..., ::-1]),
            sample,
            draw_gt=source == 'gt',
            draw_pred=source == 'pred',
            pred_score_thr=self.score_thr,
        )
        return np.ascontiguousarray(visualizer.get_image()[..., ::-1])

    def _by_mmpretrain(self, image: np.ndarray, sample: BaseDataElement, source: str) -> np.ndarray:
        from mmpretrain.visualization import UniversalVisualizer

        drawn = self._visualizer(UniversalVisualizer).visualize_cls(
            np.ascontiguousarray(image[..., ::-1]),
            sample,
            classes=self.classes,
            draw_gt=source == 'gt',
            draw_pred=source == 'pred',
        )
        return np.ascontiguousarray(drawn[..., ::-1])

    def _visualizer(self, kind: type):
        if kind not in self._visualizers:
            self._visualizers[kind] = kind()
            self._visualizers[kind].dataset_meta = dict(classes=self.classes, palette=self.palette)
        return self._visualizers[kind]

    def _with_legend(self, picture: np.ndarray, shown: set) -> np.ndarray:
        """The picture over rows of colour and class name, as many as fit into its width."""
        scale = min(max(picture.shape[0] / 600, 0.45), 2.0)
        line, pad = int(34 * scale), int(8 * scale)
        entries, x, y = [], pad, 0
        for label in sorted(shown):
            name = self.classes[label]
            width = int(cv2.getTextSize(name, _FONT, scale, 1)[0][0]) + line + 2 * pad
            if x + width > picture.shape[1] and x > pad:
                x, y = pad, y + line
            entries.append((label, name, x, y))
            x += width
        legend = np.full((y + line if entries else 0, picture.shape[1], 3), 255, np.uint8)
        for label, name, x, y in entries:
            side = line - 2 * pad
            cv2.rectangle(legend, (x, y + pad), (x + side, y + pad + side), self.palette[label][::-1], -1)
            cv2.putText(
                legend, name, (x + side + pad, y + line - pad - 1), _FONT, scale, (0, 0, 0), max(int(scale), 1), cv2.LINE_AA
            )
        return np.vstack([picture, legend])
