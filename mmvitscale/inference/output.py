"""What prediction writes: options, names that do not meet, formats, and the writer of one image after the other."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.structures import BaseDataElement

from mmvitscale.errors import InputError
from mmvitscale.inference.annotation_ids import AnnotationIds
from mmvitscale.inference.images import VIDEO_SUFFIXES
from mmvitscale.inference.nodata import without_empty
from mmvitscale.inference.predictor import Predictor
from mmvitscale.inference.results import Results
from mmvitscale.inference.visualizer import Visualizer
from mmvitscale.utils.atomic_write import atomic_write
from mmvitscale.utils.choices import SAVED_KINDS

# Of each kind that is saved, and of pictures.
SUFFIXES = {'labels': '.png', 'scores': '.npy', 'logits': '.npy', 'json': '.json'}
# Of all files that are written of an image.
_ENDS = {*SUFFIXES.values(), '.tif'}


def is_video(path: Path) -> bool:
    """By its suffix."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def output_names(paths: Sequence[Path], root: Path) -> dict[Path, str]:
    """Files in a folder -> for each a name relative to the folder, with slashes and without suffix, that no other has: where
    ``cat.jpg`` stands beside ``cat.png``, or ``clip.mp4`` beside a folder ``clip``, the suffix stays a part of the name."""
    full = {path: path.relative_to(root).as_posix() for path in paths}
    names = {path: str(PurePosixPath(name).with_suffix('')) for path, name in full.items()}
    folders = {str(parent).casefold() for name in full.values() for parent in PurePosixPath(name).parents}
    while True:
        count = Counter(name.casefold() for name in names.values())  # some file systems ignore the case
        videos = {names[path].casefold() for path in paths if is_video(path)}

        clashes = []
        for path, name in names.items():
            own = name.casefold()
            # The frames of a video are in a folder.
            files, others = ({own, f'{own}.mp4'}, folders) if is_video(path) else ({own + s for s in _ENDS}, folders | videos)
            if name != full[path] and (count[own] > 1 or not files.isdisjoint(others)):
                clashes.append(path)
        if not clashes:
            return names
        for path in clashes:
            names[path] = full[path]


def write_picture(path: Path, picture: np.ndarray) -> None:
    """(H, W, 3) uint8 BGR, or (H, W) uint8 or uint16, as PNG. Raises InputError if the file cannot be written."""
    _, encoded = cv2.imencode('.png', picture)
    with atomic_write(path) as part:
        part.write_bytes(encoded.tobytes())


def write_array(path: Path, array: np.ndarray) -> None:
    """As .npy. Raises InputError if the file cannot be written."""
    with atomic_write(path) as part:
        np.save(part, array, allow_pickle=False)


def write_json(path: Path, content: object) -> None:
    """Raises InputError if the file cannot be written."""
    with atomic_write(path) as part:
        part.write_text(json.dumps(content) + '\n')


