"""Trainings and tests of one config under many settings: what comparisons over seeds, windows and sizes are made of."""

import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev

import cv2
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, RUNNERS, init_default_scope

from mmvitscale.checkpoints.io import reading_data_only
from mmvitscale.config.loading import load_config
from mmvitscale.config.runtime import check_packages, fit_to_hardware
from mmvitscale.config.view import ConfigView, plain_datasets
from mmvitscale.datasets.checks import check_datasets
from mmvitscale.engine.experiment_records import check_settings, record_metrics, recorded_metrics, settings_of
from mmvitscale.engine.training import build_training
from mmvitscale.errors import InputError
from mmvitscale.utils.atomic_write import atomic_write, check_writable
from mmvitscale.utils.cpu import limit_kernel_cache
from mmvitscale.utils.error_translation import explain
from mmvitscale.utils.json_text import json_text, plain

_SIZES = ('scale', 'crop_size', 'size')  # of the steps that set an image's size


def train_once(config: str, work_dir: Path, options: dict[str, object]) -> Path:
    """Train a config in a process of its own -> its last checkpoint. A training that has ended is not repeated, one that was
    interrupted is resumed. What it prints goes into output.txt.

    Raises:
        InputError: for a work folder with a training of other settings; with the last line of its output, where it fails.
    """
    # A config is written out beside the checkpoints, and holds no paths that are objects.
    options = {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}
    settings = settings_of(load_config(config, dict(options)))
    check_writable(work_dir)
    check_settings(work_dir, settings)
    done = work_dir / 'done.json'
    if done.is_file():
        return work_dir / json.loads(done.read_text())['checkpoint']
    resume = 'auto' if (work_dir / 'last_checkpoint').is_file() else None
    status = _in_process(_train, config, work_dir, options, resume)
    if status:
        last = (work_dir / 'output.txt').read_text().strip().splitlines()[-1:]
        raise InputError(
            f'training in {work_dir} ended with status {status}: {"".join(last)}; its output is in output.txt there'
        )
    checkpoint = Path((work_dir / 'last_checkpoint').read_text().strip())
    with atomic_write(done) as part:
        part.write_text(json_text(dict(checkpoint=checkpoint.name)))
    return work_dir / checkpoint.name


def _in_process(function: Callable[..., None], *arguments: object) -> int:
    """Run a function in a process of its own, which starts from nothing -> its exit status."""
    process = multiprocessing.get_context('spawn').Process(target=function, args=arguments)
    process.start()
    process.join()
    return process.exitcode or 0


def _train(config: str, work_dir: Path, options: dict[str, object], resume: str | None) -> None:
    with open(work_dir / 'output.txt', 'a') as output:
        os.dup2(output.fileno(), sys.stdout.fileno())
        os.dup2(output.fileno(), sys.stderr.fileno())
    limit_kernel_cache()
    try:
        with reading_data_only():
            build_training(load_config(config, dict(options)), str(work_dir), resume=resume).train()
    except Exception as error:
        sentence = explain(error)
        if sentence is None:
            raise
        print(f'error: {sentence}', file=sys.stderr)
        sys.exit(1)


