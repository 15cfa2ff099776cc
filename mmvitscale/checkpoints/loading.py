"""Checkpoint loading: weights of any known format are matched with a model, checked, and only then loaded.

``init_cfg``, ``load_from``, ``--resume``, testing, predicting and a plain ``load_state_dict`` all end in ``match_weights``: the
format is recognised, names are converted, the result is compared with the backbone's own state dict, and it is refused
unless every weight that should be there is. A backbone calls it from its own loading (``models/base_backbone.py``), so that it
holds for OpenMMLab's own tools and inferencers as well; ``adapt_checkpoint`` is the same for a whole model and its file.
"""

import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import torch
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn

from mmvitscale.checkpoints.convert import Converted, State, convert, find_backbones, plain_name, weights_in
from mmvitscale.checkpoints.metadata import META_KEY, STATE_DICT_KEY, Size, WeightMetadata, WindowMetadata, show_windows
from mmvitscale.errors import InputError, some_of

# How the weights of an RGB stem go to an image of another number of channels.
EXTRA_CHANNELS = ('repeat', 'zero')

# In PyTorch's metadata of a state dict: the weights have been matched already, in this process. No file can say so.
_MATCHED = secrets.token_hex(8)


class LoadableBackbone(Protocol):
    """What checkpoint loading requires of a backbone; ``models/base_backbone.py`` describes each."""

    family: str

    complete_metadata: Callable[[State, Any], WeightMetadata | None]
    check_metadata: Callable[[Any], None]
    resize_position_weights: Callable[[State, Any, bool], tuple[State, list[str]]]
    accepts_any_size: Callable[[str, Tensor], bool]
    allows_missing: Callable[[str], bool]
    is_added: Callable[[str], bool]
    ignores_unexpected: Callable[[str], bool]
    describe_weights: Callable[[State], str]

    @property
    def weight_metadata(self) -> WeightMetadata:
        """What its weights are trained with."""

    def state_dict(self) -> State:
        """PyTorch's."""


@dataclass(frozen=True)
class MatchedWeights:
    """Weights that fit a backbone.

    converted: the source under our names. weights: the backbone's own names and shapes, all of them, without the metadata.
    unexpected: names in the source that it has no use for. missing: its weights that the source does not have, which keep their
    initialisation. notes: what was resized.
    """

    converted: Converted
    weights: State
    unexpected: list[str]
    missing: list[str]
    notes: list[str]

    @property
    def weight_metadata(self) -> WeightMetadata | None:
        """What the weights were trained with, as far as it is known."""
        return self.converted.weight_metadata

    def state_dict(self, name: str = 'the state dict') -> State:
        """The weights and their metadata, marked as matched: a backbone loads them as they are. name: of the file, for the
        backbone's warnings."""
        metadata = {STATE_DICT_KEY: self.weight_metadata.encode()} if self.weight_metadata else {}
        state = OrderedDict({**self.weights, **metadata})
        state._metadata = OrderedDict({'': dict(matched=_MATCHED, name=name)})  # type: ignore[attr-defined]
        return state

    def describe(self, backbone: LoadableBackbone) -> str:
        """One line for the log."""
        added = {plain_name(key) for key in self.weights} - {*self.converted.weights, *self.missing}
        loaded = len(self.weights) - len(self.missing) - len(added)
        parts = [
            f'{backbone.describe_weights(self.converted.weights)} from {self.converted.source}: {loaded} weights loaded',
            f'{len(self.unexpected)} unexpected{_examples(self.unexpected)}',
            f'missing (initialised): {", ".join(self.missing) if self.missing else "none"}',
            *self.notes,
        ]
        own = backbone.weight_metadata
        if (
            isinstance(self.weight_metadata, WindowMetadata)
            and isinstance(own, WindowMetadata)
            and any(self.weight_metadata.windows)
        ):
            parts.append(f'windows {show_windows(self.weight_metadata.windows)} -> {show_windows(own.windows)}')
        return ', '.join(parts)


