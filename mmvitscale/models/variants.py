"""Variants of a model as data: published sizes by name, what a dict of sizes must have, and sizes read from weights."""

from dataclasses import dataclass
from typing import Any

from mmvitscale.checkpoints.convert import State
from mmvitscale.errors import InputError


@dataclass(frozen=True)
class Variants:
    """family: name of the model. archs: sizes by name. required: keys of every arch. defaults: the keys that may be left
    out."""

    family: str
    archs: dict[str, dict[str, Any]]
    required: frozenset[str]
    defaults: dict[str, Any]

    def resolve(self, arch: str | dict[str, Any]) -> dict[str, Any]:
        """The name of a variant, or a dict -> the dict with every key, sequences as tuples. Raises InputError for what is
        neither."""
        if isinstance(arch, str):
            if arch not in self.archs:
                raise InputError(
                    f'unknown {self.family} arch {arch!r}; choose one of {", ".join(self.archs)}, or give a '
                    f'dict with {", ".join(sorted(self.required))}'
                )
            arch = self.archs[arch]
        missing, unknown = self.required - set(arch), set(arch) - self.required - set(self.defaults)
        if missing or unknown:
            raise InputError(
                f'a {self.family} arch has {", ".join(sorted(self.required))}, and may have '
                f'{", ".join(sorted(self.defaults))}; missing: {sorted(missing) or "nothing"}, unknown: '
                f'{sorted(unknown) or "nothing"}'
            )
        return {
            key: tuple(value) if isinstance(value, (list, tuple)) else value for key, value in {**self.defaults, **arch}.items()
        }

    def name_of(self, sizes: dict[str, Any]) -> str:
        """Some sizes -> ``tiny``, or '' where no variant has them."""
        names = [name for name in self.archs if all(self.resolve(name).get(key) == value for key, value in sizes.items())]
        return names[0] if names else ''


def side(weights: State, key: str, axis: int = 0) -> int:
    """Length of a weight along an axis; 0 where it is missing."""
    return weights[key].shape[axis] if key in weights and weights[key].ndim > axis else 0


def mlp_ratio_of(hidden: int, dim: int) -> float:
    """So that int(ratio * dim) is hidden."""
    if not dim or hidden % dim == 0:
        return hidden // dim if dim else 0
    return hidden / dim if int(hidden / dim * dim) == hidden else (hidden + 0.5) / dim
