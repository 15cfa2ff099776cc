"""Whatever ends a training while it saves, there is a checkpoint to go on from."""

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmvitscale.checkpoints.io import read_checkpoint
from mmvitscale.checkpoints.resume import is_complete, latest_complete_checkpoint
from mmvitscale.engine.hooks import CheckpointHook
from mmvitscale.errors import InputError
from mmvitscale.utils.atomic_write import owner
from tests.helpers import toy

pytestmark = pytest.mark.unit

BACKBONE = dict(type='mmvitscale.SwinTransformerV2', arch=dict(embed_dims=8, depths=(1, 1), num_heads=(1, 1)), window_size=4)


@HOOKS.register_module(force=True)
class Measures(Hook):
    """In place of a validation: better after every iteration."""

    def after_train_iter(self, runner, *args, **kwargs):
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook):
                hook.after_val_epoch(runner, dict(acc=float(runner.iter)))


@HOOKS.register_module(force=True)
class RemovesWorkDir(Hook):
    """As somebody who tidies up while it runs."""

    def before_train_iter(self, runner, *args, **kwargs):
        if runner.iter == 1:
            shutil.rmtree(runner.work_dir)


def train(work_dir, max_iters, hooks=(), resume=False, backbone=BACKBONE, **checkpoint):
    settings = dict(type='CheckpointHook', by_epoch=False, interval=1, **checkpoint)
    return toy.train(work_dir, backbone, hooks, max_iters, resume=resume, default_hooks=dict(checkpoint=settings))


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix == '.pth')


def disk_full_while(monkeypatch, name):
    """Writing this checkpoint ends half-way."""
    write = torch.save

    def save(content, file, *args, **kwargs):
        iteration = content['meta']['iter'] if 'meta' in content else None
        if iteration == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(content, file, *args, **kwargs)

    monkeypatch.setattr(torch, 'save', save)


def test_the_default_checkpoint_hook_is_replaced_by_ours(tmp_path):
    runner = train(tmp_path, 1)
    assert [type(hook) for hook in runner.hooks if 'CheckpointHook' in type(hook).__name__] == [CheckpointHook]


def test_a_full_disk_keeps_the_previous_checkpoint_to_resume_from(tmp_path, monkeypatch):
    disk_full_while(monkeypatch, 2)
    with pytest.raises(InputError, match=r'cannot write .*iter_2.pth \(No space left on device\); the checkpoints before it'):
        train(tmp_path, 3, max_keep_ckpts=1)
    assert names(tmp_path) == ['iter_1.pth'] and is_complete(tmp_path / 'iter_1.pth')
    assert toy.last(tmp_path) == 'iter_1.pth'
    monkeypatch.undo()
    assert train(tmp_path, 3, resume=True, max_keep_ckpts=1).iter == 3
    assert names(tmp_path) == ['iter_3.pth']


