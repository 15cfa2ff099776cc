import cv2
import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from mmvitscale.errors import InputError
from mmvitscale.inference import ImageReader
from mmvitscale.inference.output import PredictOptions, Writer
from mmvitscale.inference.tiles import blended, merge_instances, predict_in_tiles, tiling

pytestmark = pytest.mark.unit


@pytest.mark.parametrize('length', [1, 63, 64, 65, 100, 128, 129, 500, 1000])
@pytest.mark.parametrize('overlap', [0, 1, 7, 16, 32])
def test_tiles_cover_an_axis_and_their_weights_sum_to_one(length, overlap):
    axis = tiling(length, 64, overlap)
    total = torch.zeros(length)
    for i, start in enumerate(axis.starts):
        first, stop = axis.region(i)
        assert start <= first <= stop <= start + axis.side and 0 <= start <= length - axis.side
        total[first:stop] += axis.weights(i)
    assert torch.allclose(total, torch.ones(length))
    shared = [a + axis.side - b for a, b in zip(axis.starts, axis.starts[1:])]
    assert all(n >= overlap for n in shared) and axis.side == min(64, length)


@pytest.mark.parametrize(
    'size, tile, overlap', [((150, 201), 64, 16), ((64, 300), 64, 32), ((40, 50), 64, 8), ((130, 130), 64, 0)]
)
def test_tiles_that_agree_give_the_whole_map(size, tile, overlap, tmp_path):
    whole = torch.rand(3, *size)
    rows, columns = tiling(size[0], tile, overlap), tiling(size[1], tile, overlap)
    scores = (whole[:, y : y + rows.side, x : x + columns.side] for y in rows.starts for x in columns.starts)
    found, covered = torch.zeros_like(whole), torch.zeros(size)
    for top, left, part in blended(rows, columns, scores, tmp_path):
        region = (slice(top, top + part.shape[1]), slice(left, left + part.shape[2]))
        found[(slice(None), *region)] = part
        covered[region] += 1
    assert torch.allclose(found, whole, atol=1e-6) and (covered == 1).all()


def test_scores_of_overlapping_tiles_are_blended_in_a_ramp(tmp_path):
    rows, columns = tiling(64, 64, 16), tiling(112, 64, 16)
    parts = {left: part for _, left, part in blended(rows, columns, [torch.zeros(1, 64, 64), torch.ones(1, 64, 64)], tmp_path)}
    line = torch.cat([parts[left][0, 5] for left in sorted(parts)])
    assert (line[:48] == 0).all() and (line[64:] == 1).all() and (line[48:64].diff() > 0).all()


def test_an_object_that_a_border_cuts_is_not_counted_twice():
    boxes = torch.tensor([[10.0, 10, 50, 50], [40, 10, 50, 50], [10, 10, 50, 50], [12, 12, 50, 50], [200, 200, 220, 220]])
    scores, labels = torch.tensor([0.6, 0.9, 0.8, 0.5, 0.1]), torch.tensor([0, 0, 1, 0, 0])
    tiles, cut = torch.tensor([0, 1, 1, 0, 0]), torch.tensor([False, True, False, False, False])
    # The better, but cut one goes; another class, another of the same tile, and one that stands alone stay.
    assert merge_instances(boxes, scores, labels, tiles, cut).tolist() == [0, 2, 3, 4]
    assert merge_instances(boxes, scores, labels, tiles, torch.zeros(5, dtype=torch.bool)).tolist() == [1, 2, 4]
    assert merge_instances(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0), torch.zeros(0), torch.zeros(0)).tolist() == []


class Segmenter:
    """Stands for a model whose classes are the three grey levels below 90, below 180 and above."""

    model = None
    dataset_meta = dict(classes=('dark', 'middle', 'light'))

    def __init__(self):
        self.read_image = ImageReader([dict(type='LoadImageFromFile')])
        self.seen = []

    def prepare(self, fields):
        return fields

    def predict(self, batch):
        return [self.sample(fields['img'][..., 0].astype(int)) for fields in batch]

    def sample(self, grey):
        self.seen.append(grey.shape)
        labels = torch.from_numpy(grey // 90)
        sample = BaseDataElement()
        logits = torch.nn.functional.one_hot(labels.clamp(max=2), 3).permute(2, 0, 1).float()
        sample.set_field(PixelData(data=logits), 'seg_logits', dtype=PixelData)
        return sample


class Detector(Segmenter):
    """Finds the bounding box of what is white in the image it gets, and a black box as large with another class."""

    def sample(self, grey):
        self.seen.append(grey.shape)
        white = grey == 255
        ys, xs = np.nonzero(white)
        box = [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]] if len(xs) else np.zeros((0, 4))
        instances = InstanceData(
            bboxes=torch.tensor(box, dtype=torch.float32),
            scores=torch.full((len(box),), 0.9),
            labels=torch.zeros(len(box), dtype=torch.long),
            masks=np.repeat(white[None], len(box), 0),
        )
        sample = BaseDataElement()
        sample.set_field(instances, 'pred_instances', dtype=InstanceData)
        return sample


