import brute_force
import pytest
import torch

from mmvitscale.errors import InputError
from mmvitscale.models.layers.windows import to_window, window_geometry, window_merge, window_partition

CPU = torch.device('cpu')
SIZES = [(8, 8), (7, 7), (9, 13), (1, 17), (3, 3), (16, 20), (1, 1), (5, 4)]
WINDOWS = [(4, 4), (8, 8), (3, 5), (1, 1)]


def all_geometries(batch=2):
    for size in SIZES:
        for window in WINDOWS:
            for shifted in (False, True):
                yield size, window, shifted, window_geometry(batch, size, window, shifted, CPU)


def test_merge_undoes_partition():
    for size, _, _, geometry in all_geometries():
        x = torch.randn(2, *size, 3)
        assert torch.equal(window_merge(window_partition(x, geometry), geometry, size), x)


def test_attending_pairs_are_those_of_equal_cells():
    """Read the pairs off windows, groups and masks, and compare with the definition over all pairs of tokens."""
    for size, window, shifted, geometry in all_geometries():
        tokens = 2 * size[0] * size[1]
        slots = geometry.window[0] * geometry.window[1]
        padding = geometry.padding_slots
        padding = torch.zeros_like(geometry.tokens_of_slots, dtype=bool) if padding is None else padding
        found = torch.zeros(tokens, tokens, dtype=torch.int)
        for group in geometry.groups:
            allowed = torch.ones(slots, slots, dtype=bool) if group.mask is None else group.mask == 0
            assert allowed.any(dim=1).all(), 'a row is fully masked'
            for w in range(group.start, group.stop):
                own = geometry.tokens_of_slots[w * slots:(w + 1) * slots]
                real = ~padding[w * slots:(w + 1) * slots]
                assert not allowed[real][:, ~real].any(), 'padding reaches a real token'
                pairs = allowed & real[:, None] & real
                for i, j in pairs.nonzero().tolist():
                    found[own[i], own[j]] += 1

        index = torch.arange(tokens)
        image, row, column = index // (size[0] * size[1]), index // size[1] % size[0], index % size[1]
        cells = torch.stack([
            image,
            torch.tensor([brute_force.cell(r, size[0], window[0], shifted) for r in row.tolist()]),
            torch.tensor([brute_force.cell(c, size[1], window[1], shifted) for c in column.tolist()])
        ])
        expected = (cells[:, :, None] == cells[:, None, :]).all(0)
        assert torch.equal(found, expected.int()), (size, window, shifted)


def test_gradients_of_the_gathers():
    for size, window, shifted in [((5, 6), (4, 4), True), ((4, 8), (4, 4), False)]:
        geometry = window_geometry(1, size, window, shifted, CPU)
        x = torch.randn(1, *size, 2, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(len(geometry.tokens_of_slots), 2, dtype=torch.float64)
        if geometry.padding_slots is not None:
            weight[geometry.padding_slots] = 0  # as in use: nothing reads a padding slot
        weight = weight.view_as(window_partition(x, geometry))
        torch.autograd.gradcheck(lambda t: window_partition(t, geometry) * weight, x)
        windows = torch.randn_like(weight, requires_grad=True)
        torch.autograd.gradcheck(lambda t: window_merge(t, geometry, size), windows)


def test_geometry_serves_training_after_inference():
    with torch.inference_mode():
        geometry = window_geometry(1, (6, 11), (4, 4), True, CPU)
    x = torch.randn(1, 6, 11, 2, requires_grad=True)
    window_merge(window_partition(x, geometry), geometry, (6, 11)).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


@pytest.mark.parametrize('window', [0, -4, (8, 0), (8, 8, 8), 2.5, 'w8'])
def test_a_window_that_is_none(window):
    with pytest.raises(InputError, match='a window is an int >= 1'):
        to_window(window)
