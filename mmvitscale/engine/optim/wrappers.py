"""The optimizers of a training, whether it has one or several."""

from typing import Any

from mmengine.optim import OptimWrapperDict


def wrappers_of(optim_wrapper: Any) -> dict[str, Any]:
    """Name -> wrapper of each optimizer; a single one is called ''."""
    return dict(optim_wrapper.items()) if isinstance(optim_wrapper, OptimWrapperDict) else {'': optim_wrapper}
