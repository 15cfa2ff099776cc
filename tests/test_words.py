"""One vocabulary, the field's: words that were replaced do not come back, in names, options, messages and pages."""

import re
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[1]

# A word that was used here -> what PyTorch, OpenMMLab and the papers call it.
REPLACED = {
    r'\bdoors?\b': 'checkpoint loading',
    r'lineage': 'checkpoint metadata',
    r'\blearn(ed|t) with\b': 'trained with',
    r'\breference[ _]windows?\b': 'pretrained window',
    r'\bfolders? of pieces': 'sharded checkpoint',
    r'\bshared out\b': 'sharded',
    r'\bwhole[ _]files?\b|\bwhole or (not|absent)|newest_whole|write_whole': 'atomic write; complete or corrupt checkpoint',
    r'(?<!ground)(?<!ground[ _-])\btruth\b': 'ground truth',
    r'embedded scenes': 'synthetic mini dataset',
    r'\balike\b|similar blocks': 'attention similarity, attention collapse',
    r'\bnot finite\b': 'NaN or Inf',
    r'\baccumulated gradients\b': 'gradient accumulation',
    r'\banew\b': 'again, re-',
    r'\btold\b|\btells?\b|\bspeaks? (of|for)\b': 'logged, reported, contains, shows',
    r'\bcontestants?\b|\bpeers?\b|\brivals?\b': 'baseline, reference implementation',
    r'\bfaults\b': 'fault tolerance',
    r'what fits where': 'memory per GPU, distributed training',
    r'where to find what': 'code map',
    r'alone on one screen': 'analysis and visualization',
    r'\bcarr(y|ies|ied) over\b': 'transfer (of windows), token-invariant (statistics)',
    r'\bmisshapen\b|newly initialised': 'size mismatch; missing (initialised)',
    r'window_merge|cut_axis': 'window_reverse, window_starts',
    r'map_normalisation|TokenLaw': 're_attention_norm, VariancePowerLaw',
    r'may_be_new|leaves_out\b|fit_positions': 'allows_missing, ignores_unexpected, resize_position_weights',
    r'live_bytes|\bpainter\b|TestedImages|settle_windows|let_averages_follow|statistics_kept': 'live_tensors, Visualizer, ...',
    r'--force(?![-\w])|--against\b|--way\b|--accumulate(?![-\w])|--peers\b': 'options: one word for one thing',
}
# What files of earlier versions hold, and what PyTorch says.
QUOTED = re.compile(
    r"gh-deploy --force|'lineage'|'window_lineage'|``reference_window``|[.'(]reference_windows?\b|\breference_windows?=|"
    r"reset by peer|closed by peer|'--\w+': '--|'Painter'"
)


def test_replaced_words_do_not_come_back():
    listed = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard'], cwd=ROOT, capture_output=True, text=True)
    paths = [ROOT / name for name in listed.stdout.split()] or sorted(ROOT.rglob('*'))
    kinds = {'.py', '.md', '.yml', '.ipynb', '.toml', '.sh'}
    history = {ROOT / 'CHANGELOG.md', Path(__file__), ROOT / 'tests/test_renamed_names.py'}
    paths = [path for path in paths if path.suffix in kinds and path.is_file() and path not in history]
    assert len(paths) > 400
    found = []
    for path in paths:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            rest = QUOTED.sub('', line)
            for word, instead in REPLACED.items():
                match = re.search(word, rest, re.IGNORECASE)
                found += [f'{path.relative_to(ROOT)}:{number}: {match[0]!r}: {instead}'] if match else []
    assert not found, '\n'.join(found)
