"""A folder that a data set is written into: complete or not there."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from mmvitscale.datasets.folders import PART_MARK, SPLITS
from mmvitscale.datasets.formats.annotations import AnnotatedImage
from mmvitscale.errors import InputError
from mmvitscale.utils.atomic_write import check_writable

# Files that say who wrote a folder: a data set, or what belongs to a config, which is no data set.
DATASET_MARK = '.mmvitscale_dataset'
_IMAGE_FOLDERS = ('images', 'jpegimages', 'img', 'imgs', 'obj_train_data')


class Output:
    """Files of a data set.

    Args:
        folder: where they go.
        final: where they will be, for paths from annotations to images that are not copied.
        copy_images: write the images, too; else annotations alone.
    """

    def __init__(self, folder: Path, final: Path, copy_images: bool):
        self.folder, self.final, self.copy_images = folder, final, copy_images
        self.notes: list[str] = []  # what the format has no place for
        self._taken: dict[str, str] = {}

    def image(self, image: AnnotatedImage, folder: str, unique_stem: bool = False) -> str:
        """Copy an image into a folder of the output; returns its name there, as ``image.name`` without folders that name the
        split or images. unique_stem: no two names may differ by their suffix alone."""
        plain = PurePosixPath(*_telling(image), PurePosixPath(image.name).name)
        name, number = str(plain), 1
        while True:
            key = str(PurePosixPath(folder, PurePosixPath(name).with_suffix('') if unique_stem else name)).casefold()
            if self._taken.setdefault(key, image.name) == image.name:
                break
            number += 1
            name = str(plain.with_stem(f'{plain.stem}_{number}'))
        if self.copy_images:
            target = self._place(f'{folder}/{name}')
            target.parent.mkdir(parents=True, exist_ok=True)
            if image.embedded is not None:
                target.write_bytes(image.embedded())
            else:
                shutil.copyfile(image.path, target)
        return name

    def _place(self, name: str) -> Path:
        target = Path(os.path.normpath(self.folder / name))
        if not target.is_relative_to(self.folder):
            raise InputError(f'{name} would be written outside of {self.final}; give the folder that holds all images as data')
        return target

    def path_to(self, image: AnnotatedImage, copied: str, start: str) -> str:
        """The path that an annotation file in the folder ``start`` has for an image: to the copy, or to the image itself."""
        target = self.final / copied if self.copy_images else image.path
        return Path(os.path.relpath(target.absolute(), (self.final / start).absolute())).as_posix()

    def text(self, name: str, content: str) -> None:
        """A text file in UTF-8."""
        self.bytes(name, content.encode())

    def bytes(self, name: str, content: bytes) -> None:
        """A file."""
        target = self._place(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def _telling(image: AnnotatedImage) -> list[str]:
    """Folders in an image's name that say something else than its split, or that it is an image."""
    words = {*_IMAGE_FOLDERS, *(SPLITS[image.split] if image.split else ())}
    parts = PurePosixPath(image.name).parts[:-1]
    return [part for part in parts if part.lower().rstrip('0123456789') not in words and part not in ('/', '..')]


@contextmanager
def written_folder(out: Path, overwrite: bool = False, copy_images: bool = True, mark: str = DATASET_MARK) -> Iterator[Output]:
    """``with written_folder(out) as output``: what is written becomes the folder ``out`` at the end, and is gone after an
    error. Only what was written so is replaced. Raises InputError where there is something already, or nothing can be written.

    Args:
        overwrite: replace what is there.
        copy_images: as in ``Output``.
        mark: name of a hidden file that says who wrote the folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not overwrite:
        raise InputError(f'{out} is there already; choose another folder, or replace it with --overwrite')
    if out.exists() and not is_written(out):
        raise InputError(f'{out} is there already and was not written by this command; choose another folder')
    check_writable(out.absolute().parent)
    part = Path(tempfile.mkdtemp(prefix=f'.{out.name[:40]}-', suffix='.part', dir=out.absolute().parent))
    try:
        (part / mark).write_text('Written by mmvitscale, and replaced with --overwrite.\n')
        yield Output(part, out, copy_images)
        part.chmod(0o777 & ~_umask())
        if out.is_dir():
            old = Path(tempfile.mkdtemp(prefix=f'.{out.name[:40]}-', suffix='.old', dir=part.parent))
            os.replace(out, old / 'old')
            os.replace(part, out)
            shutil.rmtree(old)
        else:
            out.unlink(missing_ok=True)
            os.replace(part, out)
    except OSError as error:
        raise InputError(f'cannot write {out} ({error.strerror}); free some space, or give another folder') from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def is_written(folder: Path) -> bool:
    """Whether a folder is empty, or was written by ``written_folder``."""
    return folder.is_dir() and (
        not any(folder.iterdir()) or any((folder / mark).is_file() for mark in (DATASET_MARK, PART_MARK))
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
