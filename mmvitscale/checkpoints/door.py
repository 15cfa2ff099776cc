"""The one door through which weights enter a backbone, whichever way they come.

``init_cfg``, ``load_from``, ``--resume``, testing, predicting and a plain ``load_state_dict`` all end in ``prepare``: the
layout is recognised, names are converted, the result is compared with the backbone's own state dict, and it is refused
unless every weight that should come does. A backbone calls it from its own loading (``models/backbones/backbone.py``), so
that it holds for OpenMMLab's own tools and inferencers as well; ``into_model`` is the same for a whole model and its file.
"""

import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import nn

from ..errors import InputError, some_of
from .convert import Converted, State, convert, find_backbones, unwrapped_name, weights_in
from .lineage import KEY, Lineage, WindowLineage, show_windows

# How the weights of an RGB stem go to an image of another number of channels.
EXTRA_CHANNELS = ('repeat', 'zero')

# In the metadata of a state dict: the weights have been converted and compared already, in this process. No file can say so.
_ENTERED = secrets.token_hex(8)


@dataclass(frozen=True)
class Entry:
    """What enters a backbone. converted: the source under our names. weights: the backbone's own names and shapes, all of
    them, without the lineage. left_out: names in the source that it has no use for. new: its weights that the source does
    not have. notes: what was fitted."""

    converted: Converted
    weights: State
    left_out: list[str]
    new: list[str]
    notes: list[str]

    @property
    def lineage(self) -> Lineage | None:
        """What the weights were learned with, as far as it is known."""
        return self.converted.lineage

    def state_dict(self, name: str = 'the state dict') -> State:
        """The weights and their lineage, marked as having come through the door: a backbone takes them as they are. name: of
        the file, for the backbone's warnings."""
        lineage = {KEY: self.lineage.encode()} if self.lineage else {}
        state = OrderedDict({**self.weights, **lineage})
        state._metadata = OrderedDict({'': dict(entered=_ENTERED, name=name)})  # type: ignore[attr-defined]
        return state

    def describe(self, backbone: nn.Module) -> str:
        """One line for the log."""
        added = {unwrapped_name(key) for key in self.weights} - {*self.converted.weights, *self.new}
        taken = len(self.weights) - len(self.new) - len(added)
        parts = [
            f'{backbone.describe_weights(self.converted.weights)} from {self.converted.source}: {taken} weights taken',
            f'{len(self.left_out)} left out{_examples(self.left_out)}',
            f'newly initialised: {", ".join(self.new) if self.new else "none"}',
            *self.notes,
        ]
        if isinstance(self.lineage, WindowLineage) and any(self.lineage.windows):
            parts.append(f'windows {show_windows(self.lineage.windows)} -> {show_windows(backbone.lineage.windows)}')
        return ', '.join(parts)


def prepare(
    backbone: nn.Module,
    weights: State,
    prefix: str | None = None,
    extra_channels: str | None = 'repeat',
    given: WindowLineage | None = None,
    exact: bool = False,
) -> Entry:
    """Weights of any known layout -> what enters the backbone. Nothing is changed yet.

    Args:
        backbone: one of ``mmvitscale.models``.
        weights: from ``weights_in``, of the backbone alone or of a model that contains one.
        prefix: what the backbone's names stand behind in it; None finds it.
        extra_channels: 'repeat' or 'zero', how weights of an RGB stem go to an image of another number of channels; None
            refuses.
        given: what is known of the lineage from elsewhere, for weights that do not tell.
        exact: to go on with, not to fine-tune: bias tables keep their size.

    Raises:
        InputError: in one sentence, if there is no backbone of a known layout, several or another one, a weight is missing,
            unknown or of another shape, or was learned with other windows or another kind of position bias than the config
            says.
    """
    converted = convert(weights, prefix)
    if converted.family != backbone.family:
        raise InputError(
            f'it is a {converted.family}, but the config builds a {backbone.family}; change the type of the '
            'backbone, or take another checkpoint'
        )
    if given is not None:
        converted = replace(converted, lineage=_completed(converted.lineage, given))
    converted = replace(converted, lineage=backbone.completed_lineage(converted.weights, converted.lineage))
    backbone.check_lineage(converted.lineage)
    state = backbone.state_dict()
    names = {unwrapped_name(key): key for key in state if key != KEY}  # blocks may be compiled
    own = {key: state[name] for key, name in names.items()}
    found, notes = backbone.fit_positions(converted.weights, converted.lineage, exact)
    found, more = _fit_channels(found, own, extra_channels)
    own.update({key: value for key, value in found.items() if key in own and backbone.takes_any_size(key, value)})
    halves = {key.rpartition('.')[0] for key in found}  # of what has one weight here, none may be new
    new = [key for key in own if key not in found and backbone.may_be_new(key) and key.rpartition('.')[0] not in halves]
    _check(backbone, found, own, new)
    unused = [key for key in found if key not in own]
    entering = {name: found[key] if key in found else own[key] for key, name in names.items()}
    return Entry(converted, entering, [*converted.dropped, *unused], new, notes + more)


