"""A training that goes on under another schedule than it was interrupted under: whose learning rates hold.

MMEngine takes the schedule of the checkpoint, silently: whoever raises ``max_iters`` and the ``end`` of a scheduler, or changes
the learning rate, trains on with the old one, at a rate of zero at its end (open-mmlab/mmengine#1565). Here each checkpoint
holds what its config's schedule was, and that is compared with the config's of now.
"""

from collections.abc import Iterator
from typing import Any

from mmengine.optim import BaseOptimWrapper

from mmvitscale.engine.optim.wrappers import wrappers_of
from mmvitscale.errors import InputError, some_of

KEY = 'schedule'  # of a checkpoint
# What changes in a scheduler while it runs, or what it says of itself.
_PROGRESS = {'last_step', '_global_step', '_last_value', 'verbose', 'best', 'num_bad_epochs', 'cooldown_counter'}
# They follow measurements, which nobody can repeat.
_MEASURED = 'ReduceOnPlateau'
# Options by which the states of an optimizer have another form.
_OF_STATES = ('amsgrad', 'centered')

Schedule = dict[str, dict[str, list[dict[str, Any]]]]


def describe_schedule(optim_wrapper: Any, schedulers: Any) -> Schedule:
    """What a config says of learning rates and other options: for each optimizer ('' for a single one) the options of its
    parameter groups, and its schedulers with their type. Call it before anything is loaded or trained: plain values."""
    return {
        name: dict(
            groups=[_plain_values(group, {'params'}) for group in _groups(wrapper)],
            schedulers=[{'type': type(own).__name__, **_plain_values(own.state_dict(), _PROGRESS)} for own in all_of_it],
        )
        for name, wrapper, all_of_it in _optimizers(optim_wrapper, schedulers)
    }


def choose_schedule(
    optim_wrapper: Any, schedulers: Any, checkpoint: dict[str, Any], choice: str, batches: int | None
) -> str | None:
    """Compare a config's schedule with that of a checkpoint. Where they differ and the config's is chosen, or the checkpoint
    holds none, the checkpoint's is replaced by the config's, as far on as the training is: what is loaded then is the config's.

    Args:
        optim_wrapper: as it was built from the config; so are the schedulers, whose steps are taken. An OptimWrapper, or an
            OptimWrapperDict with a dict of lists of schedulers.
        schedulers: a list, a dict of lists, or None.
        checkpoint: what was read; changed in place.
        choice: 'config' or 'checkpoint', who wins.
        batches: in an epoch, in a loop that counts epochs; None in one that counts iterations.

    Returns:
        one line on what differs and who wins; None where they are equal. The schedule that holds is in the checkpoint then.

    Raises:
        InputError: for a checkpoint that is chosen and whose schedulers are others than the config's.
    """
    saved_optimizer, saved_schedulers = checkpoint.get('optimizer'), checkpoint.get('param_schedulers')
    if not isinstance(saved_optimizer, dict):
        return None
    before, now = checkpoint.get(KEY), describe_schedule(optim_wrapper, schedulers)
    lines = []
    for name, wrapper, own in _optimizers(optim_wrapper, schedulers):
        saved = saved_optimizer.get(name) if name else saved_optimizer
        states = saved_schedulers.get(name) if name and isinstance(saved_schedulers, dict) else saved_schedulers
        states = states if isinstance(states, list) else None
        if not isinstance(saved, dict) or not isinstance(saved.get('param_groups'), list):
            continue
        then = before.get(name) if isinstance(before, dict) else None
        if not isinstance(then, dict):  # of MMEngine, or an older version: what can be read from the states
            then = _described_by_states(saved, states, own, now[name])
        differences = _differences(then, now[name])
        lacks = bool(own) and states is None
        if not differences and not lacks:
            continue
        measured = any(_MEASURED in type(item).__name__ for item in own) and _types(then) == _types(now[name]) and not lacks
        wins = 'checkpoint' if measured else 'config' if lacks else choice
        if wins == 'checkpoint':
            _check_types(then, now[name])
            now[name] = then
        else:
            _advance(wrapper, own, checkpoint['meta'], batches, checkpoint.get('exact_resume'))
            for group, mine in zip(_saved_groups(saved), _groups(wrapper)):
                kept = {key: group[key] for key in _OF_STATES if key in group}
                group.update({**{key: value for key, value in mine.items() if key != 'params'}, **kept})
            if name:
                checkpoint['param_schedulers'] = {**(saved_schedulers or {}), name: [item.state_dict() for item in own]}
                saved_schedulers = checkpoint['param_schedulers']
            else:
                checkpoint['param_schedulers'] = [item.state_dict() for item in own]
        rates = [group['lr'] for group in saved['param_groups'] if isinstance(group.get('lr'), (int, float))]
        rate = f', learning rates {min(rates):.3g} to {max(rates):.3g} from here' if rates else ''
        why = ' (ReduceOnPlateau follows measurements that are past)' if measured and choice == 'config' else ''
        what = f'differs ({some_of(differences)})' if differences else 'is not in the checkpoint'
        lines.append(f'the schedule{f" of {name}" if name else ""} {what}: that of the {wins} holds{why}{rate}')
    checkpoint[KEY] = now
    return f'{"; ".join(lines)}; --resume-schedule config or checkpoint chooses' if lines else None


