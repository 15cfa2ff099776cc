"""Checkpoints of other libraries -> our names, and back: dict to dict, no file and no network involved.

This is the engine. What a library calls its weights is described once, in the ``checkpoint_formats.py`` beside the model, and
read in both directions. Every key is used, or dropped on purpose and listed, or an error. Whether all weights of the network
are there, ``loading.py`` checks.
"""

import re
from collections import OrderedDict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar

from torch import Tensor

from mmvitscale.checkpoints.metadata import STATE_DICT_KEY, VERSION, WeightMetadata
from mmvitscale.errors import InputError, some_of

State = dict[str, Tensor]

# Where formats are described; each registers its own, as modules register with MMEngine's registries.
_LOCATIONS = ('mmvitscale.models.swin_v2.checkpoint_formats', 'mmvitscale.models.deepvit.checkpoint_formats')
_FORMATS: list['CheckpointFormat'] = []

# The names under which libraries put the dict of weights; what a user would fine-tune from comes first.
_WEIGHTS = (
    'state_dict', 'model', 'model_state', 'model_state_dict', 'module', 'state_dict_ema', 'model_ema', 'ema_state_dict',
)  # fmt: skip
# The names under which libraries have a classifier's linear layer; people put a backbone of one under a head of another.
_CLASSIFIERS = ('head', 'head.fc', 'classifier')
_WRAPPERS = re.compile(r'^(module\.|_orig_mod\.)+|(?<=\.)_orig_mod\.')  # of DDP, EMA and torch.compile
_ADAPTED = re.compile(r'(?<=\.)base_layer\.')  # LoRA puts a layer inside another


@dataclass(frozen=True)
class Converted:
    """The weights of a backbone under our names.

    family: 'SwinV2' or 'DeepViT'. source: the library they came from. prefix: what their names stood behind. weights: our
    state dict, without the metadata. dropped: keys that the backbone has no use for. weight_metadata: what they were trained
    with, as far as the source contains it; None for a DeepViT whose grid it does not. heads: for the weights of a classifier
    and of SimMIM's decoder their names in mmpretrain, ``head.fc.*`` and ``neck.decoder.0.*``, and in the source.
    """

    family: str
    source: str
    prefix: str
    weights: State
    dropped: list[str]
    weight_metadata: WeightMetadata | None
    heads: dict[str, str] = field(default_factory=dict)

    def state_dict(self, weight_metadata: WeightMetadata | None = None) -> State:
        """The weights together with what they were trained with: the checkpoint's own metadata, or those given."""
        weight_metadata = weight_metadata or self.weight_metadata
        return {**self.weights, **({STATE_DICT_KEY: weight_metadata.encode()} if weight_metadata else {})}


class ClassName(str):
    """An argument that is a class, by its name: shown as it stands in a program, without quotes."""

    def __repr__(self) -> str:
        return str(self)


@dataclass(frozen=True)
class ConvertedBack:
    """A backbone under the names of another library.

    library: whose. weights: its state dict. content: what a ``.pth`` file of the library holds. left_out: our weights that it
    has no place for. builder, arguments: what builds the model that loads them. config: what stands beside the weights, for a
    library that requires it (Hugging Face's ``config.json``). notes: what to know before numbers are compared.
    """

    library: str
    weights: State
    content: dict[str, Any]
    left_out: list[str]
    builder: str
    arguments: dict[str, object]
    config: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)

    def call(self, path: str) -> str:
        """The call that builds the model; path: where a library that reads it from a folder finds it."""
        arguments = ', '.join(f'{name}={value!r}' for name, value in self.arguments.items())
        return f'{self.builder}({arguments or repr(path)})'


@dataclass(frozen=True)
class Read:
    """What a format makes of the keys behind a prefix: our weights, the keys that it drops and those that it does not know, and
    the metadata."""

    source: str
    weights: State
    dropped: list[str]
    unknown: list[str]
    weight_metadata: WeightMetadata | None


