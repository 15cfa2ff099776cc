"""Run every config of the installed mmdet and mmseg through what tools/train.py checks before it trains: none that trains with
OpenMMLab's own tool should be refused.

    python -m tests.stress.scan_configs             all of them, and a table of those that are refused
    python -m tests.stress.scan_configs --every 20  each 20th

Data are nobody's here: folders and annotation files count as there.
"""

import argparse
import collections
import importlib.util
import sys
from pathlib import Path

from mmvitscale.config import runtime
from mmvitscale.config.loading import load_config
from mmvitscale.config.validation import check_parts
from mmvitscale.datasets import checks
from mmvitscale.errors import InputError


def configs_of(package):
    """The configs of an installed package that can be run, not those they are made of."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        return []
    package = Path(spec.origin).parent
    # As text, and in pure Python, with classes in the place of their names.
    paths = [path for root in (package / '.mim' / 'configs', package / 'configs') for path in sorted(root.rglob('*.py'))]
    return [path for path in paths if '_base_' not in path.parts and path.stem not in ('__init__', 'default_runtime')]


def check(path):
    """Raises what the command would raise."""
    cfg = load_config(str(path))
    check_parts(cfg, 'model', 'train_dataloader', 'train_cfg', 'optim_wrapper')
    runtime.check_packages(cfg)
    checks.check_datasets(cfg, ('train', 'val'))
    runtime.fit_to_hardware(cfg, 'none')
    accumulates = cfg.optim_wrapper.get('accumulative_counts', 1) > 1
    if not accumulates:
        runtime.accumulate_gradients(cfg, 2)
    runtime.describe_batch(cfg, 2)


def scan(paths):
    """How many passed, and (path, what was said) of the others: sentences, and defects with their type."""
    passed, refused = 0, []
    for path in paths:
        try:
            check(path)
            passed += 1
        except InputError as error:
            refused.append((path, str(error)))
        except Exception as error:
            refused.append((path, f'DEFECT {type(error).__name__}: {error}'))
    return passed, refused


def without_data():
    """Let folders and annotation files be there, and hold what they should."""
    checks._check_folder = checks._check_file = lambda path, key='': None
    checks._check_class_folders = lambda folder, classes: None
    checks._check_coco_files = lambda cfg, datasets, split: set()
    checks._check_label_maps = lambda cfg, splits: {}
    checks._check_folders_of_classes = lambda cfg, splits: None


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--every', type=int, default=1, metavar='N')
    args = parser.parse_args()
    without_data()
    reasons = collections.Counter()
    for package in ('mmdet', 'mmseg'):
        paths = configs_of(package)[:: args.every]
        passed, refused = scan(paths)
        print(f'{package}: {len(paths)} configs, {passed} passed, {len(refused)} refused')
        for path, reason in refused:
            reasons[f'{package}: {reason.replace(str(path), "CONFIG")}'] += 1
    for reason, count in reasons.most_common():
        print(f'{count:4} {reason[:400]}')
    return 1 if any('DEFECT' in reason for reason in reasons) else 0


if __name__ == '__main__':
    sys.exit(main())