@pytest.mark.parametrize('error', [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_is_named_before_a_byte_is_written(tmp_path, monkeypatch, error):
    def mkdtemp(*args, **kwargs):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr('tempfile.mkdtemp', mkdtemp)
    with pytest.raises(InputError, match=r'cannot write into .*the checkpoints before it are whole.*--resume'):
        train(tmp_path, 1)


def test_a_folder_deleted_during_a_training_is_made_again(tmp_path):
    train(tmp_path / 'run', 2, [dict(type='RemovesWorkDir')])
    assert names(tmp_path / 'run') == ['iter_2.pth'] and toy.last(tmp_path / 'run') == 'iter_2.pth'


def test_the_best_one_stays_until_there_is_a_better(tmp_path, monkeypatch):
    options = dict(max_keep_ckpts=1, save_best='acc', rule='greater')
    train(tmp_path, 2, [dict(type='Measures')], **options)
    assert names(tmp_path) == ['best.pth', 'best_acc_iter_1.pth', 'iter_2.pth']
    disk_full_while(monkeypatch, 2)
    with pytest.raises(InputError, match='No space left'):
        train(tmp_path, 4, [dict(type='Measures')], resume=True, **options)
    assert names(tmp_path) == ['best.pth', 'best_acc_iter_1.pth', 'iter_2.pth']
    monkeypatch.undo()
    train(tmp_path, 4, [dict(type='Measures')], resume=True, **options)
    assert names(tmp_path) == ['best.pth', 'best_acc_iter_3.pth', 'iter_4.pth']


def test_a_better_checkpoint_of_the_same_name_is_not_deleted(tmp_path):
    """Validated twice in an iteration."""
    options = dict(max_keep_ckpts=1, save_best='acc', rule='greater')
    runner = train(tmp_path, 2, [dict(type='Measures')], **options)
    hook = next(hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
    best = Path(hook.best_ckpt_path)
    runner.train_loop._iter = 1
    hook.after_val_epoch(runner, dict(acc=5.0))
    assert Path(hook.best_ckpt_path) == best and best.is_file()
    assert runner.message_hub.get_info('best_score') == 5


def test_checkpoints_are_written_atomically(tmp_path, monkeypatch):
    """As another process would see it while the file is written."""
    seen, write = [], torch.save

    def save(content, file, *args, **kwargs):
        seen.append([path.name for path in tmp_path.glob('[!.]*.pth')])
        write(content, file, *args, **kwargs)
        seen.append([path.name for path in tmp_path.glob('[!.]*.pth')])

    monkeypatch.setattr(torch, 'save', save)
    train(tmp_path, 2)
    assert seen == [[], [], ['iter_1.pth'], ['iter_1.pth']]


def test_resume_uses_the_latest_complete_checkpoint(tmp_path, monkeypatch):
    train(tmp_path, 3)
    for name, is_cut in (('iter_3.pth', True), ('iter_2.pth', False)):
        content = bytearray((tmp_path / name).read_bytes())
        if is_cut:
            content = content[: len(content) // 2]
        else:  # a byte of a weight, which PyTorch does not see
            weights = read_checkpoint(tmp_path / name)['state_dict'].values()
            largest = max((value for value in weights if value.is_floating_point()), key=torch.numel)
            content[content.index(largest.numpy().tobytes())] ^= 1
        times = (tmp_path / name).stat()
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, ns=(times.st_atime_ns, times.st_mtime_ns))
    logged = []
    assert latest_complete_checkpoint(tmp_path, logged.append) == tmp_path / 'iter_1.pth'
    assert [line.split(' is corrupt')[0] for line in logged] == [str(tmp_path / f'iter_{i}.pth') for i in (3, 2)]
    monkeypatch.setattr('mmengine.logging.MMLogger.warning', lambda self, line, *args: logged.append(line))
    resumed = train(tmp_path, 4, resume=True)
    assert len(resumed.model.seen) == 3 and any('iter_3.pth is corrupt' in line for line in logged[2:])

    (tmp_path / 'last_checkpoint').write_bytes(b'')  # as MMEngine's own hook leaves it when it is killed
    assert latest_complete_checkpoint(tmp_path) == tmp_path / 'iter_4.pth'
    for path in tmp_path.glob('*.pth'):
        path.write_bytes(b'')
    with pytest.raises(InputError, match='none of the checkpoints in .* is complete'):
        train(tmp_path, 5, resume=True)
    assert latest_complete_checkpoint(tmp_path / 'nothing') is None


def test_resume_ignores_published_best_and_outdated_checkpoints(tmp_path):
    train(tmp_path, 3)
    for name in ('iter_3-0a1b2c12.pth', 'soup_9.pth', 'best_acc_iter_9.pth'):  # published, made of others, the best
        (tmp_path / name).write_bytes((tmp_path / 'iter_1.pth').read_bytes())
    os.utime(tmp_path / 'iter_1.pth')  # copied without its time
    assert latest_complete_checkpoint(tmp_path) == tmp_path / 'iter_3.pth'
    (tmp_path / 'iter_9.pth').write_bytes((tmp_path / 'iter_1.pth').read_bytes())
    os.utime(tmp_path / 'iter_9.pth', ns=(0, 0))  # of an earlier, longer training
    assert latest_complete_checkpoint(tmp_path) == tmp_path / 'iter_3.pth'
    os.utime(tmp_path / 'iter_9.pth')  # written, and the process killed before it could say so
    assert latest_complete_checkpoint(tmp_path) == tmp_path / 'iter_9.pth'
    (tmp_path / 'last_checkpoint').write_text('s3://bucket/iter_3.pth')
    with pytest.raises(InputError, match='copy it here'):
        latest_complete_checkpoint(tmp_path)


def test_partial_files_of_a_killed_process_are_removed(tmp_path):
    ended = owner(2**22 + 5)  # no process has this number
    names = [f'.iter_5.{ended}-0a1b2c3d.part.pth', '.iter_5.0a1b2c3d.part.pth']  # the second of version 0.3
    for name in names:
        tmp_path.joinpath(name).write_bytes(b'half')
    tmp_path.joinpath(f'.last_checkpoint-{ended}-abc').mkdir()
    os.utime(tmp_path / names[1], ns=(0, 0))
    train(tmp_path, 1)
    assert not list(tmp_path.glob('.*'))


def test_partial_files_of_a_process_that_is_writing_stay(tmp_path):
    """Two trainings, or a conversion, may write into one folder."""
    names = [f'.iter_5.{owner()}-0a1b2c3d.part.pth', '.other.00000000-1-0a1b2c3d.part.pth']  # the second on another machine
    for name in names:
        tmp_path.joinpath(name).write_bytes(b'half')
    tmp_path.joinpath(f'.last_checkpoint-{owner()}-abc').mkdir()
    train(tmp_path, 1)
    assert sorted(path.name for path in tmp_path.glob('.*')) == sorted([*names, f'.last_checkpoint-{owner()}-abc'])


def test_resuming_deletes_no_file_outside_the_work_folder(tmp_path):
    """Which checkpoints are old is read from the one that is resumed: a stranger's may name any file."""
    work, other = tmp_path / 'work', tmp_path / 'other'
    other.mkdir()
    options = dict(max_keep_ckpts=1, save_best='acc', rule='greater')
    train(work, 2, [dict(type='Measures')], **options)
    content = torch.load(work / 'iter_2.pth', weights_only=False)
    for name, value in (('keep_ckpt_ids', ['/../../other/x']), ('best_ckpt', str(other / 'best.pth'))):
        content['message_hub']['runtime_info'][name] = value
        content['message_hub']['resumed_keys'][name] = True
    torch.save(content, tmp_path / 'stranger.pth')
    for name in ('iter_/../../other/x.pth', 'best.pth'):
        (other / Path(name).name).write_text('mine')
    (work / 'iter_').mkdir()
    train(work, 3, [dict(type='Measures')], resume=True, **options)
    toy.train(
        work,
        BACKBONE,
        [dict(type='Measures')],
        4,
        resume=True,
        load_from=str(tmp_path / 'stranger.pth'),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1, **options)),
    )
    assert sorted(path.name for path in other.iterdir()) == ['best.pth', 'x.pth']


@pytest.mark.parametrize(
    'spoil, message',
    [
        (lambda content: content.pop('optimizer'), 'has no optimizer'),
        (lambda content: content.pop('message_hub'), 'has no message_hub'),
        (lambda content: content['meta'].pop('iter'), 'has no epoch and iter'),
        (lambda content: content.update(meta='text'), 'has no epoch and iter'),
        (lambda content: content['optimizer'].update(param_groups=[]), 'cannot be resumed from'),
        (lambda content: content['optimizer'].update(state='text'), 'cannot be resumed from'),
        (lambda content: content.update(message_hub=dict(log_scalars=5)), 'cannot be resumed from'),
    ],
)
def test_resuming_from_an_invalid_training_state_is_refused(spoil, message, tmp_path):
    train(tmp_path, 1)
    content = torch.load(tmp_path / 'iter_1.pth', weights_only=False)
    spoil(content)
    torch.save(content, tmp_path / 'iter_1.pth')
    with pytest.raises(InputError, match=message):
        train(tmp_path, 2, resume=True)


def test_a_config_in_a_checkpoint_is_not_run(tmp_path):
    """MMEngine executes ``meta['config']`` of what it resumes from."""
    train(tmp_path, 1)
    content = torch.load(tmp_path / 'iter_1.pth', weights_only=False)
    content['meta']['config'] = f"import os\nos.mkdir('{tmp_path}/marker')"
    torch.save(content, tmp_path / 'iter_1.pth')
    assert train(tmp_path, 2, resume=True).iter == 2
    assert not (tmp_path / 'marker').exists()


def test_checkpoints_hold_ema_optimizer_and_resume_state(tmp_path):
    content = read_checkpoint(Path(train(tmp_path, 1).work_dir, 'iter_1.pth'))
    assert {'state_dict', 'ema_state_dict', 'optimizer', 'message_hub', 'exact_resume'} <= set(content)


@pytest.mark.parametrize('template', ['iter_{}.pt', 'iter_{:06d}.pth', 'swin-{}-of-me.pth', 'v2_iter_{}.ckpt', 'last.pth'])
@pytest.mark.parametrize('pointer', [True, False])
def test_training_resumes_from_checkpoints_of_any_name(template, pointer, tmp_path):
    train(tmp_path, 3, filename_tmpl=template)
    if not pointer:
        (tmp_path / 'last_checkpoint').unlink()
    (tmp_path / 'iter_3-0a1b2c3d.pt').write_bytes(b'published')
    resumed = train(tmp_path, 5, filename_tmpl=template, resume=True)
    assert resumed.iter == 5 and len(resumed.model.seen) == 2
    (tmp_path / template.format(5)).write_bytes(b'cut short')
    if template != 'last.pth':
        assert len(train(tmp_path, 6, filename_tmpl=template, resume=True).model.seen) == 2


def test_a_folder_that_was_copied_resumes_from_its_own_checkpoints(tmp_path):
    train(tmp_path / 'a', 3)
    shutil.copytree(tmp_path / 'a', tmp_path / 'b')
    train(tmp_path / 'a', 5, resume=True)
    assert latest_complete_checkpoint(tmp_path / 'b') == tmp_path / 'b' / 'iter_3.pth'
    (tmp_path / 'b').rename(tmp_path / 'c')
    os.utime(tmp_path / 'c' / 'iter_2.pth', ns=(0, 0))
    (tmp_path / 'c' / 'iter_2.pth').rename(tmp_path / 'c' / 'iter_8.pth')  # of an earlier training
    assert latest_complete_checkpoint(tmp_path / 'c') == tmp_path / 'c' / 'iter_3.pth'


def test_epochs_and_iterations_are_not_compared(tmp_path):
    train(tmp_path, 3)
    (tmp_path / 'last_checkpoint').unlink()
    for i, name in enumerate(('iter_1.pth', 'iter_2.pth', 'iter_3.pth')):
        os.utime(tmp_path / name, ns=(i * 10**9, i * 10**9))
    shutil.copyfile(tmp_path / 'iter_3.pth', tmp_path / 'epoch_2.pth')
    assert latest_complete_checkpoint(tmp_path) == tmp_path / 'epoch_2.pth'
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_3.pth'))
    assert latest_complete_checkpoint(tmp_path) == tmp_path / 'iter_3.pth'


@pytest.mark.parametrize('text', ['a\0b', 'x' * 5000, 'iter_3-0a1b2c3d.pth', ''], ids=range(4))
def test_a_last_checkpoint_that_is_none_is_passed_over(text, tmp_path):
    train(tmp_path, 2)
    (tmp_path / 'iter_3-0a1b2c3d.pth').write_bytes((tmp_path / 'iter_2.pth').read_bytes())
    (tmp_path / 'last_checkpoint').write_text(text)
    assert latest_complete_checkpoint(tmp_path) == tmp_path / 'iter_2.pth'


def test_checkpoints_in_a_folder_of_their_own_win_over_older_ones_beside_the_pointer(tmp_path):
    train(tmp_path / 'w', 4)
    for path in (tmp_path / 'w').glob('iter_*.pth'):
        os.utime(path, ns=(0, 0))
    train(tmp_path / 'w', 4, out_dir=str(tmp_path / 'o'))
    assert latest_complete_checkpoint(tmp_path / 'w') == tmp_path / 'o' / 'w' / 'iter_4.pth'


BEST = dict(max_keep_ckpts=1, save_best='acc', rule='greater')


def trained_at(path):
    return read_checkpoint(path)['meta']['iter']


def test_the_best_checkpoint_has_a_name_that_stays_and_takes_no_room(tmp_path):
    for iterations in (2, 4):
        train(tmp_path, iterations, [dict(type='Measures')], resume=iterations > 2, **BEST)
        best = tmp_path / f'best_acc_iter_{iterations - 1}.pth'
        assert (tmp_path / 'best.pth').samefile(best) and best.stat().st_nlink == 2
        assert trained_at(tmp_path / 'best.pth') == iterations - 1
    assert not list(tmp_path.glob('.best*'))


def test_the_best_checkpoint_survives_the_removal_of_its_other_name(tmp_path):
    train(tmp_path, 2, [dict(type='Measures')], **BEST)
    (tmp_path / 'best_acc_iter_1.pth').unlink()
    assert trained_at(tmp_path / 'best.pth') == 1


def test_a_file_system_without_links_has_the_best_checkpoint_once(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, 'link', refuse)
    train(tmp_path, 2, [dict(type='Measures')], **BEST)
    assert names(tmp_path) == ['best.pth', 'iter_2.pth'] and trained_at(tmp_path / 'best.pth') == 1
    train(tmp_path, 5, [dict(type='Measures')], resume=True, **BEST)
    assert names(tmp_path) == ['best.pth', 'iter_5.pth'] and trained_at(tmp_path / 'best.pth') == 4


def test_a_folder_of_an_earlier_version_gets_the_name(tmp_path):
    train(tmp_path, 2, [dict(type='Measures')], **BEST)
    (tmp_path / 'best.pth').unlink()
    train(tmp_path, 2, resume=True, **BEST)
    assert (tmp_path / 'best.pth').samefile(tmp_path / 'best_acc_iter_1.pth')


def test_an_interruption_while_the_best_is_saved_keeps_the_one_before(tmp_path, monkeypatch):
    train(tmp_path, 2, [dict(type='Measures')], **BEST)
    disk_full_while(monkeypatch, 2)
    with pytest.raises(InputError, match='No space left'):
        train(tmp_path, 4, [dict(type='Measures')], resume=True, **BEST)
    assert trained_at(tmp_path / 'best.pth') == 1


def test_of_several_metrics_the_first_names_the_best(tmp_path):
    class Hooked(Hook):
        def after_train_iter(self, runner, *args, **kwargs):
            for hook in runner.hooks:
                if isinstance(hook, CheckpointHook):
                    hook.after_val_epoch(runner, dict(acc=float(-runner.iter), top=float(runner.iter)))

    train(tmp_path, 3, [Hooked()], max_keep_ckpts=1, save_best=['acc', 'top'], rule='greater')
    assert (tmp_path / 'best.pth').samefile(tmp_path / 'best_acc_iter_0.pth')
