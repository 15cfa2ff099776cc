import subprocess
import sys

import pytest

from mmvitscale.config import runtime
from mmvitscale.errors import InputError
from tests.helpers.loaded import load

pytestmark = pytest.mark.integration

BLOCKED = """
import sys
sys.modules['torchvision'] = None  # an import of it fails
from mmengine.registry import MODELS, init_default_scope
import mmvitscale
cfg = mmvitscale.load_config({config!r}, {{'model.backbone.init_cfg': None}})
from mmvitscale.config.runtime import check_packages
check_packages(cfg)
init_default_scope(cfg.default_scope)
print(type(MODELS.build(cfg.model)).__name__)
"""


@pytest.mark.slow
@pytest.mark.parametrize('config, model', [('swinv2_upernet_ade20k', 'EncoderDecoder'), ('swinv2_retinanet_coco', 'RetinaNet')])
def test_segmentation_and_detection_do_not_need_torchvision(config, model):
    result = subprocess.run([sys.executable, '-c', BLOCKED.format(config=config)], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1:] == [model], result.stderr


def test_missing_torchvision_is_reported_with_the_install_command(monkeypatch):
    cfg = load('swinv2_classifier_mini_96_w6')
    runtime.check_packages(cfg)
    monkeypatch.setattr(runtime, 'make_torchvision_importable', lambda: False)
    with pytest.raises(
        InputError, match=r"needs torchvision; get them with: pip install -c constraints.txt -e '.\[pretrain\]'"
    ):
        runtime.check_packages(cfg)
