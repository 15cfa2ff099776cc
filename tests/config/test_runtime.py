import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import Runner

import mmvitscale
from mmvitscale.config import runtime
from mmvitscale.config.loading import add_strategy
from mmvitscale.config.names import configs_folder
from mmvitscale.engine.runner import Runner as OurRunner
from mmvitscale.engine.runner import compile_blocks
from mmvitscale.errors import InputError
from mmvitscale.models import SwinTransformerV2
from mmvitscale.utils import cpu
from mmvitscale.utils.choices import STRATEGIES

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def a_processor_with_bfloat16(monkeypatch):
    monkeypatch.setattr(cpu, 'emulates_bfloat16', lambda: False)


@pytest.mark.parametrize('device', ['cpu', 'cuda'])
def test_data_workers_are_limited_to_those_of_the_machine(device, monkeypatch):
    monkeypatch.setattr(runtime, 'get_device', lambda: device)
    cfg = Config(dict(train_dataloader=dict(num_workers=999), sync_bn='torch'))
    runtime.fit_to_hardware(cfg)
    assert cfg.sync_bn == 'torch'
    assert cfg.train_dataloader.num_workers < 999
    assert cfg.runner_type == 'mmvitscale.Runner'


@pytest.mark.parametrize('device, wrapper', [('cpu', 'mmvitscale.BF16OptimWrapper'), ('cuda', 'AmpOptimWrapper')])
def test_mixed_precision_follows_the_device(device, wrapper, monkeypatch):
    monkeypatch.setattr(runtime, 'get_device', lambda: device)
    cfg = Config(dict(optim_wrapper=dict(type='OptimWrapper')))
    runtime.use_mixed_precision(cfg)
    assert cfg.optim_wrapper.type == wrapper


@pytest.mark.parametrize(
    'device, optimizer, others, expected',
    [
        ('cpu', dict(type='AdamW', lr=1e-3), {}, True),
        ('cpu', dict(type='Adam'), {}, True),
        ('cuda', dict(type='AdamW'), {}, None),
        ('cpu', dict(type='NAdam'), {}, None),  # knows no such option
        ('cpu', dict(type='AdamW', fused=False), {}, False),
        ('cpu', dict(type='AdamW', foreach=True), {}, None),
        ('cpu', dict(type='AdamW'), dict(shard_optimizer=True), None),
        ('cpu', dict(type='AdamW'), dict(strategy=dict(type='DDPStrategy'), work_dir='w'), None),
    ],
)
def test_optimizers_are_fused_on_a_cpu_where_nothing_speaks_against_it(device, optimizer, others, expected, monkeypatch):
    monkeypatch.setattr(runtime, 'get_device', lambda: device)
    cfg = Config(dict(optim_wrapper=dict(type='OptimWrapper', optimizer=optimizer), **others))
    runtime.fit_to_hardware(cfg)
    assert cfg.optim_wrapper.optimizer.get('fused') is expected


@pytest.mark.integration
def test_amp_configs_become_bfloat16_on_a_cpu():
    cfg = mmvitscale.load_config('swinv2_mask_rcnn_coco', {'optim_wrapper.loss_scale': 'dynamic'})
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    runtime.fit_to_hardware(cfg)
    assert cfg.optim_wrapper.type == 'mmvitscale.BF16OptimWrapper' and 'loss_scale' not in cfg.optim_wrapper
    assert cfg.optim_wrapper.backbone_only  # mmcv's operators know no bfloat16
    cfg = mmvitscale.load_config('swinv2_upernet_ade20k')
    runtime.use_mixed_precision(cfg)
    assert not cfg.optim_wrapper.backbone_only


