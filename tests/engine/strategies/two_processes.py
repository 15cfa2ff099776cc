"""What two processes do for test_strategies.py, all in one start: python -m torch.distributed.run ... FOLDER DATA"""

import copy
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, RUNNERS
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from mmvitscale.checkpoints.loading import unwrapped
from mmvitscale.config import runtime
from mmvitscale.config.loading import add_strategy, load_config
from mmvitscale.engine.hooks import finite_loss
from mmvitscale.errors import InputError
from mmvitscale.models import DeepViT
from mmvitscale.models.deepvit.re_attention import ReAttention
from mmvitscale.models.layers.padding import with_validity
from mmvitscale.models.layers.sync_batch_norm import with_sync_batch_norm
from mmvitscale.utils.choices import STATISTICS
from tests.helpers.commands import ROOT

CONFIG = ROOT / 'configs/mini/swinv2_upernet_mini.py'


@HOOKS.register_module(force=True)
class Losses(Hook):
    """Keeps the loss of every iteration, and the first process's of all together."""

    def __init__(self):
        self.found = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        loss = outputs['loss'].detach().clone().float()
        if dist.is_initialized():
            dist.all_reduce(loss)
            loss /= dist.get_world_size()
        self.found.append(loss.item())


def steady(data, work_dir, batch=2, iters=4, optimizer=None, norm=None, **options):
    """The mini config without anything random, on scenes of 64 x 64."""
    cfg = load_config(CONFIG, {'data_root': str(data)})
    steps = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.num_workers, loader.persistent_workers = 0, False
    cfg.train_dataloader.batch_size = batch
    cfg.train_dataloader.dataset.pipeline = steps
    cfg.train_cfg.max_iters, cfg.train_cfg.val_interval = iters, iters
    cfg.default_hooks.checkpoint.interval = 2 if iters == 4 else iters
    cfg.default_hooks.logger.interval = 1
    cfg.model.data_preprocessor.size = (64, 64)
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
        head.dropout_ratio = 0.0
        head.norm_cfg = norm or dict(type='GN', num_groups=4)
    cfg.optim_wrapper.paramwise_cfg.layer_decay_rate = 0.8
    if optimizer:
        cfg.optim_wrapper.optimizer = optimizer
        cfg.optim_wrapper.pop('clip_grad')
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = cfg.visualizer.name = Path(work_dir).name  # MMEngine has one of each name in a process
    cfg.custom_hooks.append(dict(type='Losses', priority='VERY_HIGH'))
    cfg.merge_from_dict(options)
    return cfg


def train(cfg, strategy=None, launcher='pytorch'):
    """The runner after its training, and the losses."""
    if strategy:
        add_strategy(cfg, strategy)
    runtime.fit_to_hardware(cfg, launcher)
    runner = RUNNERS.build(cfg)
    runner.train()
    return runner, next(hook for hook in runner.hooks if isinstance(hook, Losses)).found


def state_bytes(runner):
    """Of the optimizer, in this process."""
    optimizer = runner.optim_wrapper.optimizer
    optimizer = getattr(optimizer, 'optim', getattr(optimizer, 'optimizer', optimizer))  # inside ZeRO's
    tensors = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    return sum((t.to_local() if isinstance(t, DTensor) else t).nbytes for t in tensors)


def quick_configs():
    """As conftest.plain_configs."""
    from yapf.yapflib import yapf_api

    yapf_api.FormatCode = lambda text, *args, **kwargs: (text, False)


def synchronised_norm():
    """Largest differences of a synchronised BatchNorm on unequal batches from a plain one on both: outputs, gradients of the
    input and of the weight, running statistics; and of Re-attention with it."""
    torch.manual_seed(0)
    found = {}
    plain = torch.nn.BatchNorm2d(4).double()
    torch.nn.init.normal_(plain.weight)
    torch.nn.init.normal_(plain.bias)
    maps = torch.randn(3, 4, 5, 6, dtype=torch.float64) * 3 + 1
    attention = ReAttention(8, 2, kernel='sequential', statistics='running').double()
    carried = ReAttention(8, 2, kernel='sequential', trained_tokens=4).double()
    tokens = torch.randn(3, 7, 8, dtype=torch.float64)
    for name, module, x, norm, synchronise in (
        ('batch_norm', plain, maps, lambda m: m, with_sync_batch_norm),
        ('re_attention', attention, tokens, lambda m: m.var_norm, with_sync_batch_norm),
        ('re_attention_of_torch', attention, tokens, lambda m: m.var_norm, torch.nn.SyncBatchNorm.convert_sync_batchnorm),
        ('re_attention_carried', carried, tokens, lambda m: m.var_norm, with_sync_batch_norm),
    ):
        module.train().zero_grad()
        mine = synchronise(copy.deepcopy(module))
        weights = torch.randn_like(x)
        part = slice(0, 1) if dist.get_rank() == 0 else slice(1, 3)
        whole, own = x.clone().requires_grad_(), x[part].clone().requires_grad_()
        out = module(whole)
        (out * weights).sum().backward()
        shared = mine(own)
        (shared * weights[part]).sum().backward()
        gradient = norm(mine).weight.grad
        dist.all_reduce(gradient)
        statistics = [(getattr(norm(module), key), getattr(norm(mine), key)) for key in ('running_mean', 'running_var')]
        pairs = [(out[part], shared), (whole.grad[part], own.grad), (norm(module).weight.grad, gradient), *statistics]
        found[name] = [(a - b).abs().max().item() for a, b in pairs]
        module.eval(), mine.eval()
        found[name].append((module(x) - mine(x)).abs().max().item())
    found['windows'] = _windows()
    for statistics in STATISTICS:
        found[f'padded_{statistics}'] = _padded(statistics)
    return found


