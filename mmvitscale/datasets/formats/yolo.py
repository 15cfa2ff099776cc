"""YOLO: a text file of each image, a line of each object, its numbers in shares of the image; boxes ``class x y w h`` around
their centre, polygons ``class x y x y ...``, a confidence behind either.

Names and splits stand in a YAML file (Ultralytics, Roboflow: https://docs.ultralytics.com/datasets/detect), in ``obj.data`` and
``obj.names`` (Darknet), or in ``classes.txt`` and the names of folders.
"""

import os
import re
import unicodedata
from collections.abc import Collection, Sequence
from math import isfinite
from pathlib import Path, PurePosixPath

import yaml

from mmvitscale.datasets.folders import ImageIndex, folders_of, images_below, split_of
from mmvitscale.datasets.formats.annotations import (
    AnnotatedDataset,
    AnnotatedImage,
    AnnotatedObject,
    Entries,
    checked_name,
    mentions,
    read_text,
)
from mmvitscale.datasets.formats.outlines import join_polygons, polygons_of_object
from mmvitscale.datasets.formats.output import Output
from mmvitscale.errors import InputError, some_of

_LARGEST_YAML = 2**24
_SPLIT_KEYS = dict(train=('train',), val=('val', 'valid', 'validation'), test=('test',))
_NAME_FILES = ('obj.names', 'classes.txt', '*.names')
# Text files in such folders that are no annotations.
_LISTS = re.compile(r'(?i)(classes|labels|train|val|valid|validation|test|readme.*|notes|license)\.txt')
_BEYOND = 1.01  # what rounding may leave of a share


def recognise(root: Path) -> str | None:
    """How a folder shows that it is in this format, or None."""
    found = _yaml_files(root)
    if found:
        return f'{found[0].name} has names and train or val'
    stems = {path.stem for path in images_below(root)}
    for folder in folders_of(root):
        data = next(iter(sorted(folder.glob('*.data'))), None)
        if data is not None and mentions(data, b'names'):
            return f'{data.name} of Darknet'
        for file in sorted(folder.glob('*.txt')):
            if not _LISTS.fullmatch(file.name) and _is_label_file(file, stems):
                return f'{file.relative_to(root)} has lines of a class and shares of the image'
    return None


def _yaml_files(root: Path) -> list[Path]:
    found = [path for path in (*root.glob('*.yaml'), *root.glob('*.yml'), *root.glob('*/*.yaml')) if path.is_file()]
    return [
        path
        for path in sorted(found, key=lambda path: (len(path.parts), path))
        if path.stat().st_size < _LARGEST_YAML
        and mentions(path, b'names')
        and re.search(rb'(?mi)^\s*["\']?(train|val)["\']?\s*:', path.read_bytes())
    ]


def _is_label_file(file: Path, stems: Collection[str]) -> bool:
    """Whether its first line is one of an object. stems: of the images that there are."""
    if not file.is_file():
        return False
    with open(file, 'rb') as content:
        words = content.readline(4096).split()
    if len(words) < 5 or not re.fullmatch(rb'\d+', words[0]) or not all(re.fullmatch(rb'[-+.\deE]+', w) for w in words[1:5]):
        return False
    return file.stem in stems


def _replaced(parts: Sequence[str], old: str, new: str) -> list[str]:
    """Parts of a path with the last one of a name replaced."""
    found = list(parts)
    places = [i for i, part in enumerate(found) if part.lower() == old]
    if places:
        found[places[-1]] = new
    return found