@pytest.mark.integration
def test_bfloat16_that_is_emulated_is_left_out_unless_it_is_forced(monkeypatch):
    monkeypatch.setattr(cpu, 'emulates_bfloat16', lambda: True)
    recipe = mmvitscale.load_config('swinv2_mask_rcnn_coco')
    assert recipe.optim_wrapper.type == 'AmpOptimWrapper'
    line = runtime.describe_precision(recipe, amp=False, force=False)
    assert 'has no bfloat16 of its own' in line and '--force-amp' in line
    assert runtime.describe_precision(recipe, amp=False, force=True) is None
    runtime.fit_to_hardware(recipe)
    plain = Config(dict(optim_wrapper=dict(type='OptimWrapper')))
    assert runtime.describe_precision(plain, amp=False, force=False) is None
    assert runtime.describe_precision(plain, amp=True, force=False) == line
    runtime.use_mixed_precision(plain)
    dumped = Config(dict(optim_wrapper=dict(type='mmvitscale.BF16OptimWrapper', cache=True, backbone_only=True)))
    runtime.use_mixed_precision(dumped)
    assert dumped.optim_wrapper == dict(type='OptimWrapper')
    assert [cfg.optim_wrapper.type for cfg in (recipe, plain)] == ['OptimWrapper'] * 2
    assert 'loss_scale' not in recipe.optim_wrapper
    runtime.use_mixed_precision(plain, force=True)
    recipe = mmvitscale.load_config('swinv2_mask_rcnn_coco')
    runtime.fit_to_hardware(recipe, force_amp=True)
    assert [cfg.optim_wrapper.type for cfg in (recipe, plain)] == ['mmvitscale.BF16OptimWrapper'] * 2
    monkeypatch.setattr(runtime, 'get_device', lambda: 'cuda')
    runtime.use_mixed_precision(plain)
    assert plain.optim_wrapper.type == 'AmpOptimWrapper' and runtime.describe_precision(plain, True, False) is None


