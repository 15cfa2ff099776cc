"""All images and videos of a folder predicted: in batches, going on where an earlier call stopped, one failure at a time."""

import json
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config

from mmvitscale.config.view import ConfigView
from mmvitscale.errors import InputError, some_of
from mmvitscale.inference.annotation_formats import with_files_for, write_formats
from mmvitscale.inference.annotation_ids import AnnotationIds
from mmvitscale.inference.images import VIDEO_SUFFIXES, ImageReader, find_files, frames_of
from mmvitscale.inference.nodata import empty_pixels
from mmvitscale.inference.output import (
    PredictOptions,
    PredictResult,
    Writer,
    check_length,
    check_places,
    common_files,
    frame_folders,
    is_video,
    output_files,
    output_names,
    write_json,
    write_picture,
)
from mmvitscale.inference.predictor import Predictor, Reconstructor, pipeline_of
from mmvitscale.inference.progress import progress_bar
from mmvitscale.inference.rasters import raster_suffixes
from mmvitscale.inference.record import RECORD, check_inputs, check_record, record_of
from mmvitscale.inference.results import Results, check_kinds
from mmvitscale.inference.tiles import predict_in_tiles
from mmvitscale.utils.atomic_write import atomic_write
from mmvitscale.utils.cpu import return_free_memory

# Images after which memory is given back.
_TRIM = 100


def predict_folder(
    cfg: Config, checkpoint: str, source: str | Path | Sequence[str], out: Path, options: PredictOptions | None = None
) -> PredictResult:
    """Predict images, videos, or all of folders and the folders in them.

    ``out/<name>.png`` is the drawn image (of a video ``.mp4``), ``out/<kind>/<name>`` with the kind's suffix what else is
    saved, names as in the source, or of several sources as in the folder that they have in common (of frames
    ``<video>/<number>``); ``classes.json`` holds values and names, ``coco.json``
    and ``coco_results.json`` hold the JSON files of all images. Of masked image modelling, the picture is what the model
    makes of the masked image. A call with the same config, checkpoint and options goes on where an earlier one stopped.

    Raises:
        InputError: for what concerns all images; what concerns one is in the result.
    """
    options = options or PredictOptions()
    masked = ConfigView(cfg).task == 'masked modelling'
    if masked and (options.save or options.formats or options.tile):
        raise InputError(
            f'{cfg.filename} pretrains: it reconstructs images and predicts nothing to save or to tile; leave '
            '--save and --tile out'
        )
    check_kinds(cfg, options.save, options.tile is not None)
    options = with_files_for(options, cfg)
    annotations = AnnotationIds(options.annotations) if options.annotations else None
    sources = [str(source)] if isinstance(source, (str, Path)) else list(source)
    suffixes = set(ImageReader(pipeline_of(cfg)).suffixes)
    suffixes |= raster_suffixes() if options.tile else set() if masked else VIDEO_SUFFIXES
    work = _planned(sources, suffixes, out, options)
    record = record_of(cfg, checkpoint, sources, work.root, options, annotations)
    work.check(record, out, options, [path for path in (checkpoint, cfg.filename, options.annotations) if path])
    result = PredictResult(failures=work.failures)
    missing = [path for path in work.names if options.overwrite or not _is_done(path, work.targets[path].values())]
    result.there = len(work.names) - len(missing)
    if masked:
        reconstructor = Reconstructor(cfg, checkpoint)
        write_json(out / RECORD, record)
        _reconstruct(reconstructor, missing, work.targets, result)
        return result
    if missing:
        predictor = Predictor(cfg, checkpoint, own_size=options.tile is not None)
        writer = Writer(cfg, predictor, out, options, annotations)
        write_json(out / RECORD, record)
        writer.classes()
        with progress_bar(sum(map(_steps_of, missing))) as advance:
            _predict(predictor, writer, missing, work.names, result, advance)
        result.notes += writer.notes
    if annotations and 'json' not in options.save:
        result.notes.append(f'--annotations {options.annotations} has no effect without --save json')
    if 'json' in options.save and work.names:
        others = _merge(writer.results if missing else Results(cfg, _meta_of(out), annotations), work, out)
        if others:
            result.notes.append(f'{others} images are not in {options.annotations}, or not once: they have ids of their own')
    if options.formats and work.names:
        result.notes.append(_write_formats(work, out, options))
    return result


