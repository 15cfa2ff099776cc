import pytest
import torch

from mmvitscale.errors import InputError
from mmvitscale.models.swin_v2.windows import to_window, window_geometry, window_partition, window_reverse, window_starts
from tests.helpers import brute_force

pytestmark = pytest.mark.unit

CPU = torch.device('cpu')
SIZES = [(8, 8), (7, 7), (9, 13), (1, 17), (3, 3), (16, 20), (1, 1), (5, 4)]
WINDOWS = [(4, 4), (8, 8), (3, 5), (1, 1)]


def all_geometries(batch=2):
    for size in SIZES:
        for window in WINDOWS:
            for shifted in (False, True):
                yield size, window, shifted, window_geometry(batch, size, window, shifted, CPU)


def test_window_reverse_inverts_window_partition():
    for size, _, _, geometry in all_geometries():
        x = torch.randn(2, *size, 3)
        assert torch.equal(window_reverse(window_partition(x, geometry), geometry, size), x)


def test_windows_equal_brute_force_over_pairs_of_tokens():
    """Read the pairs off the windows, and compare with the definition over all pairs of tokens."""
    for size, window, shifted, geometry in all_geometries():
        tokens = 2 * size[0] * size[1]
        order = torch.arange(tokens) if geometry.gather_index is None else geometry.gather_index
        found = torch.zeros(tokens, tokens, dtype=torch.int)
        start = 0
        for group in geometry.groups:
            assert group.window[0] <= window[0] and group.window[1] <= window[1]
            for own in order[start : start + group.tokens].view(group.count, -1):
                found[own[:, None], own] += 1
                # row by row: the bias takes the places in a window for offsets
                y, x = own // size[1] % size[0], own % size[1]
                assert torch.equal(y - y[0], torch.arange(len(own)) // group.window[1])
                assert torch.equal(x - x[0], torch.arange(len(own)) % group.window[1])
            start += group.tokens

        index = torch.arange(tokens)
        image, row, column = index // (size[0] * size[1]), index // size[1] % size[0], index % size[1]
        cells = torch.stack(
            [
                image,
                torch.tensor([brute_force.cell(r, size[0], window[0], shifted) for r in row.tolist()]),
                torch.tensor([brute_force.cell(c, size[1], window[1], shifted) for c in column.tolist()]),
            ]
        )
        expected = (cells[:, :, None] == cells[:, None, :]).all(0)
        assert torch.equal(found, expected.int()), (size, window, shifted)


def test_windows_of_a_shape_go_together():
    assert window_starts(40, 16, False) == {16: [0, 16], 8: [32]}
    assert window_starts(40, 16, True) == {8: [0], 16: [8, 24]}
    assert window_starts(16, 16, True) == window_starts(16, 99, True) == {16: [0]}
    assert len(window_geometry(2, (40, 40), (16, 16), False, CPU).groups) == 4
    assert sum(group.count for group in window_geometry(2, (40, 40), (16, 16), False, CPU).groups) == 2 * 9


def test_partition_and_reverse_pass_gradcheck():
    for size, window, shifted in [((5, 6), (4, 4), True), ((4, 8), (4, 4), False)]:
        geometry = window_geometry(1, size, window, shifted, CPU)
        x = torch.randn(1, *size, 2, dtype=torch.float64, requires_grad=True)
        torch.autograd.gradcheck(lambda t: window_partition(t, geometry), x)
        tokens = torch.randn(size[0] * size[1], 2, dtype=torch.float64, requires_grad=True)
        torch.autograd.gradcheck(lambda t: window_reverse(t, geometry, size), tokens)


def test_geometry_serves_training_after_inference():
    with torch.inference_mode():
        geometry = window_geometry(1, (6, 11), (4, 4), True, CPU)
    x = torch.randn(1, 6, 11, 2, requires_grad=True)
    window_reverse(window_partition(x, geometry), geometry, (6, 11)).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


@pytest.mark.parametrize('window', [0, -4, (8, 0), (8, 8, 8), 2.5, 'w8'])
def test_invalid_windows_are_refused(window):
    with pytest.raises(InputError, match='a window is an int >= 1'):
        to_window(window)
