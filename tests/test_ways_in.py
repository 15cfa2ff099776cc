"""Ways in which weights come, each once wrong: silently, or by refusing what was right."""

import os
import subprocess
import sys
from collections import OrderedDict

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from mmvitscale.checkpoints import io, pretrained
from mmvitscale.checkpoints.metadata import STATE_DICT_KEY
from mmvitscale.errors import InputError
from mmvitscale.models import DeepViT, SwinTransformerV2
from mmvitscale.profiling import reference_models
from tests.helpers import toy
from tests.helpers.commands import FOREGROUND, ROOT, free_port, run
from tests.helpers.hostile import Attack
from tests.helpers.layouts import official_deepvit
from tests.helpers.official_layout import official_state_dict
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.unit

ARCH = dict(embed_dims=8, depths=(1, 1, 2, 1), num_heads=(1, 1, 2, 2))
VIT = dict(embed_dims=12, depth=3, re_attention=1, num_heads=3)
IMAGE = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(5))


def swin_cfg(**options):
    return dict(type='mmvitscale.SwinTransformerV2', **{**dict(arch=ARCH, window_size=4), **options})


def save(path, content):
    torch.save(content, path)
    return str(path)


@torch.no_grad()
def features(backbone):
    return backbone.eval()(IMAGE)[-1]


@pytest.mark.integration
def test_load_from_of_an_mmpretrain_file_reproduces_its_features(tmp_path):
    model, stages = reference_models.mmpretrain(ARCH, 128, (4,) * 4, None)
    # A classifier's names begin as a segmentor's do, and some of a block's are the same.
    weights = {f'backbone.{key}': value for key, value in randomise(model).state_dict().items()}
    path = save(tmp_path / 'mmpretrain.pth', dict(state_dict={**weights, 'head.fc.weight': torch.ones(10, 64)}))
    runner = toy.train(tmp_path / 'work', swin_cfg(out_norm=False), load_from=path, lr=0.0)
    with torch.no_grad():
        assert (features(runner.model.backbone) - stages(IMAGE)[-1]).abs().max() < 1e-4


@pytest.mark.parametrize('as_list', [False, True])
def test_init_cfg_type_pretrained_loads_an_official_file(as_list, tmp_path):
    source = randomise(SwinTransformerV2(ARCH, 4))
    path = save(tmp_path / 'official.pth', dict(model=official_state_dict(source, (4,) * 4, (4,) * 4)))
    init_cfg = dict(type='Pretrained', checkpoint=path)
    others = [dict(type='TruncNormal', layer='Linear', std=0.02)]
    backbone = MODELS.build(swin_cfg(init_cfg=[init_cfg, *others] if as_list else init_cfg))
    backbone.init_weights()
    assert torch.equal(features(backbone), features(source))


def test_init_cfg_type_pretrained_runs_no_code(tmp_path):
    backbone = MODELS.build(
        swin_cfg(
            init_cfg=dict(
                type='Pretrained', checkpoint=save(tmp_path / 'evil.pth', dict(state_dict={}, meta=Attack(tmp_path / 'marker')))
            )
        )
    )
    with pytest.raises(InputError, match='would run code'):
        backbone.init_weights()
    assert not (tmp_path / 'marker').exists()


def test_a_resumed_training_has_the_scheduled_crop_and_windows(tmp_path):
    hook = dict(
        type='mmvitscale.ProgressiveWindowHook', schedule=[dict(begin=0, crop_size=(48, 48)), dict(begin=2, window_size=8)]
    )
    arch = dict(embed_dims=8, depths=(1, 1), num_heads=(1, 1))
    whole = toy.train(tmp_path / 'whole', swin_cfg(arch=arch), [hook], max_iters=6)
    toy.train(tmp_path / 'cut', swin_cfg(arch=arch), [hook], max_iters=4)
    resumed = toy.train(tmp_path / 'cut', swin_cfg(arch=arch), [hook], max_iters=6, resume=True)
    assert resumed.model.seen == whole.model.seen[4:] == [((48, 48), [8, 8])] * 2