@pytest.mark.parametrize(
    'capabilities, features, emulates',
    [
        (dict(avx2=True, avx512_f=True, avx512_bf16=True, amx_bf16=False), ['AVX2', 'AVX-512', 'AVX512-BF16'], False),
        (dict(avx2=True, avx512_f=True), ['AVX2', 'AVX-512'], True),
        (dict(avx2=True, avx512f=True, amx_bf16=True), ['AVX2', 'AVX-512', 'AMX'], False),  # as Linux names them
        (dict(cpu_name='Neoverse-V2'), [], False),
    ],
)
def test_cpu_features_and_emulated_bfloat16_are_detected(capabilities, features, emulates, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(cpu, '_capabilities', lambda: capabilities)
    assert cpu.features() == features and cpu.emulates_bfloat16() == emulates
    assert cpu.name()


def test_cpu_features_are_read_from_the_system_without_pytorch(monkeypatch):
    logged = cpu._capabilities.__wrapped__()
    monkeypatch.delattr(torch.cpu, 'get_capabilities', raising=False)
    read = cpu._capabilities.__wrapped__()
    for _, torchs, linuxs in cpu._FEATURES:
        assert bool(logged.get(torchs)) == bool(read.get(linuxs)) or torchs not in logged


def test_compiling_without_a_cpp_compiler_is_refused(monkeypatch):
    monkeypatch.setattr(cpu.shutil, 'which', lambda name: None)
    for options in (True, dict(target='blocks'), dict(mode='max-autotune')):
        runner = SimpleNamespace(cfg=Config(dict(compile=options)))
        with pytest.raises(InputError, match=r'without a C\+\+ compiler, .* install g\+\+'):
            OurRunner._maybe_compile(runner, 'train_step')
    monkeypatch.setattr(cpu.shutil, 'which', lambda name: f'/usr/bin/{name}')
    cpu.check_compiler()


@pytest.mark.integration
def test_missing_packages_of_a_data_pipeline_are_reported(monkeypatch):
    find_spec = runtime.importlib.util.find_spec
    lacking = ('panopticapi', 'instaboostfast')
    monkeypatch.setattr(runtime.importlib.util, 'find_spec', lambda name: None if name in lacking else find_spec(name))
    for name, package in (
        ('mask2former_swinv2-t-w16-in1k_8xb2-lsj-50e_coco-panoptic', 'panopticapi'),
        ('htc_swinv2-l-w32-in22k_fpn_64xb1-instaboost-lsj1536-3x_coco', 'instaboostfast'),
    ):
        with pytest.raises(InputError, match=f'needs the package {package}; get it with: pip install .*{package}'):
            runtime.check_packages(mmvitscale.load_config(name))


# Processes


def strategic(strategy, **more):
    """A config that wants a strategy, in several processes."""
    return Config(dict(launcher='pytorch', strategy=strategy, model={}, optim_wrapper=dict(type='OptimWrapper'), **more))


def refusal(cfg):
    with pytest.raises(InputError) as error:
        runtime._choose_runner(cfg)
    return str(error.value)


@pytest.mark.integration
def test_a_strategy_chooses_the_runner():
    for name in ('fsdp', 'deepspeed_zero1'):
        cfg = mmvitscale.load_config('swinv2_upernet_ade20k')
        add_strategy(cfg, name)
        cfg.launcher = 'pytorch'
        runtime._choose_runner(cfg)
        assert cfg.runner_type == 'mmvitscale.FlexibleRunner'
        cfg.launcher = 'none'  # one process has nothing to share out
        cfg.runner_type = 'mmvitscale.Runner'
        runtime._choose_runner(cfg)
        assert 'strategy' not in cfg and cfg.runner_type == 'mmvitscale.Runner'
    cfg = strategic(dict(type='FSDPStrategy'))  # as MMEngine spells it
    runtime._choose_runner(cfg)
    assert cfg.strategy.type == 'mmvitscale.FSDPStrategy'
    cfg = strategic(dict(type='DDPStrategy'), runner_type='mmvitscale.Runner')
    runtime._choose_runner(cfg)
    assert 'strategy' not in cfg and cfg.runner_type == 'mmvitscale.Runner'


@pytest.mark.integration
def test_inherited_strategy_fragments_equal_the_strategy_option(tmp_path):
    for name in STRATEGIES:
        (tmp_path / f'{name}.py').write_text(
            f"_base_ = ['mmvitscale::swinv2_mask_rcnn_coco', '{configs_folder()}/_base_/scale/{name}.py']\n"
        )
        inherited = mmvitscale.load_config(tmp_path / f'{name}.py')
        asked = mmvitscale.load_config('swinv2_mask_rcnn_coco')
        add_strategy(asked, name)
        assert inherited._cfg_dict == asked._cfg_dict
        assert inherited._cfg_dict != mmvitscale.load_config('swinv2_mask_rcnn_coco')._cfg_dict


@pytest.mark.integration
def test_unsupported_strategies_and_combinations_are_refused(monkeypatch):
    assert 'mmvitscale knows FSDPStrategy and DeepSpeedStrategy' in refusal(strategic(dict(type='ColossalAIStrategy')))
    fsdp = dict(type='mmvitscale.FSDPStrategy')
    assert 'EMAHook found with FSDPStrategy' in refusal(strategic(fsdp, custom_hooks=[dict(type='EMAHook')]))
    compared = strategic(fsdp)
    compared.model = dict(backbone=dict(similarity_loss_weight=0.1))
    assert 'similarity_loss_weight found with FSDPStrategy' in refusal(compared)
    half = strategic(fsdp)
    half.optim_wrapper = dict(type='AmpOptimWrapper')
    assert 'float16 found with FSDPStrategy' in refusal(half)
    half.optim_wrapper.dtype = 'bfloat16'
    runtime._choose_runner(half)
    assert half.optim_wrapper.type == 'mmvitscale.BF16OptimWrapper' and not half.optim_wrapper.cache
    deepspeed = dict(type='mmvitscale.DeepSpeedStrategy')
    detection = strategic(deepspeed, default_scope='mmdet')
    runtime._choose_runner(detection)
    with pytest.raises(InputError, match='compiled operators of mmcv know no bfloat16'):
        runtime.use_mixed_precision(detection)
    monkeypatch.setattr(runtime.importlib.util, 'find_spec', lambda name: None)
    assert 'pip install deepspeed' in refusal(strategic(deepspeed))
    with pytest.raises(InputError, match="use sync_bn='torch'"):
        runtime.fit_to_hardware(Config(dict(sync_bn='mmcv')))


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(runtime, 'get_device', lambda: 'cuda')
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR'):
        monkeypatch.setenv(name, '0')
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '3')
    with pytest.raises(InputError, match='3 processes found on a machine with 2 GPUs'):
        runtime.fit_to_hardware(Config({}), 'pytorch')
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '2')
    cfg = Config(dict(env_cfg=dict(dist_cfg=dict(backend='nccl'))))
    runtime.fit_to_hardware(cfg, 'pytorch')
    assert cfg.env_cfg.dist_cfg.timeout == 1800


