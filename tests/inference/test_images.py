import cv2
import numpy as np
import pytest

from mmvitscale.errors import InputError
from mmvitscale.inference import ImageReader, list_images
from mmvitscale.inference.images import find_files, frames_of

pytestmark = pytest.mark.unit

COLOUR = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
DEEP = np.random.default_rng(0).integers(0, 2**16, (8, 6, 3), dtype=np.uint16)
LOADER = [dict(type='LoadImageFromFile')]


def test_images_are_found_at_any_depth(tmp_path):
    for name in ('b.png', 'sub/a.JPG', 'sub/notes.txt', '.hidden/c.png', '._d.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('')
    assert [str(path.relative_to(tmp_path)) for path in list_images(str(tmp_path))] == ['b.png', 'sub/a.JPG']


@pytest.mark.parametrize('image', [COLOUR[..., 0], cv2.cvtColor(COLOUR, cv2.COLOR_BGR2BGRA), DEEP])
def test_images_are_read_as_the_config_pipeline_loads_them(image, tmp_path):
    from mmcv.transforms import LoadImageFromFile

    path = tmp_path / 'a.png'
    cv2.imwrite(str(path), image)
    expected = LoadImageFromFile()(dict(img_path=str(path)))['img']
    fields, picture = ImageReader(LOADER).read(path)
    assert np.array_equal(fields['img'], expected) and fields['img'].shape == (8, 6, 3)
    assert np.array_equal(picture, expected)
    from_memory = ImageReader(LOADER).from_array(image, path)  # as tiles and frames are
    assert np.array_equal(from_memory[0]['img'], expected) and from_memory[0]['ori_shape'] == (8, 6)


def test_float_grey_images_give_8_bit_three_channel_pictures(tmp_path):
    path = tmp_path / 'a.png'
    cv2.imwrite(str(path), COLOUR[..., 0])
    reader = ImageReader([dict(type='LoadImageFromFile', color_type='unchanged', to_float32=True)])
    fields, picture = reader.read(path)
    grey = ImageReader([dict(type='LoadImageFromFile', color_type='grayscale')])
    assert grey.from_array(COLOUR, path)[0]['img'].shape == (8, 6)  # frames of videos
    assert fields['img'].dtype == np.float32 and picture.shape == (8, 6, 3) and picture.dtype == np.uint8
    assert np.array_equal(picture[..., 2], COLOUR[..., 0])


def test_unreadable_images_and_videos_are_refused(tmp_path):
    (tmp_path / 'broken.jpg').write_bytes(b'no image')
    with pytest.raises(InputError, match='broken.jpg cannot be read as an image'):
        ImageReader(LOADER)(tmp_path / 'broken.jpg')
    with pytest.raises(InputError, match='nothing.png is not there'):
        ImageReader(LOADER)(tmp_path / 'nothing.png')
    (tmp_path / 'broken.mp4').write_bytes(b'no video')
    with pytest.raises(InputError, match='cannot be read as a video'):
        frames_of(tmp_path / 'broken.mp4')


def test_links_to_folders_are_followed_but_not_back(tmp_path):
    for name in ('d/a.png', 'd/._a.png', 'd/.hidden/b.png', 'other/b.png', 'other/deep/c.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('')
    (tmp_path / 'd/link').symlink_to(tmp_path / 'other')
    (tmp_path / 'd/self').symlink_to(tmp_path / 'd')
    (tmp_path / 'd/up').symlink_to(tmp_path)
    (tmp_path / 'other/back').symlink_to(tmp_path / 'd')
    (tmp_path / 'other/deep/up').symlink_to('..')
    (tmp_path / 'd/one.png').symlink_to(tmp_path / 'other/b.png')
    (tmp_path / 'd/broken.png').symlink_to(tmp_path / 'nobody.png')
    found = [str(path.relative_to(tmp_path)) for path in list_images(str(tmp_path / 'd'))]
    assert found == ['d/a.png', 'd/link/b.png', 'd/link/deep/c.png', 'd/one.png']


def test_a_folder_that_cannot_be_read_is_reported(tmp_path, monkeypatch):
    import os

    (tmp_path / 'shut').mkdir()
    (tmp_path / 'a.png').write_text('')
    scan = os.scandir

    def scandir(path):
        if str(path).endswith('shut'):
            raise PermissionError(13, 'Permission denied', str(path))
        return scan(path)

    monkeypatch.setattr(os, 'scandir', scandir)
    found = find_files(str(tmp_path))
    assert [path.name for path in found.files] == ['a.png']
    assert found.failures == [f'folder {tmp_path}/shut cannot be read (Permission denied); correct its rights']
    with pytest.raises(InputError, match='shut cannot be read'):
        list_images(str(tmp_path / 'shut'))
