"""How long a SwinV2 takes and how much memory, beside the same network of other libraries and beside its matrix
products alone."""

import platform
import resource
import statistics
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Sequence, Tuple

import torch

from ..errors import InputError
from ..models import SwinTransformerV2
from ..models.backbones.variants import SWIN_V2
from ..models.layers.windows import window_geometry
from ..torchvision_shim import make_torchvision_importable
from . import peers

OURS, FLOOR = 'mmvitscale', 'matrix products'
DTYPES = dict(fp32=torch.float32, bf16=torch.bfloat16, fp16=torch.float16)
MODES = ('inference', 'training')


@dataclass(frozen=True)
class Case:
    """One thing to measure. size: side of the square image in pixels. dtype: fp32, or the autocast type. attention,
    with_cp: options of our backbone."""

    arch: str = 'tiny'
    size: int = 512
    window: int = 16
    mode: str = 'inference'
    dtype: str = 'fp32'
    batch: int = 1
    device: str = 'cpu'
    attention: str = 'auto'
    with_cp: bool = False

    def __str__(self) -> str:
        return f'SwinV2-{self.arch} {self.size} px, window {self.window}, {self.mode}, {self.dtype}, batch {self.batch}'

    def windows(self) -> List[int]:
        """The window of each stage: no larger than its map."""
        return [min(self.window, -(-self.size // (4 * 2**i))) for i in range(4)]


def installed_peers() -> Tuple[List[str], List[str]]:
    """Names of the peers that can be imported, and of those that cannot."""
    present, absent = [], []
    for name in peers.PEERS:
        try:
            _build(name, Case(arch='tiny', size=64, window=4))
            present.append(name)
        except ImportError:
            absent.append(name)
    return present, absent


def _build(name: str, case: Case) -> peers.Peer:
    """A contestant with random weights, and its function from images to stage outputs."""
    if name == OURS:
        model = SwinTransformerV2(case.arch, case.windows(), out_norm=False, attention=case.attention,
                                  with_cp=case.with_cp)
        return model, model
    make_torchvision_importable()
    return peers.PEERS[name](SWIN_V2.resolve(case.arch), case.size, case.windows(), None)


def make_step(name: str, case: Case, compiled: bool = False) -> Callable[[], None]:
    """A function that does one step of the case: a forward pass, in training with the backward pass of all outputs."""
    if name == FLOOR:
        return _make_products(case)
    model, stages = _build(name, case)
    model.to(case.device).train(case.mode == 'training')
    forward = torch.compile(stages) if compiled else stages
    image = torch.randn(case.batch, 3, case.size, case.size, device=case.device)

    def step():
        with _autocast(case):
            outputs = forward(image)
        if case.mode == 'training':
            sum(output.float().square().mean() for output in outputs).backward()
            model.zero_grad(set_to_none=True)
        if case.device == 'cuda':
            torch.cuda.synchronize()

    if case.mode == 'training':
        return step
    return torch.inference_mode()(step)


def _autocast(case: Case):
    if case.dtype == 'fp32':
        return nullcontext()
    return torch.autocast(case.device, dtype=DTYPES[case.dtype])


def matrix_products(case: Case) -> Dict[Tuple[int, int, int, int], int]:
    """(batch, rows, inner, columns) of the forward pass's matrix products -> how often each occurs, with the windows
    as our backbone cuts them: products that other forms do on padding and on masked pairs are not counted."""
    arch, products = SWIN_V2.resolve(case.arch), {}

    def add(count, *shape):
        products[shape] = products.get(shape, 0) + count

    side = -(-case.size // 4)
    add(1, 1, case.batch * side**2, 3 * 16, arch['embed_dims'])
    for stage, (depth, heads) in enumerate(zip(arch['depths'], arch['num_heads'])):
        dim = arch['embed_dims'] * 2**stage
        if stage:
            side = -(-side // 2)
            add(1, 1, case.batch * side**2, 2 * dim, dim)
        tokens, hidden = case.batch * side**2, int(arch['mlp_ratio'] * dim)
        for inner, outer in ((dim, 3 * dim), (dim, dim), (dim, hidden), (hidden, dim)):
            add(depth, 1, tokens, inner, outer)
        for block in range(depth):
            geometry = window_geometry(case.batch, (side, side), (case.window, ) * 2, block % 2 == 1, torch.device('cpu'))
            for group in geometry.groups:
                slots = group.window[0] * group.window[1]
                add(1, group.count * heads, slots, dim // heads, slots)
                add(1, group.count * heads, slots, slots, dim // heads)
    return products


def _make_products(case: Case) -> Callable[[], None]:
    """The matrix products of a step and nothing else; training has those of both gradients, of equal size, too."""
    dtype, repeats = DTYPES[case.dtype], 3 if case.mode == 'training' else 1
    work = []
    for (batch, rows, inner, columns), count in matrix_products(case).items():
        shapes = [(batch, rows, inner), (batch, inner, columns), (batch, rows, columns)]
        shapes = shapes if batch > 1 else [shape[1:] for shape in shapes]
        a, b, out = (torch.randn(shape, device=case.device).to(dtype) for shape in shapes)
        work.append((torch.bmm if batch > 1 else torch.mm, a, b, out, count * repeats))

    @torch.inference_mode()
    def step():
        for product, a, b, out, count in work:
            for _ in range(count):
                product(a, b, out=out)
        if case.device == 'cuda':
            torch.cuda.synchronize()

    return step


def times(steps: Dict[str, Callable[[], None]], rounds: int) -> Dict[str, List[float]]:
    """Seconds of every step in every round; in a round each has its turn, so that all share the machine's moods."""
    for step in steps.values():
        step()  # warms up, and compiles
    measured: Dict[str, List[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            measured[name].append(time.perf_counter() - start)
    return measured


def peak_memory(name: str, case: Case) -> Dict[str, float]:
    """MB that a step needs, in a process that has done nothing else: ``peak`` in all, and ``step`` beyond what was
    there, model included, before it. On a GPU its memory, otherwise the process's."""
    step = make_step(name, case)
    if case.device == 'cuda':
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        peak = torch.cuda.max_memory_allocated()
    else:
        with open('/proc/self/statm') as file:
            before = int(file.read().split()[1]) * resource.getpagesize()
        step()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return dict(peak=peak / 2**20, step=(peak - before) / 2**20)


@torch.no_grad()
def difference(name: str, case: Case) -> float:
    """The largest difference between a peer's last output and ours with the same weights, relative to the largest
    value. A peer that computes something else is no peer."""
    model, stages = _build(name, case)
    for parameter in model.parameters():  # zero-initialised norms would hide everything
        parameter.add_(torch.randn_like(parameter), alpha=0.02)
    ours, _ = _build(OURS, case)
    ours.load_checkpoint(model.state_dict(), name)
    image = torch.randn(1, 3, case.size, case.size)
    expected, found = stages(image)[-1], ours.eval()(image)[-1]
    return ((found - expected).abs().max() / expected.abs().max()).item()


@dataclass(frozen=True)
class Result:
    """One contestant in one case. seconds: median; spread: middle half of the rounds over the median. memory: MB, see
    ``peak_memory``. difference: see there; None for ourselves."""

    case: Case
    name: str
    seconds: Optional[float]
    spread: Optional[float]
    memory: Optional[Dict[str, float]]
    difference: Optional[float]


def summarise(case: Case, name: str, measured: Optional[Sequence[float]], memory: Optional[Dict[str, float]],
              difference: Optional[float]) -> Result:
    """What was measured of a contestant -> its row."""
    if not measured:
        return Result(case, name, None, None, memory, difference)
    median = statistics.median(measured)
    quartiles = statistics.quantiles(measured, n=4) if len(measured) > 1 else [median] * 3
    return Result(case, name, median, (quartiles[2] - quartiles[0]) / median, memory, difference)


def ratios(results: Sequence[Result]) -> Dict[str, float]:
    """Of the results of one case: ``speedup`` (fastest peer's time over ours), ``floor`` (our time over that of the
    matrix products) and ``memory`` (our peak over the leanest peer's), as far as measured."""
    by_name = {result.name: result for result in results}
    ours = by_name[OURS]
    others = [result for result in results if result.name != FLOOR and not result.name.startswith(OURS)]
    found: Dict[str, float] = {}
    if ours.seconds and others:
        found['speedup'] = min(result.seconds for result in others) / ours.seconds
    if ours.seconds and FLOOR in by_name:
        found['floor'] = ours.seconds / by_name[FLOOR].seconds
    peaks = [result.memory['peak'] for result in others if result.memory]
    if ours.memory and peaks:
        found['memory'] = ours.memory['peak'] / min(peaks)
    return found


def check_case(case: Case) -> None:
    """Raise InputError for a case that cannot be measured here."""
    SWIN_V2.resolve(case.arch)
    if case.device == 'cuda' and not torch.cuda.is_available():
        raise InputError('--device cuda found, but PyTorch sees no GPU here; use --device cpu')
    for name in ('size', 'window', 'batch'):
        if getattr(case, name) < 1:
            raise InputError(f'--{name} {getattr(case, name)} found, but it is at least 1')
    if case.dtype == 'fp16' and case.device == 'cpu':
        raise InputError('fp16 on a CPU found, where PyTorch is slow at it and nobody trains with it; use bf16')


def machine(device: str, threads: int) -> str:
    """What the figures were measured on, in a line."""
    if device == 'cuda':
        return f'{torch.cuda.get_device_name()}, PyTorch {torch.__version__}'
    model = platform.processor() or platform.machine()
    try:
        with open('/proc/cpuinfo') as file:
            model = next(line.split(':', 1)[1].strip() for line in file if line.startswith('model name'))
    except (OSError, StopIteration):
        pass
    return f'{model}, {threads} threads, {torch.backends.cpu.get_cpu_capability()}, PyTorch {torch.__version__}'
