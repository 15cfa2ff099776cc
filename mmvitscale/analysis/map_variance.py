"""The variance of Re-attention's mixed maps at each number of tokens, measured on images, and what follows from it: statistics
re-estimated (precise BatchNorm, arXiv 2105.07576, section 3) and the law between numbers of tokens."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mmvitscale.errors import InputError
from mmvitscale.models.deepvit.re_attention import ReAttention

# By block: a list of N and the variance of each head, (heads,), of an image or a window.
Variances = dict[str, list[tuple[int, Tensor]]]


def re_attentions_of(model: nn.Module) -> dict[str, ReAttention]:
    """Every Re-attention of a model by name. Raises InputError where there is none."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, ReAttention)}
    if not found:
        raise InputError('the model has no Re-attention; give the config of a DeepViT')
    return found


@contextmanager
def recorded_variances(model: nn.Module) -> Iterator[Variances]:
    """Within it every forward pass in evaluation mode adds to the variances. They are computed a second time, and the official
    form, whose statistics may be of another number of tokens, runs with those of the image itself meanwhile."""
    modules = re_attentions_of(model)
    found: Variances = {name: [] for name in modules}
    before = {name: (module.statistics, module.image_share) for name, module in modules.items()}

    def record(name):

        def hook(module, inputs):
            with torch.no_grad():
                tokens = [inputs[0].shape[1]] * len(inputs[0]) if len(inputs) < 2 else inputs[1].sum(1).tolist()
                # One token alone, in a window of padding, has no variance.
                found[name] += [(n, var.cpu()) for n, var in zip(tokens, module.map_variance(*inputs)) if n > 1]

        return hook

    hooks = []
    for name, module in modules.items():
        hooks.append(module.register_forward_pre_hook(record(name)))
        if module.statistics == 'running':
            module.statistics, module.image_share = 'image', 1.0
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
        for name, module in modules.items():
            module.statistics, module.image_share = before[name]


def means_of(records: list[tuple[int, Tensor]]) -> dict[int, Tensor]:
    """Records of a block -> for each N the mean variance of each head, (heads,)."""
    by_size: dict[int, list[Tensor]] = {}
    for tokens, var in records:
        by_size.setdefault(tokens, []).append(var)
    return {tokens: torch.stack(by_size[tokens]).mean(0) for tokens in sorted(by_size)}


@torch.no_grad()
def recalibrate(model: nn.Module, variances: Variances) -> None:
    """Give every Re-attention the statistics, and the exponents, of recorded images; no other weight changes.

    The official form (``running``) gets those of the one number of tokens, the others those of all, brought to the number
    that they are kept for.

    Raises:
        InputError: for no record, and where the official form is given several numbers of tokens; then nothing has changed.
    """
    modules = re_attentions_of(model)
    for name, module in modules.items():
        sizes = sorted({tokens for tokens, _ in variances[name]})
        if not sizes or module.statistics == 'running' and len(sizes) > 1:
            raise InputError(
                f'{len(sizes)} numbers of tokens found in {name} ({", ".join(map(str, sizes)) or "no image"}), '
                "but reatten_statistics='running' has statistics of one; give one size of square images, or "
                'another reatten_statistics'
            )
    for name, module in modules.items():
        norm, law, (weight, bias) = module.var_norm, module.token_law, module.mixing()
        means = means_of(variances[name])
        if module.statistics == 'running':
            law.trained_tokens = next(iter(means))
        if len(means) > 1:  # one number of tokens gives no exponents
            law.restore([torch.zeros_like(law.tokens), torch.zeros_like(law.moments)])
            sizes = torch.tensor(list(means), dtype=law.tokens.dtype, device=law.tokens.device)
            var = torch.stack(list(means.values())).to(law.tokens)
            law.update(law.observed(var, sizes, torch.ones_like(var[:, :1])), 1.0)  # each size counts the same
        brought = torch.stack([var.to(law.tokens) * law.growth(tokens) for tokens, var in means.items()])
        norm.running_var.copy_(brought.mean(0))
        norm.running_mean.copy_(weight.sum(1) / law.trained_tokens + bias)
