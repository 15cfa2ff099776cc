"""Damaged checkpoint files: read, or refused with a sentence, and never a crash, whatever byte is another.

The damage follows from seeds. A process of its own reads, with a bounded memory, so that even a crash would be seen.
"""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.helpers.commands import ROOT

pytestmark = pytest.mark.slow

SEEDS = range(int(os.environ.get('FUZZ_FROM', 0)), int(os.environ.get('FUZZ_TO', 120)))
_MEMORY = 4 << 30

READER = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory}))
from mmvitscale.checkpoints.io import read_checkpoint
from mmvitscale.errors import InputError
read = refused = 0
for path in sys.argv[1:]:
    print(path, flush=True)
    try:
        assert isinstance(read_checkpoint(path), dict)
        read += 1
    except InputError:
        refused += 1
print('done', read, refused)
"""


def damaged(content: bytes, dice: random.Random) -> bytes:
    """Cut short, bytes changed, pieces removed, repeated or exchanged."""
    content = bytearray(content)
    how = dice.choice(['cut', 'bytes', 'bytes', 'bytes', 'hole', 'repeat', 'zeros', 'head', 'large number'])
    start = dice.randrange(len(content))
    length = dice.randrange(1, 200)
    if how == 'cut':
        del content[start:]
    elif how == 'bytes':
        # The head, and the directory at the end, are what is most believed.
        ends = [range(min(400, len(content))), range(max(0, len(content) - 1200), len(content)), range(len(content))]
        for _ in range(dice.choice([1, 1, 2, 8])):
            content[dice.choice(dice.choice(ends))] = dice.randrange(256)
    elif how == 'hole':
        del content[start : start + length]
    elif how == 'repeat':
        content[start:start] = content[start : start + length]
    elif how == 'zeros':
        content[start : start + length] = bytes(len(content[start : start + length]))
    elif how == 'head':
        content[:8] = dice.randbytes(8)
    else:
        content[start : start + 8] = (2 ** dice.randrange(20, 63)).to_bytes(8, 'little')
    return bytes(content)


@pytest.mark.parametrize('kind', ['zip', 'legacy', 'safetensors'])
def test_damaged_checkpoints_are_read_or_refused_without_a_crash(kind, tmp_path):
    weights = {f'backbone.blocks.{i}.weight': torch.rand(4, 5) for i in range(6)}
    whole = tmp_path / ('whole.safetensors' if kind == 'safetensors' else 'whole.pth')
    if kind == 'safetensors':
        save_file(weights, whole)
    else:
        torch.save(
            dict(state_dict=weights, meta=dict(epoch=1, iter=2, text='x' * 50)),
            whole,
            _use_new_zipfile_serialization=kind == 'zip',
        )
    paths = []
    for seed in SEEDS:
        paths.append(tmp_path / f'{seed}{whole.suffix}')
        paths[-1].write_bytes(damaged(whole.read_bytes(), random.Random(f'{kind} {seed}')))
    result = subprocess.run(
        [sys.executable, '-c', READER.format(memory=_MEMORY), *map(str, paths)],
        cwd=ROOT,
        text=True,
        capture_output=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        timeout=300,
    )
    lines = result.stdout.splitlines()
    assert result.returncode == 0, f'{Path(lines[-1]).name if lines else ""}: {result.stderr[-2000:]}'
    _, read, refused = lines[-1].split()
    assert int(read) + int(refused) == len(SEEDS) and int(refused) > len(SEEDS) / 4
