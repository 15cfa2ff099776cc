"""Images of any size predicted in tiles, in memory that depends on the tile alone.

Along an axis tiles of one size stand so that neighbours share at least ``overlap`` pixels. Around the middle of what they
share the weight goes over from one to the other in a ramp, and weights sum to 1 everywhere: at a seam no more than two tiles
meet along an axis. What a tile leaves to its right neighbour is kept; what it leaves to the tiles below, over the whole
width of the image, goes into files.
"""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from math import ceil
from pathlib import Path

import numpy as np
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import Tensor

from mmvitscale.datasets.coco_masks import encode_mask
from mmvitscale.errors import InputError
from mmvitscale.inference.nodata import without_empty
from mmvitscale.inference.output import Writer, write_json, write_picture
from mmvitscale.inference.predictor import Predictor
from mmvitscale.inference.rasters import Raster, label_raster, open_raster
from mmvitscale.inference.results import NOT_JOINED, not_predicted
from mmvitscale.utils.atomic_write import atomic_write

# The longer side of the drawn overview, in pixels.
_OVERVIEW = 2048


@dataclass(frozen=True)
class Tiling:
    """Tiles along an axis: where each starts, their side, and the length of the ramps in which neighbours are blended."""

    starts: tuple[int, ...]
    side: int
    length: int
    ramp: int

    def region(self, i: int) -> tuple[int, int]:
        """First pixel and end of what tile i has weight in."""
        first = self._ramp_start(i - 1) if i else 0
        stop = self._ramp_start(i) + self.ramp if i + 1 < len(self.starts) else self.length
        return first, stop

    def _ramp_start(self, i: int) -> int:
        """Where the ramp between tile i and the next starts: in the middle of what they share."""
        return (self.starts[i + 1] + self.starts[i] + self.side) // 2 - self.ramp // 2

    def weights(self, i: int) -> Tensor:
        """Of tile i, over its region."""
        first, stop = self.region(i)
        weights = torch.ones(stop - first)
        rising = (torch.arange(self.ramp) + 0.5) / max(self.ramp, 1)
        if i:
            weights[: self.ramp] = rising
        if i + 1 < len(self.starts) and self.ramp:
            weights[-self.ramp :] = 1 - rising
        return weights


def tiling(length: int, tile: int, overlap: int) -> Tiling:
    """As few tiles as there may be, evenly spaced; one where the axis is no longer than a tile."""
    if length <= tile:
        return Tiling((0,), length, length, 0)
    count = ceil((length - overlap) / (tile - overlap))
    starts = tuple(round(i * (length - tile) / (count - 1)) for i in range(count))
    return Tiling(starts, tile, length, min(overlap, *(b - a for a, b in zip(starts, starts[1:]))))


def blended(rows: Tiling, columns: Tiling, scores: Iterable[Tensor], folder: Path) -> Iterator[tuple[int, int, Tensor]]:
    """Scores (C, side, side) of all tiles, row after row -> (top, left, scores (C, h, w)) of parts that cover the image
    once.

    Args:
        folder: for what waits for the tiles below.
    """
    scores = iter(scores)
    for i in range(len(rows.starts)):
        top, bottom = rows.region(i)
        last_row = i + 1 == len(rows.starts)
        right = None
        for j in range(len(columns.starts)):
            left, stop = columns.region(j)
            y, x = rows.starts[i], columns.starts[j]
            part = next(scores)[:, top - y : bottom - y, left - x : stop - x].float()
            part = part * rows.weights(i)[:, None] * columns.weights(j)
            if right is not None:
                part[:, :, : columns.ramp] += right
            if j + 1 < len(columns.starts):
                part, right = part[:, :, : stop - left - columns.ramp], part[:, :, stop - left - columns.ramp :].clone()
            waiting = folder / f'{j}.npy'
            if i:
                part[:, : rows.ramp] += torch.from_numpy(np.load(waiting))
            if not last_row:
                part, below = part[:, : bottom - top - rows.ramp], part[:, bottom - top - rows.ramp :]
                np.save(waiting, below.numpy())
            yield top, left, part


