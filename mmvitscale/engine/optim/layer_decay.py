"""Layer-wise learning rate decay."""

from inspect import signature

from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS as ROOT_OPTIM_WRAPPERS
from mmengine.registry import OPTIMIZERS
from torch import nn

from mmvitscale.errors import InputError
from mmvitscale.registry import OPTIM_WRAPPER_CONSTRUCTORS, type_name


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor:
    """Model -> OptimWrapper whose learning rates fall from the head down to the patch embedding.

    The backbone is asked for the depth of each parameter (``get_layer_depth``), every module that has ``no_weight_decay``
    for its parameters without weight decay; elsewhere norms and biases take none. The learning rate of a parameter at depth
    l of L is lr * layer_decay_rate ** (L - 1 - l) (BEiT, arXiv 2106.08254, section 3.1; used by SwinV2 for ADE20K).

    Args:
        optim_wrapper_cfg: MMEngine's config of an OptimWrapper, its ``optimizer`` included.
        paramwise_cfg: ``layer_decay_rate`` (default 1, none), and ``custom_keys``: a dict from a part of a parameter's
            name to dict(lr_mult=..., decay_mult=...); where several match, the longest counts.

    Raises:
        InputError: for an unknown option, a custom key that matches no parameter, or a decay rate without a backbone
            that knows its depths.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None):
        paramwise_cfg = dict(paramwise_cfg or {})
        self.optim_wrapper_cfg = dict(optim_wrapper_cfg)
        self.layer_decay_rate = paramwise_cfg.pop('layer_decay_rate', 1.0)
        self.custom_keys: dict[str, dict] = dict(paramwise_cfg.pop('custom_keys', {}))
        if paramwise_cfg:
            raise InputError(
                f'paramwise_cfg has {sorted(paramwise_cfg)}, but LayerDecayOptimWrapperConstructor knows '
                'layer_decay_rate and custom_keys'
            )
        for pattern, options in self.custom_keys.items():
            if not set(options) <= {'lr_mult', 'decay_mult'}:
                raise InputError(f'custom_keys[{pattern!r}] has {sorted(options)}, but it may have lr_mult and decay_mult')

    def __call__(self, model: nn.Module) -> OptimWrapper:
        if is_model_wrapper(model):
            model = model.module
        wrapper_cfg = self.optim_wrapper_cfg.copy()
        optimizer_cfg = dict(wrapper_cfg.pop('optimizer'))
        optimizer_cfg['params'] = self._parameter_groups(
            model, self._learning_rate(optimizer_cfg), optimizer_cfg.get('weight_decay', 0.0)
        )
        wrapper_cfg.setdefault('type', 'OptimWrapper')
        wrapper_cfg['optimizer'] = OPTIMIZERS.build(optimizer_cfg)
        return ROOT_OPTIM_WRAPPERS.build(wrapper_cfg)

    def _learning_rate(self, optimizer_cfg: dict) -> float | None:
        """The config's, or the optimizer's own default; None for one that finds its own. Raises InputError where parts of a
        rate are needed."""
        if 'lr' in optimizer_cfg:
            return optimizer_cfg['lr']
        kind = optimizer_cfg.get('optimizer_type', optimizer_cfg['type'])  # the former where its states are sharded
        kind = OPTIMIZERS.get(kind) if isinstance(kind, str) else kind
        own = signature(kind).parameters.get('lr') if kind is not None else None
        if own is not None and isinstance(own.default, (int, float)):
            return float(own.default)
        if self.layer_decay_rate != 1 or any('lr_mult' in options for options in self.custom_keys.values()):
            raise InputError(
                f'the optimizer {type_name(optimizer_cfg)} has no lr in the config and none of its own, but layer_decay_rate '
                'and lr_mult take parts of one; give lr'
            )
        return None

    def _parameter_groups(self, model: nn.Module, lr: float | None, weight_decay: float) -> list:
        """One group per learning rate and weight decay, in the order of first use."""
        prefix, backbone = self._backbone(model)
        no_decay = {
            f'{path}.{name}' if path else name
            for path, module in model.named_modules()
            if hasattr(module, 'no_weight_decay')
            for name in module.no_weight_decay()
        }
        unmatched = set(self.custom_keys)
        groups: dict[tuple[float, float], dict] = {}
        for name, parameter in model.named_parameters():
            options = self._custom_options(name, unmatched)
            if not parameter.requires_grad:
                continue
            lr_scale = options.get('lr_mult', 1.0)
            if backbone is not None:
                depth, depths = backbone.get_layer_depth(name, prefix)
                lr_scale *= self.layer_decay_rate ** (depths - 1 - depth)
            decays = parameter.ndim > 1 and name not in no_decay
            decay = weight_decay * options.get('decay_mult', 1.0) if decays else 0.0
            rate = {} if lr is None else dict(lr=lr * lr_scale)
            group = groups.setdefault((lr_scale, decay), dict(params=[], **rate, weight_decay=decay))
            group['params'].append(parameter)
        if unmatched:
            raise InputError(
                f'custom_keys {sorted(unmatched)} match no parameter of the model; its top-level parts '
                f'are {[name for name, _ in model.named_children()]}'
            )
        if not groups:
            raise InputError(
                f'no parameter of {type(model).__name__} is trained: all are frozen; lower frozen_stages, or train a head'
            )
        rates = [group['lr'] for group in groups.values() if 'lr' in group]
        shown = f'learning rates {min(rates):.3g} to {max(rates):.3g}' if rates else "the optimizer's own learning rate"
        print_log(f'{len(groups)} parameter groups, {shown}', 'current')
        return list(groups.values())

    def _custom_options(self, name: str, unmatched: set) -> dict:
        matching = [pattern for pattern in self.custom_keys if pattern in name]
        unmatched.difference_update(matching)
        return self.custom_keys[max(matching, key=len)] if matching else {}

    def _backbone(self, model: nn.Module) -> tuple[str, nn.Module | None]:
        """The first module that knows its depths, and the prefix of its parameters' names."""
        for name, module in model.named_modules():
            if hasattr(module, 'get_layer_depth') and hasattr(module, 'no_weight_decay'):
                return f'{name}.' if name else '', module
        if self.layer_decay_rate != 1:
            raise InputError(
                f'layer_decay_rate is {self.layer_decay_rate}, but no part of '
                f'{type(model).__name__} says how deep its layers are (get_layer_depth, '
                'no_weight_decay); use a backbone of mmvitscale, or leave layer_decay_rate out'
            )
        return '', None
