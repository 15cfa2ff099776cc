"""All that is measured of attention in one go, averaged over images: what ``tools/analysis/attention_similarity.py``, the
report and the monitor of a training show."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mmvitscale.analysis.amplitude import amplitude
from mmvitscale.analysis.attention_distance import attention_distance
from mmvitscale.analysis.recorder import AttentionMaps, recorded_attention, recorded_features
from mmvitscale.analysis.similarity import (
    collapsed_blocks,
    cross_layer_similarity,
    feature_similarity,
    head_diversity,
    mean_similarity,
    similarity_to_before,
    similarity_to_last,
)
from mmvitscale.checkpoints.loading import backbones_of


class AttentionSummary:
    """Averages over forward passes of one model."""

    def __init__(self):
        self.passes = 0
        self._sums: dict = {}
        self._names: list[str] = []

    def add(self, maps: Sequence[AttentionMaps], features: Sequence[Tensor]) -> None:
        """What a forward pass left: the maps of some layers and the features of all."""
        self.passes += 1
        self._names = [block.name for block in maps]
        chosen = [features[block.layer] for block in maps]
        diversity = [head_diversity(block.groups) for block in maps]
        self._add('maps', cross_layer_similarity([block.groups for block in maps]))
        self._add('features', feature_similarity(chosen))
        self._add('diversity', torch.tensor([float('nan') if d is None else d for d in diversity], dtype=torch.float64))
        distances = [sum(heads) / len(heads) for heads in map(attention_distance, maps)]
        self._add('distance', torch.tensor(distances, dtype=torch.float64))
        self._add('amplitude', torch.tensor([amplitude(block) for block in chosen], dtype=torch.float64))

    def _add(self, name: str, value: Tensor) -> None:
        self._sums[name] = value if name not in self._sums else self._sums[name] + value

    def mean(self, name: str) -> Tensor:
        """Of maps (L, L), features (L, L), diversity (L,), distance (L,) or amplitude (L,)."""
        return self._sums[name] / self.passes

    def result(self, threshold: float = 0.9) -> dict:
        """Numbers as JSON takes them; None where there is nothing to compare."""
        maps, features = self.mean('maps'), self.mean('features')
        return dict(
            blocks=len(maps),
            names=self._names,
            threshold=threshold,
            collapsed_blocks=collapsed_blocks(maps, threshold),
            mean_similarity=_plain(mean_similarity(maps)),
            to_before=_plain(similarity_to_before(maps)),
            similarity=_plain(maps),
            feature_similarity=_plain(features),
            features_to_last=_plain(similarity_to_last(features)),
            head_diversity=_plain(self.mean('diversity')),
            attention_distance=_plain(self.mean('distance')),
            amplitude=_plain(self.mean('amplitude')),
        )


@contextmanager
def summarised_attention(model: nn.Module, layers: Sequence[int] | None = None) -> Iterator[AttentionSummary]:
    """Within it every forward pass of the model's backbone is added, and its maps are let go. Raises InputError for a layer
    that is not there."""
    summary = AttentionSummary()
    with recorded_attention(model, layers) as maps, recorded_features(model) as features:

        def add(module, inputs, output):
            summary.add(maps.pop(), features.pop())

        hook = list(backbones_of(model).values())[-1].register_forward_hook(add)
        try:
            yield summary
        finally:
            hook.remove()


def _plain(value) -> list | None:
    """A tensor or number with None for NaN."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if value != value else value