def merge_instances(
    boxes: Tensor, scores: Tensor, labels: Tensor, tiles: Tensor, cut: Tensor, threshold: float = 0.5
) -> Tensor:
    """Which detections of all tiles stay: of two of a class from different tiles that share more than ``threshold`` of the
    smaller box, the whole one before one that a tile's border cuts, then the better one.

    What is compared is the share of the smaller box, since a cut box lies inside the whole one.

    Args:
        boxes: (n, 4) left, top, right, bottom in the image.
        scores, labels, tiles: (n,); tiles are the indices of those that they come from.
        cut: (n,) bool, whether the box touches a border of its tile inside the image.

    Returns:
        (m,) indices.
    """
    keep = torch.ones(len(boxes), dtype=torch.bool)
    areas = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)
    order = sorted(range(len(boxes)), key=lambda k: (bool(cut[k]), -float(scores[k])))
    for label in labels.unique().tolist():
        ranked = torch.tensor([k for k in order if labels[k] == label], dtype=torch.long)
        for place, k in enumerate(ranked.tolist()):
            if not keep[k]:
                continue
            others = ranked[place + 1 :]
            others = others[keep[others] & (tiles[others] != tiles[k])]
            shared = torch.minimum(boxes[others, 2:], boxes[k, 2:]) - torch.maximum(boxes[others, :2], boxes[k, :2])
            share = shared.clamp(min=0).prod(1) / torch.minimum(areas[others], areas[k]).clamp(min=1e-6)
            keep[others[share > threshold]] = False
    return keep.nonzero().flatten()


def predict_in_tiles(
    predictor: Predictor, writer: Writer, path: Path, name: str, file_name: str, tile: int, overlap: int, batch_size: int
) -> None:
    """Predict an image and write what the writer's options require: labels as tiled TIFF, instances as JSON, and an
    overview in which the longer side has at most 2048 pixels.

    Raises:
        InputError: for what cannot be read, or a model whose predictions cannot be joined.
    """
    with open_raster(path, predictor.read_image) as raster:
        rows, columns = (tiling(length, tile, overlap) for length in raster.size)
        samples = _samples(predictor, raster, path, rows, columns, batch_size)
        first = next(samples)
        has_logits = 'seg_logits' in first
        has_instances = 'pred_instances' in first and 'pred_panoptic_seg' not in first
        samples = chain([first], samples)
        del first  # its scores would stay for as long as the others come
        factor = max(*raster.size, _OVERVIEW) / _OVERVIEW
        small = (max(int(raster.size[0] / factor), 1), max(int(raster.size[1] / factor), 1))
        if has_logits:
            shown = _write_labels(predictor, writer, samples, raster, rows, columns, name, file_name, small)
        elif has_instances:
            shown = _write_instances(writer, path, samples, raster, rows, columns, name, file_name, factor)
        else:
            raise InputError(NOT_JOINED)
        if writer.options.pictures:
            write_picture(writer.out / f'{name}.png', writer.visualizer.paint(raster.overview(small), shown))


def _samples(
    predictor: Predictor, raster: Raster, path: Path, rows: Tiling, columns: Tiling, batch_size: int
) -> Iterator[BaseDataElement]:
    """Predictions of all tiles, row after row."""
    places = [(y, x) for y in rows.starts for x in columns.starts]
    for start in range(0, len(places), batch_size):
        batch = []
        for y, x in places[start : start + batch_size]:
            image = raster.read((y, x, rows.side, columns.side))
            size = image.shape[:2]
            batch.append(predictor.prepare(dict(img_path=str(path), img_id=0, img=image, img_shape=size, ori_shape=size)))
        try:
            samples = predictor.predict(batch)
        except RuntimeError as error:
            raise InputError(
                f'{path} cannot be predicted in tiles of {rows.side} x {columns.side} pixels '
                f'({str(error).splitlines()[0]}); try a smaller --tile or --batch-size'
            ) from error
        while samples:  # nothing is held that the next ones need the memory of
            yield samples.pop(0)