def test_blocks_are_compiled_in_their_place():
    backbone = SwinTransformerV2(dict(embed_dims=8, depths=(1,), num_heads=(1,)), window_size=4).eval()
    image, names, compiled = torch.randn(1, 3, 16, 16), list(backbone.state_dict()), []
    expected = backbone(image)[0]

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    assert not compile_blocks(backbone, True) and not compile_blocks(backbone, dict(mode='default'))
    try:
        assert compile_blocks(backbone, dict(target='blocks', backend=backend))
        assert torch.allclose(backbone(image)[0], expected, atol=1e-6)
    finally:
        torch._dynamo.reset()
    assert compiled and list(backbone.state_dict()) == names


# Batches


@pytest.mark.integration
def test_gradient_accumulation_scales_every_iteration_count():
    cfg = mmvitscale.load_config('swinv2_upernet_ade20k')
    cfg.custom_hooks = [
        dict(type='mmvitscale.ProgressiveWindowHook', schedule=[dict(begin=0), dict(begin=80000)]),
        dict(type='EMAHook'),
    ]
    before = copy.deepcopy(cfg)
    runtime.accumulate_gradients(cfg, 8)
    assert cfg.optim_wrapper.accumulative_counts == 8 and cfg.optim_wrapper.optimizer == before.optim_wrapper.optimizer
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == (1280000, 128000)
    assert [(s.begin, s.end) for s in cfg.param_scheduler] == [(0, 12000), (12000, 1280000)]
    assert cfg.default_hooks.checkpoint.interval == 128000
    assert cfg.custom_hooks[0].schedule[1].begin == 640000 and cfg.custom_hooks[1].interval == 8
    assert runtime.describe_batch(cfg, 1) is None

    cfg = mmvitscale.load_config('swinv2_mask_rcnn_coco')
    runtime.accumulate_gradients(cfg, 8)
    warmup, main = cfg.param_scheduler
    assert warmup.end == 4000 and (main.end, main.milestones, cfg.train_cfg.max_epochs) == (36, [27, 33], 36)

    cfg = mmvitscale.load_config('mask2former_swinv2-t-w16-in1k_8xb2-lsj-50e_coco')
    runtime.accumulate_gradients(cfg, 2)
    assert cfg.param_scheduler.milestones == [655556, 710184] and cfg.train_cfg.max_iters == 737500
    assert cfg.train_cfg.dynamic_intervals == [(730001, 737500)] and cfg.train_cfg.val_interval == 10000


@pytest.mark.parametrize('steps, counts', [(0, 1), (-2, 1), (2, 4)])
def test_invalid_gradient_accumulation_is_refused(steps, counts):
    cfg = Config(dict(optim_wrapper=dict(accumulative_counts=counts), train_cfg=dict(max_iters=2)))
    with pytest.raises(InputError, match=f'--accumulate-grad {steps} found with accumulative_counts {counts}'):
        runtime.accumulate_gradients(cfg, steps)