def _write_formats(work: '_Work', out: Path, options: PredictOptions) -> str:
    """The formats of annotation tools, of all images that were predicted; what to say of them."""
    kind = 'json' if 'json' in options.save else 'labels'
    files = {path: work.targets[path][kind] for path in work.names if not is_video(path)}
    done = {path: (_file_name(path, work.names[path]), file) for path, file in files.items() if file.exists()}
    write_formats(out, options, done)
    least = f', objects of a score of {options.score_thr:g} or more' if kind == 'json' else ''
    return f'{", ".join(options.formats)}: {len(done)} images{least}'


@dataclass
class _Work:
    """root: what names are relative to. names: of the outputs, by path. targets: the files that are written of each.
    failures: a line for what cannot be predicted. walked: folders that were looked through."""

    root: Path
    names: dict[Path, str]
    targets: dict[Path, dict[str, Path]]
    failures: list[str]
    walked: list[Path]

    def check(self, record: dict, out: Path, options: PredictOptions, read: Sequence[str]) -> None:
        """Raise InputError where something would be replaced that is not to be."""
        check_places(self.walked, out, self.names, options)
        written = [*common_files(out, options), *(file for files in self.targets.values() for file in files.values())]
        frames = [
            file
            for path, name in self.names.items()
            for folder in frame_folders(path, name, out, options)
            for file in folder.glob('*')
        ]
        check_inputs([*read, *self.names], [*written, *frames, out / RECORD])
        check_record(record, out, options, written)


def _planned(sources: Sequence[str], suffixes: Collection[str], out: Path, options: PredictOptions) -> _Work:
    """What is to be predicted of the sources, each file once. Raises InputError for a source that is not there."""
    found = [find_files(source, suffixes) for source in sources]
    homes = {Path(source) if Path(source).is_dir() else Path(source).parent for source in sources}
    paths = [path for one in found for path in one.files]
    if len(homes) == 1:
        root = homes.pop()
    else:
        paths = list(map(_absolute, paths))  # one path for each file, however the sources overlap
        try:
            root = Path(os.path.commonpath(list(map(_absolute, homes))))
        except ValueError as error:  # two drives of Windows
            raise InputError(f'{some_of(sources)} have no folder in common; predict each in a call of its own') from error
    failures = [line for one in found for line in one.failures]
    names = output_names(list(dict.fromkeys(paths)), root)
    for path, name in list(names.items()):
        files = [*output_files(path, name, out, options).values(), *frame_folders(path, name, out, options)]
        too_long = check_length(files, out)
        if too_long:
            failures.append(f'{path} cannot be predicted ({too_long}); give it a shorter name')
            del names[path]
    targets = {path: output_files(path, name, out, options) for path, name in names.items()}
    return _Work(root, names, targets, failures, [folder for one in found for folder in one.folders])


def _absolute(path: Path) -> Path:
    """Without links where '..' would lead elsewhere without them."""
    plain = Path(os.path.abspath(path))
    return plain if plain.exists() and plain.samefile(path) else path.resolve()


def _predict(
    predictor: Predictor,
    writer: Writer,
    missing: Sequence[Path],
    names: dict[Path, str],
    result: PredictResult,
    advance: Callable[..., None],
) -> None:
    options = writer.options
    if options.tile:
        _predict_tiled(predictor, writer, missing, names, options, result, advance)
        return
    images = [path for path in missing if not is_video(path)]
    _predict_images(predictor, writer, images, names, options.batch_size, result, advance)
    for path in filter(is_video, missing):
        _predict_video(predictor, writer, path, names[path], options, result, advance)


