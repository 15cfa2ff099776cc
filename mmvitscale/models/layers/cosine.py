"""Queries and keys of scaled cosine attention (SwinV2, section 3.2, eq. 2), or of the dot product: functional, in place, and
their gradient."""

import torch
from torch import Tensor

# Below this length a query or key has no direction: it becomes exactly zero, and so does its gradient. Dividing by
# a tiny length instead would overflow half precision on tokens that are all zero.
_MIN_LENGTH = 1e-6

# Numbers of queries and keys that are worked on at a time on a CPU: they fit into its cache.
_CHUNK = 2**20


def unit_vectors(x: Tensor) -> Tensor:
    """(..., d) -> (..., d) float32 (float64 stays): each vector divided by its length, zero if it has none."""
    x = x if x.dtype == torch.float64 else x.float()
    square = x.square().sum(dim=-1, keepdim=True)
    return x * (square.clamp_min(_MIN_LENGTH**2).rsqrt() * (square > _MIN_LENGTH**2))


def scaled_query_key(q: Tensor, k: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """q, k (T, heads, d) -> the vectors whose dot product is the logit, but for the bias."""
    if scale is None:
        return q * q.shape[-1] ** -0.5, k
    return unit_vectors(q) * scale[:, None], unit_vectors(k)


def scale_(qkv: Tensor, scale: Tensor | None) -> Tensor | None:
    """``scaled_query_key`` for q and k of qkv (T, 3, heads, d), in place. With a scale it returns one over their lengths,
    (T, 2, heads, 1) float32 or float64, zero where there is none."""
    qk = qkv[:, :2]
    if scale is None:
        qk[:, 0].mul_(qkv.shape[-1] ** -0.5)
        return None
    scales = _scales(scale)
    inverse = qk.new_empty(*qk.shape[:3], 1, dtype=torch.promote_types(scale.dtype, torch.float32))
    # Of two types, operations make copies of their own, several times slower than one that stays in the cache.
    rows = len(qk) if qk.dtype == inverse.dtype or qk.device.type != 'cpu' else max(_CHUNK // qk[0].numel(), 1)
    for part, into in zip(qk.split(rows), inverse.split(rows)):
        precise = part.to(inverse.dtype)
        lengths = torch.linalg.vector_norm(precise, dim=-1, keepdim=True)
        into.copy_(lengths.clamp_min(_MIN_LENGTH).reciprocal_().mul_(lengths > _MIN_LENGTH))
        precise.mul_(into * scales)
        if precise is not part:
            part.copy_(precise)
    return inverse


def _scales(scale: Tensor) -> Tensor:
    """(heads,) -> (2, heads, 1): what queries and keys of length one are multiplied with."""
    return torch.stack((scale, torch.ones_like(scale)))[:, :, None]


def backward_of_scale_(grad: Tensor, scaled: Tensor, inverse: Tensor, scale: Tensor | float) -> tuple[Tensor, Tensor]:
    """The gradient of s u, u = x / |x| -> that of x, and that of s at each vector; uses ``grad`` up.

    u has the slope (1 - u u') / |x|: no part of the gradient along u is left.
    """
    grad, scaled = grad.to(inverse.dtype), scaled.to(inverse.dtype)
    along = (grad * scaled).sum(dim=-1, keepdim=True) / scale
    return grad.mul_(inverse * scale).sub_(scaled * (along * inverse)), along
