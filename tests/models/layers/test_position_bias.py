import brute_force
import pytest
import torch
from randomise import randomise

from mmvitscale.errors import InputError
from mmvitscale.models.layers.position_bias import POSITION_BIASES, expand, log_coordinates, relative_offsets


@pytest.mark.parametrize('window', [(4, 4), (3, 5), (1, 6), (1, 1)])
def test_expand_lays_out_every_offset(window):
    h, w = window
    table = torch.randn(2, 2 * h - 1, 2 * w - 1)
    bias = expand(table, window).view(2, h, w, h, w)
    for i in range(h):
        for j in range(w):
            for k in range(h):
                for m in range(w):
                    assert torch.equal(bias[:, i, j, k, m], table[:, i - k + h - 1, j - m + w - 1])


def test_log_coordinates_of_the_paper():
    """Section 3.3: from window 8 to 16 the linear coordinate leaves the trained range by 1.14x, the log by 0.33x."""
    offset = relative_offsets(16)
    assert offset.tolist() == list(range(-15, 16))
    linear = offset.max() / relative_offsets(8).max() - 1
    log = torch.log(1 + offset.max()) / torch.log(1 + relative_offsets(8).max()) - 1
    assert round(linear.item(), 2) == 1.14 and round(log.item(), 2) == 0.33
    assert torch.allclose(log_coordinates(torch.tensor([-7.0, 0.0, 7.0]), 8), torch.log2(torch.tensor(9.0)) / 3 *
                          torch.tensor([-1.0, 0.0, 1.0]))


def test_log_cpb_equals_its_definition():
    bias = randomise(POSITION_BIASES['log_cpb'](3, (4, 6)))
    table = bias((4, 6), (8, 5))
    for i, dy in enumerate(range(-3, 4)):
        for j, dx in enumerate(range(-5, 6)):
            assert torch.allclose(table[:, i, j], brute_force.log_cpb(bias.mlp, (dy, dx), (8, 5)), atol=1e-5)


@pytest.mark.parametrize('kind', sorted(POSITION_BIASES))
def test_a_smaller_window_takes_the_offsets_that_occur(kind):
    bias = randomise(POSITION_BIASES[kind](2, (8, 8)))
    large, small = bias((8, 8), (8, 8)), bias((5, 3), (8, 8))
    assert small.shape == (2, 9, 5)
    assert torch.allclose(small, large[:, 3:-3, 5:-5], atol=1e-6)


def test_a_table_is_resized_smoothly_and_only_then_serves_a_larger_window():
    bias = POSITION_BIASES['table'](1, (4, 4))
    ramp = torch.linspace(-1, 1, 7)
    bias.table.data.copy_((ramp[:, None] + ramp)[None])
    with pytest.raises(InputError, match='set_window_size'):
        bias((8, 8), (4, 4))
    bias.resize_((8, 8))
    table = bias((8, 8), (4, 4))[0]
    assert bias.window == (8, 8)
    # Half-pixel sampling: the new cells' centres on the old ramp, which bicubic interpolation follows to 0.03.
    centres = ((torch.arange(15) + 0.5) * 7 / 15 - 0.5) / 3 - 1
    assert torch.allclose(table[3:-3, 3:-3], (centres[:, None] + centres)[3:-3, 3:-3], atol=0.04)


def test_biases_stay_exact_under_autocast():
    bias = randomise(POSITION_BIASES['log_cpb'](2, (4, 4)))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        table = bias((4, 4), (4, 4))
    assert torch.equal(table, bias((4, 4), (4, 4)))