def _check(backbone: nn.Module, found: State, own: State, new: list[str]) -> None:
    """Raise InputError unless every weight of the backbone is there, in its shape, and no unknown one."""
    missing, unknown, misshapen = _differences(own, found)
    missing = [key for key in missing if key not in new]
    unknown = [key for key in unknown if not backbone.leaves_out(key)]
    if not (missing or unknown or misshapen):
        return
    theirs, ours = backbone.describe_weights(found), backbone.describe_weights(own)
    what = f'it is a {theirs}, but the config builds a {ours}' if theirs != ours else f'it looks like a {theirs}'
    raise InputError(
        f'{what}: {_listed(missing, unknown, misshapen)}; take the checkpoint of the same variant and '
        'options, whole and as it was saved'
    )


def _differences(own: State, found: State) -> tuple[list[str], list[str], list[str]]:
    """Names that are missing, unknown, and, with both shapes, misshapen."""
    return (
        [key for key in own if key not in found],
        [key for key in found if key not in own],
        [
            f'{key} is {tuple(found[key].shape)} instead of {tuple(own[key].shape)}'
            for key in own
            if key in found and found[key].shape != own[key].shape
        ],
    )


def _listed(missing: list[str], unknown: list[str], misshapen: list[str]) -> str:
    """``2 weights missing (a, b); 1 weights of another shape (c is (1,) instead of (2,))``"""
    return '; '.join(
        f'{len(keys)} weights {what} ({some_of(keys)})'
        for what, keys in (('missing', missing), ('unknown', unknown), ('of another shape', misshapen))
        if keys
    )


def _completed(found: Lineage | None, given: WindowLineage) -> Lineage:
    """The lineage that weights tell, and where they do not, what is given."""
    if not isinstance(found, WindowLineage) or len(found.references) != len(given.references):
        return found
    pairs = [
        tuple(own or other for own, other in zip(getattr(found, name), getattr(given, name)))
        for name in ('references', 'windows')
    ]
    return WindowLineage(found.position_bias or given.position_bias, *pairs)


def _fit_channels(found: State, own: State, how: str | None) -> tuple[State, list[str]]:
    """Carry the weights of an RGB stem over to an image of another number of channels: 'repeat' takes R, G, B, R, ...
    scaled by 3 / channels, and the sum for a single channel (both as timm does); 'zero' keeps R, G, B, and starts the others
    at zero, so that nothing changes until they are trained."""
    out, notes = dict(found), []
    for key, target in own.items():
        weight = found.get(key)
        if (
            how is None
            or weight is None
            or target.ndim != 4
            or weight.ndim != 4
            or weight.shape[1] != 3
            or target.shape[1] in (3, 0)
            or not key.startswith('patch_embed.')
        ):
            continue
        channels = target.shape[1]
        if weight.shape[:1] + weight.shape[2:] != target.shape[:1] + target.shape[2:]:
            continue
        if channels == 1:
            out[key], told = weight.sum(1, keepdim=True), 'summed'
        elif how == 'zero' and channels > 3:
            zeros = weight.new_zeros(target.shape[0], channels - 3, *weight.shape[2:])
            out[key], told = torch.cat((weight, zeros), 1), 'kept, the others zero'
        else:
            out[key] = weight[:, [i % 3 for i in range(channels)]] * (3 / channels)
            told = f'repeated and scaled by 3/{channels}'
        notes.append(f'{key} from 3 to {channels} channels: R, G, B {told}')
    return out, notes