def read(root: Path, entries: Entries) -> AnnotatedDataset:
    """A folder in this format. Raises InputError for what cannot be read as a whole; ``entries`` keeps invalid objects."""
    notes: list[str] = []
    described = _yaml_files(root)
    if len(described) > 1 and (described[0].parent == described[1].parent or described[0].parent != root):
        raise InputError(f'{described[0]} and {described[1]} both describe a data set; move one of them away')
    darknet = sorted(path for folder in folders_of(root) for path in folder.glob('*.data') if mentions(path, b'names'))
    if described:
        names, images, keys = _by_yaml(described[0], root, entries, notes)
    elif darknet:
        names, images = _by_darknet(darknet[0], root, entries)
        keys = False
    else:
        names, images, keys = _names_beside(root, entries, notes), _by_folders(root), False
    if not all(path.is_relative_to(root) for path, _ in images):  # of a YAML file that leads elsewhere
        root = Path(os.path.commonpath([root, *(path for path, _ in images)]))
    images = _without_repeated_split(images, notes)
    reader = _Labels(root, names, entries, keys)
    found = [reader.image(path, split) for path, split in images]
    bare = [image.name for image, has in zip(found, reader.has_file) if image is not None and not has]
    images_found = [image for image in found if image is not None]
    if images_found and len(bare) == len(images_found):
        raise InputError(
            f'none of the {len(bare)} images below {root} has a label file (the first: {bare[0]}, expected: '
            f'{_expected(images_found[0].path, root)}); put them into a folder labels beside images, or beside the images'
        )
    reader.check_strays()
    if bare:
        notes.append(f'{len(bare)} images have no label file ({some_of(bare)}) and are taken for images without objects')
    return AnnotatedDataset(root, names, images_found, [*notes, *reader.notes()])


def _by_yaml(
    file: Path, root: Path, entries: Entries, notes: list[str]
) -> tuple[list[str], list[tuple[Path, str | None]], bool]:
    """Names, images with their splits, and whether objects have key points."""
    try:
        text = read_text(file)
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise InputError(f'{file} has aliases (*name), which may grow without end; write out what they stand for')
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f'{file} is not YAML ({" ".join(str(error).split())[:120]}); correct it') from error
    if not isinstance(content, dict):
        raise InputError(f'{file} holds a {type(content).__name__}, but a YAML file of a data set has names, train and val')
    names = _yaml_names(content, file)
    images: list[tuple[Path, str | None]] = []
    lower = {str(key).lower(): value for key, value in content.items()}
    for split, keys in _SPLIT_KEYS.items():
        values = next((lower[key] for key in keys if lower.get(key)), None)
        for value in values if isinstance(values, list) else [values] if values else []:
            if not isinstance(value, str):
                raise InputError(f'{file} has {split}: {str(value)[:60]!r}, but it is a path, or a list of paths; correct it')
            place = _place(value, content.get('path'), file, root)
            own = [] if place is None else _listed(place, root) if place.is_file() else list(images_below(place))
            if not own and split != 'train':
                notes.append(f'{file.name} gives {split} as {value}, where there is no image: that set is left out')
                continue
            if place is None:
                raise InputError(
                    f'{file} gives {split} as {value}, which is neither there nor below {root}; correct the path, or give the '
                    'folder that holds it as --data'
                )
            if value.startswith('/') and not Path(value).exists() or '..' in Path(value).parts:
                notes.append(f'{file.name} gives {split} as {value}: {place} was taken')
            if not own:
                raise InputError(f'{file} gives {split} as {value}, but {place} holds no image; correct the path')
            images += [(path, split) for path in own]
    if not images:
        raise InputError(f'{file} gives neither train nor val; add the paths of their images')
    return names, images, 'kpt_shape' in content


def _without_repeated_split(images: list[tuple[Path, str | None]], notes: list[str]) -> list[tuple[Path, str | None]]:
    """Without a validation set that is the training set, or the test set again: it is there since Ultralytics requires one."""
    of = {split: {path for path, own in images if own == split} for split in ('train', 'val', 'test')}
    for other in ('train', 'test'):
        if of['val'] and of['val'] == of[other]:
            notes.append(f'val and {other} are both the same images, so they are taken as no validation set')
            images = [(path, split) for path, split in images if split != 'val']
            alone = other == 'train' and not of['test']
            return [(path, None if alone else split) for path, split in images]
    return images


