import numpy as np
import pytest
import tifffile
import torch
from mmengine.registry import TRANSFORMS

from mmvitscale.datasets import mini
from mmvitscale.datasets.multispectral import LoadMultispectralImage, NormalizeChannels, read_channels
from mmvitscale.errors import InputError
from mmvitscale.inference import ImageReader, list_images
from tests.helpers.commands import ROOT

pytestmark = pytest.mark.unit

IMAGE = np.random.default_rng(0).integers(0, 2000, (20, 30, 5), dtype=np.uint16)


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32])
def test_layouts_on_disk_give_the_same_image(dtype, tmp_path):
    image = (IMAGE % 200).astype(dtype)
    tifffile.imwrite(tmp_path / 'contiguous.tif', image, planarconfig='contig', photometric='minisblack')
    tifffile.imwrite(tmp_path / 'planar.tif', np.moveaxis(image, -1, 0), planarconfig='separate', photometric='minisblack')
    tifffile.imwrite(tmp_path / 'pages.tiff', np.moveaxis(image, -1, 0), photometric='minisblack', metadata=dict(axes='CYX'))
    np.save(tmp_path / 'last.npy', image)
    np.save(tmp_path / 'first.npy', np.moveaxis(image, -1, 0))
    for name in ('contiguous.tif', 'planar.tif', 'pages.tiff', 'last.npy'):
        found = read_channels(tmp_path / name)
        assert found.dtype == dtype and np.array_equal(found, image), name
    assert np.array_equal(read_channels(tmp_path / 'first.npy', channel_axis=0), image)
    np.save(tmp_path / 'single.npy', image[..., 0])
    assert read_channels(tmp_path / 'single.npy').shape == (20, 30, 1)


def test_the_pipeline_loads_channels_and_normalises_each(tmp_path):
    np.save(tmp_path / 'a.npy', IMAGE)
    load = TRANSFORMS.build(dict(type='mmvitscale.LoadMultispectralImage', channels=5))
    results = load(dict(img_path=str(tmp_path / 'a.npy')))
    assert results['img'].dtype == np.float32 and np.array_equal(results['img'], IMAGE)
    assert results['img_shape'] == results['ori_shape'] == (20, 30)
    mean, std = IMAGE.reshape(-1, 5).mean(0), IMAGE.reshape(-1, 5).std(0)
    normalised = TRANSFORMS.build(dict(type='mmvitscale.NormalizeChannels', mean=mean, std=std))(results)['img']
    assert np.allclose(normalised.reshape(-1, 5).mean(0), 0, atol=1e-4)
    assert np.allclose(normalised.reshape(-1, 5).std(0), 1, atol=1e-4)
    some = LoadMultispectralImage(channels=[4, 0])(dict(img_path=str(tmp_path / 'a.npy')))['img']
    assert np.array_equal(some, IMAGE[..., [4, 0]])


def test_pictures_show_three_channels(tmp_path):
    np.save(tmp_path / 'small.npy', (IMAGE % 200).astype(np.uint8))
    reader = ImageReader([dict(type='mmvitscale.LoadMultispectralImage', show=(3, 1, 0))])
    assert np.array_equal(reader(tmp_path / 'small.npy'), (IMAGE % 200)[..., [0, 1, 3]])  # BGR
    np.save(tmp_path / 'wide.npy', IMAGE)
    picture = reader(tmp_path / 'wide.npy')
    assert picture.dtype == np.uint8 and picture.min() == 0 and picture.max() == 255 and 100 < picture.mean() < 155
    assert [path.name for path in list_images(str(tmp_path), reader.suffixes)] == ['small.npy', 'wide.npy']


