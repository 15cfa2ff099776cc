"""DeepSpeed's ZeRO stages 1 and 2, with recipes as they are and checkpoints like everybody's."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import mmengine._strategy.deepspeed as mmengine_deepspeed
import torch
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.model import convert_sync_batchnorm
from mmengine.optim import BaseOptimWrapper
from mmengine.registry import OPTIMIZERS
from mmengine.runner.checkpoint import weights_to_cpu
from torch import Tensor, nn

from mmvitscale.config.runtime import MIXED_PRECISION_OPTIONS
from mmvitscale.engine.strategies.consolidated_checkpoints import ConsolidatedCheckpoints
from mmvitscale.errors import InputError
from mmvitscale.models.layers.sync_batch_norm import with_sync_batch_norm
from mmvitscale.registry import STRATEGIES


def _register_optimizers() -> None:
    """DeepSpeed's own optimizers, for configs that name them. MMEngine's way fails with DeepSpeed 0.19, which has fewer."""
    from deepspeed.ops.adam import DeepSpeedCPUAdam, FusedAdam
    from deepspeed.ops.lamb import FusedLamb

    for optimizer in (DeepSpeedCPUAdam, FusedAdam, FusedLamb):
        OPTIMIZERS.register_module(module=optimizer, force=True)


mmengine_deepspeed.register_deepspeed_optimizers = _register_optimizers


@STRATEGIES.register_module()
class DeepSpeedStrategy(ConsolidatedCheckpoints, mmengine_deepspeed.DeepSpeedStrategy):
    """MMEngine's DeepSpeedStrategy, but for any recipe: its ``clip_grad``, ``accumulative_counts``, ``auto_scale_lr`` and
    mixed precision are passed to DeepSpeed, learning rates by layer and groups without decay hold, and checkpoints are single
    files with float32 weights and the optimizer's states in the form of a single process.

    Mixed precision (``AmpOptimWrapper``) is DeepSpeed's ``torch_autocast``, with weights and sums of gradients in float32.
    ``bf16=dict(enabled=True)`` or ``fp16=dict(enabled=True)`` hold 16-bit weights instead, and share out float32 ones.

    Args:
        sync_bn: 'torch' synchronises BatchNorm over the processes.
        **kwargs: of MMEngine's DeepSpeedStrategy.

    Raises:
        InputError: for stage 3, or a precision that this machine cannot do.
    """

    _inputs_to_half: list | None  # MMEngine's

    def __init__(self, *, sync_bn: str | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.sync_bn = sync_bn
        self.config.setdefault('zero_optimization', dict(stage=1))
        stage = self.config['zero_optimization'].get('stage', 0)
        if stage not in (1, 2):
            raise InputError(
                f"DeepSpeed's ZeRO stage {stage} found, but mmvitscale.DeepSpeedStrategy knows 1 and 2; to share "
                'out parameters, too, use mmvitscale.FSDPStrategy'
            )
        if self._holds_16_bits():
            self._inputs_to_half = self._inputs_to_half or ['inputs']
        if self._enabled('fp16') and get_device() == 'cpu':
            raise InputError(
                'fp16 found in the DeepSpeed strategy, but without a GPU it trains in float32 or bf16; use one of them'
            )
        # Of torch.optim, as any recipe's.
        self.config.setdefault('zero_allow_untested_optimizer', True)

    def _enabled(self, precision: str) -> bool:
        return bool((self.config.get(precision) or {}).get('enabled'))

    def _holds_16_bits(self) -> bool:
        """Whether the model's own weights have 16 bits."""
        return self._enabled('bf16') or self._enabled('fp16')

    def build_optim_wrapper(self, optim_wrapper: dict, model: nn.Module | None = None) -> BaseOptimWrapper:
        """As MMEngine's, of any recipe's config."""
        cfg = dict(optim_wrapper)
        kind = str(cfg.pop('type', '')).split('.')[-1]
        clip = cfg.pop('clip_grad', None)
        if clip:
            if clip.get('norm_type', 2) != 2 or 'max_norm' not in clip:
                raise InputError(
                    f'clip_grad {dict(clip)} found, but DeepSpeed clips by the 2-norm of all gradients: '
                    'clip_grad=dict(max_norm=...)'
                )
            self.config['gradient_clipping'] = clip['max_norm']
        self.config['gradient_accumulation_steps'] = cfg.pop('accumulative_counts', 1)
        if kind in ('AmpOptimWrapper', 'BF16OptimWrapper') and not self._holds_16_bits():
            dtype = str(cfg.get('dtype', 'bfloat16')).removeprefix('torch.')
            # No module communicates its gradients in lower precision.
            self.config['torch_autocast'] = dict(enabled=True, dtype=dtype, lower_precision_safe_modules=[])
        for option in MIXED_PRECISION_OPTIONS:
            cfg.pop(option, None)
        wrapper = super().build_optim_wrapper(dict(cfg, type='DeepSpeedOptimWrapper'), model)
        # DeepSpeed puts flat pieces in the place of the parameters.
        self._parameters: list[list[nn.Parameter]] = [list(group['params']) for group in wrapper.optimizer.param_groups]
        return wrapper

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        if self.sync_bn:
            model = with_sync_batch_norm(model) if get_device() == 'cpu' else convert_sync_batchnorm(model, self.sync_bn)
        self.config['train_micro_batch_size_per_gpu'] = self.dispatch_kwargs['train_micro_batch_size_per_gpu']
        self._scale_lr()
        return super()._wrap_model(model)

    def gradient_scale(self) -> float:
        """What DeepSpeed multiplies a loss with before its backward pass."""
        return float(self.model.optimizer.loss_scale) / self.config['gradient_accumulation_steps']

    def model_state_dict(self) -> dict:
        """Whole weights, in float32; all processes call it."""
        module = self.model.module
        state = weights_to_cpu(module.state_dict()) if is_main_process() else {}
        if not self._holds_16_bits():
            return state
        if is_main_process():
            for key, value in state.items():
                state[key] = value.float() if value.is_floating_point() else value
        for name, parameter in module.named_parameters():
            whole = _utils().safe_get_full_fp32_param(parameter)
            if is_main_process() and whole is not None:  # None: it is frozen
                state[name] = whole.cpu()
        return state

    def load_model_state_dict(
        self, state_dict: dict, *, strict: bool = False, revise_keys: Sequence[tuple[str, str]] = ((r'^module\.', ''),)
    ) -> None:
        """Takes float32 weights, into what the optimizer holds of them as well."""
        super().load_model_state_dict(state_dict, strict=strict, revise_keys=revise_keys)
        optimizer = self.model.optimizer
        optimizer.refresh_fp32_params()
        if self._holds_16_bits():
            for name, parameter in self.model.module.named_parameters():
                if name in state_dict:
                    _utils().safe_set_full_fp32_param(parameter, state_dict[name].to(parameter.device, torch.float32))

    def _groups(self) -> Iterator[tuple[dict, dict, list[tuple[int, nn.Parameter]]]]:
        """For each group of parameters: its options, this process's states of its flat piece, and the parameters with their
        numbers."""
        first = 0
        for group, parameters in zip(self.model.optimizer.param_groups, self._parameters):
            (piece,) = group['params']
            yield group, self.model.optimizer.optimizer.state[piece], list(enumerate(parameters, first))
            first += len(parameters)

    def _link_states(self, group: dict, parameters: list[tuple[int, nn.Parameter]]) -> None:
        """Link each parameter to its states. DeepSpeed does so when the first group of all has been updated, when
        those of the others are not there yet."""
        _utils().lazy_init_hp_params_optimizer_state(
            [parameter for _, parameter in parameters], group['params'][0], self.model.optimizer.optimizer.state
        )

    def optim_state_dict(self) -> dict:
        """In the form of ``torch.optim``; all processes call it."""
        states, groups = {}, []
        for group, state, parameters in self._groups():
            self._link_states(group, parameters)
            groups.append(
                {
                    **{key: value for key, value in group.items() if key != 'params'},
                    'params': [index for index, _ in parameters],
                }
            )
            for index, parameter in parameters:
                states[index] = {
                    key: _utils().safe_get_full_optimizer_state(parameter, key).cpu()
                    if _is_sharded(value)
                    else value.clone().cpu()
                    if isinstance(value, Tensor)
                    else value
                    for key, value in state.items()
                }
        wrapper = self.optim_wrapper.state_dict()
        return {**wrapper, 'state': states, 'param_groups': groups} if is_main_process() else {}

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Takes one in the form of ``torch.optim``."""
        for (group, state, parameters), saved in zip(self._groups(), state_dict['param_groups']):
            group.update({key: value for key, value in saved.items() if key != 'params'})
            found = [(parameter, state_dict['state'].get(index, {})) for index, parameter in parameters]
            for key, value in (item for _, states in found for item in states.items()):
                state[key] = torch.zeros_like(group['params'][0]) if _is_sharded(value) else copy.deepcopy(value)
            self._link_states(group, parameters)
            for parameter, states in found:
                for key, value in states.items():
                    if _is_sharded(value):
                        _utils().safe_set_full_optimizer_state(parameter, value.to(parameter.device), key)
        self.optim_wrapper.load_state_dict(dict(state_dict))


def _is_sharded(value) -> bool:
    """Whether a state belongs to the elements of a parameter, unlike the number of steps."""
    return isinstance(value, Tensor) and value.ndim > 0


def _utils():
    import deepspeed.utils  # not needed to train otherwise

    return deepspeed.utils