def _yaml_names(content: dict, file: Path) -> list[str]:
    names, count = content.get('names'), content.get('nc')
    if isinstance(names, dict):
        keys = sorted(names, key=lambda key: (not str(key).isdigit(), int(key) if str(key).isdigit() else 0))
        if [str(key) for key in keys] != [str(i) for i in range(len(keys))]:
            raise InputError(
                f'{file} numbers its names {some_of([str(key) for key in keys])}, but they count from 0; correct it'
            )
        names = [names[key] for key in keys]
    if not isinstance(names, list) or not names:
        raise InputError(f'{file} has the names {str(names)[:60]!r}, but they are a list, or numbers from 0 on with names')
    # YAML reads no, on and 7 as other things than text.
    wrong = [name for name in names if not isinstance(name, (str, int, float)) or isinstance(name, bool)]
    if wrong:
        raise InputError(f'{file} has the name {wrong[0]!r}, which YAML does not read as text; put it in quotes')
    if isinstance(count, int) and count != len(names):
        raise InputError(f'{file} has nc: {count}, but {len(names)} names; correct one of them')
    return [checked_name(str(name), str(file)) for name in names]


def _place(value: str, base: object, file: Path, root: Path) -> Path | None:
    """The folder or list that a YAML file means: from its ``path``, or its own folder; of another machine by the end of it."""
    value = value.replace('\\', '/')
    starts = [file.parent, root]
    if isinstance(base, str) and base:
        starts = [file.parent / base, root / base, *starts]
    for start in starts:
        place = Path(os.path.normpath(start / value))  # links stay: labels lie beside them
        inside = place.is_relative_to(root) or place.is_relative_to(file.parent)
        if inside and (place.is_dir() or place.suffix == '.txt' and place.is_file()):
            return place
    # Of a data set that lies elsewhere. One that was copied is read where the user gives it.
    elsewhere = [file.parent / value, Path(value)]
    if isinstance(base, str) and base:
        elsewhere = [Path(base).expanduser() / value, file.parent / base / value, *elsewhere]
    found = (place for place in elsewhere if place.is_dir() or place.suffix == '.txt' and place.is_file())
    return _ending(value, file) or next((Path(os.path.abspath(place)) for place in found), None)


def _ending(value: str, file: Path) -> Path | None:
    """The folder or list below a YAML file that a path of another place ends with."""
    parts = [part for part in PurePosixPath(value).parts if part not in ('/', '.', '..')]
    for i in range(len(parts)):
        place = Path(file.parent, *parts[i:])
        if place.exists():
            return place
    return None


def _listed(file: Path, root: Path) -> list[Path]:
    """The images of a list, a path in each line. Raises InputError for one that is not there."""
    found, index = [], ImageIndex(root)
    for number, line in enumerate(read_text(file).splitlines(), 1):
        text = line.strip().replace('\\', '/')
        if not text:
            continue
        parts = [part for part in PurePosixPath(text).parts if part not in ('/', '.', '..')]
        ends = [Path(base, *parts[i:]) for i in range(len(parts)) for base in (file.parent, root)]
        places = [*([Path(text)] if Path(text).is_absolute() else []), file.parent / text, root / text, *ends]
        path = next((place for place in places if place.is_file()), None)
        found.append(Path(os.path.normpath(path)) if path else index.find(text, file.parent, f'{file}, line {number},'))
    return found


def _by_darknet(file: Path, root: Path, entries: Entries) -> tuple[list[str], list[tuple[Path, str | None]]]:
    """Names, and images with their splits, as ``obj.data`` has them: key = value in each line."""
    values = dict(
        [line.split('=', 1)[0].strip().lower(), line.split('=', 1)[1].strip()]
        for line in read_text(file).splitlines()
        if '=' in line  # type: ignore[misc]
    )
    listed = _place(values.get('names', 'obj.names'), None, file, root) or file.with_name('obj.names')
    for place in (file.parent / Path(values.get('names', '')).name, root / values.get('names', '')):
        listed = place if place.is_file() else listed
    if not listed.is_file():
        raise InputError(f'{file} gives names as {values.get("names")}, which is not there; add the file')
    images: list[tuple[Path, str | None]] = []
    for split, key in dict(train='train', val='valid', test='test').items():
        place = _place(values[key], None, file, root) if values.get(key) else None
        if values.get(key) and place is None:
            raise InputError(f'{file} gives {key} as {values[key]}, which is not there; correct the path')
        if place is not None:
            images += [(path, split) for path in _listed(place, root)]
    return _names_of_file(listed), images


