"""Samples drawn for measurements that need a data set, with none there: images in files, of the sizes usual in ADE20K and COCO,
with what the data sets of mmsegmentation and mmdetection give to their pipelines."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mmvitscale.datasets.mini import CLASSES, Scene, draw_scene

# (height, width) of images: ADE20K's usual 4 : 3 and 3 : 2 with the shorter side it was scaled to, and COCO's.
_SIZES = {'segmentation': ((512, 683), (512, 768)), 'detection': ((480, 640), (427, 640))}
_SMALLEST = 200  # pixels of a mask


def draw_samples(folder: Path, count: int, task: str, classes: int) -> list[dict[str, Any]]:
    """Draw images and label maps into a folder. Equal arguments give equal files.

    Args:
        folder: an empty one.
        count: of images.
        task: 'segmentation' or 'detection', which decides their size.
        classes: labels are below it.

    Returns:
        What a data set gives to its pipeline for each image, but for ``reduce_zero_label``: paths, and of detection sizes and
        instances with boxes and polygons. Label maps begin with 1, so that they serve with and without a label of zero.
    """
    samples = []
    for number in range(count):
        rng = np.random.default_rng([number, classes])
        height, width = _SIZES[task][rng.integers(len(_SIZES[task]))]
        scene = draw_scene(width, rng)
        # Of each texture; none is 0, which is no class where a data set has reduce_zero_label, but for pixels without a label.
        labels = np.array([0, *(1 + rng.integers(max(classes - 1, 1), size=len(CLASSES)))]).clip(0, min(classes - 1, 255))
        image, label_map = folder / f'{number}.jpg', folder / f'{number}.png'
        cv2.imwrite(str(image), scene.image[:height])
        cv2.imwrite(str(label_map), labels.astype(np.uint8)[scene.labels[:height]])
        sample: dict[str, Any] = dict(img_path=str(image), seg_map_path=str(label_map), sample_idx=number)
        if task == 'segmentation':
            sample.update(label_map=None, seg_fields=[])
        else:
            sample.update(img_id=number, height=height, width=width, instances=_instances(scene, height, classes, rng))
        samples.append(sample)
    return samples


def _instances(scene: Scene, height: int, classes: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """As mmdetection's CocoDataset gives them."""
    found = []
    for instance in scene.instances:
        mask = instance.mask[:height]
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        polygons = [outline.ravel().astype(float).tolist() for outline in outlines if len(outline) > 2]
        if not polygons or mask.sum() < _SMALLEST:
            continue
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]
        found.append(dict(bbox=box, bbox_label=int(rng.integers(classes)), ignore_flag=0, mask=polygons))
    return found