class Line(BaseModel):
    """x -> the mean of (w x)^2, for a runner."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))

    def forward(self, inputs, mode='loss'):
        return dict(loss=(torch.stack(inputs) @ self.weight).square().mean())


def trained(batch_size, tmp_path, edit=lambda cfg: None):
    data = torch.randn(16, 3, generator=torch.Generator().manual_seed(3))
    cfg = Config(
        dict(
            train_dataloader=dict(batch_size=batch_size),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=4, val_interval=100),
            optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1)),
            param_scheduler=[dict(type='MultiStepLR', milestones=[2], gamma=0.1, begin=0, end=4, by_epoch=False)],
            auto_scale_lr=dict(enable=False, base_batch_size=4),
        )
    )
    edit(cfg)
    dataset = [dict(inputs=row) for row in data]
    loader = dict(
        dataset=dataset,
        batch_size=cfg.train_dataloader.batch_size,
        num_workers=0,
        sampler=dict(type='InfiniteSampler', shuffle=False),
    )
    runner = Runner(
        Line(),
        str(tmp_path),
        train_dataloader=loader,
        train_cfg=cfg.train_cfg,
        optim_wrapper=cfg.optim_wrapper,
        param_scheduler=cfg.param_scheduler,
        auto_scale_lr=cfg.auto_scale_lr,
        experiment_name=f'{id(cfg)}',
        default_hooks=dict(checkpoint=None, logger=None),
    )
    return runner.train().weight.detach()


# A scheduler that counts iterations -> its options for 12 updates.
SCHEDULES = {
    'ConstantLR': dict(factor=0.5, end=4),
    'CosineAnnealingLR': dict(T_max=12, eta_min=0.0),
    'CosineRestartLR': dict(periods=[4, 8], restart_weights=[1, 0.5], eta_min=0.0),
    'ExponentialLR': dict(gamma=0.8),
    'LinearLR': dict(start_factor=0.1, end=6),
    'MultiStepLR': dict(milestones=[3, 7], gamma=0.1),
    'OneCycleLR': dict(eta_max=0.1, total_steps=12),
    'PolyLR': dict(eta_min=0.0, end=12),
    'StepLR': dict(step_size=3),
}


def learning_rates(scheduler, steps, total):
    wrapper = OptimWrapper(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1))
    wrapper.step()
    built, found = PARAM_SCHEDULERS.build({**scheduler, 'optimizer': wrapper}), []
    wrapper._global_step = 0
    for i in range(total * steps):
        if i % steps == steps - 1:  # the batch that the update comes with
            found.append(wrapper.param_groups[0]['lr'])
        if i < total * steps - 1:
            built.step()
    return found


@pytest.mark.parametrize('name', SCHEDULES)
@pytest.mark.parametrize('suffix', ['LR', 'ParamScheduler'])
def test_gradient_accumulation_keeps_the_learning_rate_of_every_update(name, suffix):
    kind = name.replace('LR', suffix)
    options = dict(type=kind, by_epoch=False, **SCHEDULES[name], **({} if suffix == 'LR' else dict(param_name='lr')))
    whole = learning_rates(options, 1, 12 if 'OneCycle' in name else 13)  # which ends with its last step
    cfg = Config(dict(train_cfg=dict(max_iters=12), optim_wrapper={}, param_scheduler=[options]))
    runtime.accumulate_gradients(cfg, 8)
    accumulated = learning_rates(dict(cfg.param_scheduler[0]), 8, 12)
    # Within an update the rate goes on towards that of the next one, and a period of restarts towards its end.
    for i, found in enumerate(accumulated):
        near = [*whole[i : i + 2], *([0.0] if 'Restart' in name and whole[i + 1] >= whole[i] else [])]
        slack = 0.01 * 0.1 if 'OneCycle' in name else 1e-9  # it divides by one step less
        assert min(near) - slack <= found <= max(near) + slack, (i, whole, accumulated)


def test_the_table_of_schedulers_is_mmengines():
    known = {f'{name}{end}' for name in runtime.SCHEDULERS for end in ('LR', 'Momentum', 'ParamScheduler')}
    registered = {name for name, kind in PARAM_SCHEDULERS.module_dict.items() if kind.__module__.startswith('mmengine.')}
    assert registered <= known and known - registered <= {'OneCycleMomentum'}
    own = dict(type='MyLR', by_epoch=False)
    cfg = Config(dict(train_cfg=dict(max_iters=2), optim_wrapper={}, param_scheduler=dict(generator=[own], other=dict(own))))
    with pytest.raises(InputError, match='found with the scheduler MyLR'):
        runtime.accumulate_gradients(cfg, 2)


def test_averages_that_anneal_are_stretched_and_hooks_may_be_absent():
    average = dict(type='EMAHook', ema_type='MomentumAnnealingEMA', gamma=100, begin_iter=5)
    cfg = Config(dict(train_cfg=dict(max_iters=2), optim_wrapper={}, default_hooks=dict(timer=None), custom_hooks=[average]))
    runtime.accumulate_gradients(cfg, 4)
    assert cfg.custom_hooks[0] == {**average, 'gamma': 400, 'begin_iter': 20, 'interval': 4}
    runtime.fit_to_hardware(cfg)


@pytest.mark.parametrize(
    'counts, line', [(1, 'consider --accumulate-grad 4 or --auto-scale-lr'), (2, 'consider --auto-scale-lr')]
)
def test_advice_on_the_batch_counts_accumulated_ones_and_names_what_is_accepted(counts, line):
    cfg = Config(
        dict(
            train_dataloader=dict(batch_size=2),
            train_cfg=dict(max_iters=2),
            optim_wrapper=dict(accumulative_counts=counts),
            auto_scale_lr=dict(enable=False, base_batch_size=8),
        )
    )
    assert runtime.describe_batch(cfg, 1).endswith(f'here they have {2 * counts}; {line}')
    cfg.optim_wrapper.accumulative_counts = 4
    assert runtime.describe_batch(cfg, 1) is None
    runtime.scale_learning_rate(cfg)
    assert cfg.auto_scale_lr.base_batch_size == 2  # of one batch, which is what MMEngine compares it with


def test_bfloat16_of_a_config_gives_way_to_amp_on_a_gpu(monkeypatch):
    monkeypatch.setattr(runtime, 'get_device', lambda: 'cuda')
    wrapper = dict(type='mmvitscale.BF16OptimWrapper', backbone_only=True, cache=False, optimizer=dict(type='SGD', lr=1.0))
    cfg = Config(dict(optim_wrapper=wrapper))
    runtime.use_mixed_precision(cfg)
    expected = dict(type='AmpOptimWrapper', loss_scale='dynamic', optimizer=dict(type='SGD', lr=1.0))
    assert cfg.optim_wrapper == expected


def test_gradient_accumulation_equals_a_larger_batch(tmp_path):
    """The same updates at the same rates: 4 of 4 images, or 8 batches of 2."""
    whole = trained(4, tmp_path)
    halves = trained(2, tmp_path, lambda cfg: runtime.accumulate_gradients(cfg, 2))
    assert torch.allclose(whole, halves, atol=1e-6) and not torch.allclose(whole, trained(2, tmp_path))


def test_the_learning_rate_follows_the_batch(tmp_path):
    cfg = mmvitscale.load_config('swinv2_upernet_ade20k')
    assert runtime.describe_batch(cfg, 8) is None
    assert runtime.describe_batch(cfg, 1).endswith('here they have 2; consider --accumulate-grad 8 or --auto-scale-lr')
    assert runtime.describe_batch(cfg, 16).endswith('batches of 16 images, here they have 32; consider --auto-scale-lr')
    runtime.scale_learning_rate(cfg)
    assert cfg.auto_scale_lr.enable and runtime.describe_batch(cfg, 1) is None

    scaled = trained(2, tmp_path, runtime.scale_learning_rate)
    by_hand = trained(2, tmp_path, lambda cfg: cfg.optim_wrapper.optimizer.update(lr=0.05))
    assert torch.allclose(scaled, by_hand)

    def both(cfg):  # accumulated, the batch in all is the recipe's again
        runtime.accumulate_gradients(cfg, 2)
        runtime.scale_learning_rate(cfg)

    assert torch.allclose(trained(2, tmp_path, both), trained(4, tmp_path), atol=1e-6)
    with pytest.raises(InputError, match='--auto-scale-lr needs auto_scale_lr=dict'):
        runtime.scale_learning_rate(Config(dict(train_cfg={})))