def describe_end(optim_wrapper: Any, schedulers: Any, iteration: int, last: int | None) -> str | None:
    """One line where a training goes on behind the end of its schedule with a learning rate of almost nothing."""
    for _, wrapper, own in _optimizers(optim_wrapper, schedulers):
        of_rates = [scheduler for scheduler in own if scheduler.param_name == 'lr']
        groups = [group for group in _groups(wrapper) if group.get('initial_lr')]
        if not of_rates or not groups or last is None or any(scheduler.by_epoch for scheduler in of_rates):
            continue
        end = max(scheduler.end for scheduler in of_rates)
        share = max(group['lr'] / group['initial_lr'] for group in groups)
        if end <= iteration < last and share < 1e-3:
            return (
                f'the schedule ended at iteration {end}, and the {last - iteration} iterations that follow train with '
                f'{share:.2g} of the learning rate; raise end in param_scheduler, too, as far as max_iters'
            )
    return None


def without_functions(states: Any) -> Any:
    """The states of schedulers, a list or a dict of lists, without the functions in them (OneCycleLR's): a checkpoint that
    holds some is no file of data, and could not be read again."""
    if isinstance(states, dict):
        return {name: without_functions(own) for name, own in states.items()}
    return [{key: value for key, value in state.items() if not callable(value)} for state in states]


def _optimizers(optim_wrapper: Any, schedulers: Any) -> Iterator[tuple[str, Any, list[Any]]]:
    """Name ('' of a single one), wrapper and schedulers of each optimizer."""
    for name, wrapper in wrappers_of(optim_wrapper).items():
        if name:
            yield name, wrapper, list(schedulers.get(name, [])) if isinstance(schedulers, dict) else []
        elif isinstance(wrapper, BaseOptimWrapper) and not isinstance(schedulers, dict):  # built, not a config
            yield name, wrapper, list(schedulers or [])


def _groups(wrapper: Any) -> list[dict[str, Any]]:
    """The options of the parameter groups, and the config's own (MMEngine's ``base_param_settings``)."""
    base = getattr(wrapper, 'base_param_settings', None)
    return [*wrapper.optimizer.param_groups, *([base] if base else [])]


def _saved_groups(saved: dict[str, Any]) -> list[dict[str, Any]]:
    base = saved.get('base_param_settings')
    return [*saved['param_groups'], *([base] if base else [])]


def _plain_values(options: Any, without: set[str]) -> dict[str, Any]:
    """Numbers, text and lists of them; tuples as lists, numbers to 12 digits."""
    found = {key: _plain(value) for key, value in options.items() if key not in without}
    return {key: value for key, value in found.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f'{value:.12g}')
    if isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, dict):  # milestones are counted
        return sorted([_plain(key), _plain(item)] for key, item in value.items())
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else None