def length_options(iters: int, warmup: int) -> dict[str, int]:
    """Options of ``train_once`` for a config with a warm-up and one decay: so many iterations, the first of them a warm-up,
    never more than half."""
    warmup = min(warmup, iters // 2)
    return {
        'train_cfg.max_iters': iters,
        'default_hooks.checkpoint.interval': iters,
        'param_scheduler.0.end': warmup,
        'param_scheduler.1.begin': warmup,
        'param_scheduler.1.end': iters,
    }


def evaluate(cfg: Config, checkpoint: Path, work_dir: Path) -> dict[str, float]:
    """Test a checkpoint with the config as it is -> its metrics that are numbers. The config is used up."""
    check_packages(cfg)
    check_datasets(cfg, ('test',))
    fit_to_hardware(cfg)
    cfg.work_dir, cfg.load_from, cfg.resume = str(work_dir), str(checkpoint), False
    cfg.experiment_name = f'{Path(cfg.filename).stem}_{id(cfg)}'  # MMEngine keeps one logger for each name
    cfg.log_level = 'WARNING'
    metrics = {key: plain(value) for key, value in RUNNERS.build(cfg).test().items()}
    return {key: float(value) for key, value in metrics.items() if isinstance(value, (int, float))}


def evaluate_once(cfg: Config, checkpoint: Path, work_dir: Path, known: Path) -> dict[str, float]:
    """``evaluate``, or what an earlier call left in the file ``known`` of the same config, data and checkpoint."""
    settings = settings_of(cfg, checkpoint)
    metrics = recorded_metrics(known, settings)
    if metrics is None:
        metrics = evaluate(cfg, checkpoint, work_dir)
        record_metrics(known, settings, metrics)
    return metrics


def test_side(cfg: Config) -> int:
    """Pixels of the short side of the images that the config tests on."""
    pipeline = next(plain_datasets(cfg.test_dataloader.dataset)).get('pipeline', [])
    sides = [_short(step[key]) for step in pipeline for key in _SIZES if _short(step.get(key))]
    if sides:
        return sides[-1]
    check_packages(cfg)
    init_default_scope(ConfigView(cfg).scope)
    path = DATASETS.build(cfg.test_dataloader.dataset).get_data_info(0)['img_path']
    return min(cv2.imread(path).shape[:2])


def use_test_side(cfg: Config, side: int) -> None:
    """Change what the config tests on to images of this short side: the sizes in its pipeline and of sliding windows in
    proportion, or where it takes images as they are, a first step that resizes them."""
    # Data sets that are tested together may have one pipeline.
    pipelines = {id(one.pipeline): one.pipeline for one in plain_datasets(cfg.test_dataloader.dataset) if 'pipeline' in one}
    steps = {id(step): step for pipeline in pipelines.values() for step in pipeline}.values()
    sized = [step for step in steps if any(_short(step.get(key)) for key in _SIZES)]
    test_cfg = cfg.model.get('test_cfg') or {}
    slides = test_cfg.get('mode') == 'slide'
    factor = side / test_side(cfg) if sized or slides else 1.0  # the side may have to be read from an image
    for step in sized:
        for key in _SIZES:
            if _short(step.get(key)):
                step[key] = _times(step[key], factor)
    for pipeline in pipelines.values() if not sized else ():
        pipeline.insert(1, ConfigDict(type='Resize', scale=(side, side), keep_ratio=True))
    for key in ('crop_size', 'stride') if slides else ():
        if key in test_cfg:
            test_cfg[key] = _times(test_cfg[key], factor)


def grown(windows: int | Sequence, factor: float) -> int | list:
    """One window, or one for each stage, times a factor, to whole tokens."""
    if isinstance(windows, (list, tuple)):
        return [grown(window, factor) for window in windows]
    return max(1, round(windows * factor))  # type: ignore[operator]


def main_metric(metrics: dict[str, float], name: str | None = None) -> tuple[str, float]:
    """Of the metrics that are numbers, the one of this name, else the one that a task is usually judged by, else the first."""
    known = (name,) if name else ('mIoU', 'coco/bbox_mAP', 'accuracy/top1', *metrics)
    for key in known:
        if key in metrics:
            return key, metrics[key]
    raise InputError(
        f'metric {name} found, but the test gives {", ".join(metrics)}' if name else 'the test gives no metric that is a number'
    )


def describe(values: Sequence[float]) -> str:
    """``71.2 +- 0.4``: mean and standard deviation over seeds."""
    return f'{mean(values):.2f} +- {stdev(values) if len(values) > 1 else 0:.2f}'


def _short(size) -> int:
    """The short side of a size in a pipeline; 0 for what is none."""
    if isinstance(size, (list, tuple)):
        return min(size) if size and all(isinstance(n, int) for n in size) else 0
    return size if isinstance(size, int) and not isinstance(size, bool) else 0


def _times(size, factor: float):
    if isinstance(size, (list, tuple)):
        return tuple(_times(n, factor) for n in size)
    return max(1, round(size * factor))
