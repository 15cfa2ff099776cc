"""XML files of strangers, read element by element: no document types, hence no entities that grow or lead elsewhere."""

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

from mmvitscale.errors import InputError

_CHUNK = 2**16
_BEGINNING = 16  # chunks
_DEEPEST = 100


class Element(ElementTree.Element):
    """An element that knows its line in the file."""

    line = 0

    def children(self, tag: str | None = None) -> Iterator['Element']:
        """The elements directly within, of this name if one is given."""
        for child in self:
            if isinstance(child, Element) and tag in (None, child.tag):
                yield child

    def child(self, tag: str) -> 'Element | None':
        """The first element of this name directly within."""
        return next(self.children(tag), None)


def elements(path: Path, tags: tuple[str, ...], depth: int = 1) -> Iterator[Element]:
    """The elements with these tags at a depth below the root, one after the other; depth 0: the root, whole. What has been
    given is forgotten, so that a file may be larger than the memory.

    Raises:
        InputError: for what is no XML, has a document type or is nested without end.
    """
    reader = _Reader(path, tags, depth)
    try:
        with open(path, 'rb') as file:
            while chunk := file.read(_CHUNK):
                reader.parser.Parse(chunk, False)
                yield from reader.take()
            reader.parser.Parse(b'', True)
            yield from reader.take()
    except expat.ExpatError as error:
        raise InputError(f'{path} is not XML ({error}); export it again') from error
    except (LookupError, ValueError) as error:  # an encoding that nobody knows
        if isinstance(error, InputError):
            raise
        raise InputError(f'{path} is not XML in a known encoding ({error}); save it as UTF-8') from error
    except OSError as error:
        raise InputError(f'{path} cannot be read ({error.strerror}); check the file and its rights') from error


class _Reader:
    def __init__(self, path: Path, tags: tuple[str, ...], depth: int):
        self.path, self.tags, self.depth = path, tags, depth
        self.open: list[Element] = []
        self.done: list[Element] = []
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.EntityDeclHandler = self._refuse

    def take(self) -> list[Element]:
        found, self.done = self.done, []
        return found

    def _refuse(self, *_: object) -> None:
        raise InputError(
            f'{self.path}, line {self.parser.CurrentLineNumber}, has a document type, which may hold entities that fill the '
            'memory or read other files, so it was not read; remove that line'
        )

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        element = Element(tag, attributes)
        element.line = self.parser.CurrentLineNumber
        if len(self.open) > _DEEPEST:
            raise InputError(f'{self.path}, line {element.line}, is nested more than {_DEEPEST} deep; export it again')
        # Above the wanted depth nothing is kept but the path to it.
        if self.open and len(self.open) > self.depth:
            self.open[-1].append(element)
        self.open.append(element)

    def _end(self, tag: str) -> None:
        element = self.open.pop()
        if len(self.open) == self.depth and tag in self.tags:
            self.done.append(element)

    def _text(self, text: str) -> None:
        if len(self.open) > self.depth:
            last = self.open[-1]
            if len(last):
                last[-1].tail = (last[-1].tail or '') + text
            else:
                last.text = (last.text or '') + text


def root_tag(path: Path) -> str | None:
    """The name of a file's first element, of which no more is read than its beginning; None for what is no XML, or has none in
    its first megabyte."""
    found: list[str] = []
    parser = expat.ParserCreate()
    parser.StartElementHandler = lambda tag, _: found.append(tag)
    try:
        with open(path, 'rb') as file:
            for _ in range(_BEGINNING):
                parser.Parse(file.read(_CHUNK), False)
                if found:
                    break
    except (expat.ExpatError, OSError, LookupError, ValueError):
        pass
    return found[0] if found else None


def text_of(element: ElementTree.Element, tag: str) -> str | None:
    """The text of the first element of this name within it, without spaces around; None where there is none."""
    found = element.find(tag)
    return (found.text or '').strip() if found is not None else None
