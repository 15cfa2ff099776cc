"""What the backbones share: weights enter through one door, and what they were learned with travels with them."""

from collections import OrderedDict
from typing import Any

from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.model.weight_init import PretrainedInit
from torch import Tensor, nn

from ...checkpoints.convert import State, find_backbones, weights_in
from ...checkpoints.door import Entry, entered, prepare
from ...checkpoints.lineage import KEY, Lineage, windows_changed
from ...errors import InputError
from .recognise import describe_weights


class Backbone(BaseModule):
    """Base of SwinTransformerV2 and DeepViT.

    A state dict that is loaded, into the backbone or into a model around it, may have any layout that ``checkpoints``
    knows. It is refused unless every weight of the backbone is in it. A part of the backbone's own names is left to
    PyTorch, as long as no whole backbone shows in it.

    Subclasses say what only they know: ``family``, ``weights_source``, ``lineage``, ``completed_lineage``, ``check_lineage``,
    ``take_lineage``, ``fit_positions``, ``takes_any_size``, ``may_be_new``, ``leaves_out``, ``warn_of_assumptions``,
    ``transformer_blocks``.
    """

    _version = 2  # a SwinV2's has not changed since
    family: str
    init_cfg: Any
    weights_source: str  # where the public weights are, for messages

    @property
    def lineage(self) -> Lineage:
        """What its weights are learned with, as it stands now."""
        raise NotImplementedError

    def completed_lineage(self, weights: State, lineage: Lineage | None) -> Lineage | None:
        """The lineage that weights tell, with what can be told from their shapes. Raises InputError where they contradict each
        other."""
        return lineage

    def check_lineage(self, lineage: Lineage | None) -> None:
        """Raise InputError if weights learned so contradict the config."""

    def take_lineage(self, lineage: Lineage | None) -> None:
        """Make the lineage of weights that are being loaded the backbone's own. None: they do not tell."""

    def fit_positions(self, weights: State, lineage: Lineage | None, exact: bool) -> tuple[State, list[str]]:
        """Weights under our names -> the same with what depends on positions fitted to this backbone, and notes. exact: to
        go on with, not to fine-tune."""
        return weights, []

    def transformer_blocks(self) -> list[nn.Module]:
        """Its blocks, from the first to the last: what is compiled, and shared out over processes, one at a time."""
        raise NotImplementedError

    def takes_any_size(self, key: str, weight: Tensor) -> bool:
        """Whether the weight of this name need not have the size that the backbone's has now, and this one would do."""
        return False

    def may_be_new(self, key: str) -> bool:
        """Whether a pretrained model may lack this weight, which then keeps its initialisation."""
        raise NotImplementedError

    def leaves_out(self, key: str) -> bool:
        """Whether the weight belongs to a part of the arch that this backbone does not build."""
        raise NotImplementedError

    @staticmethod
    def describe_weights(weights: State) -> str:
        """Weights under our names -> which variant they are of, for messages."""
        return describe_weights(weights)

    def init_weights(self) -> None:
        """MMEngine's initialisation. Type ``Pretrained``, the OpenMMLab spelling, is our own here, and comes last."""
        cfgs = [self.init_cfg] if isinstance(self.init_cfg, dict) else list(self.init_cfg or [])
        pretrained = [cfg for cfg in cfgs if _is_pretrained(cfg)]
        self.init_cfg = [
            *(cfg for cfg in cfgs if not _is_pretrained(cfg)),
            *({**cfg, 'type': 'mmvitscale.Pretrained'} for cfg in pretrained),
        ] or None
        super().init_weights()

    def load_checkpoint(self, content: dict, name: str, prefix: str | None = None, extra_channels: str = 'repeat') -> Entry:
        """Load what a checkpoint file held, and say in one log line what was taken, left out and newly initialised.

        Args:
            content: what ``read_checkpoint`` gave, of any known layout.
            name: of the file, for messages.
            prefix: what the names of the backbone's weights stand behind in it; None finds it.
            extra_channels: how an RGB stem goes to another number of channels, 'repeat' or 'zero' (``checkpoints.door``).

        Returns:
            what was taken, left out and newly initialised.

        Raises:
            InputError: that names the file; then nothing has been changed.
        """
        try:
            entry = prepare(self, weights_in(content), prefix, extra_channels)
        except InputError as error:
            raise InputError(f'{name}: {error}') from error
        print_log(f'{name}: {entry.describe(self)}', 'current')
        super().load_state_dict(entry.state_dict(name))
        return entry

    def warn_of_assumptions(self, name: str) -> None:
        """Warn where something is assumed of the weights' lineage because neither they nor the config tell it. name: of the
        file."""

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + KEY] = self.lineage.encode()

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args, **kwargs):
        inside = OrderedDict((key[len(prefix) :], value) for key, value in state_dict.items() if key.startswith(prefix))
        inside._metadata = {'': local_metadata}
        if entered(local_metadata):
            lineage = type(self.lineage).decode(inside[KEY]) if KEY in inside else None
            if lineage:
                self.check_lineage(lineage)
            self.take_lineage(lineage)
            self.warn_of_assumptions(local_metadata['name'])
        elif inside and not self._is_part(inside):
            entry = prepare(self, weights_in(inside))
            line = windows_changed(entry.lineage, self.lineage)
            ours = entry.converted.source in ('mmvitscale', 'official DeepViT')
            if not ours or entry.left_out or entry.new or entry.notes:
                line = entry.describe(self)
            if line:
                print_log(line, 'current')
            self.take_lineage(entry.lineage)
            self.warn_of_assumptions('the state dict')
            for key in inside:
                del state_dict[prefix + key]
            state_dict.update({prefix + key: value for key, value in entry.weights.items()})
        state_dict.pop(prefix + KEY, None)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args, **kwargs)

    def _is_part(self, weights: State) -> bool:
        """Whether all names are ours and no whole backbone shows in them; PyTorch then loads them as it always does."""
        own = self.state_dict()
        if set(weights) == {KEY}:
            return True
        ours = all(key in own and key != KEY for key in weights)
        return ours and 2 * len(weights) < len(own) and not find_backbones(weights)


def _is_pretrained(cfg: dict) -> bool:
    kind = cfg['type']
    if isinstance(kind, str):
        return kind.split('.')[-1] == 'Pretrained'  # whatever scope it is looked up in
    return kind is PretrainedInit or getattr(kind, '__module__', '') == 'mmvitscale.checkpoints.pretrained'