@pytest.mark.parametrize(
    'learned, built', [('linear_cpb', 'log_cpb'), ('log_cpb', 'linear_cpb'), ('table', 'log_cpb'), ('log_cpb', 'table')]
)
@pytest.mark.parametrize('way', ['load_state_dict', 'init_cfg'])
def test_another_kind_of_position_bias_is_refused(way, learned, built, tmp_path):
    path = save(tmp_path / 'a.pth', SwinTransformerV2(ARCH, 4, position_bias=learned).state_dict())
    init_cfg = dict(type='mmvitscale.Pretrained', checkpoint=path) if way == 'init_cfg' else None
    backbone = MODELS.build(swin_cfg(position_bias=built, init_cfg=init_cfg))
    with pytest.raises(InputError, match=f'of the kind {learned}, but the config says position_bias {built}'):
        backbone.init_weights() if init_cfg else backbone.load_state_dict(torch.load(path, weights_only=True))


def test_a_position_grid_of_equal_count_but_other_shape_is_resized(tmp_path):
    source = randomise(DeepViT(VIT, (256, 64)))
    expected = nn.functional.interpolate(
        source.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (16, 4)), size=(8, 8), mode='bicubic', antialias=True
    )  # a side shrinks
    ours = DeepViT(VIT, 128)
    ours.load_state_dict(source.state_dict())
    assert torch.allclose(ours.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (8, 8)), expected, atol=1e-6)


def test_load_from_loads_an_official_deepvit(tmp_path):
    source = randomise(DeepViT(VIT, 128))
    path = save(tmp_path / 'deepvit.pth', official_deepvit(source))
    runner = toy.train(tmp_path / 'work', dict(type='mmvitscale.DeepViT', arch=VIT, img_size=128), load_from=path, lr=0.0)
    assert torch.equal(runner.model.backbone.blocks[2].mlp.fc1.weight, source.blocks[2].mlp.fc1.weight)
    assert torch.equal(runner.model.backbone.pos_embed, source.pos_embed)


def test_pretrained_windows_are_not_stored_in_a_buffer():
    """What is computed with is what is saved: nothing that an average or a manual load writes into comes between."""
    backbone = randomise(SwinTransformerV2(ARCH, 8, 4))
    assert not list(backbone.buffers())
    state = backbone.state_dict()
    for value in state.values():
        value.add_(1)  # a state dict shares its parameters, but not what they were trained with
    assert [stage.pretrained_window for stage in backbone.stages] == [(4, 4)] * 4
    again = SwinTransformerV2(ARCH, 8)
    again.load_state_dict(backbone.state_dict())
    assert torch.equal(features(again), features(backbone))


@pytest.mark.parametrize(
    'options', [dict(out_indices=[0, 1]), dict(arch={**ARCH, 'mlp_ratio': 2.7}), dict(arch={**ARCH, 'extra_norm_every': 6})]
)
def test_init_cfg_reloads_the_backbones_own_checkpoint_exactly(options, tmp_path):
    source = randomise(MODELS.build(swin_cfg(**options)))
    path = save(tmp_path / 'own.pth', source.state_dict())
    again = MODELS.build(swin_cfg(**options, init_cfg=dict(type='mmvitscale.Pretrained', checkpoint=path)))
    again.init_weights()
    assert torch.equal(features(again), features(source))


@pytest.mark.integration
@pytest.mark.parametrize('channels', [1, 4, 7])
def test_rgb_patch_embeddings_adapt_to_other_channels_as_in_timm(channels, tmp_path):
    from timm.models import adapt_input_conv

    source = randomise(SwinTransformerV2(ARCH, 4))
    path = save(tmp_path / 'rgb.pth', source.state_dict())
    wider = MODELS.build(swin_cfg(in_channels=channels, init_cfg=dict(type='mmvitscale.Pretrained', checkpoint=path)))
    wider.init_weights()
    expected = adapt_input_conv(channels, source.patch_embed.proj.weight.detach())
    assert torch.allclose(wider.patch_embed.proj.weight, expected)


def test_zero_extra_channels_leave_rgb_outputs_unchanged(tmp_path):
    source, image = randomise(SwinTransformerV2(ARCH, 4)), torch.rand(1, 5, 64, 64)
    path = save(tmp_path / 'rgb.pth', source.state_dict())
    wider = MODELS.build(swin_cfg(in_channels=5, init_cfg=dict(type='Pretrained', checkpoint=path, extra_channels='zero')))
    wider.init_weights()
    with torch.no_grad():
        assert torch.equal(wider.eval()(image)[-1], source.eval()(image[:, :3])[-1])
    four = MODELS.build(swin_cfg(in_channels=4))
    with pytest.raises(InputError, match=r'patch_embed.proj.weight is \(8, 5, 4, 4\) instead of \(8, 4, 4, 4\)'):
        four.load_state_dict(wider.state_dict())
    with pytest.raises(InputError, match="extra_channels 'ones' found"):
        pretrained.Pretrained(path, extra_channels='ones')


def test_zero_extra_channels_leave_a_convolutional_stem_unchanged(tmp_path):
    vit = {**VIT, 'stem': 'conv'}
    source = randomise(DeepViT(vit, 64))
    path = save(tmp_path / 'rgb.pth', official_deepvit(source))
    wider = MODELS.build(
        dict(
            type='mmvitscale.DeepViT',
            arch=vit,
            img_size=64,
            in_channels=4,
            init_cfg=dict(type='Pretrained', checkpoint=path, extra_channels='zero'),
        )
    )
    wider.init_weights()
    image = torch.rand(1, 4, 64, 64)
    with torch.no_grad():
        assert torch.equal(wider.eval()(image)[-1], source.eval()(image[:, :3])[-1])


def test_pretrained_windows_are_read_from_half_precision_official_files(tmp_path):
    source = SwinTransformerV2(ARCH, [16, 16, 16, 8], [12, 12, 12, 6])
    official = official_state_dict(source, (16, 16, 16, 8), (12, 12, 12, 6))
    for dtype in (torch.bfloat16, torch.float16):
        path = save(tmp_path / 'half.pth', {key: value.to(dtype) for key, value in official.items()})
        ours = MODELS.build(swin_cfg(init_cfg=dict(type='mmvitscale.Pretrained', checkpoint=path)))
        ours.init_weights()
        assert [stage.pretrained_window for stage in ours.stages] == [(12, 12)] * 3 + [(6, 6)]


def test_out_of_memory_and_other_devices_are_not_reported_as_damage(tmp_path, monkeypatch):
    path = save(tmp_path / 'a.pth', dict(w=torch.ones(2)))
    runner = toy.train(tmp_path / 'work', swin_cfg(), lr=0.0)
    runner.load_checkpoint(str(tmp_path / 'work/iter_1.pth'), map_location='cuda:7')  # the model is where it is

    def no_memory(*args, **kwargs):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:130] err == 0. DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(io.torch, 'load', no_memory)
    with pytest.raises(InputError, match='does not fit into the free memory'):
        io.read_checkpoint(path)


NODE = """
import sys, torch
from pathlib import Path
import torch.distributed as dist
from mmvitscale.checkpoints import io
dist.init_process_group('gloo')
io.torch.hub.get_dir = lambda: str(Path(sys.argv[1], f'disk_of_{dist.get_rank()}'))
print(io.fetch(sys.argv[2]).read_text())
"""


