"""Ids of images and categories from a COCO file, for predictions that are to be compared with it."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any

from mmvitscale.errors import InputError

Id = int | str


class AnnotationIds:
    """The ids of a COCO file.

    Args:
        path: of a JSON file with ``images`` (``file_name``, ``id``) and ``categories`` (``name``, ``id``).

    Raises:
        InputError: for a file that cannot be read, or whose ids are no ids.
    """

    def __init__(self, path: str):
        self.path = path
        try:
            content = Path(path).read_bytes()
            self.hash = hashlib.sha256(content).hexdigest()
            lists = json.loads(content)  # bytes: it knows UTF-8 with a byte order mark, and UTF-16
            self.images: list[tuple[str, Id]] = [(image['file_name'], image['id']) for image in lists['images']]
            self.categories: list[tuple[str, Id]] = [(item['name'], item['id']) for item in lists['categories']]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(
                f'{path} cannot be read as a COCO file with images and categories '
                f'({type(error).__name__}: {error}); give an annotation file'
            ) from error
        self._check('image', self.images)
        self._check('category', self.categories)

    def _check(self, kind: str, entries: Sequence[tuple[object, object]]) -> None:
        for name, number in entries:
            if not isinstance(name, str) or not isinstance(number, (int, str)) or isinstance(number, bool):
                raise InputError(
                    f'{self.path} has the {kind} {name!r} with the id {number!r}, but names are text, and ids whole numbers '
                    'or text; correct the file'
                )
        twice = [number for number, times in Counter(number for _, number in entries).items() if times > 1]  # type: ignore[arg-type]
        if twice:
            raise InputError(f'{self.path} has two of kind {kind} with the id {twice[0]!r}; give each its own')

    def of_classes(self, names: Sequence[str]) -> list[Id]:
        """The category id of each class. Of several with one name, in the order of the file. Raises InputError for a class
        without a category."""
        ids = defaultdict(list)
        for name, number in self.categories:
            ids[name].append(number)
        wanted = Counter(names)
        missing = [name for name in wanted if wanted[name] > len(ids[name])]
        if missing:
            raise InputError(
                f'{self.path} has no category {missing[0]!r}, which the model predicts; give the annotation file of '
                'the data that it was trained for'
            )
        return [ids[name].pop(0) for name in names]

    def of_images(self, places: Mapping[str, Path]) -> dict[str, Id]:
        """File names -> ids of those that the file has, by the end of the path that they have in common: the longest one, and
        only if no other image has as long a one with either.

        Args:
            places: file name of a predicted image (relative to what was predicted) -> where it is.
        """
        parts = [PurePosixPath(name).parts for name, _ in self.images]
        theirs = [_ends(own if own[:1] == ('/',) else ('', *own)) for own in parts]
        # '' before a relative name: to be equal is more than to end in the same way.
        ours = {name: [*_ends(place.absolute().parts), ('', *PurePosixPath(name).parts)] for name, place in places.items()}
        places_of, images_of = _by_end(ours.items()), _by_end(enumerate(theirs))
        matches = {name: _only_best(ends, images_of) for name, ends in ours.items()}
        return {
            name: self.images[image][1]
            for name, image in matches.items()
            if image is not None and _only_best(theirs[image], places_of) == name
        }

    def unused(self) -> Iterator[Id]:
        """Ids that no image of the file has, of their kind."""
        taken = {number for _, number in self.images}
        text = any(isinstance(number, str) for number in taken)
        first = max((number for number in taken if isinstance(number, int)), default=0) + 1
        numbers = (str(number) if text else number for number in count(first))
        return (number for number in numbers if number not in taken)


def _ends(parts: tuple[str, ...]) -> list[tuple[str, ...]]:
    """('a', 'b', 'c') -> itself, ('b', 'c') and ('c',)."""
    return [parts[start:] for start in range(len(parts))]


def _by_end(ends: Iterable[tuple[Any, Iterable[tuple]]]) -> dict[tuple, set]:
    """Ends of paths -> whose they are."""
    found = defaultdict(set)
    for owner, own in ends:
        for end in own:
            found[end].add(owner)
    return found


def _only_best(ends: Sequence[tuple], owners: Mapping[tuple, set]) -> Any:
    """Who shares the longest of the ends, None if nobody or several do."""
    for length in sorted({len(end) for end in ends}, reverse=True):
        found = set().union(*(owners.get(end, ()) for end in ends if len(end) == length))
        if found:
            return found.pop() if len(found) == 1 else None
    return None
