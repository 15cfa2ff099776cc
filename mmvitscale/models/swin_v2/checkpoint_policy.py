"""What a SwinV2 does when weights are loaded: pretrained windows, bias tables, and which weights may differ."""

import logging
import re
from collections.abc import Sequence
from typing import Any

from mmengine.logging import print_log
from torch import Tensor

from mmvitscale.checkpoints.convert import State
from mmvitscale.checkpoints.metadata import (
    WindowMetadata,
    check_pretrained_windows,
    pretrained_windows_of_name,
    show_windows,
)
from mmvitscale.errors import InputError
from mmvitscale.models.base_backbone import BaseBackbone
from mmvitscale.models.swin_v2.position_bias import BiasTable, resize_table
from mmvitscale.models.swin_v2.variants import describe_weights


class SwinV2CheckpointPolicy(BaseBackbone):
    """Base of SwinTransformerV2: its side of checkpoint loading (``BaseBackbone`` has the contract)."""

    family = 'SwinV2'
    weights_source = 'the public ones are listed in the README of github.com/microsoft/Swin-Transformer'

    # Of the backbone itself.
    stages: Any
    depths: tuple[int, ...]
    position_bias: str

    @property
    def weight_metadata(self) -> WindowMetadata:
        """The kind of its position bias, and the pretrained windows and windows as they are now."""
        table = self.position_bias == 'table'
        return WindowMetadata(
            self.position_bias,
            tuple(None if table else stage.pretrained_window for stage in self.stages),
            tuple(stage.window for stage in self.stages),
        )

    def check_metadata(self, metadata: WindowMetadata) -> None:
        """Raise InputError if the weights' position bias is of another kind, or was trained with other windows, than the
        config says."""
        if metadata.position_bias not in (None, self.position_bias):
            raise InputError(
                f'its position bias is of the kind {metadata.position_bias}, but the config says position_bias '
                f'{self.position_bias}, another function of the offset; make them equal'
            )
        if self.position_bias != 'table':
            given = [stage.pretrained_window if stage.pretrained_window_source == 'config' else None for stage in self.stages]
            check_pretrained_windows(metadata.pretrained_windows, given, 'pretrained_window_sizes')

    def apply_metadata(self, metadata: WindowMetadata | None) -> None:
        """Set the pretrained windows to those of weights that are being loaded."""
        windows: Sequence[Any] = metadata.pretrained_windows if metadata else [None] * len(self.stages)
        for stage, window in zip(self.stages, windows):
            if self.position_bias == 'table' or stage.pretrained_window_source == 'config':
                continue
            stage.pretrained_window = window or stage.initial_window
            stage.pretrained_window_source = 'checkpoint' if window else 'assumed'

    def sync_metadata(self, other: 'SwinV2CheckpointPolicy') -> None:
        """Set the windows and the pretrained windows to those of another backbone of the same arch."""
        for stage, model in zip(self.stages, other.stages):
            stage.set_window(model.window)
            stage.pretrained_window = model.pretrained_window
            stage.pretrained_window_source = model.pretrained_window_source

    def warn_of_assumptions(self, name: str) -> None:
        """Log what is assumed where neither the weights nor the config have the pretrained windows, and what the name of the
        file says of them."""
        assumed = {i: stage for i, stage in enumerate(self.stages) if stage.pretrained_window_source == 'assumed'}
        if not assumed:
            return
        proposal = pretrained_windows_of_name(name)
        advice = (
            f'going by its name, set pretrained_window_sizes={proposal}'
            if proposal
            else 'set pretrained_window_sizes, e.g. 8 for *_window8_256'
        )
        windows = show_windows([stage.pretrained_window for stage in assumed.values()])
        print_log(
            f'{name} does not contain the windows that its position biases were trained with, and neither does the config: '
            f'window_size is assumed, {windows} in the stages {list(assumed)}. If that is not so, the biases come out wrong; '
            f'{advice}',
            'current',
            level=logging.WARNING,
        )

    def resize_position_weights(self, weights: State, metadata: WindowMetadata | None, strict: bool) -> tuple[State, list[str]]:
        """Bias tables resized bicubically to the windows of their stages, as is the practice for fine-tuning. Those of the
        shape that the model's have already, and all where weights go on being trained or are tested, stay as they are: they
        are resized when they are read."""
        out, notes = dict(weights), []
        for key, weight in weights.items():
            own = self._table(key)
            if own is not None and own.fits(weight) and weight.shape != own.table.shape and not strict:
                out[key] = resize_table(weight, own.window)
        resized = sum(out[key] is not weights[key] for key in weights)
        if resized:
            notes.append(f'{resized} bias tables resized to the windows {show_windows(self.weight_metadata.windows)}')
        return out, notes

    def accepts_any_size(self, key: str, weight: Tensor) -> bool:
        """Bias tables of any window."""
        own = self._table(key)
        return own is not None and own.fits(weight)

    def _table(self, key: str) -> BiasTable | None:
        """The bias table with this name, if there is one."""
        match = re.fullmatch(r'stages\.(\d+)\.blocks\.(\d+)\.attn\.position_bias\.table', key)
        if match is None or self.position_bias != 'table' or int(match[1]) >= len(self.stages):
            return None
        blocks = self.stages[int(match[1])].blocks
        return blocks[int(match[2])].attn.position_bias if int(match[2]) < len(blocks) else None

    def describe_weights(self, weights: State) -> str:
        """Weights under our names -> which variant they are of, for messages."""
        return describe_weights(weights)

    def allows_missing(self, key: str) -> bool:
        """Norms of outputs that pretraining does not have."""
        return key.startswith('out_norms.')

    def ignores_unexpected(self, key: str) -> bool:
        """Stages after the last output, norms of stages that are not returned, and what pretraining puts for masked
        patches."""
        stage = re.match(r'stages\.(\d+)\.', key)
        unbuilt = stage is not None and len(self.stages) <= int(stage[1]) < len(self.depths)
        return unbuilt or key == 'mask_token' or key.startswith('out_norms.')
