"""Passes over memory: of operations whose number is known."""

import pytest
import torch
import torch.nn.functional as F

from mmvitscale.profiling.memory_passes import count_passes

pytestmark = pytest.mark.unit
SIDE = 1024
MB = 4 * SIDE**2 / 1e6


def map_of(value=1.0):
    return torch.full((SIDE, SIDE), value)


x, y, small = map_of(), map_of(), torch.ones(SIDE)
CASES = dict(
    sum_of_two=(lambda: x + y, 3),
    a_view=(lambda: x.view(-1)[3:].t(), 0),
    a_copy=(lambda: x.t().contiguous(), 2),
    nothing_to_copy=(lambda: x.contiguous(), 0),
    in_place=(lambda: x.add_(y), 3),
    filled=(lambda: x.zero_(), 1),
    copied_into=(lambda: x.copy_(y), 2),
    given_the_output=(lambda: torch.mul(x, 2, out=y), 2),
    expanded=(lambda: x * small.expand(SIDE, SIDE), 2),
    product=(lambda: F.linear(x, y, small), 3),
    pieces=(lambda: torch.cat([x, y]), 3),
    batched=(lambda: torch.matmul(x.expand(1, SIDE, SIDE), y[None]), 3),
    not_even_written=(lambda: torch.empty(SIDE, SIDE), 0),
)


@pytest.mark.parametrize('grad', [True, False])
@pytest.mark.parametrize('case', CASES)
def test_passes_over_large_tensors(case, grad):
    run, passes = CASES[case]
    with torch.inference_mode(not grad):
        found = count_passes(run)
    # Of cat the output is as large as both.
    assert found.passes == passes and found.megabytes == pytest.approx((passes + (case == 'pieces')) * MB)


def test_small_tensors_are_counted_apart():
    found = count_passes(lambda: x * small)
    assert (found.passes, found.cached, found.cached_megabytes) == (2, 1, pytest.approx(4 * SIDE / 1e6))


def test_the_backward_pass_counts():
    weight = map_of().requires_grad_()
    forward = count_passes(lambda: F.linear(x, weight))
    both = count_passes(lambda: F.linear(x, weight).backward(y))
    # The gradient of the weight: x and y are read, and it is written, then laid down as it is.
    assert forward.passes == 3 and both.passes == 6
