"""What a run logged: MMEngine's ``vis_data/scalars.json`` of a work folder."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from mmvitscale.errors import InputError


@dataclass
class RunLog:
    """training, validation: step -> what was logged there; of a run that was interrupted and went on, all parts, the later
    over the earlier. notes: what could not be read."""

    training: dict[int, dict[str, float]] = field(default_factory=dict)
    validation: dict[int, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of a name, of training or else of validation."""
        for records in (self.training, self.validation):
            points = [(step, records[step][name]) for step in sorted(records) if name in records[step]]
            if points:
                return [step for step, _ in points], [value for _, value in points]
        return [], []

    def names(self, training: bool = True) -> list[str]:
        """Of all that was logged, in the order of first appearance."""
        records = self.training if training else self.validation
        return list(dict.fromkeys(name for step in sorted(records) for name in records[step]))


def read_log(work_dir: Path) -> RunLog:
    """A work folder, or a run's folder inside it -> what was logged. A line that is cut off, as the last one of a run that
    was killed may be, is left out and noted.

    Raises:
        InputError: for a folder without logs.
    """
    work_dir = Path(work_dir)
    paths = sorted({*work_dir.glob('*/vis_data/scalars.json'), *work_dir.glob('vis_data/scalars.json')})
    if not paths:
        raise InputError(f'{work_dir} holds no logs (no */vis_data/scalars.json); give the work folder of a training')
    log = RunLog()
    for path in paths:
        for number, line in enumerate(path.read_text(errors='replace').splitlines(), start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                step = int(record['step'])
            except (ValueError, KeyError, TypeError, OverflowError):
                log.notes.append(f'line {number} of {path} cannot be read and is left out')
                continue
            values = {key: value for key, value in record.items() if isinstance(value, (int, float)) and key != 'step'}
            # Training records contain the learning rate; those of validation do not.
            records = log.training if 'lr' in values or 'loss' in values else log.validation
            records.setdefault(step, {}).update(values)
    if not log.training and not log.validation:
        raise InputError(f'the logs in {work_dir} have no line that can be read; give the work folder of a training')
    return log