def _windows():
    """Maps that are cut into 4 and 1 shapes of windows: what each process computes, with the other's, is that of one batch."""
    model = DeepViT(dict(embed_dims=8, depth=2, re_attention=2, num_heads=2), 64, window_size=3, drop_path_rate=0.0)
    model = model.double().train()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    mine = with_sync_batch_norm(copy.deepcopy(model))
    images = [torch.randn(1, 3, side, side, dtype=torch.float64) for side in (80, 96)]
    batch = torch.zeros(2, 3, 96, 96, dtype=torch.float64)
    batch[:1, :, :80, :80], batch[1:] = images
    side = (80, 96)[dist.get_rank()] // 16
    right = model(with_validity(batch, [(80, 80), (96, 96)]))[0][dist.get_rank(), :, :side, :side]
    return [(mine(images[dist.get_rank()])[0][0] - right).abs().max().item()]


def _padded(statistics):
    """The same for images of 3, 7 and 5 tokens: one process has the first alone, unpadded."""
    whole = ReAttention(8, 2, kernel='sequential', statistics=statistics, trained_tokens=4).double().train()
    mine = with_sync_batch_norm(copy.deepcopy(whole))
    x = torch.randn(3, 7, 8, dtype=torch.float64)
    keys = torch.arange(7) < torch.tensor([[3], [7], [5]])
    out = whole(x, keys)
    (out * keys[..., None]).square().sum().backward()
    if dist.get_rank() == 0:
        own, right = mine(x[:1, :3]), out[:1, :3]
        own.square().sum().backward()
    else:
        own, right = mine(x[1:], keys[1:]) * keys[1:, :, None], out[1:] * keys[1:, :, None]
        own.square().sum().backward()
    differences = [(own - right).abs().max().item()]
    for one, other in zip(whole.parameters(), mine.parameters()):
        dist.all_reduce(other.grad)
        differences.append((one.grad - other.grad).abs().max().item())
    pairs = [(one, other) for (name, one), (_, other) in zip(whole.named_buffers(), mine.named_buffers()) if 'law' not in name]
    differences += [(one.double() - other.double()).abs().max().item() for one, other in pairs]
    law = mine.token_law.moments.clone()
    dist.all_reduce(law)
    return [*differences, (law / 2 - mine.token_law.moments).abs().max().item()]


@HOOKS.register_module()
class Poisons(Hook):
    """NaN in the second process's third step."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 2 and dist.get_rank() == 1:
            unwrapped(runner.model).decode_head.conv_seg.bias.data.fill_(float('nan'))


def poisoned(folder, data):
    """What each process says of it."""
    finite_loss._FIRST_WORD = 0
    cfg = steady(data, folder / 'poisoned')
    cfg.custom_hooks.append(dict(type='Poisons'))
    said = [None, None]
    try:
        train(cfg, 'ddp')
        mine = 'nothing'
    except InputError as error:
        mine = str(error)
    dist.all_gather_object(said, mine)
    return said


@HOOKS.register_module()
class Spoils(Hook):
    """An image of NaN in the second process's batch of some iterations."""

    def __init__(self, iterations):
        self.iterations = iterations

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter in self.iterations and dist.get_rank() == 1:
            data_batch['inputs'] = [image * float('nan') for image in data_batch['inputs']]


