"""The hook by which a training that was interrupted ends as if it had not been."""

from typing import Any

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmvitscale.datasets.seeded_batches import SeededBatches, sampler_of, seed_batches, seed_everything
from mmvitscale.registry import HOOKS


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """A training that is interrupted and resumed, however often, ends with the parameters of one that was not.

    Random states that are saved with a checkpoint cannot do that: validation, and every new iterator over the data, draw from
    them later. So nothing is drawn from a state that has a past. Before each step the generators are seeded from (seed,
    rank, iteration), before each sample of a batch is loaded from (seed, rank, iteration, place in the batch), in whichever
    process that happens. The states of every process at every moment follow from the seed and the iteration, which each
    checkpoint holds. The data go on with the batch that follows, without loading those before it; within an epoch, too.

    On a CPU that is exact to the last bit, for any number of loading processes. Exceptions are transforms with a memory
    (``CachedMosaic``) or generators of their own (Albumentations), samplers with a past beside their seed, schedules that
    follow validations (ReduceOnPlateau), and kernels of GPUs that add in no fixed order
    (``randomness=dict(deterministic=True)``). Save at multiples of ``accumulative_counts``: gradients are not in a checkpoint.
    With another number of processes or batch size the data are other ones.

    Our runners have it by default (``default_hooks=dict(exact_resume=None)`` leaves it out).
    """

    priority = 'VERY_LOW'  # others may draw before a step

    def __init__(self) -> None:
        self._sampler_seed: int | None = None
        self._batches_then: int | None = None  # in an epoch, when the checkpoint was written
        self._batches: SeededBatches | None = None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keeps the seed of the order of the data, which is drawn where the config gives none, and the batches in an epoch."""
        loader = runner.train_dataloader
        checkpoint['exact_resume'] = dict(sampler_seed=getattr(sampler_of(loader), 'seed', None), batches=len(loader))

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Takes it, if a training goes on."""
        if runner._resume:
            kept = checkpoint.get('exact_resume')
            seed, batches = (kept.get(key) if isinstance(kept, dict) else None for key in ('sampler_seed', 'batches'))
            self._sampler_seed = seed if isinstance(seed, int) else None
            self._batches_then = batches if isinstance(batches, int) else None

    def before_train(self, runner: Runner) -> None:
        """Puts the data where the training stands."""
        loader, loop = runner.train_dataloader, runner.train_loop
        if self._sampler_seed is not None and hasattr(sampler_of(loader), 'seed'):
            sampler_of(loader).seed = self._sampler_seed
        self._batches = seed_batches(loader, runner.seed, get_rank())
        if self._batches is None:
            runner.logger.info(
                'The data are no batches of numbered samples: a resumed training sees others than one that was not interrupted.'
            )
            return
        if hasattr(loop, 'dataloader_iterator'):
            skips = hasattr(loop.dataloader_iterator, 'skip_iter')
            # Loops of older versions go through all that they leave out.
            restart_loading(runner, runner.iter if skips else 0)
            if skips:
                loop.dataloader_iterator.skip_iter = lambda number: None  # the batches do it
        self._warn_of_lost_gradients(runner)

    def before_train_epoch(self, runner: Runner) -> None:
        """Of a loop that counts epochs: those batches of this one that are behind already are left out."""
        loop = runner.train_loop
        if self._batches is None or hasattr(loop, 'dataloader_iterator'):
            return
        length = len(loop.dataloader)
        done = runner.iter - runner.epoch * length
        # In the first epoch after a resume alone, and not with another batch or other data.
        goes_on = self._batches_then == length and 0 < done <= length
        self._batches_then = None
        self._batches.begin(runner.iter - (done if goes_on else 0), done if goes_on else 0)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seeds the step."""
        seed_everything(runner.seed, get_rank(), runner.iter, 0)

    def _warn_of_lost_gradients(self, runner):
        accumulated = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        for hook in runner.hooks:
            interval = getattr(hook, 'interval', 0)
            if accumulated > 1 and 'CheckpointHook' in type(hook).__name__ and not hook.by_epoch and interval % accumulated:
                runner.logger.warning(
                    f'checkpoints every {interval} iterations are no multiple of accumulative_counts='
                    f'{accumulated}: a training that is resumed from one loses up to {accumulated - 1} '
                    'batches'
                )


def restart_loading(runner: Runner, iteration: int) -> None:
    """Let the processes that load, which hold copies of the data set, start again from it as it is now. Of a loop that counts
    iterations the next batch is the one of ``iteration``; one that counts epochs begins its next epoch so."""
    loader, loop = runner.train_dataloader, runner.train_loop
    loader._iterator = None  # the processes that persistent_workers keeps
    if not hasattr(loop, 'dataloader_iterator'):
        return
    # Before there is an iterator: older versions' begin to load at once.
    seeded = isinstance(loader.batch_sampler, SeededBatches)
    if seeded:
        loader.batch_sampler.begin(0, iteration, endless=True)
    elif hasattr(sampler_of(loader), '_indices_of_rank') and hasattr(sampler_of(loader), 'indices'):
        # InfiniteSampler's stream ended with the iteration over it.
        sampler_of(loader).indices = sampler_of(loader)._indices_of_rank()
    loop.dataloader_iterator = type(loop.dataloader_iterator)(loader)
    if not seeded and iteration and hasattr(loop.dataloader_iterator, 'skip_iter'):
        loop.dataloader_iterator.skip_iter(iteration)
