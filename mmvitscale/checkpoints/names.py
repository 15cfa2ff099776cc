"""Checkpoints by their names: files and URLs, which are neither opened nor fetched."""

from pathlib import Path
from urllib.parse import urlparse


def is_checkpoint(source: str | Path) -> bool:
    """Whether a path or URL is that of a file of weights, by its name."""
    path = urlparse(str(source)).path if is_url(source) else str(source)
    return Path(path).suffix in ('.pth', '.pt', '.bin', '.ckpt', '.safetensors')


def is_url(source: str | Path) -> bool:
    """Whether it is something to download, by http or https."""
    return urlparse(str(source)).scheme in ('http', 'https')