def _described_by_states(
    saved: dict[str, Any], states: list[Any] | None, own: list[Any], now: dict[str, Any]
) -> dict[str, Any]:
    """What the schedule of a checkpoint was that does not say it, as ``describe_schedule``. A rate that is scheduled stood at
    its initial value; types show in what the states hold, and what the optimizers of now do not have is unknown."""
    scheduled = {state.get('param_name') for state in [*(states or []), *now['schedulers']]}
    groups = []
    for group, mine in zip(_saved_groups(saved), now['groups']):
        known = _plain_values(group, {'params'})
        then = {key: known.get(key, value) for key, value in mine.items()}
        for key in scheduled & set(mine):
            start = known.get(f'initial_{key}', known.get(key))
            then[f'initial_{key}'] = start
            then[key] = mine[key] if start == mine.get(f'initial_{key}', mine[key]) else start
            if key == 'momentum' and 'betas' in mine:  # which MMEngine writes it into
                then['betas'] = mine['betas']
        groups.append(then)
    schedulers = []
    for i, state in enumerate(states if states is not None else []):
        keys = [_keys_of(item) for item in (own[i].state_dict() if i < len(own) else {}, state)]
        kind = type(own[i]).__name__ if keys[0] == keys[1] else 'another scheduler'
        schedulers.append({'type': kind, **_plain_values(state, _PROGRESS)})
    return dict(groups=groups, schedulers=schedulers if states is not None else now['schedulers'])


def _keys_of(state: dict[str, Any]) -> set[str]:
    return {key for key, value in state.items() if not callable(value)}


def _types(described: dict[str, Any]) -> str:
    """``LinearLR+PolyLR``"""
    return '+'.join(item['type'] for item in described['schedulers']) or 'no scheduler'


def _differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """``lr 0.1 -> 0.5``, each once."""
    found: dict[str, None] = {}
    same = _types(then) == _types(now)
    if not same:
        found[f'{_types(then)} -> {_types(now)}'] = None
    for before, after in zip(then['schedulers'], now['schedulers']) if same else ():
        for key in {**before, **after}:
            if key != 'base_values' and before.get(key) != after.get(key):
                found[f'{key} {_shown(before.get(key))} -> {_shown(after.get(key))}'] = None
    if len(then['groups']) == len(now['groups']):
        for before, after in zip(then['groups'], now['groups']):
            for key in after:  # options that are not there any more are of another version of PyTorch
                initial = f'initial_{key}'
                if key.startswith('initial_') or key not in before or before[key] == after[key]:
                    continue
                both = initial in before and initial in after
                if both and before[initial] == after[initial]:
                    continue  # the first step of another warmup, which the schedulers say
                values = (before[initial], after[initial]) if both else (before[key], after[key])
                kept = ' (which stays as it was: the states of the optimizer are of it)' if key in _OF_STATES else ''
                found[f'{key} {_shown(values[0])} -> {_shown(values[1])}{kept}'] = None
    return list(found)


def _shown(value: Any) -> str:
    text = 'none' if value is None else str(value)
    return text if len(text) <= 40 else f'{text[:37]}...'


def _check_types(then: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise InputError where schedulers of the config cannot take the states of the checkpoint's."""
    if _types(then) != _types(now):
        raise InputError(
            f'the schedule of the checkpoint is of {_types(then)}, that of the config of {_types(now)}, which cannot go on '
            'with it; give param_scheduler as it was, or take --resume-schedule config'
        )


def _advance(wrapper: Any, own: list[Any], meta: dict[str, Any], batches: int | None, kept: Any) -> None:
    """Take the steps of the iterations and epochs that are behind, in their order. Epochs count as they are now: with another
    batch they have another number of iterations."""
    per_iteration, per_epoch = ([s for s in own if s.by_epoch == by_epoch] for by_epoch in (False, True))
    if hasattr(wrapper, '_global_step'):
        wrapper._global_step = 0  # schedulers complain of an optimizer without a step
    epochs, rest = 0, meta['iter']
    if batches is not None:
        then = kept.get('batches') if isinstance(kept, dict) else None
        epochs = meta['epoch']
        # Within an epoch a training goes on with the same batches, and starts it again with others.
        within = meta['iter'] - epochs * batches
        rest = within if then in (None, batches) and 0 <= within <= batches else 0
    for _ in range(epochs):
        for _ in range(batches or 0):
            for scheduler in per_iteration:
                scheduler.step()
        for scheduler in per_epoch:
            scheduler.step()
    for _ in range(rest):
        for scheduler in per_iteration:
            scheduler.step()