@dataclass(frozen=True)
class CheckpointFormat:
    """How a library names a backbone's weights. Subclasses hold the table.

    name: of the library, for messages. library: its name as a destination, '' where weights cannot go back to it. anchor: a
    key that only this format has, its first group what may stand before. head: name of a classifier's linear layer there.
    decoder: name of SimMIM's linear decoder, '' where there is none.
    """

    family: ClassVar[str]

    name: str
    anchor: re.Pattern[str]
    library: str = ''
    head: str = 'head'
    decoder: str = ''

    def matches(self, keys: State) -> bool:
        """Of several formats with the same anchor, whether these keys are of this one."""
        return True

    def read(self, keys: State, entry: Tensor | None) -> Read:
        """Keys behind the prefix -> our names. entry: our own metadata, where the file has it.

        Raises:
            InputError: for weights whose shapes do not fit together.
        """
        raise NotImplementedError

    def write(self, converted: Converted, weight_metadata: WeightMetadata | None, heads: State) -> ConvertedBack:
        """Our weights -> the library's. heads: ``weight`` and ``bias`` of a classifier's linear layer.

        Raises:
            InputError: where the library has no model that would compute the same.
        """
        raise NotImplementedError

    def head_names(self, prefix: str, keys: Mapping[str, Tensor]) -> dict[str, str]:
        """Names of heads in mmpretrain -> in the source, where they stand behind the backbone's prefix or beside it."""
        heads = dict.fromkeys(_CLASSIFIERS, 'head.fc')
        if self.decoder:
            heads[self.decoder] = 'neck.decoder.0'
        found = {}
        for key in keys:
            start, _, leaf = key.removeprefix(prefix).rpartition('.')
            if start in heads and leaf in ('weight', 'bias'):
                found[f'{heads[start]}.{leaf}'] = key
        return found


def register(*formats: CheckpointFormat) -> None:
    """Add formats to those that checkpoints are recognised by."""
    _FORMATS.extend(formats)


def _formats() -> Sequence[CheckpointFormat]:
    for location in _LOCATIONS:
        import_module(location)
    return _FORMATS


def weights_in(content: dict[str, Any]) -> 'OrderedDict[str, Tensor]':
    """What a file held -> its weights: the dict of tensors at the top or under one of the usual names, without the
    prefixes of wrappers. Raises InputError where there is none."""
    for _ in range(2):  # Lightning and DeepSpeed may have one inside the other
        inside = [content[name] for name in _WEIGHTS if isinstance(content.get(name), dict) and content[name]]
        content = inside[0] if inside else content
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    weights = OrderedDict((unwrapped_name(key), value) for key, value in tensors.items())
    if len(weights) < len(tensors):
        raise InputError(
            'it holds weights twice, with and without the prefix of a wrapper (module., _orig_mod.); keep one of the two'
        )
    if not weights:
        raise InputError(
            f'it holds no weights; a checkpoint is a dict of tensors, at the top or under one of {", ".join(_WEIGHTS[:4])}'
        )
    metadata = getattr(content, '_metadata', None) or {}
    weights._metadata = OrderedDict(  # type: ignore[attr-defined]
        (unwrapped_name(f'{key}.')[:-1], value) for key, value in metadata.items()
    )
    return weights


def unwrapped_name(key: str) -> str:
    """``module.backbone._orig_mod.norm.weight`` -> ``backbone.norm.weight``"""
    return _WRAPPERS.sub('', key)


def plain_name(key: str) -> str:
    """``blocks.0.attn.qkv.base_layer.weight`` -> ``blocks.0.attn.qkv.weight``, in a backbone: elsewhere it is a name as any
    other."""
    return _ADAPTED.sub('', unwrapped_name(key))


def find_backbones(weights: Mapping[str, Tensor]) -> dict[str, list[CheckpointFormat]]:
    """Weights -> the prefixes behind which there are weights of a backbone, and the formats recognised there."""
    found: dict[str, list[CheckpointFormat]] = {}
    plain = [_ADAPTED.sub('', key) for key in weights]
    for known in _formats():
        for prefix in dict.fromkeys(match[1] or '' for match in map(known.anchor.match, plain) if match):
            found.setdefault(prefix, []).append(known)
    return found


