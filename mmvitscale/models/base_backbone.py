"""What the backbones share: how weights are loaded, and the checkpoint metadata that travels with them."""

from collections import OrderedDict
from typing import Any

from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.model.weight_init import PretrainedInit
from torch import Tensor, nn

from mmvitscale.checkpoints.convert import State, plain_name, weights_in
from mmvitscale.checkpoints.loading import MatchedWeights, is_matched, match_weights
from mmvitscale.checkpoints.metadata import STATE_DICT_KEY, WeightMetadata, describe_window_change
from mmvitscale.errors import InputError


class BaseBackbone(BaseModule):
    """Base of SwinTransformerV2 and DeepViT.

    A state dict that is loaded, into the backbone or into a model around it, may have any format that ``checkpoints``
    knows. It is refused unless every weight of the backbone is in it. A part of the backbone's own names is left to
    PyTorch, as long as it contains no whole backbone.

    Subclasses implement what only they know: ``family``, ``weights_source``, and the methods below that raise
    NotImplementedError or do nothing. CONTRIBUTING.md, "A new backbone", lists the other places.
    """

    _version = 2  # a SwinV2's has not changed since
    family: str
    init_cfg: Any
    _architecture: frozenset[str]
    weights_source: str  # where the public weights are, for messages

    @property
    def weight_metadata(self) -> WeightMetadata:
        """What its weights are trained with, as it is now."""
        raise NotImplementedError

    def complete_metadata(self, weights: State, metadata: Any) -> WeightMetadata | None:
        """The metadata of weights, completed by what their shapes show. Raises InputError where they contradict each other."""
        return metadata

    def check_metadata(self, metadata: Any) -> None:
        """Raise InputError if weights trained so contradict the config."""

    def apply_metadata(self, metadata: Any) -> None:
        """Make the metadata of weights that are being loaded the backbone's own. None: they have none."""

    def resize_position_weights(self, weights: State, metadata: Any, strict: bool) -> tuple[State, list[str]]:
        """Weights under our names -> the same with what depends on positions resized to this backbone, and notes. strict: to
        test or resume, not to fine-tune."""
        return weights, []

    def transformer_blocks(self) -> list[nn.Module]:
        """Its blocks, from the first to the last: what is compiled, and sharded over processes, one at a time."""
        raise NotImplementedError

    def accepts_any_size(self, key: str, weight: Tensor) -> bool:
        """Whether the weight of this name need not have the size that the backbone's has now, and this one would do."""
        return False

    def allows_missing(self, key: str) -> bool:
        """Whether a pretrained model may lack this weight, which then keeps its initialisation."""
        raise NotImplementedError

    def is_added(self, key: str) -> bool:
        """Whether the weight was put in by somebody else (an adapter, a subclass): a checkpoint may lack it."""
        return key not in self._architecture

    def ignores_unexpected(self, key: str) -> bool:
        """Whether the weight belongs to a part of the arch that this backbone does not build."""
        raise NotImplementedError

    def describe_weights(self, weights: State) -> str:
        """Weights under our names -> which variant they are of, for messages."""
        raise NotImplementedError

    def warn_of_assumptions(self, name: str) -> None:
        """Warn where something is assumed of the weights because neither they nor the config contain it. name: of the file."""

    def _end_architecture(self) -> None:
        """For the end of the constructor: what has been built until now are the weights that a checkpoint must have."""
        self._architecture = frozenset(self.state_dict()) - {STATE_DICT_KEY}

    def init_weights(self) -> None:
        """MMEngine's initialisation. Type ``Pretrained``, the OpenMMLab spelling, is our own here, and comes last."""
        cfgs = [self.init_cfg] if isinstance(self.init_cfg, dict) else list(self.init_cfg or [])
        pretrained = [cfg for cfg in cfgs if _is_pretrained(cfg)]
        self.init_cfg = [
            *(cfg for cfg in cfgs if not _is_pretrained(cfg)),
            *({**cfg, 'type': 'mmvitscale.Pretrained'} for cfg in pretrained),
        ] or None
        super().init_weights()

    def load_checkpoint(
        self, content: dict[str, Any], name: str, prefix: str | None = None, extra_channels: str = 'repeat'
    ) -> MatchedWeights:
        """Load what a checkpoint file held, and log in one line what is loaded, unexpected and missing.

        Args:
            content: what ``read_checkpoint`` gave, of any known format.
            name: of the file, for messages.
            prefix: what the names of the backbone's weights stand behind in it; None finds it.
            extra_channels: how an RGB stem goes to another number of channels, 'repeat' or 'zero' (``checkpoints.loading``).

        Returns:
            what is loaded, unexpected and missing.

        Raises:
            InputError: that names the file; then nothing has been changed.
        """
        try:
            matched = match_weights(self, weights_in(content), prefix, extra_channels)
        except InputError as error:
            raise InputError(f'{name}: {error}') from error
        print_log(f'{name}: {matched.describe(self)}', 'current')
        super().load_state_dict(matched.state_dict(name))
        return matched

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + STATE_DICT_KEY] = self.weight_metadata.encode()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *args: Any, **kwargs: Any) -> None:
        inside = OrderedDict((key[len(prefix) :], value) for key, value in state_dict.items() if key.startswith(prefix))
        inside._metadata = {'': local_metadata}  # type: ignore[attr-defined]
        if is_matched(local_metadata):
            entry = inside.get(STATE_DICT_KEY)
            metadata = None if entry is None else type(self.weight_metadata).decode(entry)
            if metadata:
                self.check_metadata(metadata)
            self.apply_metadata(metadata)
            self.warn_of_assumptions(local_metadata['name'])
        elif inside and not self._is_part(inside):
            matched = match_weights(self, weights_in(inside))
            line = describe_window_change(matched.weight_metadata, self.weight_metadata)
            ours = matched.converted.source in ('mmvitscale', 'official DeepViT')
            if not ours or matched.unexpected or matched.missing or matched.notes:
                line = matched.describe(self)
            if line:
                print_log(line, 'current')
            self.apply_metadata(matched.weight_metadata)
            self.warn_of_assumptions('the state dict')
            for key, value in inside.items():
                if isinstance(value, Tensor):  # what else modules may save stays as it is
                    del state_dict[prefix + key]
            state_dict.update({prefix + key: value for key, value in matched.weights.items()})
        state_dict.pop(prefix + STATE_DICT_KEY, None)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args, **kwargs)

    def _is_part(self, weights: State) -> bool:
        """Whether all names are ours and there is no whole backbone in them; PyTorch then loads them as it always does."""
        own = self.state_dict()
        if set(weights) == {STATE_DICT_KEY}:
            return True
        ours = all(key in own and key != STATE_DICT_KEY for key in weights)
        needed = {key for key in self._architecture if key.endswith('weight')}  # all biases may go with an adapter
        return ours and 2 * len(needed & {plain_name(key) for key in weights}) < len(needed)


def _is_pretrained(cfg: dict[str, Any]) -> bool:
    kind = cfg['type']
    if isinstance(kind, str):
        return kind.split('.')[-1] == 'Pretrained'  # whatever scope it is looked up in
    return kind is PretrainedInit or getattr(kind, '__module__', '') == 'mmvitscale.checkpoints.pretrained'
