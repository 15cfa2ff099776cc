import threading

import pytest
import torch

from mmvitscale.errors import InputError
from mmvitscale.models.swin_v2 import position_bias
from mmvitscale.models.swin_v2.position_bias import POSITION_BIASES, BiasCache, expand, log_coordinates, relative_offsets
from tests.helpers import brute_force
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.unit


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


@pytest.mark.parametrize('window', [(4, 4), (3, 5), (1, 6), (1, 1)])
def test_expand_passes_gradcheck(window):
    table = torch.randn(2, 2 * window[0] - 1, 2 * window[1] - 1, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda t: expand(t, window), table)


def kept(biases, bias, windows=((4, 4), (2, 3))):
    with torch.no_grad():
        return biases(bias, windows, (4, 4))


@pytest.mark.parametrize('kind', sorted(POSITION_BIASES))
def test_expanded_biases_are_cached_in_inference_but_not_in_training(kind):
    bias, biases = randomise(POSITION_BIASES[kind](2, (4, 4))), BiasCache()
    first = kept(biases, bias)
    with torch.inference_mode():
        again = biases(bias, [(2, 3), (4, 4)], (4, 4))
    assert first[0] is again[1] and first[1] is again[0]
    with torch.enable_grad():
        trained = biases(bias, [(4, 4), (2, 3)], (4, 4))
    assert all(tensor.requires_grad for tensor in trained)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(first, trained))
    assert torch.equal(kept(biases, bias, [(4, 4)])[0], expand(bias((4, 4), (4, 4)), (4, 4)))


def swap_as_ema_hooks_do(bias):
    for parameter in bias.parameters():  # leaves neither a version nor an address behind
        parameter.data.copy_(parameter.data.flip(0) * 1.5)


CHANGES = {
    'load_state_dict': lambda bias: bias.load_state_dict({k: v + 0.1 for k, v in bias.state_dict().items()}),
    'optimizer': lambda bias: [parameter.data.add_(0.1) for parameter in bias.parameters()],
    'ema': swap_as_ema_hooks_do,
    'new data': lambda bias: [setattr(parameter, 'data', parameter.data + 0.1) for parameter in bias.parameters()],
    'to': lambda bias: bias.double(),
}


@pytest.mark.parametrize('change', CHANGES)
@pytest.mark.parametrize('kind', sorted(POSITION_BIASES))
def test_expanded_biases_follow_the_weights(kind, change):
    bias, biases = randomise(POSITION_BIASES[kind](2, (4, 4))), BiasCache()
    before = kept(biases, bias)[0]
    CHANGES[change](bias)
    after = kept(biases, bias)[0]
    assert torch.equal(after, expand(bias((4, 4), (4, 4)), (4, 4)))
    assert after.dtype != before.dtype or not torch.equal(after, before)


def test_expanded_biases_stay_small_however_many_shapes_come():
    bias, biases = randomise(POSITION_BIASES['log_cpb'](2, (8, 8))), BiasCache(limit=10000)
    for h in range(1, 9):
        for w in range(1, 9):
            kept(biases, bias, [(h, w)])
            assert sum(tensor.numel() for tensor in biases._cached[1].values()) <= 10000
    assert kept(biases, bias, [(8, 8)])[0] is kept(biases, bias, [(8, 8)])[0]


def test_log_coordinates_give_the_extrapolation_ratios_of_the_paper():
    """Section 3.3: from window 8 to 16 the linear coordinate leaves the trained range by 1.14x, the log by 0.33x."""
    offset = relative_offsets(16)
    assert offset.tolist() == list(range(-15, 16))
    linear = offset.max() / relative_offsets(8).max() - 1
    log = torch.log(1 + offset.max()) / torch.log(1 + relative_offsets(8).max()) - 1
    assert round(linear.item(), 2) == 1.14 and round(log.item(), 2) == 0.33
    assert torch.allclose(
        log_coordinates(torch.tensor([-7.0, 0.0, 7.0]), 8), torch.log2(torch.tensor(9.0)) / 3 * torch.tensor([-1.0, 0.0, 1.0])
    )


def test_log_cpb_equals_its_definition():
    bias = randomise(POSITION_BIASES['log_cpb'](3, (4, 6)))
    table = bias((4, 6), (8, 5))
    for i, dy in enumerate(range(-3, 4)):
        for j, dx in enumerate(range(-5, 6)):
            assert torch.allclose(table[:, i, j], brute_force.log_cpb(bias.mlp, (dy, dx), (8, 5)), atol=1e-5)


@pytest.mark.parametrize('kind', sorted(POSITION_BIASES))
def test_a_smaller_window_gets_the_central_offsets_of_a_larger_one(kind):
    bias = randomise(POSITION_BIASES[kind](2, (8, 8)))
    large, small = bias((8, 8), (8, 8)), bias((5, 3), (8, 8))
    assert small.shape == (2, 9, 5)
    assert torch.allclose(small, large[:, 3:-3, 5:-5], atol=1e-6)


def test_a_table_is_interpolated_to_larger_windows_after_set_window():
    bias = POSITION_BIASES['table'](1, (4, 4))
    ramp = torch.linspace(-1, 1, 7)
    bias.table.data.copy_((ramp[:, None] + ramp)[None])
    with pytest.raises(InputError, match='set_window_size'):
        bias((8, 8), (4, 4))
    bias.set_window((8, 8))
    table = bias((8, 8), (4, 4))[0]
    assert bias.table.shape == (1, 7, 7)
    # Half-pixel sampling: the new cells' centres on the old ramp, which bicubic interpolation follows to 0.03.
    centres = ((torch.arange(15) + 0.5) * 7 / 15 - 0.5) / 3 - 1
    assert torch.allclose(table[3:-3, 3:-3], (centres[:, None] + centres)[3:-3, 3:-3], atol=0.04)
    other = POSITION_BIASES['table'](1, (8, 8))
    other.load_state_dict(bias.state_dict())
    assert other.table.shape == (1, 7, 7) and torch.equal(other((8, 8), (4, 4))[0], table)


def test_cached_biases_are_correct_in_concurrent_threads():
    """Threads ask for other shapes, all at once."""
    bias, biases, errors = POSITION_BIASES['log_cpb'](2, (6, 6)), BiasCache(), []
    windows = [(h, w) for h in range(2, 7) for w in range(2, 7)]
    expected = {window: expand(bias(window, (6, 6)), window).detach() for window in windows}

    def ask(seed):
        try:
            for i in torch.randint(len(windows), (60,), generator=torch.Generator().manual_seed(seed)):
                window = windows[i]
                with torch.no_grad():
                    (found,) = biases(bias, [window], (6, 6))
                assert torch.allclose(found, expected[window], atol=1e-5)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not errors, errors[0]


def test_biases_stay_exact_under_autocast():
    bias = randomise(POSITION_BIASES['log_cpb'](2, (4, 4)))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        table = bias((4, 4), (4, 4))
    assert torch.equal(table, bias((4, 4), (4, 4)))


def test_chunking_over_heads_does_not_change_the_gradient_of_expand(monkeypatch):
    table = torch.randn(5, 5, 7, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(5, 12, 12, dtype=torch.float64)
    found = []
    for numbers in (2**24, 2 * 12**2, 1):  # all heads, two, one
        monkeypatch.setattr(position_bias, '_EXPANDED', numbers)
        found.append(torch.autograd.grad((position_bias.expand(table, (3, 4)) * weights).sum(), table)[0])
    assert all(torch.equal(gradient, found[0]) for gradient in found[1:])