def convert(weights: Mapping[str, Tensor], prefix: str | None = None, own: Container[str] = ()) -> Converted:
    """Weights of a backbone, or of a model with one -> the backbone under our names.

    Args:
        weights: from ``weights_in``.
        prefix: what the names of the backbone's weights stand behind; None finds it.
        own: names of a backbone's weights, which stay as they are where no format knows them: of adapters, say.

    Raises:
        InputError: for what holds no backbone of a known format or several, and for keys that are neither known nor
            dropped on purpose.
    """
    found = find_backbones(weights)
    if prefix is not None:
        prefix = unwrapped_name(prefix.rstrip('.') + '.') if prefix else prefix
        found = {start: formats for start, formats in found.items() if start == prefix}
    if not found:
        raise InputError(_nothing_known(weights, prefix))
    prefix = next(start for start in ('', 'backbone.', *found) if start in found)
    if len(found) > 1 and prefix not in ('', 'backbone.'):
        raise InputError(
            f'there are backbones behind the prefixes {", ".join(sorted(found))}; choose one with '
            "prefix: init_cfg=dict(type='Pretrained', checkpoint=..., prefix=...)"
        )
    inside = {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}
    formats = [known for known in found[prefix] if known.matches(inside)]
    if len(formats) > 1:
        raise InputError(
            f'the formats of {" and ".join(known.name for known in formats)} are mixed in it; take a file as one library '
            'wrote it'
        )
    (known,) = formats
    entry = inside.pop(STATE_DICT_KEY, None)
    version = (getattr(weights, '_metadata', {}).get(prefix[:-1]) or {}).get('version')
    if entry is not None and isinstance(version, int) and version > VERSION:
        raise InputError(
            f'the weights were written by a newer mmvitscale (format {version}, this one knows up to '
            f'{VERSION}); update mmvitscale'
        )
    read = known.read(inside, entry)
    added = {key: inside[key] for key in read.unknown if key in own}
    unknown = [key for key in read.unknown if key not in added]
    if unknown:
        raise InputError(
            f'the checkpoint has the format of {known.name}, but {len(unknown)} of its keys are not known '
            f'there: {some_of([prefix + key for key in unknown])}'
        )
    outside = [key for key in weights if not key.startswith(prefix)]
    dropped = [*outside, *(prefix + key for key in read.dropped)]
    heads = known.head_names(prefix, weights)
    return Converted(known.family, read.source, prefix, {**read.weights, **added}, dropped, read.weight_metadata, heads)


def _nothing_known(weights: Mapping[str, Tensor], prefix: str | None) -> str:
    behind = f' behind the prefix {prefix!r}' if prefix else ''
    if any('relative_position_bias_table' in key for key in weights):
        return (
            'this is a SwinV1 checkpoint (it holds relative_position_bias_table), but a SwinV2 checkpoint is expected '
            '(with cpb_mlp); take one of the swinv2_* files'
        )
    return (
        f'it holds no SwinV2 or DeepViT of a known format{behind} (official, timm, Hugging Face, mmpretrain, '
        f'torchvision, mmvitscale); its weights are called {some_of(sorted(weights))}'
    )


def libraries_of(family: str) -> list[str]:
    """'SwinV2' or 'DeepViT' -> the libraries that its weights can go to."""
    return [known.library for known in _formats() if known.family == family and known.library]


def convert_back(
    converted: Converted, weight_metadata: WeightMetadata | None, library: str, heads: State | None = None
) -> ConvertedBack:
    """A backbone under our names -> the same as another library names it.

    Args:
        converted: from ``convert``.
        weight_metadata: what its weights were trained with; the pretrained window of every stage must be known.
        library: one of ``libraries_of(converted.family)``.
        heads: ``weight`` and ``bias`` of a classifier's linear layer, which goes with it.

    Raises:
        InputError: where the library has no model that would compute the same.
    """
    for known in _formats():
        if known.library == library and known.family == converted.family:
            return known.write(converted, weight_metadata, heads or {})
    raise InputError(f'a {converted.family} cannot go to {library}; it can go to {", ".join(libraries_of(converted.family))}')