def _write_labels(
    predictor: Predictor,
    writer,
    samples: Iterator[BaseDataElement],
    raster: Raster,
    rows: Tiling,
    columns: Tiling,
    name: str,
    file_name: str,
    small: tuple[int, int],
) -> BaseDataElement:
    """Returns a sample with the labels of the overview."""
    results, request = writer.results, writer.options
    threshold = getattr(getattr(predictor.model, 'decode_head', None), 'threshold', None)
    # The pixel of the image that each pixel of the overview shows.
    shown_rows, shown_columns = (((np.arange(n) + 0.5) * length / n).astype(int) for n, length in zip(small, raster.size))
    shown, counts = np.zeros(small, np.int64), np.zeros(len(results.classes) + 1, np.int64)
    target = writer.out / 'labels' / f'{name}.tif'
    with tempfile.TemporaryDirectory(dir=writer.out, prefix='.tiles') as folder:

        def parts():
            maps = (sample.seg_logits.data for sample in samples)
            for top, left, scores in blended(rows, columns, maps, Path(folder)):
                labels = scores.argmax(0) if len(scores) > 1 else (scores[0].sigmoid() > threshold).long()
                labels = labels.numpy()
                empty = raster.empty((top, left, *labels.shape))
                if empty is not None:
                    labels[empty] = len(results.classes)
                nonlocal counts
                counts += np.bincount(labels.flatten(), minlength=len(counts))[: len(counts)]
                y, x = _within(shown_rows, top, labels.shape[0]), _within(shown_columns, left, labels.shape[1])
                shown[y, x] = labels[np.ix_(shown_rows[y] - top, shown_columns[x] - left)]
                yield top, left, results.label_values(labels)

        if 'labels' in request.save:
            kind = results.label_values(np.zeros((1, 1), np.int64)).dtype
            about = (raster.size, kind, raster.profile, results.no_class, writer.colours())
            with atomic_write(target) as part, label_raster(part, *about) as write:
                for top, left, labels in parts():
                    write(top, left, labels)
        else:
            for _ in parts():
                pass
    if 'json' in request.save:
        height, width = raster.size
        content = dict(file_name=file_name, width=width, height=height, shares=results.shares(counts.tolist()))
        write_json(writer.out / 'json' / f'{name}.json', content)
    sample = BaseDataElement()
    sample.set_field(PixelData(data=torch.from_numpy(shown)[None]), 'pred_sem_seg', dtype=PixelData)
    return sample


def _within(places: np.ndarray, start: int, length: int) -> slice:
    return slice(*(int(np.searchsorted(places, end)) for end in (start, start + length)))


def _write_instances(
    writer,
    path: Path,
    samples: Iterator[BaseDataElement],
    raster: Raster,
    rows: Tiling,
    columns: Tiling,
    name: str,
    file_name: str,
    factor: float,
) -> BaseDataElement:
    """Returns a sample with the boxes of the overview: masks of the size of the image would not fit."""
    height, width = raster.size
    places = [(y, x) for y in rows.starts for x in columns.starts]
    found: list[InstanceData] = []
    for number, ((y, x), sample) in enumerate(zip(places, samples)):
        if 'labels' in writer.options.save:
            raise not_predicted('labels', sample)
        without_empty(sample, raster.empty((y, x, rows.side, columns.side)), len(writer.results.classes))
        instances = sample.pred_instances
        boxes = instances.bboxes
        inner = torch.tensor([x > 0, y > 0, x + columns.side < width, y + rows.side < height])
        at_border = torch.cat([boxes[:, :2] <= 1, boxes[:, 2:] >= torch.tensor([columns.side, rows.side]) - 1], dim=1)
        kept = InstanceData(
            bboxes=boxes + torch.tensor([x, y, x, y]),
            scores=instances.scores,
            labels=instances.labels,
            tiles=torch.full((len(boxes),), number),
            cut=(at_border & inner).any(1),
        )
        if 'masks' in instances:
            kept.masks = [encode_mask(np.asarray(mask).astype(bool), (x, y), raster.size) for mask in instances.masks]
        found.append(kept)
    merged = InstanceData.cat(found)
    merged = merged[merge_instances(merged.bboxes, merged.scores, merged.labels, merged.tiles, merged.cut)]
    seen = merged[merged.cut & (merged.scores >= writer.options.score_thr)]
    if len(seen):
        side = int((seen.bboxes[:, 2:] - seen.bboxes[:, :2]).max())
        writer.notes.append(
            f'{path}: {len(seen)} objects end at the border of a tile, where a part may be missing; take an --overlap above '
            f'the largest object ({side} pixels or more), and a --tile of more than twice that'
        )
    sample = BaseDataElement()
    sample.set_field(merged, 'pred_instances', dtype=InstanceData)
    writer.data(sample, name, file_name, raster.size)
    drawn = InstanceData(bboxes=merged.bboxes / factor, scores=merged.scores, labels=merged.labels)
    sample.set_field(drawn, 'pred_instances', dtype=InstanceData)
    return sample