def _steps_of(path: Path) -> int:
    """Of a bar that shows progress: one for an image, one for each frame that a video's header announces."""
    try:
        return frames_of(path)[1] if is_video(path) else 1
    except InputError:  # reported when its turn comes
        return 0


def _is_done(path: Path, files: Collection[Path]) -> bool:
    """Whether an earlier call wrote all files of an image, after the image itself. A video leaves files of frames; only the
    drawn one shows that all are there."""
    changed = path.stat().st_mtime
    return bool(files) and all(file.exists() and file.stat().st_mtime >= changed for file in files)


def _meta_of(out: Path) -> dict:
    """Names and colours of the classes from an earlier call."""
    try:
        entries = json.loads((out / 'classes.json').read_text())
    except (OSError, ValueError) as error:
        raise InputError(f'{out / "classes.json"}, which an earlier call wrote, cannot be read; use --overwrite') from error
    return dict(classes=[entry['name'] for entry in entries], category_ids=[entry['category_id'] for entry in entries])


@dataclass
class _Prepared:
    path: Path
    picture: Any = None  # (H, W, 3)
    inputs: dict[str, Any] = field(default_factory=dict)
    error: InputError | None = None


def _prepare(predictor: Predictor, path: Path) -> _Prepared:
    try:
        fields, picture = predictor.read_image.read(path)
        return _Prepared(path, picture, predictor.prepare(fields))
    except InputError as error:
        return _Prepared(path, error=error)


def _prepared(predictor: Predictor, paths: Sequence[Path]) -> Iterator[_Prepared]:
    """Images in order, the next two read and decoded while the model works."""
    waiting, ahead = deque(), iter(paths)
    with ThreadPoolExecutor(2) as pool:
        for path in ahead:
            waiting.append(pool.submit(_prepare, predictor, path))
            if len(waiting) > 2:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def batches(items: Iterable, size_of: Callable, count: int) -> Iterator[list]:
    """Items of one size together, at most ``count``; no more than four batches wait for their like."""
    waiting: dict[tuple, list] = {}
    for item in items:
        group = waiting.setdefault(size_of(item), [])
        group.append(item)
        if len(group) == count:
            yield waiting.pop(size_of(item))
        elif sum(map(len, waiting.values())) >= 4 * count:
            yield waiting.pop(max(waiting, key=lambda size: len(waiting[size])))
    yield from waiting.values()


def _attempt(predictor: Predictor, batch: Sequence[_Prepared], failures: list[str]) -> Iterator:
    """(item, sample) of a batch; where it fails, of its images one by one, and those that fail again are listed."""
    try:
        yield from zip(batch, predictor.predict([item.inputs for item in batch]))
        return
    except (RuntimeError, ValueError, AssertionError) as error:  # out of memory, sizes that a head cannot take
        if len(batch) == 1:
            why = str(error).strip().splitlines()
            failures.append(f'{batch[0].path} cannot be predicted ({type(error).__name__}: {why[0] if why else ""})')
            return
    for item in batch:
        yield from _attempt(predictor, [item], failures)


def _predict_images(
    predictor: Predictor,
    writer: Writer,
    paths: Sequence[Path],
    names: dict[Path, str],
    batch_size: int,
    result: PredictResult,
    advance,
) -> None:

    def good():
        for item in _prepared(predictor, paths):
            if item.error is None:
                yield item
            else:
                result.failures.append(str(item.error))
                advance()

    for batch in batches(good(), lambda item: tuple(item.inputs['inputs'].shape), batch_size):
        for item, sample in _attempt(predictor, batch, result.failures):
            name = names[item.path]
            empty = empty_pixels(item.path, item.picture.shape[:2], predictor.read_image)
            writer.image(sample, item.picture, name, _file_name(item.path, name), empty)
            result.done += 1
            if result.done % _TRIM == 0:
                return_free_memory()
        advance(len(batch))


def _file_name(path: Path, name: str) -> str:
    """An image's path relative to the source, from its output's name."""
    return '/'.join([*name.split('/')[:-1], path.name])


