"""Tables of colours or numbers of classes in masks, as annotation tools write them, and masks in VOC's palette."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mmvitscale.datasets.folders import folders_of
from mmvitscale.datasets.formats.annotations import checked_name, read_text
from mmvitscale.errors import InputError

# Names of what is no class: CVAT's, CamVid's, and others' for pixels that nobody has looked at.
UNKNOWN_NAMES = ('void', 'ignore', 'ignored', 'unlabeled', 'unlabelled', 'unknown')
TABLES = ('labelmap.txt', 'class_dict.csv', 'classes.csv', '_classes.csv', 'label_colors.txt')
VOC_BORDER = (224, 224, 192)  # the colour of 255 in VOC's palette
_HEADERS = ('name', 'class', 'label', 'class_name')
VOC_CLASSES = (
    'background', 'aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow', 'diningtable', 'dog',
    'horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa', 'train', 'tvmonitor',
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A class of a table: its name, and its colour (red, green, blue) or its number in masks."""

    name: str
    key: int | tuple[int, int, int]


def find_colour_table(root: Path) -> Path | None:
    """The first table of classes in a folder or those below it."""
    return next((folder / name for folder in folders_of(root) for name in TABLES if (folder / name).is_file()), None)


def read_colour_table(path: Path) -> list[Entry]:
    """CVAT's ``labelmap.txt`` (name:red,green,blue::), ``class_dict.csv`` or ``classes.csv`` (name,r,g,b), Roboflow's
    ``_classes.csv`` (Pixel Value, Class), CamVid's ``label_colors.txt`` (red green blue name). Raises InputError for a line
    that is none of these, and for what is there twice."""
    text = read_text(path)
    if path.suffix == '.csv':
        entries = _of_csv(text, path)
    else:
        lines = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip() and not _is_comment(line)]
        entries = [_of_line(line, i, path) for i, line in lines]
    if not entries:
        raise InputError(f'{path} lists no class; write a name and a colour into each line')
    for what in ('key', 'name'):
        values = [getattr(entry, what) for entry in entries]
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise InputError(f'{path} has the {"colour" if what == "key" else "name"} {twice} twice; give each class its own')
    return entries


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith('#') and re.search(r':\s*\d+\s*,\s*\d+\s*,\s*\d+\s*:', line) is None


def _of_line(line: str, number: int, path: Path) -> Entry:
    where = f'{path}, line {number},'
    match = re.fullmatch(r'\s*(.+?):\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*:.*', line)
    if match:
        return Entry(checked_name(match[1], where), _colour(match.groups()[1:], where))
    match = re.fullmatch(r'\s*(\d+)[\s,]+(\d+)[\s,]+(\d+)[\s,]+(.+)', line)
    if match:
        return Entry(checked_name(match[4].strip(), where), _colour(match.groups()[:3], where))
    raise InputError(f'{where} holds {line.strip()[:60]!r}, but it is name:red,green,blue:: or red green blue name; correct it')


def _of_csv(text: str, path: Path) -> list[Entry]:
    rows = [row for row in csv.reader(io.StringIO(text), skipinitialspace=True) if any(cell.strip() for cell in row)]
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    name = next((header.index(key) for key in _HEADERS if key in header), None)
    columns = [header.index(key) for key in ('r', 'g', 'b') if key in header]
    columns = columns or [header.index(key) for key in ('red', 'green', 'blue') if key in header]
    value = header.index('pixel value') if 'pixel value' in header else None
    if name is None or (len(columns) != 3 and value is None):
        raise InputError(
            f'{path} begins with {", ".join(header)[:60]!r}, but its columns are name, r, g, b or Pixel Value, Class; add them'
        )
    found = []
    for number, row in enumerate(rows[1:], 2):
        where = f'{path}, row {number},'
        if len(row) <= max([name, *(columns if value is None else [value])]):
            raise InputError(f'{where} has {len(row)} columns, but its header {len(header)}; correct it')
        if value is not None:
            if not row[value].strip().isdigit() or int(row[value]) > 255:
                raise InputError(f'{where} has the value {row[value]!r}, but it is a number from 0 to 255; correct it')
            found.append(Entry(checked_name(row[name], where), int(row[value])))
        else:
            found.append(Entry(checked_name(row[name], where), _colour([row[i] for i in columns], where)))
    return found


def _colour(parts: Sequence[str], where: str) -> tuple[int, int, int]:
    if not all(part.strip().isdigit() and int(part) < 256 for part in parts):
        raise InputError(f'{where} has the colour {", ".join(parts)}, but it is three numbers from 0 to 255; correct it')
    red, green, blue = (int(part) for part in parts)
    return red, green, blue


