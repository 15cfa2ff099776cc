"""Folders of data sets: their images, the splits that names of folders and files say, lists of names."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import TypeVar

from mmvitscale.errors import InputError, some_of

IMAGES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
SPLITS = dict(train=('train', 'training'), val=('val', 'valid', 'validation'), test=('test', 'testing'))
_Path = TypeVar('_Path', bound=PurePath)
PART_MARK = '.mmvitscale_part'  # in folders that stand beside a config and belong to it
_DEPTH = 3  # folders below the given one that are looked into


def is_image(file: Path) -> bool:
    """By its suffix; files that a Mac puts beside images are none."""
    return file.suffix.lower() in IMAGES and not file.name.startswith('._')


def images_below(root: Path) -> Iterator[Path]:
    """In the folder and those below it."""
    return (Path(place, name) for place, _, files in walk(root) for name in files if is_image(Path(name)))


def files_in(folder: Path, suffix: str) -> list[Path]:
    """Those directly in a folder with this suffix, in any case, sorted; neither what a Mac puts beside files nor pipes."""
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() == suffix and not path.name.startswith('._') and path.is_file()
    )


def files_below(root: Path, suffix: str) -> Iterator[Path]:
    """The same in the folder and those below it."""
    return (path for place, _, _ in walk(root) for path in files_in(Path(place), suffix))


def comparable(name: str) -> str:
    """A name without what file systems and programs change: case, and how accents are written."""
    return unicodedata.normalize('NFC', name).casefold()


def names_in(text: str) -> list[str]:
    """Of a file with a name in each line; quotes around it, and numbers from 0 or 1 on before it, are left out."""
    lines = [line.strip().strip('"').strip() for line in text.splitlines() if line.strip()]
    numbered = [re.fullmatch(r'(\d+)[\s;,:]+(.+)', line) for line in lines]
    numbers = [int(match[1]) for match in numbered if match]
    if len(numbers) == len(lines) and numbers in (list(range(len(lines))), list(range(1, len(lines) + 1))):
        return [match[2].strip().strip('"') for match in numbered if match]
    return lines


def repeated(names: Sequence[str]) -> list[str]:
    """Those that there are twice."""
    return [name for name, count in Counter(names).items() if count > 1]


def split_of(path: Path, root: Path) -> str | None:
    """Which split a file or folder belongs to, by the last part of its name below the root that names one."""
    for part in reversed(path.relative_to(root).parts):
        words = {word.removesuffix('annot') for word in re.split(r'[^a-z]+', Path(part).stem.lower())}  # CamVid's valannot
        for split, names in SPLITS.items():
            if words & set(names):
                return split
    return None


def folders_of(root: Path) -> list[Path]:
    """The root and the folders below it, down to a few levels. Links are followed, as mmsegmentation does; hidden folders are
    not."""
    return [Path(place) for place, _, _ in walk(root) if len(Path(place).relative_to(root).parts) <= _DEPTH]


def walk(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """As ``os.walk``, sorted, with linked folders and without hidden ones; a folder that links lead to again is passed over."""
    seen = set()
    for place, folders, files in os.walk(root, followlinks=True):
        key = os.path.realpath(place)
        if key in seen:
            folders.clear()
            continue
        seen.add(key)
        if PART_MARK in files and Path(place) != root:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        yield place, folders, sorted(files)


def listed_splits(root: Path, kind: str) -> dict[str, set[str]]:
    """Of each split the names of images, comparable and without suffix, that the lists of Pascal VOC have (``ImageSets``).

    Args:
        root: a folder with ``ImageSets`` in or below it.
        kind: the folder in it, main or segmentation; where it is not there, the others.

    Raises:
        InputError: for an image that two splits list, or a list that is no text.
    """
    found: dict[str, set[str]] = {}
    folders = [Path(place) for place, _, _ in walk(root) if Path(place).parent.name.lower() == 'imagesets']
    for folder in [one for one in folders if one.name.lower() == kind] or folders:
        files = {file.stem.lower(): file for file in sorted(folder.glob('*.txt'))}
        for split, words in SPLITS.items():
            for word in words:
                if word in files:
                    found.setdefault(split, set()).update(_listed_in(files[word]))
        if 'train' not in found and 'trainval' in files:  # with a test set, as in VOC2007
            found['train'] = _listed_in(files['trainval'])
    for one, other in (('train', 'val'), ('train', 'test'), ('val', 'test')):
        both = sorted(found.get(one, set()) & found.get(other, set()))
        if both:
            raise InputError(f'ImageSets lists {some_of(both)} for {one} and for {other}; leave each image in one of them')
    return found


def _listed_in(file: Path) -> set[str]:
    lines = file.read_text('utf-8-sig', errors='replace').splitlines()
    return {comparable(_without_suffix(line.strip())) for line in lines if line.strip()}


def _without_suffix(name: str) -> str:
    path = PurePosixPath(name.replace('\\', '/'))
    return path.stem if path.suffix.lower() in (*IMAGES, '.xml') else path.name


class ImageIndex:
    """The images below a folder, found by what annotation files call them: paths of this or of another machine, with or without
    their folders, with another suffix.

    Args:
        root: the folder.
        without: names of folders whose images are none of the data set's, but masks.
    """

    def __init__(self, root: Path, without: Collection[str] = ()):
        self.root = root
        self.paths = sorted(path for path in images_below(root) if not set(path.relative_to(root).parts) & set(without))
        self._by_stem: dict[str, list[Path]] = {}
        for path in self.paths:
            self._by_stem.setdefault(comparable(path.stem), []).append(path)
        self._folders = {path.parent for path in self.paths}

    def has(self, stem: str) -> bool:
        """Whether there is an image of this name, without suffix."""
        return comparable(stem) in self._by_stem

    def find(self, reference: str, near: Path, where: str) -> Path:
        """The image that an annotation file means.

        Args:
            reference: as the file has it.
            near: the folder that relative paths are tried from first.
            where: file and key, for messages.

        Raises:
            InputError: where there is none, or several that it may be.
        """
        plain = PurePosixPath(reference.replace('\\', '/'))
        for folder in (near, self.root):
            path = Path(os.path.normpath(folder / plain))
            if path.is_relative_to(self.root) and path.is_file() and is_image(path):
                return path
        wanted = [comparable(part) for part in plain.parts if part not in ('/', '.', '..')]
        stems = {comparable(plain.stem), comparable(plain.name)}
        found = [path for stem in stems for path in self._by_stem.get(stem, ()) if self._may_be(path, wanted, near)]
        exact = [path for path in found if comparable(path.name) == wanted[-1]] if wanted else []
        best = longest_tails(exact or found, wanted)
        if not best:
            raise InputError(
                f'{where} is of the image {reference}, which is not below {self.root}; add it, correct the name, or give the '
                'folder that holds both'
            )
        if len(best) > 1:  # frames of several tasks have the same names
            best = [path for path in best if path.is_relative_to(near)] or best
        if len(best) > 1:
            names = some_of([path.relative_to(self.root).as_posix() for path in best])
            raise InputError(f'{where} is of the image {reference}, which may be {names}; give each image a name of its own')
        return best[0]

    def _may_be(self, path: Path, wanted: Sequence[str], near: Path) -> bool:
        """Whether nothing speaks against an image of this name in another place: the split of the annotations, images beside
        them, or the folder that the annotations name."""
        own, other = (
            split_of(folder, self.root) if folder.is_relative_to(self.root) else None for folder in (near, path.parent)
        )
        if own and other and own != other:
            return False
        if near in self._folders and path.parent != near and near != self.root:
            return False
        named = len(wanted) > 1 and len(self._folders) > 1
        return not named or comparable(path.parent.name) in wanted[:-1] or path.parent == self.root


def longest_tails(paths: Sequence[_Path], wanted: Sequence[str]) -> list[_Path]:
    """Those with most of the folders that are wanted, counted from the file on; several where they have as many.

    Args:
        paths: whole ones, or relative ones.
        wanted: parts of a path, comparable, the file's name last.
    """

    def common(path: PurePath) -> int:
        folders = [comparable(part) for part in path.parts[-2::-1]]
        pairs = zip(folders, wanted[-2::-1])
        return next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(folders), len(wanted) - 1))

    most = max(map(common, paths), default=0)
    return [path for path in paths if common(path) == most]
