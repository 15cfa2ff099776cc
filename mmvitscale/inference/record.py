"""What a folder of predictions was made of (``predict.json``): a call goes on with its own, and replaces nobody else's."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmvitscale.errors import InputError, some_of
from mmvitscale.inference.annotation_ids import AnnotationIds
from mmvitscale.inference.output import PredictOptions

RECORD = 'predict.json'

# What two runs are compared by -> what messages call it. Configs and annotations are the same if their content is.
_COMPARED = dict(
    config_hash='config',
    checkpoint='checkpoint',
    checkpoint_files='checkpoint',
    score_thr='score_thr',
    annotations_hash='annotations',
    tile='tile',
    overlap='overlap',
    root='root',
)


def record_of(
    cfg: Config,
    checkpoint: str,
    sources: Sequence[str | Path],
    root: Path,
    options: PredictOptions,
    annotations: AnnotationIds | None,
) -> dict[str, Any]:
    """All that predictions depend on. root: the folder that names are relative to."""
    weights = Path(checkpoint).resolve()
    files = sorted(weights.rglob('*')) if weights.is_dir() else [weights]
    content = json.dumps(cfg.to_dict(), sort_keys=True, default=str)
    return dict(
        config=str(cfg.filename),
        config_hash=hashlib.sha256(content.encode()).hexdigest(),
        source=sorted({str(Path(source).resolve()) for source in sources}),
        root=str(root.resolve()),
        checkpoint=str(weights),
        checkpoint_files=[[file.stat().st_size, file.stat().st_mtime] for file in files if file.is_file()],
        score_thr=options.score_thr,
        annotations=options.annotations,
        annotations_hash=annotations.hash if annotations else None,
        tile=options.tile,
        overlap=options.overlap,
    )


def check_record(record: dict, out: Path, options: PredictOptions, targets: Iterable[Path]) -> None:
    """Raise InputError where predictions of another run, or files of somebody else, would be replaced. Sources may be added
    to those of the run before."""
    place = out / RECORD
    found = next((target for target in (*targets, place) if target.exists()), None)
    if found is None or options.overwrite:
        return
    try:
        earlier = json.loads(place.read_text())
        if not isinstance(earlier, dict):
            raise ValueError(f'it holds a {type(earlier).__name__}')
    except (OSError, ValueError) as error:
        raise InputError(
            f'{found} is there already and was not written by this command; give another folder, or --overwrite'
        ) from error
    advice = 'give another folder, or --overwrite'
    then, now = earlier.get('source'), record['source']
    then = then if isinstance(then, list) else [str(then)]
    if not set(then) <= set(now):
        what, before, after = 'source', some_of(sorted(set(then) - set(now))), some_of(now)
        advice = 'give another folder, all images and folders in one call, or --overwrite'
    else:
        key = next((key for key in _COMPARED if earlier.get(key) != record[key]), None)
        if key is None:
            return
        what = _COMPARED[key]
        before, after = earlier.get(what), record[what]
    after = f'now {after}' if before != after else 'now with other content'
    raise InputError(f'{out} holds predictions of another run (its {what} was {before}, {after}); {advice}')


def check_inputs(inputs: Iterable[str | Path], targets: Iterable[Path]) -> None:
    """Raise InputError where a file that is read would be replaced, by whatever path or link it was given."""
    files = [Path(path) for path in inputs if Path(path).exists()]
    used = {(state.st_dev, state.st_ino): path for path in files for state in (path.stat(), path.lstat())}
    for target in targets:
        if target.exists() or target.is_symlink():
            state = target.lstat()
            if (state.st_dev, state.st_ino) in used:
                raise InputError(
                    f'{target} would replace {used[state.st_dev, state.st_ino]}, which this call reads; give another folder '
                    'for --out'
                )
