"""Plans of memory beside what small runs really take."""

import json
import os
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config

from mmvitscale.config.loading import load_config
from mmvitscale.errors import InputError
from mmvitscale.models import DeepViT, SwinTransformerV2
from mmvitscale.models.swin_v2 import kernels
from mmvitscale.profiling import memory_plan
from mmvitscale.profiling.live_tensors import LiveTensors, step
from mmvitscale.profiling.memory_plan import Plan, Setting, Shares, Sizes, cheapest, shares, training_size
from tests.helpers.commands import ROOT

pytestmark = pytest.mark.unit

# In a process whose allocator gives everything back at once: what it holds is what lives.
MEASURE = """
import json
from tests.profiling.test_memory_plan import CASES, measure
print(json.dumps([measure(*case) for case in CASES]))
"""
CASES = [
    ('swin', False, 'sequential', False),
    ('swin', True, 'sequential', False),
    ('swin', False, 'eager', False),
    ('swin', True, 'eager', False),
    ('swin', False, 'sequential', True),
    ('swin', True, 'sequential', True),
    ('deepvit', False, 'sequential', False),
    ('deepvit', True, 'sequential', False),
]


def build(family, checkpointing, kernel, device):
    with torch.device(device):
        if family == 'swin':
            return SwinTransformerV2(
                dict(embed_dims=64, depths=(2, 2, 2), num_heads=(2, 4, 8)),
                window_size=16,
                drop_path_rate=0.0,
                with_cp=checkpointing,
                attention=kernel,
            ).train()
        return DeepViT(
            dict(embed_dims=128, depth=4, re_attention=4, num_heads=4),
            drop_path_rate=0.0,
            with_cp=checkpointing,
            attention=kernel,
        ).train()


def loss(model, device, size=None):
    size = size or (384 if isinstance(model, SwinTransformerV2) else 512)
    return sum(out.float().mean() for out in model(torch.zeros(2, 3, size, size, device=device)))


def measure(family, checkpointing, kernel, mixed):
    """The highest memory of a real step beyond what was there."""
    model = build(family, checkpointing, kernel, 'cpu')
    with torch.autocast('cpu', torch.bfloat16, enabled=mixed):
        loss(model, 'cpu', 64).backward()  # what is made once
    model.zero_grad(set_to_none=True)
    with open('/proc/self/clear_refs', 'w') as file:
        file.write('5')
    with open('/proc/self/statm') as file:
        before = int(file.read().split()[1]) * 4096
    with torch.autocast('cpu', torch.bfloat16, enabled=mixed):
        value = loss(model, 'cpu')
    value.backward()
    with open('/proc/self/status') as file:
        return next(int(line.split()[1]) for line in file if line.startswith('VmHWM')) * 1024 - before


