"""Predictions drawn on their image."""

from collections.abc import Sequence

import cv2
import numpy as np
from mmengine.structures import BaseDataElement, InstanceData

from mmvitscale.inference.text import draw_text, fit_text, font_families, text_mask

# The size of text of scale 1, in pixels.
_EM = 29


class Visualizer:
    """Draws data samples: semantic maps, panoptic maps and instances over a legend of the classes in sight, and classes of
    images by mmpretrain's visualizer.

    mmdetection's visualizer draws through matplotlib, in fifty times the time (seconds for an image with masks: more
    than most models need to find them), and mmsegmentation's blackens pixels without a label and writes names over regions.

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
        """(H, W, 3) BGR -> image, ground truth and prediction side by side over a legend, BGR."""
        ground_truth, shown_ground_truth = self._overlay(image, sample, 'gt')
        prediction, shown_prediction = self._overlay(image, sample, 'pred')
        return self._with_legend(np.hstack([image, ground_truth, prediction]), shown_ground_truth | shown_prediction)

    def ground_truth(self, image: np.ndarray, sample: BaseDataElement) -> np.ndarray:
        """(H, W, 3) BGR -> the image with the ground truth drawn, over a legend, BGR."""
        return self._with_legend(*self._overlay(image, sample, 'gt'))

    def paint(self, image: np.ndarray, sample: BaseDataElement, legend: bool = True) -> np.ndarray:
        """(H, W, 3) BGR -> the image with the prediction drawn, over a legend if asked for, BGR."""
        picture, shown = self._overlay(image, sample, 'pred')
        return self._with_legend(picture, shown) if legend else picture

    def _overlay(self, image: np.ndarray, sample: BaseDataElement, source: str) -> tuple[np.ndarray, set]:
        """The image with the ground truth (gt) or the prediction (pred) drawn on it, and the class indices for the legend."""
        if f'{source}_panoptic_seg' in sample:
            return self._panoptic(image, sample.get(f'{source}_panoptic_seg').sem_seg.squeeze(0).cpu().numpy())
        if f'{source}_instances' in sample:
            return self._instances(image, sample.get(f'{source}_instances'))
        if f'{source}_sem_seg' in sample:
            return self.overlay_labels(image, sample.get(f'{source}_sem_seg').data.squeeze(0).cpu().numpy())
        if f'{source}_label' in sample:
            return self._by_mmpretrain(image, sample, source), set()
        return image, set()

    def overlay_labels(self, image: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, set]:
        """(H, W, 3) BGR, and (H, W) class indices, 255 and others without a class being none -> the image with the classes'
        colours, and which there are."""
        known = labels < len(self.classes)
        colours = np.array(self.palette, np.uint8)[:, ::-1][np.where(known, labels, 0)]
        blend = cv2.addWeighted(image, 0.4, colours, 0.6, 0)
        return np.where(known[..., None], blend, image), set(np.unique(labels[known]).tolist())

    def _panoptic(self, image: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, set]:
        """(H, W) category + 1000 segment, as mmdetection has it: colours of the categories, segments framed in white."""
        picture, shown = self.overlay_labels(image, ids % 1000)
        edges = np.zeros(ids.shape, bool)
        edges[1:] |= ids[1:] != ids[:-1]
        edges[:, 1:] |= ids[:, 1:] != ids[:, :-1]
        picture[edges] = 255
        return picture, shown

    def _instances(self, image: np.ndarray, instances: InstanceData) -> tuple[np.ndarray, set]:
        """The image with masks, boxes, classes and scores, the best on top, and which classes there are."""
        picture = image.copy()
        instances = instances.cpu().numpy()
        if 'scores' in instances:
            instances = instances[instances.scores >= self.score_thr]
            instances = instances[instances.scores.argsort(kind='stable')]
        masks = instances.get('masks', [])
        masks = masks.to_ndarray() if hasattr(masks, 'to_ndarray') else masks  # mmdet keeps the ground truth's packed
        for mask, label in zip(masks, instances.labels):
            mask, colour = np.asarray(mask).astype(bool), np.array(self.palette[label][::-1])
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            if len(rows):
                part = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
                inside = mask[part]
                picture[part][inside] = (0.5 * picture[part][inside] + 0.5 * colour).astype(np.uint8)
                outline, _ = cv2.findContours(
                    inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(int(columns[0]), int(rows[0]))
                )
                cv2.drawContours(picture, outline, -1, (255, 255, 255), 1, cv2.LINE_AA)
        size = round(_EM * min(max(image.shape[0] / 1200, 0.45), 1.5))
        for i, (box, label) in enumerate(zip(np.asarray(instances.bboxes), instances.labels)):
            left, top, right, bottom = (int(round(float(v))) for v in box)
            colour = self.palette[label][::-1]
            cv2.rectangle(picture, (left, top), (right, bottom), colour, 2)
            score = f' {instances.scores[i]:.2f}' if 'scores' in instances else ''
            room = picture.shape[1] - text_mask(score, size).shape[1] * bool(score)
            text = fit_text(self.classes[label], size, room) + score
            height, width = text_mask(text, size).shape
            # Above the box where there is room, and inside the picture.
            left, top = max(min(left, picture.shape[1] - width), 0), max(top - height, 0)
            cv2.rectangle(picture, (left, top), (left + width, top + height), colour, -1)
            draw_text(picture, text, (left, top), size, (255,) * 3 if sum(colour) < 380 else (0, 0, 0))
        return picture, set(instances.labels.tolist())

    def _by_mmpretrain(self, image: np.ndarray, sample: BaseDataElement, source: str) -> np.ndarray:
        from mmpretrain.visualization import UniversalVisualizer

        drawn = self._visualizer(UniversalVisualizer).visualize_cls(
            np.ascontiguousarray(image[..., ::-1]),
            sample,
            classes=self.classes,
            draw_gt=source == 'gt',
            draw_pred=source == 'pred',
            text_cfg=dict(family=font_families(''.join(self.classes)), parse_math=False),
        )
        return np.ascontiguousarray(drawn[..., ::-1])

    def _visualizer(self, kind: type):
        if kind not in self._visualizers:
            self._visualizers[kind] = kind()
            self._visualizers[kind].dataset_meta = dict(classes=self.classes, palette=self.palette)
        return self._visualizers[kind]

    def _with_legend(self, picture: np.ndarray, shown: set) -> np.ndarray:
        """The picture over rows of colour and class name, as many as fit into its width."""
        size = round(_EM * min(max(picture.shape[0] / 600, 0.45), 2.0))
        line, pad = text_mask('', size).shape[0] + size // 2, size // 4
        side = line - 2 * pad
        entries, x, y = [], pad, 0
        for label in sorted(shown):
            name = fit_text(self.classes[label], size, picture.shape[1] - side - 3 * pad)
            width = text_mask(name, size).shape[1] + side + 3 * pad
            if x + width > picture.shape[1] and x > pad:
                x, y = pad, y + line
            entries.append((label, name, x, y))
            x += width
        legend = np.full((y + line if entries else 0, picture.shape[1], 3), 255, np.uint8)
        for label, name, x, y in entries:
            cv2.rectangle(legend, (x, y + pad), (x + side, y + pad + side), self.palette[label][::-1], -1)
            draw_text(legend, name, (x + side + pad, y + size // 4), size, (0, 0, 0))
        return np.vstack([picture, legend])