def write_tiled(predictor, image, tmp_path, suffix='.tif', nodata=None, **options):
    path = tmp_path / f'a{suffix}'
    if suffix == '.tif':
        import rasterio

        place = rasterio.transform.from_origin(500000, 4000000, 0.5, 0.5)
        with rasterio.open(
            path,
            'w',
            driver='GTiff',
            height=image.shape[0],
            width=image.shape[1],
            count=1,
            dtype='uint8',
            crs='EPSG:32633',
            transform=place,
            tiled=True,
            nodata=nodata,
        ) as file:
            file.write(image, 1)
    else:
        cv2.imwrite(str(path), image)
    cfg = ConfigDict(default_scope='mmdet')
    writer = Writer(cfg, predictor, tmp_path / 'out', PredictOptions(tile=64, overlap=16, **options))
    (tmp_path / 'out').mkdir()
    predict_in_tiles(predictor, writer, path, 'a', path.name, 64, 16, 2)
    return writer


@pytest.mark.integration
@pytest.mark.parametrize('suffix', ['.tif', '.png'])
def test_tiled_label_maps_are_exact_and_keep_the_georeference(suffix, tmp_path):
    import rasterio

    grey = np.random.default_rng(0).integers(0, 255, (150, 2500), dtype=np.uint8)
    predictor = Segmenter()
    write_tiled(predictor, grey, tmp_path, suffix, save=['labels', 'json'])
    assert set(predictor.seen) == {(64, 64)}
    with rasterio.open(tmp_path / 'out/labels/a.tif') as file:
        assert np.array_equal(file.read(1), grey // 90) and file.profile['tiled']
        assert (file.crs == 'EPSG:32633' and file.transform.a == 0.5) == (suffix == '.tif')
    assert max(cv2.imread(str(tmp_path / 'out/a.png')).shape[:2]) == 2048
    assert 'dark' in (tmp_path / 'out/json/a.json').read_text()
    assert not list((tmp_path / 'out').glob('.*'))  # nothing is left of what waited


@pytest.mark.integration
def test_instances_of_tiles_are_joined_in_the_image(tmp_path):
    import json

    from pycocotools import mask as coco

    grey = np.zeros((150, 200), np.uint8)
    grey[30:55, 40:62] = 255  # in the first tile whole, cut in the second
    write_tiled(Detector(), grey, tmp_path, save=['json'])
    content = json.loads((tmp_path / 'out/json/a.json').read_text())
    assert (content['width'], content['height']) == (200, 150)
    (entry,) = content['annotations']
    assert entry['bbox'] == [40, 30, 22, 25]
    assert np.array_equal(coco.decode(entry['segmentation']), grey // 255)


@pytest.mark.integration
def test_invalid_tile_options_are_refused(tmp_path):
    for options in (dict(tile=16), dict(tile=64, overlap=40), dict(overlap=5), dict(tile=64, save=['scores'])):
        with pytest.raises(InputError, match='--tile'):
            PredictOptions(**options)
    with pytest.raises(InputError, match='save labels found, but this model does detection'):
        write_tiled(Detector(), np.zeros((100, 100), np.uint8), tmp_path, save=['labels'])


@pytest.mark.integration
def test_pixels_without_data_are_of_no_class_in_tiles(tmp_path):
    import json

    import rasterio

    grey = np.random.default_rng(0).integers(0, 255, (150, 200), dtype=np.uint8)
    grey[:70] = grey[:, 150:] = 200
    write_tiled(Segmenter(), grey, tmp_path, save=['labels', 'json'], nodata=200)
    with rasterio.open(tmp_path / 'out/labels/a.tif') as file:
        labels = file.read(1)
        assert file.nodata == 255 and len(set(file.colormap(1).values())) == 4 + (254 > 4)  # three classes, none, unused
    assert np.array_equal(labels, np.where(grey == 200, 255, grey // 90))
    shares = json.loads((tmp_path / 'out/json/a.json').read_text())['shares']
    assert sum(shares.values()) == pytest.approx(1) and shares['dark'] == (labels == 0).sum() / (labels != 255).sum()


@pytest.mark.integration
def test_instances_of_pixels_without_data_are_left_out_in_tiles(tmp_path):
    import json

    grey = np.zeros((150, 200), np.uint8)
    grey[30:55, 40:62] = 255
    write_tiled(Detector(), grey, tmp_path, save=['json'], nodata=255)
    assert json.loads((tmp_path / 'out/json/a.json').read_text())['annotations'] == []
