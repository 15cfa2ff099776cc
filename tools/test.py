"""Evaluate a checkpoint on the config's test set, whatever its task."""

import argparse
from pathlib import Path

from mmvitscale.cli import ConfigOptions, add_model, config_of, parse_model_args, run_command, save_json
from mmvitscale.errors import InputError
from mmvitscale.utils.atomic_write import atomic_write, check_writable


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    add_model(parser, 'checkpoint file, or what tools/export.py made of it')
    parser.add_argument('--work-dir', help='where logs go (default: work_dirs/<config name>)')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation: several scales, and flips')
    parser.add_argument('--show-dir', metavar='D', help='write pictures there: image, ground truth and prediction')
    parser.add_argument('--out', metavar='F', help='write the metrics to F.json or the predictions to F.pkl')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none')
    parser.add_argument('--local-rank', '--local_rank', type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE', help='override the config')
    return parse_model_args(parser)


def use_tta(cfg):
    from mmengine.config import ConfigDict

    from mmvitscale.config.view import plain_datasets

    if not cfg.get('tta_model') or not cfg.get('tta_pipeline'):
        raise InputError(f'--tta needs tta_model and tta_pipeline, which {cfg.filename} does not define')
    for dataset in plain_datasets(cfg.test_dataloader.dataset):
        dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def file_of_predictions(path):
    """A metric: a file of all predictions, written atomically by the first process."""
    from mmengine.evaluator import DumpResults
    from mmengine.fileio import dump
    from mmengine.logging import print_log

    class Predictions(DumpResults):
        def compute_metrics(self, results):
            with atomic_write(self.out_file_path) as part:
                dump(results, str(part))
            print_log(f'predictions are in {self.out_file_path}', 'current')
            return {}

    return Predictions(str(path))


def main(args):
    out = Path(args.out) if args.out else None
    if out and out.suffix not in ('.json', '.pkl'):
        raise InputError(f'--out {out} found, but it ends in .json (metrics) or .pkl (predictions)')
    cfg = config_of(args.config, args.checkpoint, args.cfg_options, alone=True)
    from mmengine.dist import is_main_process  # after the config, which says what need not be imported
    from mmengine.registry import RUNNERS

    from mmvitscale.config.runtime import check_packages, fit_to_hardware, use_work_dir
    from mmvitscale.config.validation import check_parts
    from mmvitscale.datasets.checks import check_datasets
    from mmvitscale.export import is_exported, run_instead

    if not cfg.get('test_dataloader'):
        raise InputError(
            f'{cfg.filename} pretrains and has nothing to test; look at reconstructed images with '
            'tools/predict.py, or fine-tune from the checkpoint: --cfg-options '
            'model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=CKPT'
        )
    check_parts(cfg, 'model', 'test_dataloader')
    check_packages(cfg)
    check_datasets(cfg, ('test',))
    use_work_dir(cfg, args.work_dir)
    for folder in filter(None, (args.show_dir, out and out.parent)):
        check_writable(folder)
    fit_to_hardware(cfg, args.launcher)
    if args.tta:
        use_tta(cfg)
    if args.show_dir:
        pictures = dict(type='mmvitscale.ComparisonPictureHook', out_dir=args.show_dir)
        cfg.custom_hooks = [*cfg.get('custom_hooks', []), pictures]

    exported = is_exported(args.checkpoint)
    if exported and args.launcher != 'none':
        raise InputError(f'{args.checkpoint} is an exported file, which runs in one process; leave --launcher out')
    cfg.load_from, cfg.resume = None if exported else args.checkpoint, False
    runner = RUNNERS.build(cfg)
    if exported:
        run_instead(runner.model.module if args.tta else runner.model, args.checkpoint)
    if out and out.suffix == '.pkl':
        runner.test_evaluator.metrics.append(file_of_predictions(out))
    metrics = runner.test()
    if out and out.suffix == '.json' and is_main_process():
        save_json(metrics, out)


if __name__ == '__main__':
    run_command(parse_args, main)