def match_weights(
    backbone: LoadableBackbone,
    weights: Mapping[str, Tensor],
    prefix: str | None = None,
    extra_channels: str | None = 'repeat',
    given: WindowMetadata | None = None,
    strict: bool = False,
) -> MatchedWeights:
    """Weights of any known format -> those that fit the backbone. Nothing is changed yet.

    Args:
        backbone: one of ``mmvitscale.models``.
        weights: from ``weights_in``, of the backbone alone or of a model that contains one.
        prefix: what the backbone's names stand behind in it; None finds it.
        extra_channels: 'repeat' or 'zero', how weights of an RGB stem go to an image of another number of channels; None
            refuses.
        given: metadata known from elsewhere, for weights that have none.
        strict: to test or resume, not to fine-tune: bias tables keep their size.

    Raises:
        InputError: in one sentence, if there is no backbone of a known format, several or another one, a weight is missing,
            unexpected or of another shape, or was trained with other windows or another kind of position bias than the config
            says.
    """
    state = {key: value for key, value in backbone.state_dict().items() if isinstance(value, Tensor)}
    names = {plain_name(key): key for key in state if key != STATE_DICT_KEY}  # blocks may be compiled, or adapted
    weights, given_names = _under_plain_names(weights)
    converted = convert(weights, prefix, names)
    converted = replace(
        converted,
        dropped=[given_names[key] for key in converted.dropped],
        heads={target: given_names[key] for target, key in converted.heads.items()},
    )
    if converted.family != backbone.family:
        raise InputError(
            f'it is a {converted.family}, but the config builds a {backbone.family}; change the type of the '
            'backbone, or take another checkpoint'
        )
    if given is not None:
        converted = replace(converted, weight_metadata=_completed(converted.weight_metadata, given))
    metadata = backbone.complete_metadata(converted.weights, converted.weight_metadata)
    converted = replace(converted, weight_metadata=metadata)
    backbone.check_metadata(metadata)
    own = {key: state[name] for key, name in names.items()}
    found, notes = backbone.resize_position_weights(converted.weights, metadata, strict)
    found, more = _fit_channels(found, own, extra_channels)
    own.update({key: value for key, value in found.items() if key in own and backbone.accepts_any_size(key, value)})
    halves = {key.rpartition('.')[0] for key in found}  # of what has one weight here, none may be missing
    missing = [
        key
        for key in own
        if key not in found
        and (backbone.is_added(key) or backbone.allows_missing(key) and key.rpartition('.')[0] not in halves)
    ]
    _check(backbone, found, own, missing)
    unused = [key for key in found if key not in own]
    fitting = {name: found[key] if key in found else own[key] for key, name in names.items()}
    return MatchedWeights(converted, fitting, [*converted.dropped, *unused], missing, notes + more)


def _under_plain_names(weights: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], dict[str, str]]:
    """Without the names of wrappers and adapters in them, and what each was called."""
    names = {plain_name(key): key for key in weights}
    if len(names) < len(weights):  # two would have one name
        return weights, {key: key for key in weights}
    plain = OrderedDict((name, weights[key]) for name, key in names.items())
    plain._metadata = getattr(weights, '_metadata', {})  # type: ignore[attr-defined]
    return plain, names


def _check(backbone: LoadableBackbone, found: State, own: State, allowed: list[str]) -> None:
    """Raise InputError unless every weight of the backbone is there, in its shape, and no unexpected one."""
    missing, unexpected, mismatched = _differences(own, found)
    missing = [key for key in missing if key not in allowed]
    unexpected = [key for key in unexpected if not backbone.ignores_unexpected(key)]
    if not (missing or unexpected or mismatched):
        return
    theirs, ours = backbone.describe_weights(found), backbone.describe_weights(own)
    what = f'it is a {theirs}, but the config builds a {ours}' if theirs != ours else f'it looks like a {theirs}'
    raise InputError(
        f'{what}: {_listed(missing, unexpected, mismatched)}; take the checkpoint of the same variant and '
        'options, complete and as it was saved'
    )


def _differences(own: State, found: State) -> tuple[list[str], list[str], list[str]]:
    """Names that are missing, unexpected, and, with both shapes, of another size."""
    return (
        [key for key in own if key not in found],
        [key for key in found if key not in own],
        [
            f'{key} is {tuple(found[key].shape)} instead of {tuple(own[key].shape)}'
            for key in own
            if key in found and found[key].shape != own[key].shape
        ],
    )


def _listed(missing: list[str], unexpected: list[str], mismatched: list[str]) -> str:
    """``2 missing keys (a, b); 1 size mismatches (c is (1,) instead of (2,))``"""
    kinds = (('missing keys', missing), ('unexpected keys', unexpected), ('size mismatches', mismatched))
    return '; '.join(f'{len(keys)} {what} ({some_of(keys)})' for what, keys in kinds if keys)


def _completed(found: WeightMetadata | None, given: WindowMetadata) -> WeightMetadata | None:
    """The metadata that weights have, and where they have none, what is given."""
    if not isinstance(found, WindowMetadata) or len(found.pretrained_windows) != len(given.pretrained_windows):
        return found
    return WindowMetadata(
        found.position_bias or given.position_bias,
        tuple(own or other for own, other in zip(found.pretrained_windows, given.pretrained_windows)),
        tuple(own or other for own, other in zip(found.windows, given.windows)),
    )