def _names_of_file(file: Path) -> list[str]:
    names = [line.strip() for line in read_text(file).splitlines()]
    while names and not names[-1]:
        names.pop()
    return [checked_name(name, f'{file}, line {i}') for i, name in enumerate(names, 1)]


def _names_beside(root: Path, entries: Entries, notes: list[str]) -> list[str]:
    """Names from a file of them, from the user, or numbers."""
    for folder in folders_of(root):
        for pattern in _NAME_FILES:
            for file in sorted(folder.glob(pattern)):
                return _names_of_file(file)
    if entries.classes:
        return list(entries.classes)
    most = -1
    for folder in folders_of(root):
        for file in folder.glob('*.txt'):
            if not _LISTS.fullmatch(file.name):
                most = max(most, *(int(n) for n in re.findall(r'(?m)^(\d{1,4})\s', read_text(file))), -1)
    notes.append('the classes have no names; give them with --classes, in the order of their numbers, or in a file classes.txt')
    return [f'class_{i}' for i in range(most + 1)]


def _by_folders(root: Path) -> list[tuple[Path, str | None]]:
    return [(path, split_of(path.parent, root)) for path in sorted(images_below(root))]


def _candidates(image: Path, root: Path) -> list[Path]:
    """Where the label file of an image may be, as Ultralytics looks for it first."""
    inside = image.parent.relative_to(root).parts if image.is_relative_to(root) else image.parent.parts
    base = root if image.is_relative_to(root) else Path()
    folders = [base.joinpath(*_replaced(inside, 'images', 'labels')), image.parent, image.parent / 'labels']
    return [folder / f'{image.stem}.txt' for folder in dict.fromkeys(folders)]


def _expected(image: Path, root: Path) -> Path:
    return _candidates(image, root)[0]