def backbones_of(model: nn.Module) -> dict[str, nn.Module]:
    """The backbones of mmvitscale in a model, by the prefix of their weights' names."""
    model = unwrapped(model)
    # By what they can do: the models import this file, not the other way round.
    return {f'{name}.' if name else '': module for name, module in model.named_modules() if hasattr(module, 'fit_positions')}


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside wrappers (DDP, test-time augmentation), which only add a prefix to its names."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def into_model(
    model: nn.Module, content: dict, name: str, exact: bool = False, tell: Callable[[str], None] = lambda line: None
) -> dict[str, Entry]:
    """What a file held -> ``content['state_dict']`` with the names of a whole model, ready for its ``load_state_dict``.

    A backbone in any layout, alone or inside another model, goes into the model's backbones. Other weights stay as they are:
    heads may differ when they are fine-tuned, and a file of heads alone is accepted.

    Args:
        model: of any task; wrappers are looked through.
        content: what ``read_checkpoint`` gave; its ``state_dict`` is replaced.
        name: of the file, for messages.
        exact: for testing and resuming: nothing may be missing, unknown or fitted to another number of channels.
        tell: gets one line that says what was taken, left out and newly initialised.

    Returns:
        by prefix what enters each backbone.

    Raises:
        InputError: that names the file, for what does not fit.
    """
    model = unwrapped(model)
    backbones = backbones_of(model)
    try:
        weights = weights_in(content)
        given = _lineage_of_meta(content)
        # A teacher and its student, say, take the weights of one model: they rename them when they load.
        renames = type(model)._load_from_state_dict is not nn.Module._load_from_state_dict and any(
            prefix.endswith(f'.{start}') for prefix in backbones for start in find_backbones(weights) if start
        )
        state, entries = _enter({} if renames else backbones, weights, name, exact, given, model.state_dict())
        if exact:
            _check_exact(model.state_dict(), state, backbones, entries)
        elif backbones and not renames and not entries and not any(key in state for key in model.state_dict()):
            raise InputError(
                f'it has no weight of this model; its weights are called {some_of(sorted(weights))}, the '
                f"model's {some_of(sorted(model.state_dict()))}"
            )
        average = content.get('ema_state_dict')
        if isinstance(average, dict) and content.get('state_dict') is not None:
            # MMEngine's EMA hook exchanges it with the state dict, name by name, so it takes the same way.
            copies = {f'module.{prefix}': backbone for prefix, backbone in backbones.items()}
            content['ema_state_dict'] = _enter(copies, OrderedDict(average), name, exact, given)[0]
    except InputError as error:
        intro = f'checkpoint {name} does not fit the config' if exact else str(name)
        raise InputError(f'{intro}: {error}') from error
    if backbones and not exact and not renames:
        parts = [
            entries[prefix].describe(backbone) if prefix in entries else 'no weight of the backbone'
            for prefix, backbone in backbones.items()
        ]
        tell(f'{name}: {"; ".join([*parts, _others(model.state_dict(), state, backbones)])}')
    for entry in entries.values() if exact else ():
        if entry.notes:
            tell(f'{name}: {", ".join(entry.notes)}')
    content['state_dict'] = state
    return entries


def _others(own: State, state: State, backbones: dict[str, nn.Module]) -> str:
    """What of the weights beside the backbones fits the model by name and shape. Nothing is changed: a detector may go on to
    rename them."""
    inside = tuple(backbones)
    beside = {key: value for key, value in own.items() if not key.startswith(inside)}
    missing, unknown, misshapen = _differences(beside, {key: state[key] for key in state if not key.startswith(inside)})
    shapes = f', {len(misshapen)} of another shape{_examples(misshapen)}' if misshapen else ''
    return (
        f'beside the backbone {len(beside) - len(missing) - len(misshapen)} weights fit, {len(missing)} are not in the '
        f'file{_examples(missing)}, {len(unknown)} are not in the model{_examples(unknown)}{shapes}'
    )


