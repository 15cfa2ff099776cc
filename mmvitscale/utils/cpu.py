"""What the CPU can do, and what computing on it needs."""

import ctypes
import os
import platform
import shutil
import sys
from functools import lru_cache

from mmvitscale.errors import InputError

# Instruction sets that the speed of a network depends on: our name, PyTorch's and Linux's.
_FEATURES = [
    ('AVX2', 'avx2', 'avx2'),
    ('AVX-512', 'avx512_f', 'avx512f'),
    ('AVX512-BF16', 'avx512_bf16', 'avx512_bf16'),
    ('AMX', 'amx_bf16', 'amx_bf16'),
]


def name() -> str:
    """The CPU's own, e.g. ``AMD EPYC 9654``."""
    return str(_capabilities().get('cpu_name') or platform.processor() or platform.machine())


def features() -> list[str]:
    """The instruction sets that speed depends on and that are there, of x86; empty elsewhere."""
    capabilities = _capabilities()
    return [ours for ours, torchs, linuxs in _FEATURES if capabilities.get(torchs) or capabilities.get(linuxs)]


def emulates_bfloat16() -> bool:
    """Whether it is an x86 that computes bfloat16 in float32, converting at every turn: slower than float32 itself."""
    found = features()
    return bool(found) and not {'AVX512-BF16', 'AMX'} & set(found)


@lru_cache(maxsize=1)
def _capabilities() -> dict[str, object]:
    import torch  # a tool sets what is below before

    if hasattr(torch.cpu, 'get_capabilities'):
        return dict(torch.cpu.get_capabilities())
    found: dict[str, object] = {}
    try:
        with open('/proc/cpuinfo') as file:
            for line in file:
                key, _, value = line.partition(':')
                if key.strip() == 'model name':
                    found.setdefault('cpu_name', value.strip())
                elif key.strip() == 'flags':
                    found.update(dict.fromkeys(value.split(), True))
    except OSError:
        pass
    return found


def check_compiler() -> None:
    """Raise InputError where PyTorch cannot compile for the CPU."""
    if not any(map(shutil.which, (os.environ.get('CXX', 'g++'), 'clang++'))):
        raise InputError(
            'a model to be compiled found on a machine without a C++ compiler, which PyTorch needs for that on a '
            'CPU; install g++, or do not compile'
        )


def limit_kernel_cache() -> None:
    """Let oneDNN, which computes convolutions and bfloat16 on CPUs, keep the 64 kernels used last instead of 1024: it makes
    and keeps some for every size, so that memory grows with every new size of image. Unless the environment says otherwise
    (``ONEDNN_PRIMITIVE_CACHE_CAPACITY``); before anything is computed."""
    os.environ.setdefault('ONEDNN_PRIMITIVE_CACHE_CAPACITY', '64')


def limit_spinning() -> None:
    """Let a thread of GNU's OpenMP, which PyTorch brings on Linux, wait for work with 10000 turns of a loop before it sleeps:
    without a limit a training beside other work takes four times as long, and asleep at once (``OMP_WAIT_POLICY=PASSIVE``) half
    as long again on an idle machine. Unless the environment says otherwise (``OMP_WAIT_POLICY``, ``GOMP_SPINCOUNT``); the
    library reads it when it is loaded, so nothing is done once PyTorch is imported."""
    if 'torch' not in sys.modules and not {'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT'} & set(os.environ):
        os.environ['GOMP_SPINCOUNT'] = '10000'


def return_free_memory() -> None:
    """Give memory that is free, but lies between pieces that are in use, back to the system, where the C library can (glibc):
    some 20 ms. Without, what images of many sizes leave behind adds up."""
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None) if os.name == 'posix' else None
    if trim is not None:
        trim(0)
