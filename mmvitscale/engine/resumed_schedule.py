"""A training that goes on under another schedule than it was interrupted under: whose learning rates hold.

MMEngine takes the schedule of the checkpoint, silently: whoever raises ``max_iters`` and the ``end`` of a scheduler, or changes
the learning rate, trains on with the old one, at a rate of zero at its end (open-mmlab/mmengine#1565).
"""

from collections.abc import Iterator
from typing import Any

from mmengine.optim import OptimWrapper, OptimWrapperDict

from mmvitscale.errors import some_of

# What changes in a scheduler while it runs, or what it says of itself.
_PROGRESS = {'last_step', '_global_step', '_last_value', 'verbose'}
# They follow measurements, which nobody can repeat.
_MEASURED = 'ReduceOnPlateau'


def choose_schedule(
    optim_wrapper: Any, schedulers: Any, checkpoint: dict[str, Any], choice: str, batches: int | None
) -> str | None:
    """Compare a config's schedule with that of a checkpoint. Where they differ and the config's is chosen, the checkpoint's is
    replaced by it, as far on as the training is: what is loaded then is the config's.

    Args:
        optim_wrapper: as it was built from the config; so are the schedulers, whose steps are taken. An OptimWrapper, or an
            OptimWrapperDict with a dict of lists of schedulers.
        schedulers: a list, a dict of lists, or None.
        checkpoint: what was read; changed in place.
        choice: 'config' or 'checkpoint', who wins.
        batches: in an epoch, for schedulers that count those.

    Returns:
        one line on what differs and who wins; None where they are equal.
    """
    saved_schedulers, saved_optimizer = checkpoint.get('param_schedulers'), checkpoint.get('optimizer')
    if not isinstance(saved_optimizer, dict):
        return None
    lines = []
    for name, wrapper, own in _optimizers(optim_wrapper, schedulers):
        saved = saved_optimizer.get(name) if name else saved_optimizer
        states = (saved_schedulers or {}).get(name) if name else saved_schedulers
        if not isinstance(saved, dict) or not isinstance(saved.get('param_groups'), list):
            continue
        states = states if isinstance(states, list) else []
        differences = _differences(wrapper, own, saved, states)
        if not differences:
            continue
        measured = any(_MEASURED in type(scheduler).__name__ for scheduler in own)
        wins = 'checkpoint' if measured else choice
        if wins == 'config':
            _advance(wrapper, own, checkpoint['meta'], batches)
            for group, mine in zip(_saved_groups(saved), _groups(wrapper)):
                group.update({key: value for key, value in mine.items() if key != 'params'})
            if name:
                checkpoint.setdefault('param_schedulers', {})[name] = [scheduler.state_dict() for scheduler in own]
            else:
                checkpoint['param_schedulers'] = [scheduler.state_dict() for scheduler in own]
        rates = [group['lr'] for group in saved['param_groups'] if isinstance(group.get('lr'), (int, float))]
        rate = f', learning rates {min(rates):.3g} to {max(rates):.3g} from here' if rates else ''
        why = ' (ReduceOnPlateau follows measurements that are past)' if measured and choice == 'config' else ''
        lines.append(f'{name or "the schedule"} differs ({some_of(differences)}): that of the {wins} holds{why}{rate}')
    if not lines:
        return None
    return f'{"; ".join(lines)}; --resume-schedule config or checkpoint chooses'


def describe_end(optim_wrapper: Any, schedulers: Any, iteration: int, last: int | None) -> str | None:
    """One line where a training goes on behind the end of its schedule with a learning rate of almost nothing."""
    for _, wrapper, own in _optimizers(optim_wrapper, schedulers):
        counted = [scheduler.end for scheduler in own if not scheduler.by_epoch and scheduler.param_name == 'lr']
        groups = [group for group in _groups(wrapper) if group.get('initial_lr')]
        if not counted or not groups or last is None or not max(counted) <= iteration < last:
            continue
        share = max(group['lr'] / group['initial_lr'] for group in groups)
        if share < 1e-3:
            return (
                f'the schedule ended at iteration {max(counted)}, and the {last - iteration} iterations that follow train with '
                f'{share:.2g} of the learning rate; raise end in param_scheduler, too, as far as max_iters'
            )
    return None