def _fit_channels(found: State, own: State, how: str | None) -> tuple[State, list[str]]:
    """Transfer the weights of an RGB stem to an image of another number of channels: 'repeat' takes R, G, B, R, ...
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
            out[key], done = weight.sum(1, keepdim=True), 'summed'
        elif how == 'zero' and channels > 3:
            zeros = weight.new_zeros(target.shape[0], channels - 3, *weight.shape[2:])
            out[key], done = torch.cat((weight, zeros), 1), 'kept, the others zero'
        else:
            out[key] = weight[:, [i % 3 for i in range(channels)]] * (3 / channels)
            done = f'repeated and scaled by 3/{channels}'
        notes.append(f'{key} from 3 to {channels} channels: R, G, B {done}')
    return out, notes


def backbones_of(model: nn.Module) -> dict[str, Any]:
    """The backbones of mmvitscale in a model, by the prefix of their weights' names."""
    model = unwrapped(model)
    # By what they can do: the models import this file, not the other way round.
    found = {name: module for name, module in model.named_modules() if hasattr(module, 'resize_position_weights')}
    return {f'{name}.' if name else '': module for name, module in found.items()}


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside wrappers (DDP, test-time augmentation), which only add a prefix to its names."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = cast(nn.Module, model.module)
    return model


def adapt_checkpoint(
    model: nn.Module,
    content: dict[str, Any],
    name: str,
    strict: bool = False,
    log: Callable[[str], object] = lambda line: None,
) -> dict[str, MatchedWeights]:
    """What a file held -> ``content['state_dict']`` with the names of a whole model, ready for its ``load_state_dict``.

    A backbone in any format, alone or inside another model, goes into the model's backbones. Other weights stay as they are:
    heads may differ when they are fine-tuned, and a file of heads alone is accepted.

    Args:
        model: of any task; wrappers are looked through.
        content: what ``read_checkpoint`` gave; its ``state_dict`` is replaced.
        name: of the file, for messages.
        strict: for testing and resuming: nothing may be missing, unexpected or fitted to another number of channels.
        log: gets one line that says what is loaded, unexpected and missing.

    Returns:
        by prefix what each backbone loads.

    Raises:
        InputError: that names the file, for what does not fit.
    """
    model = unwrapped(model)
    backbones = backbones_of(model)
    try:
        weights = weights_in(content)
        given = _metadata_of_meta(content)
        # A teacher and its student, say, load the weights of one model: they rename them when they load.
        renames = type(model)._load_from_state_dict is not nn.Module._load_from_state_dict and any(
            prefix.endswith(f'.{start}') for prefix in backbones for start in find_backbones(weights) if start
        )
        state, matched = _match_model({} if renames else backbones, weights, name, strict, given, model.state_dict())
        if strict:
            _check_strict(model.state_dict(), state, backbones, matched)
        elif backbones and not renames and not matched and not any(key in state for key in model.state_dict()):
            raise InputError(
                f'it has no weight of this model; its weights are called {some_of(sorted(weights))}, the '
                f"model's {some_of(sorted(model.state_dict()))}"
            )
        average = content.get('ema_state_dict')
        if isinstance(average, dict) and content.get('state_dict') is not None:
            # MMEngine's EMA hook exchanges it with the state dict, name by name, so it is matched as well.
            copies = {f'module.{prefix}': backbone for prefix, backbone in backbones.items()}
            content['ema_state_dict'] = _match_model(copies, OrderedDict(average), name, strict, given)[0]
    except InputError as error:
        intro = f'checkpoint {name} does not fit the config' if strict else str(name)
        raise InputError(f'{intro}: {error}') from error
    if backbones and not strict and not renames:
        parts = [
            matched[prefix].describe(backbone) if prefix in matched else 'no weight of the backbone'
            for prefix, backbone in backbones.items()
        ]
        log(f'{name}: {"; ".join([*parts, _beside_backbones(model.state_dict(), state, backbones)])}')
    for own in matched.values() if strict else ():
        if own.notes:
            log(f'{name}: {", ".join(own.notes)}')
    content['state_dict'] = state
    return matched


def _beside_backbones(own: State, state: State, backbones: dict[str, Any]) -> str:
    """Which of the weights beside the backbones fit the model by name and shape. Nothing is changed: a detector may go on to
    rename them."""
    inside = tuple(backbones)
    beside = {key: value for key, value in own.items() if not key.startswith(inside)}
    missing, unexpected, mismatched = _differences(beside, {key: state[key] for key in state if not key.startswith(inside)})
    shapes = f', {len(mismatched)} size mismatches{_examples(mismatched)}' if mismatched else ''
    return (
        f'beside the backbone {len(beside) - len(missing) - len(mismatched)} weights fit, {len(missing)} missing in the '
        f'file{_examples(missing)}, {len(unexpected)} unexpected{_examples(unexpected)}{shapes}'
    )


