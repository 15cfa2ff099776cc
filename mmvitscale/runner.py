"""MMEngine's runner with our door for weights, for every tool that builds its runner from ``runner_type``."""

import mmengine.runner
import torch
from mmengine.runner.checkpoint import _load_checkpoint_to_model

from .checkpoints.door import backbones_of, into_model, unwrapped
from .checkpoints.files import read_checkpoint
from .checkpoints.windows import settle_windows, tested_windows
from .hooks.averages import let_averages_follow
from .registry import RUNNERS


@RUNNERS.register_module()
class Runner(mmengine.runner.Runner):
    """MMEngine's runner (``runner_type='mmvitscale.Runner'``), but code in checkpoint files is not run, ``load_from`` takes
    any layout, weights that are tested or resumed must fit the model entirely, and a config that grows windows is tested
    with the windows that its weights last ran with."""

    _testing = False

    def train(self):
        """As MMEngine's. What is loaded is fine-tuned, or resumed exactly."""
        self._testing = False
        for backbone in backbones_of(self.model).values():
            if hasattr(backbone, 'gradient_scale'):
                # A function, which copies of the model (averages) do not copy in depth.
                backbone.gradient_scale = lambda: self._gradient_scale()
        return super().train()

    def _gradient_scale(self) -> float:
        """What the optimizer's wrapper multiplies a loss with before its backward pass."""
        scale = float(self.optim_wrapper.scale_loss(torch.ones(())))
        scaler = getattr(self.optim_wrapper, 'loss_scaler', None)
        return scale * (scaler.get_scale() if hasattr(scaler, 'get_scale') else 1.0)

    def val(self):
        """As MMEngine's. What is loaded must fit the model entirely."""
        self._testing = True
        return super().val()

    def test(self):
        """As MMEngine's. What is loaded must fit the model entirely."""
        self._testing = True
        return super().test()

    def resume(self, filename, *args, **kwargs):
        """As MMEngine's."""
        self._resume = True  # a call from outside is as strict as the option
        return super().resume(filename, *args, **kwargs)

    def save_checkpoint(self, *args, **kwargs):
        """As MMEngine's; averages of weights hold the model's windows."""
        let_averages_follow(self)
        super().save_checkpoint(*args, **kwargs)

    def load_checkpoint(self, filename, map_location='cpu', strict=False, revise_keys=((r'^module.', ''), )):
        """As MMEngine's. Files are read into the main memory whatever ``map_location`` says: weights, moments and averages
        go from there to where the model is.

        Raises:
            InputError: that names the file, for what does not fit.
        """
        checkpoint = read_checkpoint(filename)
        model = unwrapped(self.model)
        exact = self._testing or self._resume or strict
        entries = into_model(model, checkpoint, filename, exact, self.logger.info)
        # In a training that is resumed, the hook that grows windows sets them.
        if self._testing or self._resume and tested_windows(self.cfg) == 'config':
            for line in settle_windows(model, entries, self.cfg):
                self.logger.info(f'{filename}: {line}')
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        _load_checkpoint_to_model(model, checkpoint, strict, revise_keys=list(revise_keys))
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint
