"""No infinity and no NaN gets into the weights, and what was the matter can be looked at."""

import copy

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import nn

from mmvitscale.analysis.nonfinite import pack, trace_losses, unpack
from mmvitscale.checkpoints.io import read_checkpoint
from mmvitscale.engine.hooks import FiniteLossHook
from mmvitscale.errors import InputError
from tests.helpers import toy

pytestmark = pytest.mark.unit

BACKBONE = dict(
    type='mmvitscale.SwinTransformerV2',
    arch=dict(embed_dims=8, depths=(1, 1), num_heads=(1, 1)),
    window_size=4,
    drop_path_rate=0.0,
)
VIT = dict(
    type='mmvitscale.DeepViT', arch=dict(embed_dims=12, depth=2, re_attention=2, num_heads=3), img_size=32, drop_path_rate=0.0
)


class Poisoned(toy.Images):
    """NaN in the image of this index."""

    at = 4

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return dict(inputs=sample['inputs'] * (float('nan') if index == self.at else 1))


class WithNorm(toy.Toy):
    def __init__(self, backbone):
        super().__init__(backbone)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return super().forward(self.norm(inputs), data_samples, mode)


def train(work_dir, max_iters=4, images=None, backbone=BACKBONE, **options):
    finite_loss = options.pop('finite_loss', {})
    checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=1)
    return toy.train(
        work_dir,
        backbone,
        max_iters=max_iters,
        images=images or Poisoned(),
        default_hooks=dict(checkpoint=checkpoint, finite_loss=finite_loss),
        **options,
    )


def is_finite(runner):
    return all(bool(torch.isfinite(value).all()) for value in runner.model.state_dict().values() if value.is_floating_point())


def test_a_nan_loss_stops_training_before_weights_change(tmp_path):
    model = WithNorm(BACKBONE)
    with pytest.raises(InputError) as error:
        train(tmp_path, model=model)
    logged = str(error.value)
    assert 'the loss is nan at iteration 3' in logged and 'first NaN or Inf came out of the images' in logged
    assert 'on_non_finite=skip' in logged and 'loss nan' in logged
    kept = read_checkpoint(tmp_path / 'non_finite' / 'iter_3.pth')
    before = read_checkpoint(tmp_path / 'iter_2.pth')
    for state in (kept['state_dict'], model.state_dict()):
        weights = {key: value for key, value in state.items() if 'num_batches' not in key}
        assert all(bool(torch.isfinite(value).all()) for value in weights.values() if value.is_floating_point())
    # EMA's state dict is what stands as ``state_dict`` in a checkpoint: the trained one is beside it.
    assert torch.equal(kept['state_dict']['norm.running_mean'], before['ema_state_dict']['module.norm.running_mean'])
    assert torch.isnan(kept['batch']['inputs'][0]).all()


@pytest.mark.parametrize('layer', ['backbone.stages.1.blocks.0.mlp.fc1', 'backbone.stages.0.blocks.0.attn.proj'])
def test_the_first_layer_that_gives_nan_or_inf_is_named(layer, tmp_path):
    model = toy.Toy(BACKBONE)
    names = dict(model.named_modules())
    nn.init.constant_(names[layer].weight, float('inf'))
    with pytest.raises(InputError, match=rf'came out of {layer} \(Linear\)'):
        train(tmp_path, images=toy.Images(), model=model)


def test_skipping_a_nan_batch_equals_training_without_it(tmp_path):
    model = WithNorm(BACKBONE)
    runner = train(tmp_path, model=model, finite_loss=dict(on_non_finite='skip'))
    assert runner.iter == 4 and is_finite(runner) and not (tmp_path / 'non_finite').exists()
    assert model.norm.num_batches_tracked == 3

    # What comes after is what would have come after a training without that batch.
    class Short(toy.Images):
        def __getitem__(self, index):
            return super().__getitem__({4: 6, 5: 7}.get(index, index))

    first = train(tmp_path / 'a', model=seeded(WithNorm), finite_loss=dict(on_non_finite='skip'))
    second = train(tmp_path / 'b', 3, Short(), model=seeded(WithNorm))
    for a, b in zip(first.model.parameters(), second.model.parameters()):
        assert torch.equal(a, b)


def seeded(kind):
    torch.manual_seed(3)
    return kind(BACKBONE)


def test_nan_batches_are_skipped_with_a_loss_scaler(tmp_path):
    class Scaled(OptimWrapper):
        loss_scaler, cast_dtype = None, None

    runner = train(tmp_path, wrapper=Scaled)
    assert runner.iter == 4 and is_finite(runner)


def test_too_many_consecutive_nan_batches_stop_training(tmp_path):
    class All(toy.Images):
        def __getitem__(self, index):
            return dict(inputs=super().__getitem__(index)['inputs'] * float('inf'))

    with pytest.raises(InputError, match='is nan at iteration 3'):
        train(tmp_path, 4, All(), finite_loss=dict(on_non_finite='skip', patience=2))


def test_a_skipped_batch_counts_towards_gradient_accumulation(tmp_path):
    runner = train(tmp_path, 4, accumulative_counts=2, finite_loss=dict(on_non_finite='skip'))
    assert runner.optim_wrapper._inner_count == 4 and is_finite(runner)
    assert all(parameter.grad is None for parameter in runner.model.parameters())


def test_a_nan_gradient_norm_stops_training_with_finite_weights(tmp_path):
    class Steep(toy.Toy):
        def forward(self, inputs, data_samples=None, mode='tensor'):
            x = self.backbone(inputs)[-1].mean()
            return dict(loss=(x - x.detach()).abs().sqrt())  # 0, with an infinite slope

    model = Steep(BACKBONE)
    with pytest.raises(InputError, match='the norm of the gradients is nan at iteration 1 .*every value of the forward'):
        train(tmp_path, images=toy.Images(), model=model, clip_grad=dict(max_norm=1.0))
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


@pytest.mark.parametrize('attention', ['eager', 'sequential'])
def test_nan_inputs_do_not_change_re_attention_statistics(attention, tmp_path):
    from mmvitscale.models import DeepViT

    model = DeepViT(**{**{key: value for key, value in VIT.items() if key != 'type'}, 'attention': attention}).train()
    image = torch.rand(2, 3, 32, 32)
    model(image)[-1].sum().backward()
    before = [buffer.clone() for buffer in model.buffers()]
    image[0, 0, 0, 0] = float('nan')
    model(image)
    changed = [not torch.equal(a, b) for a, b in zip(before, model.buffers()) if a.is_floating_point()]
    assert all(bool(torch.isfinite(buffer).all()) for buffer in model.buffers()) and not any(changed)
    model(torch.rand(2, 3, 32, 32))[-1].sum().backward()
    assert any(not torch.equal(a, b) for a, b in zip(before, model.buffers()) if a.is_floating_point())


def test_the_check_can_be_disabled_and_unknown_actions_are_refused(tmp_path):
    checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=1)
    runner = toy.train(
        tmp_path, BACKBONE, max_iters=3, images=Poisoned(), default_hooks=dict(checkpoint=checkpoint, finite_loss=None)
    )
    assert not is_finite(runner)
    with pytest.raises(InputError, match="'stop' or 'skip'"):
        train(tmp_path, finite_loss=dict(on_non_finite='ignore'))


def test_a_batch_of_samples_survives_packing():
    sample = BaseDataElement(metainfo=dict(img_path='a.jpg', scale=np.float32(2), shape=(4, 5)))
    sample.gt_sem_seg = PixelData(data=torch.ones(1, 4, 5))
    sample.gt_instances = InstanceData(labels=torch.tensor([1, 2]), bboxes=torch.rand(2, 4))
    batch = dict(inputs=[torch.rand(3, 4, 5)], data_samples=[sample])
    again = unpack(pack(batch))
    assert torch.equal(again['inputs'][0], batch['inputs'][0])
    twin = again['data_samples'][0]
    assert type(twin) is BaseDataElement and twin.img_path == 'a.jpg' and twin.shape == (4, 5) and twin.scale == 2
    assert torch.equal(twin.gt_instances.bboxes, sample.gt_instances.bboxes)
    assert torch.equal(twin.gt_sem_seg.data, sample.gt_sem_seg.data)


@pytest.mark.parametrize('kind', ['os:system', 'subprocess:Popen', 'mmengine.structures:os', 'mmengine.structuresx:A', 5])
def test_unpacking_refuses_types_that_are_not_data_structures(kind):
    with pytest.raises((ValueError, ImportError, AttributeError)):
        unpack(dict(__type__=kind, metainfo={}, data={}))


@pytest.mark.integration
def test_boxes_and_masks_survive_packing():
    from mmdet import structures
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks, PolygonMasks

    sample = structures.DetDataSample()
    polygons = PolygonMasks([[np.array([0.0, 0, 3, 0, 3, 3])]], 4, 5)
    bitmaps = BitmapMasks(np.ones((1, 4, 5), np.uint8), 4, 5)
    sample.gt_instances = InstanceData(bboxes=HorizontalBoxes(torch.rand(1, 4)), masks=polygons)
    sample.ignored_instances = InstanceData(masks=bitmaps)
    twin = unpack(pack([sample]))[0]
    assert isinstance(twin.gt_instances.bboxes, HorizontalBoxes)
    assert np.array_equal(twin.gt_instances.masks.to_ndarray(), polygons.to_ndarray())
    assert np.array_equal(twin.ignored_instances.masks.masks, bitmaps.masks)


@pytest.mark.integration
def test_tracing_the_losses_twice_gives_equal_losses():
    """The data preprocessor pads labels in place: a second pass finds them as the first did."""
    from mmseg.models.data_preprocessor import SegDataPreProcessor
    from mmseg.structures import SegDataSample

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.data_preprocessor = SegDataPreProcessor(size=(8, 8), pad_val=0, seg_pad_val=255)

        def forward(self, inputs, data_samples, mode):
            assert data_samples[0].gt_sem_seg.data.shape[-2:] == inputs.shape[-2:]
            return dict(loss=inputs.mean())

    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.zeros(1, 5, 5, dtype=torch.long)), metainfo=dict(img_shape=(5, 5)))
    batch = dict(inputs=[torch.rand(3, 5, 5)], data_samples=[sample])
    model = Model()
    first = trace_losses(model, batch)
    assert first.losses == trace_losses(model, batch).losses and first.first is None
    assert sample.gt_sem_seg.data.shape[-2:] == (5, 5)


@pytest.mark.parametrize('statistics', ['token_invariant', 'running'])
@pytest.mark.parametrize('action', ['skip', 'stop'])
def test_a_bad_batch_leaves_no_trace_in_re_attention(statistics, action, tmp_path):
    """Its statistics, the law of its tokens and their number are those of before, though the batch itself is finite and of
    another size: the loss is not."""

    class Late(toy.Toy):
        def forward(self, inputs, data_samples=None, mode='tensor'):
            loss = super().forward(inputs)['loss']
            return dict(loss=loss * float('nan') if inputs.shape[-1] == 48 else loss)

    class Sizes(toy.Images):
        def __getitem__(self, index):
            return dict(inputs=torch.rand(3, 32, 48 if index // 2 == 1 else 32))

    class Keeps(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == 1:
                self.before = copy.deepcopy(state(runner))

    def state(runner):
        laws = [block.attn.token_law.trained_tokens for block in runner.model.backbone.blocks]
        return dict(runner.model.named_buffers()), laws

    keeps, seen = Keeps(), []
    model = Late(dict(VIT, reatten_statistics=statistics))
    set_back = FiniteLossHook._set_back

    class Looks(FiniteLossHook):
        def _set_back(self):
            set_back(self)
            seen.append(copy.deepcopy(state(runner_of[0])))

    runner_of = []

    class Finds(Hook):
        def before_train(self, runner):
            runner_of.append(runner)

    def go():
        checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=9)
        hooks = dict(checkpoint=checkpoint, finite_loss=Looks(action))
        toy.train(tmp_path, None, [keeps, Finds()], max_iters=2, images=Sizes(), model=model, default_hooks=hooks)

    if action == 'stop':
        with pytest.raises(InputError, match='is nan at iteration 2'):
            go()
    else:
        go()
    assert seen
    for buffers, laws in [*seen, state(runner_of[0])]:
        assert laws == keeps.before[1]
        for name, value in keeps.before[0].items():
            assert torch.equal(buffers[name], value), name


def test_each_of_several_optimizers_is_guarded(tmp_path):
    class Two(toy.Toy):
        def train_step(self, data, optim_wrapper):
            loss = self(data['inputs'])['loss']
            optim_wrapper['all'].update_params(loss)
            return dict(loss=loss)

    wrapper = dict(all=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1)), constructor='AllInOne')
    model = Two(BACKBONE)
    with pytest.raises(InputError, match='the loss is nan at iteration 3'):
        train(tmp_path, model=model, optim_wrapper=wrapper)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


@OPTIM_WRAPPER_CONSTRUCTORS.register_module(force=True)
class AllInOne:
    def __init__(self, optim_wrapper_cfg, paramwise_cfg=None):
        pass

    def __call__(self, model):
        return OptimWrapperDict(all=OptimWrapper(torch.optim.SGD(model.parameters(), 0.1)))
