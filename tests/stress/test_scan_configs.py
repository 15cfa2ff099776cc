import pytest

from mmvitscale.datasets import checks
from tests.stress import scan_configs

pytestmark = pytest.mark.slow


@pytest.fixture
def nobodys_data(monkeypatch):
    for name in (
        '_check_folder',
        '_check_file',
        '_check_class_folders',
        '_check_coco_files',
        '_check_label_maps',
        '_check_folders_of_classes',
    ):
        monkeypatch.setattr(checks, name, getattr(checks, name))
    scan_configs.without_data()


@pytest.mark.parametrize('package', ['mmdet', 'mmseg'])
def test_configs_of_the_installed_packages_are_not_refused(package, nobodys_data):
    """Each 40th of ``python -m tests.stress.scan_configs``: what is refused lacks a package, a model or training data."""
    pytest.importorskip(package)
    paths = scan_configs.configs_of(package)
    passed, refused = scan_configs.scan(paths[7::40])
    assert passed > 10
    assert not [
        reason
        for _, reason in refused
        if not any(
            known in reason for known in ('needs the package', 'has no model', 'has no train_dataloader', 'does not exist')
        )
    ]


def test_configs_whose_heads_count_other_classes_are_accepted(nobodys_data):
    """Heads that count other classes than the data, of every kind."""
    pytest.importorskip('mmdet')
    names = (
        'faster-rcnn_r50_fpn_fcos-rpn_1x_coco',
        'grounding_dino_swin-t_finetune_16xb4_1x_coco',
        'qdtrack_faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_test-mot17halfval',
        'stdc1_4xb12-80k_cityscapes-512x1024',
        'san-vit-b16_voc12aug-640x640',
    )
    paths = [path for package in ('mmdet', 'mmseg') for path in scan_configs.configs_of(package) if path.stem in names]
    assert len(paths) == len(names)
    passed, refused = scan_configs.scan(paths)
    assert passed == len(names), refused
