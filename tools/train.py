"""Train a config, whatever its task."""

import argparse

from mmvitscale.cli import ConfigOptions, add_training_arguments, run_command
from mmvitscale.utils.choices import RESUME_SCHEDULES, STRATEGIES
from mmvitscale.utils.unneeded_imports import import_mmengine, import_segmentors


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='where logs and checkpoints go (default: work_dirs/<config name>)')
    parser.add_argument('--amp', action='store_true', help='mixed precision: float16 on a GPU, bfloat16 on a CPU that has it')
    parser.add_argument(
        '--force-amp',
        action='store_true',
        help='as --amp, on a CPU that only emulates bfloat16, too: slower than without, for trying it out',
    )
    parser.add_argument(
        '--accumulate-grad',
        type=int,
        default=1,
        metavar='N',
        help='update the weights after every N batches: the recipe of N times as many GPUs, in N times the time',
    )
    add_training_arguments(parser)
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate with the batch of all GPUs together'
    )
    parser.add_argument(
        '--strategy',
        choices=STRATEGIES,
        help='how several processes share the work: ddp, optimizer states sharded (zero1, '
        'deepspeed_zero1), parameters and gradients, too (fsdp); what fits: tools/analysis/memory_plan.py',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CKPT',
        help='go on from a checkpoint (default: the latest in the work dir)',
    )
    parser.add_argument(
        '--resume-schedule',
        choices=RESUME_SCHEDULES,
        default='config',
        help="with --resume: whose learning rates and schedule hold where the config's were changed (default: the config's)",
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none')
    parser.add_argument('--local-rank', '--local_rank', type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        metavar='KEY=VALUE',
        help='override the config, e.g. data_root=/data/ade train_dataloader.batch_size=4',
    )
    return parser.parse_args()


def main(args):
    from mmvitscale.config.loading import add_strategy, load_config
    from mmvitscale.config.training_options import add_training_options

    cfg = load_config(args.config, args.cfg_options)
    if args.strategy:
        add_strategy(cfg, args.strategy)
    add_training_options(cfg, args.track, args.ema, args.early_stop, args.batch_size)
    import_mmengine(cfg)
    import_segmentors(cfg)
    from mmvitscale.engine.training import build_training  # after the config, which says what need not be imported

    runner = build_training(
        cfg,
        args.work_dir,
        args.launcher,
        args.amp,
        args.force_amp,
        args.auto_scale_lr,
        args.accumulate_grad,
        args.resume,
        args.resume_schedule,
    )
    runner.train()


if __name__ == '__main__':
    run_command(parse_args, main)
