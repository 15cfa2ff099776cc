"""What a program needs to know of a file to use it, as plain data that goes with the file."""

from pathlib import Path

from torch import Tensor, nn


def about_model(model: nn.Module, checkpoint: dict, name: str) -> dict:
    """What an image goes through before the file, and what its outputs stand for.

    Args:
        model: of OpenMMLab, with its data preprocessor.
        checkpoint: what the model's file held.
        name: of that file.

    Returns:
        ``input``: channel order and the mean and std, of 0 to 255, with which each channel was normalised, None where it was
        not. ``classes`` and ``palette``: of the outputs. ``checkpoint``: name.
    """
    preprocessor = getattr(model, 'data_preprocessor', None)
    swapped = getattr(preprocessor, 'channel_conversion', None)  # images are read as BGR
    if swapped is None:
        swapped = getattr(preprocessor, '_channel_conversion', False)
    meta = (checkpoint.get('meta') or {}).get('dataset_meta') or {}
    plain = {key.lower(): value for key, value in meta.items()}
    return dict(
        input=dict(
            name='image',
            layout='NCHW',
            type='float32',
            channels='RGB' if swapped else 'BGR or as read',
            mean=_numbers(getattr(preprocessor, 'mean', None)),
            std=_numbers(getattr(preprocessor, 'std', None)),
        ),
        classes=list(plain['classes']) if plain.get('classes') else None,
        palette=[list(map(int, colour)) for colour in plain['palette']] if plain.get('palette') else None,
        checkpoint=Path(name).name,
    )


def _numbers(values: Tensor | None) -> list | None:
    return None if values is None else [round(number, 4) for number in values.flatten().tolist()]