def test_invalid_images_and_options_are_refused_with_the_reason(tmp_path):
    np.save(tmp_path / 'a.npy', IMAGE)
    np.save(tmp_path / 'text.npy', np.array(['a']))
    np.save(tmp_path / 'four.npy', IMAGE[None])
    np.save(tmp_path / 'empty.npy', IMAGE[:0])
    np.save(tmp_path / 'nan.npy', np.full((4, 4, 4), np.nan, np.float32))
    np.save(tmp_path / 'objects.npy', np.array([{}]), allow_pickle=True)
    np.save(tmp_path / 'beyond.npy', np.full((4, 4, 4), 1e300))
    np.save(tmp_path / 'complex.npy', np.full((4, 4, 4), 1j))
    with open(tmp_path / 'archive.npy', 'wb') as file:
        np.savez(file, a=IMAGE)
    (tmp_path / 'cut.tif').write_bytes(b'II*\0')
    for name, message in (
        ('cut.tif', 'cannot be read as an image'),
        ('text.npy', 'an image has rows'),
        ('four.npy', 'an image has rows'),
        ('empty.npy', 'an image has rows'),
        ('nan.npy', 'holds infinities, NaN'),
        ('objects.npy', 'cannot be read as an image'),
        ('nowhere.tif', 'is not there'),
        ('archive.npy', 'cannot be read as an image'),
        ('beyond.npy', 'holds infinities, NaN or numbers beyond'),
        ('complex.npy', 'an image has rows'),
    ):
        with pytest.raises(InputError, match=message):
            read_channels(tmp_path / name)
    for options, message in (
        (dict(channels=4), 'has 5 channels, but the config says 4'),
        (dict(channels=[0, 5]), r'has 5 channels, but the config takes \[0, 5\]'),
    ):
        with pytest.raises(InputError, match=message):
            LoadMultispectralImage(**options).read(tmp_path / 'a.npy')
    with pytest.raises(InputError, match=r'pictures are to show \[0, 1, 7\]'):
        ImageReader([dict(type='LoadMultispectralImage', show=(0, 1, 7))])(tmp_path / 'a.npy')
    for show in ((0, 1), 3, 'rgb', (0, -1, 2), (0, 1, 1.5)):
        with pytest.raises(InputError, match='pictures show three channels'):
            LoadMultispectralImage(show=show)
    for channels in ('4', 5.0, [], [0, 1.5], 0, [-1]):
        with pytest.raises(InputError, match='it is how many there are, or a list of which to take'):
            LoadMultispectralImage(channels=channels)
    for mean, std in (([0.0], [1.0, 2.0]), (0.5, 0.5), (['a'], ['b']), ([0.0], [0.0]), ([float('nan')], [1.0])):
        with pytest.raises(InputError, match='both have one number per channel'):
            NormalizeChannels(mean, std)
    with pytest.raises(InputError, match='has 5 channels, but NormalizeChannels has 4 means'):
        NormalizeChannels([0.0] * 4, [1.0] * 4)(dict(img=IMAGE, img_path='a.npy'))


def test_depth_adds_rgbd_images_and_leaves_the_other_files_unchanged(tmp_path):
    plain = mini.write_dataset(tmp_path / 'plain', 1, 1, 64)
    deep = mini.write_dataset(tmp_path / 'deep', 1, 1, 64, depth=True)
    again = mini.write_dataset(tmp_path / 'again', 1, 1, 64, depth=True)
    for path in (path for path in plain.rglob('*') if path.is_file() and path.name != 'mini.json'):
        assert path.read_bytes() == (deep / path.relative_to(plain)).read_bytes()  # the same scenes
    files = sorted(path.relative_to(deep) for path in deep.rglob('*.tif'))
    assert len(files) == 2
    for name in files:
        assert (deep / name).read_bytes() == (again / name).read_bytes()
    scene = mini.draw_scene(64, np.random.default_rng([0, 0, 0]))
    image = read_channels(deep / 'ADEChallengeData2016/rgbd/training/scene_00000.tif')
    assert np.array_equal(image, np.dstack([scene.image[..., ::-1], scene.depth]))
    inside = np.any([instance.mask for instance in scene.instances], axis=0)
    assert scene.depth[inside].mean() < scene.depth[~inside].mean() - 10


@pytest.mark.integration
def test_a_detector_takes_four_channels(tmp_path):
    """Its data preprocessor takes no other mean than of 1 or 3, so the pipeline normalises."""
    from mmengine.dataset import Compose, pseudo_collate
    from mmengine.registry import MODELS, init_default_scope

    from mmvitscale.config.loading import load_config

    cfg = load_config(str(ROOT / 'configs/mini/swinv2_retinanet_mini.py'))
    init_default_scope('mmdet')
    cfg.model.backbone.in_channels = 4
    cfg.model.data_preprocessor.update(mean=None, std=None, bgr_to_rgb=False)
    model = MODELS.build(cfg.model).eval()
    np.save(tmp_path / 'a.npy', IMAGE[..., :4])
    pipeline = Compose(
        [
            dict(type='mmvitscale.LoadMultispectralImage', channels=4),
            dict(type='mmvitscale.NormalizeChannels', mean=[1000.0] * 4, std=[500.0] * 4),
            dict(type='Resize', scale=(96, 64), keep_ratio=True),
            dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
        ]
    )
    with torch.no_grad():
        (result,) = model.test_step(pseudo_collate([pipeline(dict(img_path=str(tmp_path / 'a.npy'), img_id=0))]))
    assert result.pred_instances.bboxes.isfinite().all()
