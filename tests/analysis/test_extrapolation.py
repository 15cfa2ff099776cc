import pytest
from torch import nn

from mmvitscale.analysis.extrapolation import StageWindows, report, swin_backbones
from mmvitscale.models import SwinTransformerV2

pytestmark = pytest.mark.unit


def test_extrapolation_beyond_the_pretrained_window_equals_its_formula():
    grown = StageWindows(pretrained_window=(8, 8), window=(16, 16))
    # log2(1 + 8 * 7 / 7) / 3 and log2(1 + 8 * 15 / 7) / 3
    assert grown.trained_coordinate == pytest.approx(1.0566, abs=1e-4)
    assert grown.coordinate == pytest.approx(1.3938, abs=1e-4)
    assert grown.extrapolation == pytest.approx(1.3938 / 1.0566 - 1, abs=1e-3)
    assert StageWindows((8, 8), (8, 8)).extrapolation == 0
    assert StageWindows((8, 8), (4, 4)).extrapolation == 0
    assert StageWindows((8, 16), (8, 20)).extrapolation > 0
    assert StageWindows((1, 8), (2, 8)).extrapolation == float('inf')
    assert grown.share_outside == pytest.approx(1 - 15**2 / 31**2)
    assert StageWindows((8, 8), (4, 4)).share_outside == 0


def test_report_lists_windows_and_extrapolation_of_each_stage():
    arch = dict(embed_dims=4, depths=(1, 1), num_heads=(1, 1))
    backbone = SwinTransformerV2(arch, window_size=[16, (4, 8)], pretrained_window_sizes=[8, (4, 8)])
    assert swin_backbones(nn.Sequential(nn.Identity(), backbone)) == [backbone]
    lines = report(backbone).splitlines()
    assert len(lines) == 3
    assert lines[1].split() == ['0', '8x8', 'config', '16x16', '1.057', '1.394', '32%', '77%']
    assert lines[2].split()[-2:] == ['0%', '0%']
    table = report(SwinTransformerV2(arch, 4, position_bias='table')).splitlines()
    assert table[1].split() == ['0', 'none', 'table', '4x4', '-', '-', '-', '-']