def _predict_video(
    predictor: Predictor, writer: Writer, path: Path, name: str, options: PredictOptions, result: PredictResult, advance
) -> None:
    try:
        if predictor.read_image.multispectral is not None:
            raise InputError(f'{path} is a video, but the config takes images of several channels')
        rate, expected, frames = frames_of(path)
        seen = _write_video(predictor, writer, path, name, options, rate, frames, advance)
    except InputError as error:
        result.failures.append(str(error))
        return
    result.done += 1
    if seen < expected - max(1, expected // 100):  # headers are off by a frame now and then
        result.failures.append(f'{path} ends early: {seen} of {expected} frames could be read, and are predicted')


def _write_video(
    predictor: Predictor,
    writer: Writer,
    path: Path,
    name: str,
    options: PredictOptions,
    rate: float,
    frames: Iterator[np.ndarray],
    advance,
) -> int:
    """Predict and write frame by frame; returns how many there were."""

    def prepared():
        for number, frame in enumerate(frames, start=1):
            fields, picture = predictor.read_image.from_array(frame, path)
            yield _Prepared(Path(f'{path} frame {number}'), picture, predictor.prepare(fields))

    failures: list[str] = []
    seen, video = 0, None
    with atomic_write(writer.out / f'{name}.mp4') if options.pictures else nullcontext() as part:
        for batch in batches(prepared(), lambda item: item.picture.shape, options.batch_size):
            for item, sample in _attempt(predictor, batch, failures):
                seen += 1
                writer.data(sample, f'{name}/{seen:06d}', f'{path.name}#{seen}', item.picture.shape[:2])
                if options.pictures:
                    if video is None:
                        size = item.picture.shape[1::-1]
                        rate = round(rate, 2)  # MPEG-4 counts time in 65535ths of a second or less
                        video = cv2.VideoWriter(str(part), cv2.VideoWriter.fourcc(*'mp4v'), rate, size)
                        if not video.isOpened():
                            raise InputError(f'OpenCV cannot write {part} as MP4 here; use --no-pictures with --save')
                    video.write(writer.visualizer.paint(item.picture, sample, legend=False))
            if failures:
                raise InputError(failures[0])
            advance(len(batch))
        if video is not None:
            video.release()
        if not seen:
            raise InputError(f'{path} has no frame that can be read; check the file')
    return seen


def _predict_tiled(
    predictor: Predictor,
    writer: Writer,
    paths: Sequence[Path],
    names: dict[Path, str],
    options: PredictOptions,
    result: PredictResult,
    advance,
) -> None:
    for path in paths:
        try:
            if is_video(path):
                raise InputError(f'{path} is a video, but --tile is for images; predict it without')
            predict_in_tiles(
                predictor,
                writer,
                path,
                names[path],
                _file_name(path, names[path]),
                options.tile or 0,
                options.overlap,
                options.batch_size,
            )
            result.done += 1
        except InputError as error:
            result.failures.append(str(error))
        advance()


def _reconstruct(
    reconstructor: Reconstructor, paths: Sequence[Path], targets: dict[Path, dict[str, Path]], result: PredictResult
) -> None:
    with progress_bar(len(paths)) as advance:
        for path in paths:
            try:
                reconstructor.read_image(path)  # one line for what the model cannot take
                picture, loss = reconstructor(path)
            except InputError as error:
                result.failures.append(str(error))
            else:
                write_picture(targets[path]['pictures'], picture)
                result.done += 1
                result.notes.append(f'{path} -> {targets[path]["pictures"]} (masked, reconstructed, original; loss {loss:.4f})')
            advance()


def _merge(results: Results, work: _Work, out: Path) -> int:
    """The JSON of all images in COCO's formats, where they hold what COCO has; returns what ``Results.merge`` does."""
    files = {path: work.targets[path]['json'] for path in work.names if not is_video(path)}
    files = {path: file for path, file in files.items() if file.exists()}
    if files and results.can_merge(json.loads(next(iter(files.values())).read_text())):
        places = {_file_name(path, work.names[path]): path for path in files}
        return results.merge(files.values(), out, places)
    return 0