class _Labels:
    """Reads the label files of images. keypoints: behind a box stand key points, which are left out."""

    def __init__(self, root: Path, names: Sequence[str], entries: Entries, keypoints: bool):
        self.root, self.names, self.entries, self.keypoints = root, names, entries, keypoints
        self.of: dict[Path, Path] = {}  # label file -> its image
        self.has_file: list[bool] = []
        self.left_out = 0
        self.listed: dict[Path, dict[str, Path]] = {}  # of folders with other names than ASCII

    def image(self, path: Path, split: str | None) -> AnnotatedImage | None:
        found = None
        with self.entries.entry():
            height, width = self.entries.size(path, None, str(path))
            found = AnnotatedImage(path, path.relative_to(self.root).as_posix(), height, width, split=split)
        files = list(filter(None, map(self._label_file, _candidates(path, self.root))))
        file = files[0] if files else None
        self.has_file.append(file is not None)
        if found is None or file is None:
            return found
        if len(files) > 1:
            with self.entries.entry():
                raise InputError(f'{path.name} has two label files, {files[0]} and {files[1]}; remove one of them')
            self.of.update(dict.fromkeys(files, path))
            return None
        other = self.of.setdefault(file, path)
        if other != path:
            with self.entries.entry():
                raise InputError(f'{file} is of two images, {other.name} and {path.name}; give each a name of its own')
            return None
        with self.entries.entry():
            for number, line in enumerate(read_text(file).splitlines(), 1):
                if line.strip():
                    with self.entries.entry():
                        found.objects.append(self._object(line.split(), f'{file}, line {number},', (height, width)))
        return found

    def _label_file(self, place: Path) -> Path | None:
        """The file itself, or the one whose name is the same but for how accents are written."""
        if place.is_file():
            return place
        if place.name.isascii():
            return None
        if place.parent not in self.listed:
            files = place.parent.glob('*.txt')
            self.listed[place.parent] = {unicodedata.normalize('NFC', file.name): file for file in files}
        return self.listed[place.parent].get(unicodedata.normalize('NFC', place.name))

    def _object(self, words: Sequence[str], where: str, size: tuple[int, int]) -> AnnotatedObject:
        try:
            values = [float(word) for word in words]
        except ValueError as error:
            raise InputError(
                f'{where} holds {" ".join(words)[:60]!r}, but a line is a class and numbers; correct or remove it'
            ) from error
        label, numbers, score = values[0], values[1:], None
        if not isfinite(label) or label != int(label) or not 0 <= label < len(self.names):
            raise InputError(
                f'{where} has the class {words[0]}, but {len(self.names)} names are given, 0 to {len(self.names) - 1} '
                f'({some_of(list(self.names))}); correct the line, or add the name'
            )
        if self.keypoints and len(numbers) > 4:
            self.left_out += 1
            numbers = numbers[:4]
        elif len(numbers) == 5 or (len(numbers) > 6 and len(numbers) % 2):
            *numbers, score = numbers
        if len(numbers) < 4 or len(numbers) % 2:
            raise InputError(
                f'{where} has {len(words)} numbers, but a box is 5 (class, x, y, width, height), with its confidence 6, and a '
                'polygon 7 or more (class, x, y, x, y, x, y, ...); correct or remove it'
            )
        wrong = [value for value in numbers if not isfinite(value) or not -_BEYOND + 1 <= value <= _BEYOND]
        if wrong:
            advice = 'divide pixels by its width and height' if isfinite(wrong[0]) and wrong[0] > 2 else 'correct or remove it'
            raise InputError(
                f'{where} has the coordinate {wrong[0]:g}, but coordinates are shares of the image from 0 to 1; {advice}'
            )
        height, width = size
        name = self.names[int(label)]
        if len(numbers) == 4:
            x, y, w, h = numbers
            box = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
            return self.entries.object(where, size, name, box=box, score=score)
        polygon = [value * (height if i % 2 else width) for i, value in enumerate(numbers)]
        return self.entries.object(where, size, name, polygons=[polygon], score=score)

    def check_strays(self) -> None:
        """Keep label files without an image as invalid entries."""
        folders = {file.parent for file in self.of}
        for folder in sorted(folders):
            for file in sorted(folder.glob('*.txt')):
                if file not in self.of and not _LISTS.fullmatch(file.name) and not file.name.startswith('._'):
                    with self.entries.entry():
                        raise InputError(f'{file} has no image of this name; add the image, or remove the file')

    def notes(self) -> list[str]:
        """Lines for the user."""
        return [f'key points of {self.left_out} objects are left out: their boxes are taken'] if self.left_out else []


def write(dataset: AnnotatedDataset, output: Output) -> None:
    """``data.yaml``, and of each split the folders ``images`` and ``labels``. Several polygons of an object become one, joined
    by lines without area, as Ultralytics' own converter has it; run lengths the outlines of their parts. Without a split the
    images for training are those for validation, too, since Ultralytics requires some."""
    numbers = {name: i for i, name in enumerate(dataset.classes)}
    places: dict[str, str] = {}
    for image in dataset.images:
        start = f'{image.split}/' if image.split else ''
        name = output.image(image, f'{start}images', unique_stem=True)
        places[image.split or 'train'] = f'{start}images'
        lines = [_line(item, numbers[item.category], image) for item in image.objects]
        output.text(f'{start}labels/{PurePosixPath(name).with_suffix(".txt")}', ''.join(f'{line}\n' for line in lines))
    content = {**places, 'nc': len(dataset.classes), 'names': dict(enumerate(dataset.classes))}
    content.setdefault('val', content.get('test', content.get('train')))
    output.text('data.yaml', yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _line(item: AnnotatedObject, label: int, image: AnnotatedImage) -> str:
    width, height = image.width, image.height
    if item.segmentation:
        joined = join_polygons(polygons_of_object(item, height, width))
        numbers = [value / (height if i % 2 else width) for i, value in enumerate(joined)]
        numbers = [min(1.0, max(0.0, value)) for value in numbers]
    else:
        left, top, right, bottom = item.box
        left, right = max(0.0, left), min(width, right)
        top, bottom = max(0.0, top), min(height, bottom)
        numbers = [(left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width, (bottom - top) / height]
    numbers += [] if item.score is None else [item.score]
    return ' '.join([str(label), *(f'{value:.10g}' for value in numbers)])