def write_colour_table(names: Sequence[str], colours: np.ndarray) -> str:
    """CVAT's ``labelmap.txt``. colours: (n, 3)."""
    lines = [f'{name}:{",".join(map(str, colour))}::' for name, colour in zip(names, colours.tolist())]
    return '\n'.join(['# label:color_rgb:parts:actions', *lines, ''])


def voc_palette(count: int) -> np.ndarray:
    """(count, 3) uint8: the colours of VOC, whose bits are the bits of the number, in threes."""
    numbers = np.arange(count)
    return sum(
        (((numbers[:, None] >> (3 * i + np.arange(3))) & 1) << (7 - i) for i in range(8)), np.zeros((count, 3), np.int64)
    ).astype(np.uint8)


def label_map_bytes(labels: np.ndarray) -> bytes:
    """(H, W) uint8 -> a PNG of these numbers in VOC's palette."""
    image = Image.fromarray(labels.astype(np.uint8), mode='P')
    image.putpalette(voc_palette(256).flatten().tolist())
    buffer = io.BytesIO()
    image.save(buffer, 'PNG')
    return buffer.getvalue()


class ColourDecoder:
    """Masks of a table's colours or numbers -> class indices.

    Args:
        table: of the data set.
        path: of its file, for messages.
    """

    def __init__(self, table: Sequence[Entry], path: Path):
        self.path = path
        self.classes = [entry.name for entry in table if entry.name.lower() not in UNKNOWN_NAMES]
        self.labels = {entry.key: self.classes.index(entry.name) if entry.name in self.classes else 255 for entry in table}
        self.in_order = [self.labels[entry.key] for entry in table]
        self.has_colours = not isinstance(table[0].key, int)
        if self.has_colours:
            self.labels.setdefault(VOC_BORDER, 255)

    def __call__(self, file: Path) -> np.ndarray:
        """(H, W) uint8 of class indices, 255 where the class is not known. Raises InputError for a colour or number that
        the table does not have."""
        try:
            with Image.open(file) as image:
                if not self.has_colours or image.mode not in ('P', 'RGB', 'RGBA', 'CMYK', 'YCbCr'):
                    return self._numbers(np.array(image), file)
                pixels = np.array(image.convert('RGB')).astype(np.int64)
        except (OSError, Image.DecompressionBombError) as error:
            raise InputError(f'mask {file} cannot be read as an image ({type(error).__name__}); repair or remove it') from error
        packed = (pixels[..., 0] << 16) | (pixels[..., 1] << 8) | pixels[..., 2]
        values, places = np.unique(packed, return_inverse=True)
        found = [(int(v) >> 16, int(v) >> 8 & 255, int(v) & 255) for v in values]
        unknown = [colour for colour in found if colour not in self.labels]
        if unknown:
            many = len(unknown) > 10
            advice = 'export the masks as PNG without smoothing' if many else f'add it to {self.path.name}, or correct the mask'
            others = f' and {len(unknown) - 1} others' if len(unknown) > 1 else ''
            raise InputError(f'mask {file} has the colour {unknown[0]}{others}, which {self.path} does not list; {advice}')
        return np.array([self.labels[colour] for colour in found], np.uint8)[places.reshape(packed.shape)]

    def _numbers(self, values: np.ndarray, file: Path) -> np.ndarray:
        if values.ndim != 2 or values.dtype not in (np.uint8, np.bool_):
            raise InputError(
                f'mask {file} has shape {values.shape} of {values.dtype}, but numbers of classes are one channel of 8 bits'
            )
        table = np.full(256, 254, np.uint8)
        if self.has_colours:  # numbers in the order of the table, as CVAT and VOC count
            greys = {key[0]: label for key, label in self.labels.items() if isinstance(key, tuple) and len(set(key)) == 1}
            seen = set(np.unique(values).tolist())
            if max(seen) >= len(self.in_order) and seen <= set(greys):  # colours themselves, such as 0 and 255
                table[list(greys)] = list(greys.values())
            else:
                table[: len(self.in_order)] = self.in_order
                table[255] = 255
        else:
            for key, label in self.labels.items():
                table[key] = label
            table[255] = self.labels.get(255, 255)
        labels = table[values.astype(np.uint8)]
        if (labels == 254).any():
            number = int(values[labels == 254][0])
            raise InputError(
                f'mask {file} has the number {number}, which {self.path} does not list; add it, or correct the mask'
            )
        return labels
