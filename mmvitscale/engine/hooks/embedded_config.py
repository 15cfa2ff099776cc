"""The hook that puts the config into each checkpoint, as data."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmvitscale.config.embedded import META_KEY, embed_config
from mmvitscale.registry import HOOKS


@HOOKS.register_module()
class EmbeddedConfigHook(Hook):
    """Lets a checkpoint predict without its config's file: ``meta[META_KEY]`` (``config/embedded.py``). A config that cannot be
    stored as data is logged once, and checkpoints are saved without.

    In every training with our runners; ``default_hooks=dict(embedded_config=None)`` leaves it out.
    """

    def __init__(self) -> None:
        self._is_logged = False

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Writes the config."""
        try:
            checkpoint['meta'][META_KEY] = embed_config(runner.cfg)
        except ValueError as error:
            if not self._is_logged:
                runner.logger.warning(f'Checkpoints are saved without the config, and predict with its file only: {error}.')
            self._is_logged = True