def is_matched(metadata: object) -> bool:
    """Whether the weights that this metadata of a module belongs to have been matched with it."""
    return isinstance(metadata, dict) and metadata.get('matched') == _MATCHED


def is_adapted(content: dict[str, Any]) -> bool:
    """Whether ``adapt_checkpoint`` has been given this content."""
    metadata = getattr(content.get('state_dict'), '_metadata', None) or {}
    return any(map(is_matched, metadata.values()))


def _match_model(
    backbones: dict[str, Any],
    weights: 'OrderedDict[str, Tensor]',
    name: str,
    strict: bool,
    given: WindowMetadata | None,
    own: State | None = None,
) -> tuple[State, dict[str, MatchedWeights]]:
    """Weights of a model or of a backbone alone -> those of a model with these backbones, and what each backbone loads. own:
    the model's weights, for heads of another library that have a place among them."""
    matched: dict[str, MatchedWeights] = {}
    used: set[str] = set()
    behind = {
        prefix: OrderedDict((key[len(prefix) :], value) for key, value in weights.items() if key.startswith(prefix))
        for prefix in backbones
    }
    # A file of a backbone alone, or of another model around one, is for every backbone; only where no part of the file is
    # some backbone's own.
    alone = not any(behind.values()) and bool(find_backbones(weights))
    heads: dict[str, str] = {}
    for prefix, backbone in backbones.items():
        inside = weights if alone else behind[prefix]
        if inside:
            extra_channels = None if strict else 'repeat'
            fitting = match_weights(backbone, inside, extra_channels=extra_channels, given=given, strict=strict)
            matched[prefix] = fitting
            start = fitting.converted.prefix if alone else prefix
            used.update(key for key in weights if key.startswith(start))
            if alone and own is not None:
                heads = {
                    target: key
                    for target, key in fitting.converted.heads.items()
                    if target in own and (strict or own[target].shape == weights[key].shape)
                }
                used.update(heads.values())
    state = OrderedDict((key, value) for key, value in weights.items() if key not in used)
    state.update({target: weights[key] for target, key in heads.items()})
    metadata = OrderedDict(getattr(weights, '_metadata', {}))
    metadata[''] = dict(metadata.get('', {}), matched=_MATCHED, name=name)
    for prefix, fitting in matched.items():
        for key, value in fitting.state_dict().items():
            state[prefix + key] = value
        metadata[prefix[:-1]] = dict(matched=_MATCHED, name=name)
    state._metadata = metadata  # type: ignore[attr-defined]
    return state, matched


def _check_strict(own: State, found: State, backbones: dict[str, Any], matched: dict[str, MatchedWeights]) -> None:
    """Raise InputError unless the weights are those of the model, in name and shape."""
    # What a backbone loads has been compared; only what was allowed there is looked at.
    inside = tuple(matched)
    own, found = (
        {key: value for key, value in state.items() if not (inside and key.startswith(inside))} for state in (own, found)
    )
    missing, unexpected, mismatched = _differences(own, found)
    missing += [prefix + key for prefix, fitting in matched.items() for key in fitting.missing]
    unexpected += [
        prefix + key
        for prefix, fitting in matched.items()
        for key in fitting.unexpected
        if backbones[prefix].ignores_unexpected(key)
    ]
    if missing or unexpected or mismatched:
        masked = any(key.endswith('mask_token') for key in unexpected)
        advice = (
            'it comes from masked pretraining: fine-tune from it with init_cfg'
            if masked
            else 'give the config the checkpoint was trained with'
        )
        raise InputError(f'{_listed(missing, unexpected, mismatched)}; {advice}')


def _metadata_of_meta(content: dict[str, Any]) -> WindowMetadata | None:
    """The windows in a checkpoint's meta: where mmvitscale 0.1.0 wrote those that its weights last ran with."""
    meta = content.get('meta')
    found: Any = meta.get(META_KEY) if isinstance(meta, dict) else None
    try:
        columns = [_windows_of(found[name]) for name in ('reference_windows', 'windows')]
        return WindowMetadata(found.get('position_bias'), columns[0], columns[1])
    except (TypeError, LookupError, ValueError, AttributeError):
        return None


def _windows_of(column: Any) -> tuple[Size | None, ...]:
    pairs = [tuple(map(int, window)) if window else None for window in column]
    return tuple((pair[0], pair[1]) if pair else None for pair in pairs)


def _examples(keys: list[str]) -> str:
    return f' ({some_of(keys)})' if keys else ''
