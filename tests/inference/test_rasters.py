import cv2
import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image

from mmvitscale.errors import InputError
from mmvitscale.inference import ImageReader, rasters
from mmvitscale.inference.nodata import empty_pixels
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
        (np.dstack([COLOUR[..., ::-1], COLOUR[..., :1]]), dict(photometric='rgb', alpha='premultiplied')),
        (np.dstack([COLOUR[..., ::-1], COLOUR[..., :1]]), dict(photometric='rgb', alpha='unspecified')),
        (np.dstack([COLOUR, COLOUR[..., :1]]), dict(photometric='minisblack')),
        (COLOUR[..., :2], {}),
        (COLOUR[..., :1], dict(photometric='miniswhite')),
        (COLOUR[..., :1] // 128, dict(nbits=1)),
        (COLOUR[..., :1].astype(np.uint16) * 257, {}),
        (COLOUR[..., ::-1].astype(np.int16) * 100, dict(photometric='rgb')),
        (COLOUR[..., ::-1], dict(interleave='band', nodata=7)),
    ],
)
def test_a_raster_window_equals_the_crop_of_the_loaded_image(image, options, tmp_path):
    path, reader = write(tmp_path / 'a.tif', image, **options), ImageReader(LOADER)
    expected = reader(path)  # the whole, by the config's own loader
    with open_raster(path, reader) as raster:
        assert raster.size == (40, 60)
        window = raster.read((10, 20, 15, 30))
        assert np.array_equal(window, expected[10:25, 20:50]) and window.dtype == expected.dtype
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
        assert window.dtype == np.float32
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


@pytest.mark.parametrize('orientation', range(1, 9))
def test_the_orientation_tag_turns_windows_as_it_turns_the_whole_image(orientation, tmp_path):
    path, reader = tmp_path / 'a.tif', ImageReader(LOADER)
    tifffile.imwrite(path, COLOUR[..., ::-1], photometric='rgb', extratags=[(274, 'H', 1, orientation, True)])
    whole = reader(path)
    with open_raster(path, reader) as raster:
        assert raster.size == whole.shape[:2] == ((60, 40) if orientation > 4 else (40, 60))
        assert np.array_equal(raster.read((10, 20, 25, 17)), whole[10:35, 20:37])
        assert np.array_equal(raster.overview(raster.size), whole)
        column, row = (int(value) for value in raster.profile['transform'] @ (5.5, 3.5))  # the place of a shown pixel
        assert np.array_equal(whole[3, 5], COLOUR[row, column])


def test_numbers_that_are_no_image_are_refused_alike_whole_and_in_windows(tmp_path):
    reader, many = ImageReader(LOADER), np.zeros((40, 60, 5), np.uint8)
    holes = np.random.default_rng(0).random((40, 60, 3)).astype(np.float32)
    holes[0, 0] = np.nan
    multispectral = ImageReader([dict(type='mmvitscale.LoadMultispectralImage')])
    for image, own, says in (
        (holes, reader, 'a.tif holds float32 numbers, but images have integers of 8 or 16 bits'),
        (many.astype(np.uint32)[..., :3], reader, 'a.tif holds uint32 numbers'),
        (many, reader, 'a.tif holds 5 channels'),
        (holes, multispectral, 'a.tif holds infinities, NaN'),
    ):
        path = write(tmp_path / 'a.tif', image)
        with pytest.raises(InputError, match=says):
            own.read(path)
        with pytest.raises(InputError, match=says), open_raster(path, own) as raster:
            raster.read((0, 0, 20, 20))


def test_images_are_given_to_tiles_as_the_config_loads_them(tmp_path):
    reader = ImageReader([dict(type='LoadImageFromFile', color_type='grayscale', to_float32=True)])
    for path in (write(tmp_path / 'a.tif', COLOUR[..., ::-1]), tmp_path / 'a.png'):
        if path.suffix == '.png':
            cv2.imwrite(str(path), COLOUR)
        whole = reader.read(path)[0]['img']
        with open_raster(path, reader) as raster:
            window = raster.read((10, 20, 15, 30))
        assert window.dtype == np.float32 and np.array_equal(window, whole[10:25, 20:50])


def test_pixels_without_data_are_empty_whole_and_in_windows(tmp_path):
    reader = ImageReader(LOADER)
    image = COLOUR[..., ::-1].copy()
    image[:12] = image[:, 50:] = 9
    empty = (image == 9).all(-1)
    alpha = np.dstack([image, np.where(empty, 0, 255).astype(np.uint8)])
    for made, options in ((image, dict(nodata=9)), (alpha, dict(photometric='rgb', alpha='yes'))):
        path = write(tmp_path / 'a.tif', made, **options)
        with open_raster(path, reader) as raster:
            assert np.array_equal(raster.empty((5, 40, 20, 20)), empty[5:25, 40:])
        assert np.array_equal(empty_pixels(path, (40, 60), reader), empty)
    path = write(tmp_path / 'a.tif', image)
    with open_raster(path, reader) as raster:
        assert raster.empty((5, 40, 20, 20)) is None
    cv2.imwrite(str(tmp_path / 'a.png'), cv2.cvtColor(alpha, cv2.COLOR_RGBA2BGRA))
    with open_raster(tmp_path / 'a.png', reader) as raster:
        assert np.array_equal(raster.empty((5, 40, 20, 20)), empty[5:25, 40:])


def test_label_rasters_have_nodata_and_colours(tmp_path):
    labels = np.array([[0, 1], [255, 1]], np.uint8)
    colours = {0: (1, 2, 3, 255), 1: (4, 5, 6, 255), 255: (0, 0, 0, 0)}
    with label_raster(tmp_path / 'a.tif', (2, 2), labels.dtype, {}, 255, colours) as store:
        store(0, 0, labels)
    with rasterio.open(tmp_path / 'a.tif') as file:
        assert file.nodata == 255 and file.colormap(1)[1] == (4, 5, 6, 255) and np.array_equal(file.read(1), labels)
    assert np.array_equal(np.asarray(Image.open(tmp_path / 'a.tif')), labels)  # as mmsegmentation reads label maps
    with label_raster(tmp_path / 'b.tif', (2, 2), np.dtype(np.uint16), {}, 65535, colours) as store:
        store(0, 0, labels.astype(np.uint16))
    with rasterio.open(tmp_path / 'b.tif') as file:
        assert file.nodata == 65535 and np.array_equal(file.read(1), labels)
