"""How long a SwinV2 or a DeepViT takes and how much memory, beside the same network of others and beside its matrix products
alone."""

import statistics
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from mmvitscale.errors import InputError
from mmvitscale.models import DeepViT, SwinTransformerV2
from mmvitscale.models.deepvit import re_attention
from mmvitscale.models.deepvit.variants import DEEPVIT
from mmvitscale.models.swin_v2 import attention
from mmvitscale.models.swin_v2.variants import SWIN_V2
from mmvitscale.models.swin_v2.windows import window_geometry
from mmvitscale.profiling import reference_models
from mmvitscale.utils import cpu
from mmvitscale.utils.choices import PRECISIONS, VARIANTS
from mmvitscale.utils.torchvision_shim import make_torchvision_importable

OURS, OURS_EAGER, PLAIN, LOWER_BOUND = 'mmvitscale', 'mmvitscale, eager', 'mmvitscale, plain attention', 'matrix products'
DTYPES = dict(zip(PRECISIONS, (torch.float32, torch.bfloat16, torch.float16), strict=True))


@dataclass(frozen=True)
class Case:
    """One thing to measure. arch: a variant of SwinV2 or DeepViT. size: side of the square image in pixels. window: of
    SwinV2, 0 for DeepViT. dtype: fp32, or the autocast type. attention: our kernel. depth: blocks of a DeepViT, 0 for all."""

    arch: str = 'tiny'
    size: int = 512
    window: int = 16
    mode: str = 'inference'
    dtype: str = 'fp32'
    batch: int = 1
    device: str = 'cpu'
    attention: str = 'auto'
    depth: int = 0

    def __str__(self) -> str:
        what = f'{self.arch} {self.size} px, {f"{self.depth} blocks" if self.depth else "all blocks"}'
        if not self.is_deepvit:
            what = f'SwinV2-{self.arch} {self.size} px, window {self.window}'
        return f'{what}, {self.mode}, {self.dtype}, batch {self.batch}'

    @property
    def is_deepvit(self) -> bool:
        """Else SwinV2."""
        return self.arch in DEEPVIT.archs

    def sizes(self) -> dict:
        """The arch."""
        if not self.is_deepvit:
            return SWIN_V2.resolve(self.arch)
        sizes = DEEPVIT.resolve(self.arch)
        depth = min(self.depth or sizes['depth'], sizes['depth'])
        return {**sizes, 'depth': depth, 're_attention': min(sizes['re_attention'], depth)}

    def windows(self) -> list[int]:
        """The window of each stage: no larger than its map."""
        return [min(self.window, -(-self.size // (4 * 2**i))) for i in range(4)]


@dataclass(frozen=True)
class Implementation:
    """Who, and in which of VARIANTS."""

    name: str
    variant: str = 'plain'

    def __str__(self) -> str:
        return self.name if self.variant == 'plain' else f'{self.name}, {self.variant}'


def others(case: Case) -> tuple[list[str], list[str]]:
    """Names of those to compare with that can be imported, and of those that cannot."""
    if case.is_deepvit:
        sizes, small = case.sizes(), Case(arch=case.arch, size=16, window=0, depth=1)
        # The official code's other variants are built of more than these have.
        comparable = sizes['stem'] == 'linear' and sizes['residual_scale'] == 1
        mixes = sizes['re_attention'] == sizes['depth'] and not sizes['transform_scale']
        names = [
            OURS_EAGER,
            *(
                name
                for name in reference_models.DEEPVIT_REFERENCE_MODELS
                if comparable and (mixes or name == reference_models.TIMM_VIT)
            ),
            PLAIN,
        ]
    else:
        small, names = Case(arch='tiny', size=64, window=4), list(reference_models.REFERENCE_MODELS)
    present, absent = [], []
    for name in names:
        try:
            _build(Implementation(name), small)
            present.append(name)
        except ImportError:
            absent.append(name)
    return present, absent


def _ours(
    case: Case, variant: str = 'plain', attention: str | None = None, mixes: bool = True
) -> reference_models.ReferenceModel:
    """mixes: False for a DeepViT without Re-attention."""
    checkpointed, attention = variant == 'checkpointed', attention or case.attention
    if not case.is_deepvit:
        model: torch.nn.Module = SwinTransformerV2(
            case.arch, case.windows(), out_norm=False, attention=attention, with_cp=checkpointed
        )
        return model, model
    sizes = case.sizes() if mixes else {**case.sizes(), 're_attention': 0}
    model = DeepViT(sizes, case.size, attention=attention, drop_path_rate=0.0, with_cp=checkpointed)
    return model, model


def _build(implementation: Implementation, case: Case) -> reference_models.ReferenceModel:
    """An implementation with random weights, and its function from images to outputs. Raises InputError where it has no such
    variant."""
    if implementation.name in (OURS, OURS_EAGER, PLAIN):
        return _ours(
            case, implementation.variant, 'eager' if implementation.name == OURS_EAGER else None, implementation.name != PLAIN
        )
    make_torchvision_importable()
    if case.is_deepvit:
        model, outputs = reference_models.DEEPVIT_REFERENCE_MODELS[implementation.name](case.sizes(), case.size)
    else:
        model, outputs = reference_models.REFERENCE_MODELS[implementation.name](case.sizes(), case.size, case.windows(), None)
    if implementation.variant == 'checkpointed' and not reference_models.checkpoint_blocks(model):
        raise InputError(f'{implementation.name} has no checkpointing of its own')
    return model, outputs


def make_step(implementation: Implementation, case: Case) -> Callable[[], None]:
    """A function that does one step of the case: a forward pass, in training with the backward pass of all outputs."""
    if implementation.name == LOWER_BOUND:
        return _make_products(case)
    model, outputs_of = _build(implementation, case)
    model.to(case.device).train(case.mode == 'training')
    forward = torch.compile(outputs_of) if implementation.variant == 'compiled' else outputs_of
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


def matrix_products(case: Case) -> dict[tuple[int, int, int, int], int]:
    """(batch, rows, inner, columns) of the forward pass's matrix products -> how often each occurs, with the windows
    as our backbone cuts them: products that other forms do on padding and on masked pairs are not counted. Of a DeepViT
    those of plain attention: the mixture of heads is not one. The convolutions of its ``conv`` stem are not counted."""
    arch, products = case.sizes(), {}

    def add(count, *shape):
        products[shape] = products.get(shape, 0) + count

    if case.is_deepvit:
        side, dim, heads = -(-case.size // 16), arch['embed_dims'], arch['num_heads']
        tokens = side**2 + 1
        add(1, 1, case.batch * side**2, 3 * 256, dim)
        hidden = int(arch['mlp_ratio'] * dim)
        for inner, outer in ((dim, 3 * dim), (dim, dim), (dim, hidden), (hidden, dim)):
            add(arch['depth'], 1, case.batch * tokens, inner, outer)
        add(arch['depth'], case.batch * heads, tokens, dim // heads, tokens)
        add(arch['depth'], case.batch * heads, tokens, tokens, dim // heads)
        return products

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
            geometry = window_geometry(case.batch, (side, side), (case.window,) * 2, block % 2 == 1, torch.device('cpu'))
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


def times(steps: dict[Implementation, Callable[[], None]], rounds: int) -> dict[Implementation, list[float]]:
    """Seconds of every step in every round; in a round each has its turn, timed interleaved, so that the load of the machine
    falls on all."""
    for step in steps.values():
        step()  # warms up, and compiles
    measured: dict[Implementation, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            measured[name].append(time.perf_counter() - start)
    return measured


def peak_memory(implementation: Implementation, case: Case) -> dict[str, float]:
    """See ``memory_of_step``."""
    return memory_of_step(make_step(implementation, case), case.device)


def memory_of_step(step: Callable[[], object], device: str) -> dict[str, float]:
    """MB that a step needs, in a process that has done nothing else: ``peak`` in all, and ``step`` beyond what was
    there, model included, before it. On a GPU its memory, otherwise the process's."""
    if device == 'cuda':
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        peak = torch.cuda.max_memory_allocated()
    else:
        before = _resident('VmRSS')
        step()
        peak = _resident('VmHWM')
    return dict(peak=peak / 2**20, step=(peak - before) / 2**20)


def _resident(key: str) -> int:
    """Bytes that this process holds (VmRSS) or held at most (VmHWM; what ``getrusage`` gives is the parent's, too)."""
    with open('/proc/self/status') as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(f'{key}:'))


@torch.no_grad()
def difference(name: str, case: Case) -> float:
    """The largest difference between a baseline's last output and ours with the same weights, relative to the largest
    value. One that computes something else is no baseline."""
    model, outputs_of = _build(Implementation(name), case)
    for parameter in model.parameters():  # zero-initialised norms would hide everything
        parameter.add_(torch.randn_like(parameter), alpha=0.02)
    ours, _ = _ours(case, mixes=name not in (PLAIN, reference_models.TIMM_VIT))
    ours.load_checkpoint(model.state_dict(), name)
    image = torch.randn(1, 3, case.size, case.size)
    model.eval()
    expected, found = outputs_of(image)[-1], ours.eval()(image)[-1]
    return ((found - expected).abs().max() / expected.abs().max()).item()


@dataclass(frozen=True)
class Result:
    """One implementation in one case. seconds: median; spread: middle half of the rounds over the median. memory: MB, see
    ``peak_memory``. difference: see there; None for ourselves."""

    case: Case
    implementation: Implementation
    seconds: float | None
    spread: float | None
    memory: dict[str, float] | None
    difference: float | None


def summarise(
    case: Case,
    implementation: Implementation,
    measured: Sequence[float] | None,
    memory: dict[str, float] | None,
    difference: float | None,
) -> Result:
    """What was measured of an implementation -> its row."""
    if not measured:
        return Result(case, implementation, None, None, memory, difference)
    return Result(case, implementation, *median_and_spread(measured), memory, difference)


def median_and_spread(measured: Sequence[float]) -> tuple[float, float]:
    """Of seconds of several rounds: the median, and the middle half over it."""
    median = statistics.median(measured)
    quartiles = statistics.quantiles(measured, n=4) if len(measured) > 1 else [median] * 3
    return median, (quartiles[2] - quartiles[0]) / median if median else 0.0


def ratios(results: Sequence[Result]) -> dict[str, float]:
    """Of the results of one case, as far as measured; each of VARIANTS is compared within itself. ``speedup``: the fastest
    other's time over ours; ``memory``: our peak over the leanest other's; ``lower_bound``: our time over that of the matrix
    products; ``plain``: over that of plain attention, the lower bound of Re-attention, which is no other."""
    found: dict[str, float] = {}
    for variant in VARIANTS:
        of_variant = {result.implementation.name: result for result in results if result.implementation.variant == variant}
        ours, suffix = of_variant.get(OURS), '' if variant == 'plain' else f', {variant}'
        if ours is None:
            continue
        baselines = [
            result
            for name, result in of_variant.items()
            if name not in (OURS, OURS_EAGER, PLAIN, LOWER_BOUND, reference_models.TIMM_VIT)
        ]
        times = [result.seconds for result in baselines if result.seconds]
        peaks = [result.memory['peak'] for result in baselines if result.memory]
        if ours.seconds and times:
            found[f'speedup{suffix}'] = min(times) / ours.seconds
        for key, name in (('lower_bound', LOWER_BOUND), ('plain', PLAIN)):
            seconds = of_variant[name].seconds if name in of_variant else None
            if ours.seconds and seconds:
                found[f'{key}{suffix}'] = ours.seconds / seconds
        if ours.memory and peaks:
            found[f'memory{suffix}'] = ours.memory['peak'] / min(peaks)
    return found


@dataclass(frozen=True)
class Share:
    """Of a step's time. kind: what operations do; count: how many a step has."""

    kind: str
    seconds: float
    count: float


# What operations of PyTorch do, by the start of their names; all else is 'other'.
_KINDS = {
    'matrix products': (
        'aten::mm',
        'aten::addmm',
        'aten::bmm',
        'aten::baddbmm',
        'aten::_addmm',
        'aten::convolution',
        'aten::mkldnn_convolution',
        'mkldnn::',
        'mkl::',
    ),
    'fused attention': ('aten::_scaled_dot_product',),
    'copies and conversions': ('aten::copy_', 'aten::cat', 'aten::index_select', 'aten::fill_', 'aten::zero_', 'aten::flip'),
    'softmax': ('aten::_softmax',),
    'norms': ('aten::native_layer_norm', 'aten::linalg_vector_norm', 'aten::native_batch_norm'),
    'GELU': ('aten::gelu',),
    'sums': ('aten::sum', 'aten::mean'),
    'elementwise': (
        'aten::add',
        'aten::sub',
        'aten::mul',
        'aten::div',
        'aten::reciprocal',
        'aten::clamp',
        'aten::pow',
        'aten::gt',
        'aten::rsqrt',
        'aten::sigmoid',
        'aten::masked_fill',
        'aten::bernoulli',
        'aten::roll',
        'aten::neg',
    ),
}


def profile(implementation: Implementation, case: Case, steps: int = 3) -> list[Share]:
    """Where the time of a step goes on a CPU, from the largest share on."""
    step = make_step(implementation, case)
    step()
    return profile_steps(step, steps)['']


def profile_steps(step: Callable[[], object], steps: int, parts: Collection[str] = ()) -> dict[str, list[Share]]:
    """Where the time of a step that has run before goes on a CPU, from the largest share on: of the whole, as '', and of every
    part that the step marks with ``torch.profiler.record_function``.

    Args:
        step: does one.
        steps: how many are watched.
        parts: the marks.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for _ in range(steps):
            step()
    found: dict[str, dict[str, list[float]]] = {'': {}}
    for event in profiler.events():
        kind = next((kind for kind, starts in _KINDS.items() if event.name.startswith(starts)), 'other')
        above = event
        while above is not None and above.name not in parts:
            above = above.cpu_parent
        for part in ('', above.name) if above is not None else ('',):
            share = found.setdefault(part, {}).setdefault(kind, [0.0, 0.0])
            share[0] += event.self_cpu_time_total / 1e6 / steps
            share[1] += bool(event.self_cpu_time_total) / steps
    return {
        part: sorted((Share(kind, *share) for kind, share in shares.items()), key=lambda share: -share.seconds)
        for part, shares in found.items()
    }


def check_case(case: Case) -> None:
    """Raise InputError for a case that cannot be measured here."""
    if case.arch not in DEEPVIT.archs and case.arch not in SWIN_V2.archs:
        raise InputError(f'unknown arch {case.arch!r}; choose one of {", ".join([*SWIN_V2.archs, *DEEPVIT.archs])}')
    kernels = re_attention.KERNELS if case.is_deepvit else attention.KERNELS
    if case.attention not in kernels:
        raise InputError(f'unknown attention {case.attention!r}; choose one of {", ".join(kernels)}')
    check_device(case.device)
    numbers = {'--image-size': case.size, '--batch-size': case.batch, **({} if case.is_deepvit else {'--window': case.window})}
    for option, value in numbers.items():
        if value < 1:
            raise InputError(f'{option} {value} found, but it is at least 1')
    if case.dtype == 'fp16' and case.device == 'cpu':
        raise InputError('fp16 on a CPU found, where PyTorch is slow at it and nobody trains with it; use bf16')


def check_device(device: str) -> None:
    """Raise InputError where PyTorch has no such device."""
    if device == 'cuda' and not torch.cuda.is_available():
        raise InputError('--device cuda found, but PyTorch sees no GPU here; use --device cpu')


def machine(device: str, threads: int) -> str:
    """What the figures were measured on, in a line."""
    if device == 'cuda':
        return f'{torch.cuda.get_device_name()}, PyTorch {torch.__version__}'
    return ', '.join([cpu.name(), *cpu.features(), f'{threads} threads', f'PyTorch {torch.__version__}'])