@dataclass(frozen=True)
class PredictOptions:
    """What is to be written, and how.

    pictures: whether predictions are drawn. save: any of SAVED_KINDS, each written into a folder of its name. score_thr:
    instances below it are not drawn, and not in formats; other files hold all. batch_size: images of one size that go
    through the model together. tile, overlap: sides in pixels; None predicts images whole. annotations: a COCO file whose
    ids are used. overwrite: replace what another run wrote. formats: of annotation tools, each a folder of its name
    (``annotation_formats``).
    """

    pictures: bool = True
    save: Sequence[str] = ()
    score_thr: float = 0.3
    batch_size: int = 1
    tile: int | None = None
    overlap: int = 0
    annotations: str | None = None
    overwrite: bool = False
    formats: Sequence[str] = ()

    def __post_init__(self):
        if not self.pictures and not self.save and not self.formats:
            raise InputError(
                '--no-pictures found without --save, so nothing would be written; add --save with any of '
                + ', '.join(SAVED_KINDS)
            )
        if self.batch_size < 1:
            raise InputError(f'--batch-size {self.batch_size} found, but it is 1 or more')
        if self.tile is None and self.overlap:
            raise InputError(f'--overlap {self.overlap} found without --tile; give the side of the tiles, too')
        if self.tile is not None and not (self.tile >= 32 and 0 <= self.overlap <= self.tile // 2):
            raise InputError(
                f'--tile {self.tile} --overlap {self.overlap} found, but a tile is 32 pixels or more, and the '
                'overlap 0 to half of it'
            )
        if self.tile is not None and {'scores', 'logits'} & set(self.save):
            raise InputError(
                '--save scores or logits found with --tile, but those of a whole image are what tiles are there '
                'to avoid; save labels or json'
            )


@dataclass
class PredictResult:
    """How many files were predicted, how many an earlier call had done, one line for each that failed, and notes."""

    done: int = 0
    there: int = 0
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def output_files(path: Path, name: str, out: Path, options: PredictOptions) -> dict[str, Path]:
    """What will be written of a file, by kind."""
    if is_video(path):
        return dict(pictures=out / f'{name}.mp4') if options.pictures else {}
    suffixes = {**SUFFIXES, **({'labels': '.tif'} if options.tile else {})}
    found = {kind: out / kind / (name + suffixes[kind]) for kind in options.save}
    return {**found, **(dict(pictures=out / f'{name}.png') if options.pictures else {})}


def common_files(out: Path, options: PredictOptions) -> list[Path]:
    """What is written of all images together."""
    names = ['classes.json', *(['coco.json', 'coco_results.json'] if 'json' in options.save else [])]
    return [out / name for name in (*names, *options.formats)] if options.save else []


def frame_folders(path: Path, name: str, out: Path, options: PredictOptions) -> list[Path]:
    """Where what is saved of a video's frames goes."""
    return [out / kind / name for kind in options.save] if is_video(path) else []


def check_places(walked: Sequence[Path], out: Path, names: dict[Path, str], options: PredictOptions) -> None:
    """Raise InputError where outputs would mix with the input or with one another.

    Args:
        walked: the folders that images were looked for in.
        out: folder of the outputs.
        names: of the outputs of each file.
        options: what is written.
    """
    inside = out.resolve()
    for folder in walked:
        above = folder.resolve()
        if inside == above or above in inside.parents:
            raise InputError(
                f'the output folder {out} lies in the input folder {folder}, which would then hold predictions '
                'among its images; give a folder outside it'
            )
    taken = {name.split('/')[0] for name in names.values() if '/' in name} & set(options.save)
    if options.pictures and taken:
        raise InputError(
            f'the input has a folder {taken.pop()!r}, where pictures and saved files would meet in {out}; '
            'predict it on its own, or with --no-pictures'
        )
    writers: dict[Path, Path] = {}
    for path, name in names.items():
        for target in (*output_files(path, name, out, options).values(), *frame_folders(path, name, out, options)):
            if target in writers:
                raise _meeting(path, writers[target], target)
            writers[target] = path
    for target, path in writers.items():
        for parent in target.parents:
            if parent in writers:
                raise _meeting(path, writers[parent], parent)


def _meeting(one: Path, other: Path, target: Path) -> InputError:
    return InputError(f'{one} and {other} would both be written to {target}; rename one of them, or predict it on its own')


def check_length(files: Iterable[Path], out: Path) -> str | None:
    """What to say where the name of an output is longer than the file system takes; None where all fit."""
    limit = os.pathconf(out, 'PC_NAME_MAX') if hasattr(os, 'pathconf') else 255
    for file in files:
        for part in file.relative_to(out).parts:
            if len(os.fsencode(part)) > limit:
                return f'the name of {file} has {len(os.fsencode(part))} bytes, but {limit} is the most here'
    return None


class Writer:
    """Writes what the options require of one image after the other, into ``out``."""

    def __init__(
        self,
        cfg: Config,
        predictor: Predictor,
        out: Path,
        options: PredictOptions,
        annotations: AnnotationIds | None = None,
    ):
        self.results = Results(cfg, predictor.dataset_meta, annotations)
        self.visualizer = Visualizer(predictor.dataset_meta, options.score_thr)
        self.out, self.options = out, options
        self.notes: list[str] = []  # for the user

    def classes(self) -> None:
        """``classes.json``."""
        if self.options.save:
            write_json(self.out / 'classes.json', self.results.classes_file())

    def colours(self) -> dict[int, tuple[int, ...]]:
        """Of the values in label maps, RGBA; of no class transparent."""
        found: dict[int, tuple[int, ...]] = {
            value: (*rgb, 255) for value, rgb in zip(self.results.values, self.visualizer.palette)
        }
        return {**found, self.results.no_class: (0, 0, 0, 0)}

    def data(self, sample: BaseDataElement, name: str, file_name: str, size: tuple[int, int]) -> None:
        """All kinds that the options require."""
        for kind in self.options.save:
            path = self.out / kind / (name + SUFFIXES[kind])
            if kind == 'json':
                write_json(path, self.results.json(sample, file_name, size, name))
            elif kind == 'labels':
                write_picture(path, self.results.labels(sample))
            else:
                write_array(path, getattr(self.results, kind)(sample))

    def image(
        self, sample: BaseDataElement, picture: np.ndarray, name: str, file_name: str, empty: np.ndarray | None = None
    ) -> None:
        """Data, then the drawn image. empty: (H, W) bool, the pixels that are of no class since they hold nothing."""
        sample = without_empty(sample, empty, len(self.results.classes))
        self.data(sample, name, file_name, picture.shape[:2])
        if self.options.pictures:
            write_picture(self.out / f'{name}.png', self.visualizer.paint(picture, sample))