def entered(metadata: dict) -> bool:
    """Whether the weights that this metadata of a module belongs to have come through the door."""
    return isinstance(metadata, dict) and metadata.get('entered') == _ENTERED


def has_entered(content: dict) -> bool:
    """Whether ``into_model`` has been given this content."""
    metadata = getattr(content.get('state_dict'), '_metadata', None) or {}
    return any(map(entered, metadata.values()))


def _enter(
    backbones: dict[str, nn.Module],
    weights: State,
    name: str,
    exact: bool,
    given: WindowLineage | None,
    own: State | None = None,
) -> tuple[State, dict[str, Entry]]:
    """Weights of a model or of a backbone alone -> those of a model with these backbones, and what enters each. own: the
    model's weights, for heads of another library that have a place among them."""
    entries, used = {}, set()
    behind = {
        prefix: OrderedDict((key[len(prefix) :], value) for key, value in weights.items() if key.startswith(prefix))
        for prefix in backbones
    }
    # A file of a backbone alone, or of another model around one, is for every backbone; only where no part of the file is
    # some backbone's own.
    alone = not any(behind.values()) and bool(find_backbones(weights))
    heads = {}
    for prefix, backbone in backbones.items():
        inside = weights if alone else behind[prefix]
        if inside:
            entry = prepare(backbone, inside, extra_channels=None if exact else 'repeat', given=given, exact=exact)
            entries[prefix] = entry
            start = entry.converted.prefix if alone else prefix
            used.update(key for key in weights if key.startswith(start))
            if alone and own is not None:
                heads = {
                    target: key
                    for target, key in entry.converted.heads.items()
                    if target in own and (exact or own[target].shape == weights[key].shape)
                }
                used.update(heads.values())
    state = OrderedDict((key, value) for key, value in weights.items() if key not in used)
    state.update({target: weights[key] for target, key in heads.items()})
    state._metadata = OrderedDict(getattr(weights, '_metadata', {}))  # type: ignore[attr-defined]
    state._metadata[''] = dict(state._metadata.get('', {}), entered=_ENTERED, name=name)  # type: ignore[attr-defined]
    for prefix, entry in entries.items():
        for key, value in entry.state_dict().items():
            state[prefix + key] = value
        state._metadata[prefix[:-1]] = dict(entered=_ENTERED, name=name)  # type: ignore[attr-defined]
    return state, entries


def _check_exact(own: State, found: State, backbones: dict[str, nn.Module], entries: dict[str, Entry]) -> None:
    """Raise InputError unless the weights are those of the model, in name and shape."""
    # What entered a backbone has been compared; only what was let pass there is looked at.
    inside = tuple(entries)
    own, found = (
        {key: value for key, value in state.items() if not (inside and key.startswith(inside))} for state in (own, found)
    )
    missing, unknown, misshapen = _differences(own, found)
    missing += [prefix + key for prefix, entry in entries.items() for key in entry.new]
    unknown += [
        prefix + key for prefix, entry in entries.items() for key in entry.left_out if backbones[prefix].leaves_out(key)
    ]
    if missing or unknown or misshapen:
        masked = any(key.endswith('mask_token') for key in unknown)
        advice = (
            'it comes from masked pretraining: fine-tune from it with init_cfg'
            if masked
            else 'give the config the checkpoint was trained with'
        )
        raise InputError(f'{_listed(missing, unknown, misshapen)}; {advice}')


def _lineage_of_meta(content: dict) -> WindowLineage | None:
    """The windows in a checkpoint's meta: where mmvitscale 0.1.0 wrote those that its weights last ran with."""
    meta = content.get('meta')
    lineage = meta.get('window_lineage') if isinstance(meta, dict) else None
    try:
        columns: list[Any] = [
            tuple(tuple(map(int, window)) if window else None for window in lineage[name])
            for name in ('reference_windows', 'windows')
        ]
        return WindowLineage(lineage.get('position_bias'), columns[0], columns[1])
    except (TypeError, KeyError, ValueError, AttributeError):
        return None


def _examples(keys: list[str]) -> str:
    return f' ({some_of(keys)})' if keys else ''
