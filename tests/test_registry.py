import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration

BUILD = """
from mmengine.registry import MODELS, init_default_scope
init_default_scope({scope!r})
model = MODELS.build(dict(type='mmvitscale.SwinTransformerV2', arch='tiny', window_size=8))
print(type(model).__module__)
"""


@pytest.mark.parametrize(
    'scope',
    [
        pytest.param('mmengine', marks=pytest.mark.slow),
        pytest.param('mmdet', marks=pytest.mark.slow),
        'mmseg',
        pytest.param('mmpretrain', marks=pytest.mark.slow),
    ],
)
def test_builds_in_a_fresh_process_from_any_scope(scope):
    code = BUILD.format(scope=scope)
    if scope == 'mmpretrain':  # which needs torchvision
        code = 'from mmvitscale.utils.torchvision_shim import make_torchvision_importable as ready; ready()\n' + code
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1:] == ['mmvitscale.models.swin_v2.backbone'], result.stderr
