"""What prediction writes: options, names that do not meet, formats, and the writer of one image after the other."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.structures import BaseDataElement

from mmvitscale.errors import InputError
from mmvitscale.inference.images import VIDEO_SUFFIXES
from mmvitscale.inference.predictor import Predictor
from mmvitscale.inference.results import KINDS, Results
from mmvitscale.inference.visualizer import Visualizer
from mmvitscale.utils.atomic_write import atomic_write

# Of each kind that is saved.
SUFFIXES = {'labels': '.png', 'scores': '.npy', 'logits': '.npy', 'json': '.json'}


def output_names(paths: Sequence[Path], root: Path) -> dict[Path, str]:
    """Files in a folder -> for each a name relative to the folder, with slashes and without suffix, that no other has: where
    ``cat.jpg`` stands beside ``cat.png`` both keep their suffix as a part of the name."""
    full = {path: path.relative_to(root).as_posix() for path in paths}
    names = {path: str(PurePosixPath(name).with_suffix('')) for path, name in full.items()}
    while True:
        count = Counter(name.casefold() for name in names.values())  # some file systems ignore the case
        clashes = [path for path, name in names.items() if count[name.casefold()] > 1 and name != full[path]]
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

    pictures: whether predictions are drawn. save: any of KINDS, each written into a folder of its name. score_thr: instances
    below it are not drawn; files hold all. batch_size: images of one size that go through the model together. tile, overlap:
    sides in pixels; None predicts images whole. annotations: a COCO file whose ids are used. overwrite: replace what another
    run wrote.
    """

    pictures: bool = True
    save: Sequence[str] = ()
    score_thr: float = 0.3
    batch_size: int = 1
    tile: int | None = None
    overlap: int = 0
    annotations: str | None = None
    overwrite: bool = False

    def __post_init__(self):
        if not self.pictures and not self.save:
            raise InputError(
                f'--no-pictures found without --save, so nothing would be written; add --save with any of {", ".join(KINDS)}'
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


def is_video(path: Path) -> bool:
    """By its suffix."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def output_files(path: Path, name: str, out: Path, options: PredictOptions) -> dict[str, Path]:
    """What will be written of a file, by kind."""
    if is_video(path):
        return dict(pictures=out / f'{name}.mp4') if options.pictures else {}
    suffixes = {**SUFFIXES, **({'labels': '.tif'} if options.tile else {})}
    found = {kind: out / kind / (name + suffixes[kind]) for kind in options.save}
    return {**found, **(dict(pictures=out / f'{name}.png') if options.pictures else {})}


def check_places(source: Path, out: Path, names: dict[Path, str], options: PredictOptions) -> None:
    """Raise InputError where outputs would mix with the input or with one another."""
    inside, above = out.resolve(), source.resolve()
    if source.is_dir() and (inside == above or above in inside.parents):
        raise InputError(
            f'the output folder {out} lies in the input folder {source}, which would then hold predictions '
            'among its images; give a folder outside it'
        )
    taken = {name.split('/')[0] for name in names.values() if '/' in name} & set(options.save)
    if options.pictures and taken:
        raise InputError(
            f'{source} has a folder {taken.pop()!r}, where pictures and saved files would meet in {out}; '
            'predict it on its own, or with --no-pictures'
        )


class Writer:
    """Writes what the options require of one image after the other, into ``out``."""

    def __init__(self, cfg: Config, predictor: Predictor, out: Path, options: PredictOptions):
        self.results = Results(cfg, predictor.dataset_meta, options.annotations)
        self.visualizer = Visualizer(predictor.dataset_meta, options.score_thr)
        self.out, self.options = out, options

    def classes(self) -> None:
        """``classes.json``."""
        if self.options.save:
            write_json(self.out / 'classes.json', self.results.classes_file())

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

    def image(self, sample: BaseDataElement, picture: np.ndarray, name: str, file_name: str) -> None:
        """Data, then the drawn image."""
        self.data(sample, name, file_name, picture.shape[:2])
        if self.options.pictures:
            write_picture(self.out / f'{name}.png', self.visualizer.paint(picture, sample))