@pytest.fixture(scope='module')
def measured():
    result = subprocess.run(
        [sys.executable, '-c', MEASURE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            'MALLOC_MMAP_THRESHOLD_': '65536',
            'MALLOC_TRIM_THRESHOLD_': '65536',
            'MALLOC_TOP_PAD_': '0',
            'OMP_NUM_THREADS': '2',
            'PYTHONPATH': str(ROOT),
        },
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize('number', range(len(CASES)), ids=[' '.join(map(str, case)) for case in CASES])
def test_measured_peak_memory_of_a_step_is_close_to_the_plan(number, measured):
    family, checkpointing, kernel, mixed = CASES[number]
    model = build(family, checkpointing, kernel, 'meta')
    planned = step(lambda: loss(model, 'meta'), model, device='cpu', mixed=mixed).peak
    assert measured[number] == pytest.approx(planned, rel=0.15)


def test_live_tensors_count_until_freed_and_views_count_once():
    weight = torch.nn.Linear(4, 4, device='meta')
    with LiveTensors(weight) as live:
        a = torch.empty(100, device='meta')
        b = a.view(10, 10).t()[2:]
        assert live.now == 400
        c = a + 1
        del a
        assert live.now == 800  # b still holds it
        del b
        assert (live.now, live.peak) == (400, 800)
        weight.weight.view(16)
        assert live.now == 400
        del c
        assert (live.now, live.peak) == (0, 800)


def test_checkpointing_and_sequential_attention_save_what_they_promise():
    kept = {}
    for setting in (
        Setting(False, 'eager'),
        Setting(False, 'sequential'),
        Setting(True, 'eager'),
        Setting(True, 'sequential'),
    ):
        model = build('swin', False, 'auto', 'meta')
        setting.apply(model)
        kept[setting] = step(
            lambda: loss(model, 'meta'), model, device='cpu', watched=dict(stage=model.stages[0]), gradients=False
        )
    bytes_of = {setting: found.kept['stage'] for setting, found in kept.items()}
    tokens, width, heads, slots = 2 * 96 * 96, 64, 2, 16 * 16
    # Inputs of its two blocks, what the loss sees, and the order of the windows (8 bytes a token, there and back, twice).
    assert bytes_of[Setting(True, 'eager')] <= tokens * (3 * 4 * width + 4 * 8)
    maps = bytes_of[Setting(False, 'eager')] - bytes_of[Setting(False, 'sequential')]
    assert maps >= 2 * tokens * slots * heads * 4  # of two blocks
    assert kept[Setting(True, 'sequential')].peak < kept[Setting(True, 'eager')].peak < kept[Setting(False, 'eager')].peak


def test_no_kernel_of_a_gpu_makes_a_bias_for_every_window(monkeypatch):
    """The fused one's gradient of the bias is made for some windows at a time; FlexAttention has the table alone."""
    peaks = {}
    for kernel, chunk in (('auto', 2**25), ('auto', 2**40), ('flex', 2**25), ('sequential', 2**25)):
        monkeypatch.setitem(kernels._CHUNK, 'cuda', chunk)
        with torch.device('meta'):
            model = SwinTransformerV2(dict(embed_dims=64, depths=(1,), num_heads=(4,)), 32, attention=kernel)
        image = torch.empty(2, 3, 1024, 1024, device='meta')  # 64 x 4 x 1024 x 1024 attention weights in each image
        peaks[kernel, chunk] = step(lambda: model(image)[0].mean(), model, device='cuda').peak  # noqa: B023
    maps = 2 * 64 * 4 * 1024**2 * 4
    assert peaks['auto', 2**40] > maps > 1.2 * peaks['auto', 2**25]
    assert peaks['flex', 2**25] < peaks['auto', 2**25]


def test_memory_shares_of_strategies_match_the_papers_48_gigabytes():
    sizes = Sizes(3_000_000_000, 3_000_000_000, (60_000_000,) * 50, state_bytes=8)
    alone = shares(sizes, 'ddp', 1)
    assert alone.lasting == 48e9  # weights, gradients and two moments, 4 bytes each (section 3.4)
    assert shares(sizes, 'ddp', 64) == alone == shares(sizes, 'zero1', 1) == shares(sizes, 'fsdp', 1)
    assert shares(sizes, 'zero1', 8).lasting == 12e9 + 12e9 + 24e9 / 8
    assert shares(sizes, 'fsdp', 48).lasting < 4e9
    sixteen = shares(sizes, 'deepspeed_zero1', 8, sixteen_bit_weights=True)
    assert (sixteen.parameters, sixteen.gradients, sixteen.states) == (6e9, 6e9, 36e9 / 8)
    averaged = Sizes(10, 8, (4, 4), state_bytes=4, copies=1)
    assert shares(averaged, 'ddp', 2) == Shares(80, 32, 32, 0, 32)
    with pytest.raises(InputError, match='it is one of ddp'):
        shares(sizes, 'zero9', 8)


def test_the_fastest_setting_that_fits_the_memory_is_chosen():
    share = Shares(10, 10, 20, 0, 10)
    plans = [Plan('ddp', 1, share, Setting(checkpointing, 'auto'), size) for checkpointing, size in ((False, 50), (True, 5))]
    assert cheapest(plans, 100) is plans[0] and plans[0].total == 90
    assert cheapest(plans, 60) is plans[1] and plans[1].total == 50  # what the optimizer makes is more than activations
    assert cheapest(plans, 49) is None


@pytest.mark.integration
@pytest.mark.parametrize(
    'name, size',
    [
        ('swinv2_upernet_ade20k', (512, 512)),
        ('swinv2-g-w40-in22k-ext_upernet_32xb1-80k_ade20k-640x640', (640, 640)),
        ('swinv2_htc_coco', (1536, 1536)),
        ('swinv2-t-w16-in1k_upernet_4xb2-80k_cityscapes-512x1024', (512, 1024)),
        ('swinv2-b-w8_8xb128-300e_in1k-256', (256, 256)),
        ('swinv2_mask_rcnn_coco', (800, 1333)),
    ],
)
def test_the_size_of_training_images_is_read_from_the_config(name, size):
    assert training_size(load_config(name)) == size


def test_a_config_without_an_image_size_is_refused():
    with pytest.raises(InputError, match='give it with --image-size'):
        training_size(Config(dict(model={}), filename=__file__))


def test_the_setting_of_a_config_is_recognised():
    for family in ('swin', 'deepvit'):
        for setting in sum(map(list, memory_plan.settings_of(build(family, False, 'auto', 'meta'))), []):
            model = build(family, False, 'auto', 'meta')
            setting.apply(model)
            assert memory_plan.configured_setting(model) == setting
    mixture = build('swin', False, ['eager', 'auto', 'auto'], 'meta')
    assert memory_plan.configured_setting(mixture) is None