def left_out(folder, data, name):
    """Largest differences of the weights: of the processes from each other, and from those of a training in which the batches
    that are left out are not there. Of two batches for an update the first, or the second, is."""
    found = []
    for spoilt, kept in (([1], 0), ([0], 1)):
        sgd = dict(type='SGD', lr=0.1)
        cfg = steady(data, folder / f'{name}-left-out-{kept}', optimizer=sgd, iters=2)
        cfg.optim_wrapper.accumulative_counts, cfg.param_scheduler = 2, []
        cfg.default_hooks.finite_loss = dict(on_non_finite='skip')
        cfg.custom_hooks.append(dict(type='Spoils', iterations=spoilt))
        runner, _ = train(cfg, name)
        # An update with half of the gradient, as that of a batch of two is.
        cfg = steady(data, folder / f'{name}-not-there-{kept}', optimizer={**sgd, 'lr': 0.05}, iters=1 + kept)
        cfg.param_scheduler = []
        if kept:
            cfg.custom_hooks.append(dict(type='Spoils', iterations=[0]))
            cfg.default_hooks.finite_loss = dict(on_non_finite='skip')
        right, _ = train(cfg, name)
        differences = [0.0, 0.0]
        for mine, other in zip(unwrapped(runner.model).parameters(), unwrapped(right.model).parameters()):
            most, least = mine.detach().clone(), mine.detach().clone()
            dist.all_reduce(most, dist.ReduceOp.MAX)
            dist.all_reduce(least, dist.ReduceOp.MIN)
            differences = [
                max(differences[0], (most - least).abs().max().item()),
                max(differences[1], (mine - other).detach().abs().max().item()),
            ]
        found.append(differences)
    return found


def main(folder, data):
    quick_configs()
    found = {}
    for name in ('ddp', 'zero1', 'fsdp', 'deepspeed_zero1'):
        # The checkpoint that others go on from is followed by a validation, which writes it once more.
        after = 4 if name == 'ddp' else 2
        runner, losses = train(steady(data, folder / name, **{'train_cfg.val_interval': after}), name)
        sizes = [None, None]
        dist.all_gather_object(sizes, state_bytes(runner))
        blocks = unwrapped(runner.model).backbone.transformer_blocks()
        found[name] = dict(losses=losses, states=sizes, sharded=[isinstance(block, FSDPModule) for block in blocks])
    # From each to the next.
    for before, after in (('ddp', 'fsdp'), ('fsdp', 'deepspeed_zero1'), ('deepspeed_zero1', 'zero1'), ('zero1', 'ddp')):
        cfg = steady(data, folder / f'{before}-{after}', load_from=str(folder / before / 'iter_2.pth'), resume=True)
        found[f'{before}-{after}'] = dict(losses=train(cfg, after)[1])
    # Random layers, each process its own, and optimizer states sharded.
    random_layers = {'model.backbone.drop_path_rate': 0.3}
    found['exact'] = dict(losses=train(steady(data, folder / 'exact', **random_layers), 'zero1')[1])
    cfg = steady(data, folder / 'exact-cut', load_from=str(folder / 'exact' / 'iter_2.pth'), resume=True, **random_layers)
    found['exact-cut'] = dict(losses=train(cfg, 'zero1')[1])
    found['poisoned'] = poisoned(folder, data)
    found['left-out'] = {name: left_out(folder, data, name) for name in ('ddp', 'zero1')}
    # Against one process with the batch of both.
    sgd = dict(type='SGD', lr=0.05, momentum=0.9)
    found['sgd'] = dict(losses=train(steady(data, folder / 'sgd', optimizer=sgd, iters=10), 'ddp')[1])
    norm = dict(type='BN')
    found['bn'] = dict(losses=train(steady(data, folder / 'bn', optimizer=sgd, norm=norm, iters=3), 'ddp')[1])
    # Checkpointed blocks, and a hook that looks into them.
    for name in ('ddp', 'fsdp'):
        cfg = steady(data, folder / f'{name}-more', iters=2, **{'model.backbone.with_cp': name == 'fsdp'})
        cfg.train_cfg.val_interval = 9
        cfg.custom_hooks.append(dict(type='mmvitscale.AttentionMonitorHook', interval=1))
        found[f'{name}-more'] = dict(losses=train(cfg, name)[1])
    for name in ('fsdp', 'deepspeed_zero1'):
        cfg = steady(data, folder / f'{name}-amp', iters=2)
        if name == 'deepspeed_zero1':
            cfg.custom_hooks.append(dict(type='EMAHook'))
        add_strategy(cfg, name)
        runtime.fit_to_hardware(cfg, 'pytorch')
        runtime.use_mixed_precision(cfg, force=True)
        found[f'{name}-amp'] = dict(losses=train(cfg)[1])
    cfg = steady(data, folder / 'ds-16', iters=2)
    add_strategy(cfg, 'deepspeed_zero1')
    cfg.strategy.bf16 = dict(enabled=True)
    found['ds-16'] = dict(losses=train(cfg)[1])
    found['norm'] = synchronised_norm()
    if dist.get_rank() == 0:
        (folder / 'found.json').write_text(json.dumps(found))


if __name__ == '__main__':
    main(Path(sys.argv[1]), Path(sys.argv[2]))
