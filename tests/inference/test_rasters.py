import cv2
import numpy as np
import pytest
import rasterio
import tifffile

from mmvitscale.errors import InputError
from mmvitscale.inference import ImageReader, rasters
from mmvitscale.inference.rasters import label_raster, open_raster

pytestmark = pytest.mark.integration

COLOUR = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)  # BGR
LOADER = [dict(type='LoadImageFromFile')]


def write(path, image, **options):
    """(H, W, bands)"""
    with rasterio.open(
        path,
        'w',
        driver='GTiff',
        height=image.shape[0],
        width=image.shape[1],
        count=image.shape[2],
        dtype=image.dtype,
        **options,
    ) as file:
        file.write(np.moveaxis(image, -1, 0))
    return path


@pytest.mark.parametrize(
    'image, options',
    [
        (COLOUR[..., ::-1], {}),
        (COLOUR[..., :1], {}),
        (np.dstack([COLOUR[..., ::-1], COLOUR[..., :1]]), {}),
        (COLOUR[..., ::-1].astype(np.uint16) * 257, dict(photometric='rgb')),
    ],
)
def test_a_raster_window_equals_the_crop_of_the_loaded_image(image, options, tmp_path):
    path, reader = write(tmp_path / 'a.tif', image, **options), ImageReader(LOADER)
    expected = reader(path)  # the whole, by the config's own loader
    with open_raster(path, reader) as raster:
        assert raster.size == (40, 60)
        assert np.array_equal(raster.read((10, 20, 15, 30)), expected[10:25, 20:50])
        assert raster.overview((20, 30)).shape == (20, 30, 3)


def test_palette_rasters_are_read_as_their_colours(tmp_path):
    path = tmp_path / 'a.tif'
    with rasterio.open(path, 'w', driver='GTiff', height=2, width=2, count=1, dtype='uint8', photometric='palette') as file:
        file.write(np.array([[0, 1], [1, 2]], np.uint8), 1)
        file.write_colormap(1, {0: (255, 0, 0, 255), 1: (0, 255, 0, 255), 2: (1, 2, 3, 255)})
    with open_raster(path, ImageReader(LOADER)) as raster:
        assert raster.read((0, 0, 2, 2)).tolist() == [[[0, 0, 255], [0, 255, 0]], [[0, 255, 0], [3, 2, 1]]]


def test_raster_windows_have_the_channels_of_the_config(tmp_path):
    image = np.random.default_rng(0).random((10, 12, 5)).astype(np.float32)
    reader = ImageReader([dict(type='mmvitscale.LoadMultispectralImage', channels=[4, 0, 2])])
    with open_raster(write(tmp_path / 'a.tif', image), reader) as raster:
        window = raster.read((2, 3, 5, 6))
        assert np.array_equal(window, image[2:7, 3:9][..., [4, 0, 2]])
        assert np.array_equal(reader.from_array(window, 'a')[0]['img'], window)
    with (
        pytest.raises(InputError, match='has 2 channels'),
        open_raster(write(tmp_path / 'b.tif', image[..., :2]), reader) as raster,
    ):
        raster.read((0, 0, 5, 5))


def test_other_image_files_are_read_and_damaged_ones_refused(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), COLOUR)
    with open_raster(tmp_path / 'a.png', ImageReader(LOADER)) as raster:
        assert np.array_equal(raster.read((1, 2, 3, 4)), COLOUR[1:4, 2:6]) and raster.profile == {}
    (tmp_path / 'broken.tif').write_bytes(b'no image')
    with (
        pytest.raises(InputError, match='broken.tif cannot be read as an image'),
        open_raster(tmp_path / 'broken.tif', ImageReader(LOADER)),
    ):
        pass
    whole = write(tmp_path / 'cut.tif', np.repeat(COLOUR, 50, 0), compress='deflate')
    whole.write_bytes(whole.read_bytes()[: len(whole.read_bytes()) // 2])
    with pytest.raises(InputError, match='cut.tif cannot be read'), open_raster(whole, ImageReader(LOADER)) as raster:
        raster.read((0, 0, 2000, 60))


@pytest.mark.parametrize('there', [True, False])
def test_label_rasters_written_in_parts_equal_the_label_map(there, monkeypatch, tmp_path):
    monkeypatch.setattr(rasters, 'has_rasterio', lambda: there)
    labels = np.random.default_rng(0).integers(0, 300, (50, 70)).astype(np.uint16)
    with label_raster(tmp_path / 'a.tif', (50, 70), labels.dtype, {}) as store:
        for top in range(0, 50, 20):
            for left in range(0, 70, 33):
                store(top, left, labels[top : top + 20, left : left + 33])
    assert np.array_equal(tifffile.imread(tmp_path / 'a.tif'), labels)
    with tifffile.TiffFile(tmp_path / 'a.tif') as file:
        assert file.pages[0].is_tiled == there