@pytest.mark.slow
def test_every_machine_downloads_for_itself(tmp_path):
    (tmp_path / 'a.pth').write_text('weights')
    environment = dict(os.environ, WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(free_port()), LOCAL_RANK='0')
    nodes = [
        subprocess.Popen(
            [sys.executable, '-c', NODE, str(tmp_path), (tmp_path / 'a.pth').as_uri()],
            env={**environment, 'RANK': str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for node in nodes:
        out, error = node.communicate(timeout=120)
        assert node.returncode == 0 and out.strip().endswith('weights'), error


def test_tables_assume_no_pretrained_window_and_scratch_passes_strict(tmp_path, logged):
    weights = {
        key: value
        for key, value in SwinTransformerV2(ARCH, 4, position_bias='table').state_dict().items()
        if key != STATE_DICT_KEY
    }
    path = save(tmp_path / 'table.pth', weights)
    backbone = MODELS.build(swin_cfg(position_bias='table', init_cfg=dict(type='mmvitscale.Pretrained', checkpoint=path)))
    backbone.init_weights()
    assert logged and not [line for line in logged if 'assumed' in line]
    strict = dict(type='mmvitscale.LogCPBTransferHook', strict=True)
    toy.train(tmp_path / 'work', swin_cfg(init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02)), [strict])


def test_a_table_trains_on_while_its_window_changes():
    backbone = randomise(SwinTransformerV2(ARCH, 4, position_bias='table'))
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=1e-2)
    for windows in (4, 8, 6, 8):
        backbone.set_window_size(windows)
        before = backbone.stages[0].blocks[0].attn.position_bias.table.detach().clone()
        optimizer.zero_grad()
        backbone(IMAGE)[-1].square().sum().backward()
        optimizer.step()
        assert not torch.equal(backbone.stages[0].blocks[0].attn.position_bias.table, before)


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    from mmvitscale.datasets import mini

    return mini.write_dataset(tmp_path_factory.mktemp('data') / 'mini', train=2, val=2, size=64)


@pytest.mark.integration
def test_the_test_command_evaluates_a_table_at_another_window(scenes, tmp_path):
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    cfg = Config.fromfile(ROOT / 'configs/mini/swinv2_upernet_mini.py')
    cfg.model.backbone.update(position_bias='table', window_size=4)
    init_default_scope('mmseg')
    path = save(tmp_path / 'table.pth', dict(state_dict=MODELS.build(cfg.model).state_dict()))
    result = run(
        'tools/test.py',
        'configs/mini/swinv2_upernet_mini.py',
        path,
        '--work-dir',
        tmp_path / 'work',
        '--cfg-options',
        f'data_root={scenes}/ADEChallengeData2016',
        'model.backbone.position_bias=table',
        'model.backbone.window_size=12',
        *FOREGROUND,
    )
    assert 'mIoU' in result.stdout + result.stderr


def test_weights_of_other_backbones_are_refused(tmp_path):
    """Whole models around other backbones, by every way that does not see a file."""
    model = toy.Toy(swin_cfg())
    other = {'backbone.conv1.weight': torch.ones(1), 'head.weight': torch.ones(1)}
    with pytest.raises(InputError, match='it holds no SwinV2 or DeepViT of a known format.* conv1.weight'):
        model.load_state_dict(other, strict=False)
    with pytest.raises(InputError, match='this is a SwinV1 checkpoint'):
        model.load_state_dict({'backbone.stages.0.blocks.0.attn.w_msa.relative_position_bias_table': torch.ones(1)})
    foreign = OrderedDict({'backbone.stages.0.blocks.0.attn.w_msa.relative_position_bias_table': torch.ones(1)})
    foreign._metadata = {'backbone': dict(version=3)}  # mmpretrain counts the versions of its own backbones
    with pytest.raises(InputError, match='this is a SwinV1 checkpoint'):
        model.load_state_dict(foreign)
    model.load_state_dict({'head.weight': torch.ones(1)}, strict=False)  # for its head alone: nobody's mistake
    path = save(tmp_path / 'other.pth', dict(state_dict=other))
    with pytest.raises(InputError, match='other.pth: it holds no SwinV2 or DeepViT'):
        toy.train(tmp_path / 'work', swin_cfg(), load_from=path)


def test_a_prefix_chooses_between_backbones(tmp_path):
    sources = {name: randomise(SwinTransformerV2(ARCH, 4)) for name in ('student', 'teacher')}
    path = save(
        tmp_path / 'pair.pth',
        dict(
            state_dict={
                f'{name}.{key}': value for name, source in sources.items() for key, value in source.state_dict().items()
            }
        ),
    )
    for prefix in ('student', 'teacher.'):
        chosen = MODELS.build(swin_cfg(init_cfg=dict(type='Pretrained', checkpoint=path, prefix=prefix)))
        chosen.init_weights()
        assert torch.equal(features(chosen), features(sources[prefix.rstrip('.')]))
    for prefix, message in ((None, 'behind the prefixes student., teacher.; choose'), ('encoder', "behind the prefix 'enc")):
        with pytest.raises(InputError, match=message):
            MODELS.build(swin_cfg(init_cfg=dict(type='Pretrained', checkpoint=path, prefix=prefix))).init_weights()


def test_loading_a_whole_model_logs_which_head_weights_fit():
    from mmvitscale.checkpoints.loading import adapt_checkpoint

    model, source = toy.Toy(swin_cfg()), randomise(SwinTransformerV2(ARCH, 4))
    model.add_module('head', nn.Linear(2, 3))
    before = model.head.weight.clone()
    content = dict(
        state_dict={
            **{f'backbone.{key}': value for key, value in source.state_dict().items()},
            'head.weight': torch.ones(5, 2),
            'head.bias': torch.ones(3),
            'neck.weight': torch.ones(1),
        }
    )
    logged = []
    adapt_checkpoint(model, content, 'a.pth', log=logged.append)
    assert logged[0].startswith('a.pth: SwinV2 (8 channels') and len(logged) == 1
    assert (
        'beside the backbone 1 weights fit, 0 missing in the file, 1 unexpected (neck.weight), 1 size mismatches '
        '(head.weight is (5, 2) instead of (3, 2))'
    ) in logged[0]
    load_state_dict(model, content['state_dict'])
    assert torch.equal(model.head.weight, before) and torch.equal(model.head.bias, torch.ones(3))
    assert torch.equal(features(model.backbone), features(source))

    content = dict(state_dict={'head.bias': torch.zeros(3)})
    adapt_checkpoint(model, content, 'head.pth', log=logged.append)
    assert logged[1].startswith('head.pth: no weight of the backbone; beside the backbone 1 weights fit, 1 missing in the')
    assert list(content['state_dict']) == ['head.bias']


def test_a_file_cannot_claim_that_its_weights_were_matched():
    from mmvitscale.checkpoints.convert import weights_in
    from mmvitscale.checkpoints.loading import match_weights

    backbone = SwinTransformerV2(ARCH, 4)
    state = backbone.state_dict()
    del state['stages.0.blocks.0.attn.qkv.weight']
    logged = match_weights(backbone, weights_in(backbone.state_dict())).state_dict()._metadata
    for metadata in ({'': dict(version=2, matched=True)}, {'': dict(version=2, matched='0' * len(logged['']['matched']))}):
        state._metadata = metadata
        with pytest.raises(InputError, match='1 missing keys'):
            backbone.load_state_dict(state, strict=False)


def test_a_partial_state_dict_with_own_names_loads_non_strictly():
    backbone = SwinTransformerV2(ARCH, 4)
    part = {'patch_embed.proj.bias': torch.ones(8)}
    found = backbone.load_state_dict(part, strict=False)
    assert torch.equal(backbone.patch_embed.proj.bias, torch.ones(8)) and 'patch_embed.proj.weight' in found.missing_keys
    assert {stage.pretrained_window_source for stage in backbone.stages} == {'window_size'}


def test_loaded_tensors_are_not_shared_between_loads():
    """``assign=True`` is PyTorch's way of making the tensors of a state dict the parameters themselves."""
    from mmvitscale.checkpoints.convert import weights_in
    from mmvitscale.checkpoints.loading import match_weights

    source, one, two = (SwinTransformerV2(ARCH, 4) for _ in range(3))
    one.load_state_dict(match_weights(one, weights_in(source.state_dict())).state_dict(), assign=True)
    assert one.patch_embed.proj.weight.data_ptr() == source.patch_embed.proj.weight.data_ptr()
    two.load_state_dict(match_weights(two, weights_in(source.state_dict())).state_dict())
    assert two.patch_embed.proj.weight.data_ptr() != source.patch_embed.proj.weight.data_ptr()


class Renaming(toy.Toy):
    """As some detectors do, it takes its head's weights by another name."""

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        for key in [key for key in state_dict if key.startswith(prefix + 'rpn_head.')]:
            state_dict[key.replace('rpn_head', 'head')] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def test_a_model_may_rename_what_is_beside_its_backbone():
    from mmvitscale.checkpoints.loading import adapt_checkpoint

    model = Renaming(swin_cfg())
    model.add_module('head', nn.Linear(2, 3))
    weights = SwinTransformerV2(ARCH, 4).state_dict()
    content = dict(
        state_dict={
            **{f'backbone.{key}': value for key, value in weights.items()},
            'rpn_head.weight': torch.ones(3, 2),
            'rpn_head.bias': torch.ones(3),
        }
    )
    adapt_checkpoint(model, content, 'a.pth')
    model.load_state_dict(content['state_dict'])
    assert torch.equal(model.head.weight, torch.ones(3, 2))


def test_checkpoints_of_models_without_our_backbones_stay_unchanged():
    from mmvitscale.checkpoints.loading import adapt_checkpoint

    content = dict(state_dict={'backbone.weight': torch.ones(2, 2)})
    assert adapt_checkpoint(nn.Linear(2, 2), content, 'a.pth') == {}  # which may rename what comes
    assert list(content['state_dict']) == ['backbone.weight']


class TeacherAndStudent(nn.Module):
    """As semi-supervised detectors do, it gives the weights of one model to two."""

    def __init__(self):
        super().__init__()
        self.student, self.teacher = toy.Toy(swin_cfg()), toy.Toy(swin_cfg())
        for model in (self.student, self.teacher):
            model.add_module('head', nn.Linear(2, 3))

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        for key in [key for key in state_dict if not key.startswith(('student.', 'teacher.'))]:
            value = state_dict.pop(key)
            state_dict.update({f'student.{key}': value, f'teacher.{key}': value})
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def test_a_teacher_and_a_student_load_the_same_checkpoint():
    from mmvitscale.checkpoints.loading import adapt_checkpoint

    source, model = randomise(SwinTransformerV2(ARCH, 4)), TeacherAndStudent()
    official = official_state_dict(source, (4,) * 4, (4,) * 4)
    for weights in (source.state_dict(), official):
        content = dict(
            state_dict={
                **{f'backbone.{key}': value for key, value in weights.items()},
                'head.weight': torch.ones(3, 2),
                'head.bias': torch.ones(3),
            }
        )
        adapt_checkpoint(model, content, 'a.pth')
        model.load_state_dict(content['state_dict'])
        for part in (model.student, model.teacher):
            assert torch.equal(features(part.backbone), features(source)) and torch.equal(part.head.weight, torch.ones(3, 2))
    content = dict(model=official)  # a backbone alone is for both
    adapt_checkpoint(model, content, 'official.pth')
    assert {key.split('.')[0] for key in content['state_dict']} == {'student', 'teacher'}


class Two(toy.Toy):
    """A model with two backbones and a head."""

    def __init__(self):
        super().__init__(swin_cfg())
        self.teacher = MODELS.build(swin_cfg())
        self.head = nn.Linear(2, 3)


def test_a_backbone_is_not_filled_from_another_ones_weights():
    from mmvitscale.checkpoints.loading import adapt_checkpoint

    source = randomise(SwinTransformerV2(ARCH, 4))
    one = {f'teacher.{key}': value for key, value in source.state_dict().items()}
    with pytest.raises(InputError, match='missing keys .*backbone.'):
        adapt_checkpoint(Two(), dict(state_dict=dict(one)), 'a.pth', strict=True)
    model, logged = Two(), []
    before = model.backbone.patch_embed.proj.weight.clone()
    content = dict(state_dict={**one, 'head.bias': torch.ones(3)})
    adapt_checkpoint(model, content, 'a.pth', log=logged.append)
    load_state_dict(model, content['state_dict'])
    assert 'no weight of the backbone' in logged[0]
    assert torch.equal(model.backbone.patch_embed.proj.weight, before)
    assert torch.equal(features(model.teacher), features(source)) and torch.equal(model.head.bias, torch.ones(3))
    both = dict(model=official_state_dict(source, (4,) * 4, (4,) * 4))  # of nobody, and so of both
    adapt_checkpoint(model, both, 'official.pth')
    load_state_dict(model, both['state_dict'])
    assert torch.equal(features(model.backbone), features(model.teacher))


@pytest.mark.parametrize('position_bias', ['log_cpb', 'table'])
def test_grown_windows_are_tested_with_the_weights_that_were_trained(position_bias, tmp_path):
    """A table keeps its size while it is trained at larger windows, and is read bicubically."""
    from mmvitscale.checkpoints.io import read_checkpoint
    from mmvitscale.checkpoints.loading import adapt_checkpoint
    from mmvitscale.checkpoints.window_policy import apply_checkpoint_windows

    schedule = [dict(begin=0, window_size=4), dict(begin=1, window_size=8)]
    grows, cfg = dict(type='mmvitscale.ProgressiveWindowHook', schedule=schedule), swin_cfg(position_bias=position_bias)
    toy.train(tmp_path, cfg, [grows], max_iters=2, optimizer='AdamW')
    toy.train(tmp_path, cfg, [grows], max_iters=3, resume=True, optimizer='AdamW')
    content = read_checkpoint(tmp_path / 'iter_3.pth')
    own = {key: value.clone() for key, value in content['state_dict'].items()}
    model = toy.Toy(cfg)
    (line,) = apply_checkpoint_windows(
        model, adapt_checkpoint(model, content, 'iter_3.pth', strict=True), dict(custom_hooks=[grows])
    )
    assert 'the windows of 8x8 tokens' in line
    model.load_state_dict(content['state_dict'])
    assert all(torch.equal(value, own[key]) for key, value in model.state_dict().items())


def test_a_table_reloads_its_own_state_at_any_window():
    backbone = randomise(SwinTransformerV2(ARCH, 4, position_bias='table'))
    backbone.set_window_size(8)
    before, state = features(backbone), backbone.state_dict()
    backbone.load_state_dict(state)
    assert torch.equal(features(backbone), before)
    fresh = SwinTransformerV2(ARCH, 8, position_bias='table')
    fresh.load_state_dict(state)
    assert torch.allclose(features(fresh), before, atol=1e-5)


def test_a_table_is_resumed_at_another_window(tmp_path):
    """The optimizer's moments have the table's size, not the window's."""
    toy.train(tmp_path, swin_cfg(position_bias='table'), optimizer='AdamW')
    runner = toy.train(tmp_path, swin_cfg(position_bias='table', window_size=8), max_iters=2, resume=True, optimizer='AdamW')
    assert runner.model.backbone.stages[0].blocks[0].attn.position_bias.table.shape == (1, 7, 7)
    assert runner.model.seen[-1][1] == [8] * 4


def test_an_output_norm_that_lacks_its_weight_is_refused():
    state = SwinTransformerV2(ARCH, 4).state_dict()
    del state['out_norms.3.weight']
    with pytest.raises(InputError, match='1 missing keys .out_norms.3.weight'):
        SwinTransformerV2(ARCH, 4).load_state_dict(state)


@pytest.mark.parametrize('way', ['init_cfg', 'load_from', 'load_state_dict'])
def test_newer_formats_and_damaged_metadata_are_refused_by_every_way(way, tmp_path):
    for change, message in (
        (lambda state: state._metadata[''].update(version=4), 'written by a newer mmvitscale'),
        (lambda state: state.update({STATE_DICT_KEY: state[STATE_DICT_KEY][:1]}), 'is of 1 stages, but there are 4'),
    ):
        state = SwinTransformerV2(ARCH, 4).state_dict()
        change(state)
        path = save(tmp_path / 'a.pth', state)
        with pytest.raises(InputError, match=message):
            if way == 'load_state_dict':
                SwinTransformerV2(ARCH, 4).load_state_dict(state)
            elif way == 'load_from':
                toy.train(tmp_path / 'work', swin_cfg(), load_from=path)
            else:
                MODELS.build(swin_cfg(init_cfg=dict(type='mmseg.Pretrained', checkpoint=path))).init_weights()


def test_weights_matched_to_one_backbone_are_refused_by_another():
    from mmvitscale.checkpoints.convert import weights_in
    from mmvitscale.checkpoints.loading import match_weights

    source = SwinTransformerV2(ARCH, 4)
    entering = match_weights(source, weights_in(source.state_dict())).state_dict()
    with pytest.raises(InputError, match='of the kind log_cpb'):
        SwinTransformerV2(ARCH, 4, position_bias='linear_cpb').load_state_dict(entering)


def test_rectangular_position_grids_without_metadata_load_unchanged(tmp_path):
    source = randomise(DeepViT(VIT, (256, 64)))
    weights = {f'backbone.{key}': value for key, value in source.state_dict().items() if key != STATE_DICT_KEY}
    path = save(tmp_path / 'a.pth', dict(state_dict={**weights, 'head.weight': torch.ones(2, 2)}))
    ours = MODELS.build(
        dict(
            type='mmvitscale.DeepViT',
            arch=VIT,
            img_size=(256, 64),
            init_cfg=dict(type='Pretrained', checkpoint=path, prefix='module.backbone'),
        )
    )  # as a file of DDP is asked for in MMEngine
    ours.init_weights()
    assert torch.equal(ours.pos_embed, source.pos_embed)


def test_weights_without_metadata_assume_the_window_of_the_config():
    backbone = SwinTransformerV2(ARCH, 4)
    backbone.set_window_size(16)
    silent = {key: value for key, value in SwinTransformerV2(ARCH, 4).state_dict().items() if key != STATE_DICT_KEY}
    backbone.load_state_dict(silent)
    assert [stage.pretrained_window for stage in backbone.stages] == [(4, 4)] * 4


def test_resuming_requires_an_exact_match_and_fine_tuning_does_not(tmp_path):
    """Fine-tuning may leave heads and output norms new; resuming may not."""
    toy.train(tmp_path / 'work', swin_cfg())
    content = torch.load(tmp_path / 'work/iter_1.pth', weights_only=False)
    norms = [key for key in content['state_dict'] if '.out_norms.' in key]
    for changed, message in (
        (
            {key: value for key, value in content['state_dict'].items() if key not in norms},
            r'does not fit the config: 8 missing keys \(backbone.out_norms.0.weight',
        ),
        ({**content['state_dict'], 'head.weight': torch.ones(1)}, r'1 unexpected keys \(head.weight\)'),
    ):
        path = save(tmp_path / 'changed.pth', {**content, 'state_dict': changed})
        with pytest.raises(InputError, match=message):
            toy.train(tmp_path / 'again', swin_cfg(), load_from=path, resume=True, max_iters=2)
        toy.train(tmp_path / 'fine-tuned', swin_cfg(), load_from=path)
    rgb = save(tmp_path / 'rgb.pth', content)
    with pytest.raises(InputError, match='does not fit.*patch_embed.proj.weight is .8, 3, 4, 4. instead of .8, 4'):
        toy.train(tmp_path / 'again', swin_cfg(in_channels=4), load_from=rgb, resume=True, max_iters=2)


def test_loading_logs_one_line_with_source_counts_and_windows(tmp_path, logged):
    source = randomise(SwinTransformerV2(ARCH, 4))
    path = save(tmp_path / 'a.pth', dict(model=official_state_dict(source, (4,) * 4, (4,) * 4)))
    pretrained.Pretrained(path)(SwinTransformerV2(ARCH, 8))
    (line,) = logged
    taken = len(source.state_dict()) - 1 - 6  # without the metadata and three norms
    for part in (
        'a.pth: SwinV2 (8 channels, depths 1,1,2,1, heads 1,1,2,2) from official',
        f'{taken} weights loaded',
        '13 unexpected',
        'missing (initialised): out_norms.0.weight',
        'windows 4x4 -> 8x8',
    ):
        assert part in line, line