def _optimizers(optim_wrapper: Any, schedulers: Any) -> Iterator[tuple[str, Any, list[Any]]]:
    """Name ('' of a single one), wrapper and schedulers of each optimizer."""
    if isinstance(optim_wrapper, OptimWrapperDict):
        for name, wrapper in optim_wrapper.items():
            yield name, wrapper, list(schedulers.get(name, [])) if isinstance(schedulers, dict) else []
    elif isinstance(optim_wrapper, OptimWrapper) and not isinstance(schedulers, dict):
        yield '', optim_wrapper, list(schedulers or [])


def _groups(wrapper: Any) -> list[dict[str, Any]]:
    """The options of the parameter groups, and the config's own (MMEngine's ``base_param_settings``)."""
    base = getattr(wrapper, 'base_param_settings', None)
    return [*wrapper.optimizer.param_groups, *([base] if base else [])]


def _saved_groups(saved: dict[str, Any]) -> list[dict[str, Any]]:
    base = saved.get('base_param_settings')
    return [*saved['param_groups'], *([base] if base else [])]


def _differences(wrapper: Any, own: list[Any], saved: dict[str, Any], states: list[dict[str, Any]]) -> list[str]:
    """What a fresh schedule and the options of the optimizer have otherwise than those of a checkpoint: ``lr 0.1 -> 0.5``."""
    found: dict[str, None] = {}
    if len(own) != len(states):
        found[f'{len(states)} -> {len(own)} schedulers'] = None
    for scheduler, state in zip(own, states):
        now = {key: value for key, value in scheduler.state_dict().items() if key not in {*_PROGRESS, 'base_values'}}
        for key, value in now.items():
            if not callable(value) and key in state and not callable(state[key]) and _plain(value) != _plain(state[key]):
                if isinstance(value, (int, float, str, bool)) and isinstance(state[key], (int, float, str, bool)):
                    found[f'{key} {state[key]} -> {value}'] = None
                elif _MEASURED not in type(scheduler).__name__:
                    found[f'{key} of {type(scheduler).__name__}'] = None
    scheduled = {scheduler.param_name for scheduler in own} | {state.get('param_name') for state in states}
    inner = getattr(wrapper.optimizer, 'optimizer', wrapper.optimizer)  # of DeepSpeed's
    options = set(getattr(inner, 'defaults', ())) | {'lr', 'weight_decay'}
    for group, before in zip(_groups(wrapper), _saved_groups(saved)):
        for key, value in group.items():
            if key not in options:
                continue
            start = f'initial_{key}' if key in scheduled else key
            now, then = group.get(start, value), before.get(start, before.get(key))
            numbers = isinstance(now, (int, float, list, tuple)) and not isinstance(now, bool)
            if key in before and numbers and _plain(now) != _plain(then):
                found[f'{key} {then} -> {now}'] = None
    return list(found)


def _plain(value: Any) -> Any:
    """For comparison: tuples and lists are alike, numbers to 12 digits."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return float(f'{value:.12g}') if isinstance(value, float) else value


def _advance(wrapper: Any, own: list[Any], meta: dict[str, Any], batches: int | None) -> None:
    """Take the steps of the iterations and epochs that are behind, in their order."""
    per_iteration, per_epoch = ([s for s in own if s.by_epoch == by_epoch] for by_epoch in (False, True))
    if hasattr(wrapper, '_global_step'):
        wrapper._global_step = 0  # schedulers complain of an optimizer without a step
    epochs, iterations = meta['epoch'], meta['iter']
    length = batches or (iterations // epochs if epochs else 0)
    done = 0
    for _ in range(epochs):
        for _ in range(length):
            for scheduler in per_iteration:
                scheduler.step()
        done += length
        for scheduler in per_epoch:
            scheduler.step()
    for _ in range(iterations - done):
        for scheduler in per_iteration:
            scheduler.step()
