"""Every flavour of every annotation format: how it is written, and what must be read of it."""

from collections.abc import Sequence

from tests.helpers.annotation_mask_writers import MASKS
from tests.helpers.annotation_samples import Picture, of_one_kind, sample
from tests.helpers.annotation_tool_writers import TOOLS
from tests.helpers.annotation_writers import OWN

FLAVOURS = {**OWN, **TOOLS, **MASKS}


def written(flavour: str, pictures: Sequence[Picture]) -> list[Picture]:
    """The pictures that a flavour writes: some have no test split."""
    return [picture for picture in pictures if picture.split != 'test' or flavour not in ('YOLO, Darknet', 'YOLO, CVAT')]


def pictures_of(flavour: str) -> list[Picture]:
    """Those of label maps are of one kind in each folder."""
    return written(flavour, sample() if FLAVOURS[flavour].expected else of_one_kind())
