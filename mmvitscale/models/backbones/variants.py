"""Variants of a model as data: the published sizes, and what a dict of sizes must have."""

from dataclasses import dataclass

from ...errors import InputError


@dataclass(frozen=True)
class Variants:
    """family: name of the model. archs: sizes by name. required: keys of every arch. defaults: the keys that may be left
    out."""

    family: str
    archs: dict[str, dict]
    required: frozenset[str]
    defaults: dict

    def resolve(self, arch: str | dict) -> dict:
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

    def name_of(self, sizes: dict) -> str:
        """Some sizes -> ``tiny``, or '' where no variant has them."""
        names = [name for name in self.archs if all(self.resolve(name).get(key) == value for key, value in sizes.items())]
        return names[0] if names else ''


# Section 4.1; the heads of huge and giant are not in the paper: those of the mmpretrain models. The extra LayerNorm
# of huge and giant is section 3.2.
SWIN_V2 = Variants(
    'SwinV2',
    {
        'tiny': dict(embed_dims=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
        'small': dict(embed_dims=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24)),
        'base': dict(embed_dims=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)),
        'large': dict(embed_dims=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48)),
        'huge': dict(embed_dims=352, depths=(2, 2, 18, 2), num_heads=(8, 16, 32, 64), extra_norm_every=6),
        'giant': dict(embed_dims=512, depths=(2, 2, 42, 4), num_heads=(16, 32, 64, 128), extra_norm_every=6),
    },
    frozenset({'embed_dims', 'depths', 'num_heads'}),
    dict(mlp_ratio=4, extra_norm_every=0),
)

# The official code's models. The last ``re_attention`` blocks mix their maps; ``residual_scale`` is r in
# x + f(norm(r x)) / r.
DEEPVIT = Variants(
    'DeepViT',
    {
        'deepvit-16b': dict(embed_dims=384, depth=16, re_attention=16),
        'deepvit-24b': dict(embed_dims=384, depth=24, re_attention=24),
        'deepvit-32b': dict(embed_dims=384, depth=32, re_attention=32),
        'vit-16b': dict(embed_dims=384, depth=16, re_attention=0),
        'vit-24b': dict(embed_dims=384, depth=24, re_attention=0),
        'vit-32b': dict(embed_dims=384, depth=32, re_attention=0),
        'deepvit-s': dict(embed_dims=396, depth=16, re_attention=5, stem='conv', residual_scale=0.5, transform_scale=True),
        'deepvit-l': dict(embed_dims=420, depth=32, re_attention=12, stem='conv', residual_scale=0.5),
    },
    frozenset({'embed_dims', 'depth', 're_attention'}),
    dict(num_heads=12, mlp_ratio=3, stem='linear', residual_scale=1.0, transform_scale=False),
)
