"""The hook that draws what a test run found."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmvitscale.inference import ImageReader, Visualizer, write_picture
from mmvitscale.inference.output import output_names
from mmvitscale.inference.predictor import pipeline_of
from mmvitscale.registry import HOOKS


@HOOKS.register_module()
class ComparisonPictureHook(Hook):
    """Writes, for every tested image, out_dir/<name>.png: image, ground truth and prediction side by side, named as the image
    is below the folder that all of them have in common. A picture that cannot be drawn is a warning in the log.

    Args:
        out_dir: folder of the pictures, made if need be.
        score_thr: instances below this score are not drawn.
    """

    def __init__(self, out_dir: str, score_thr: float = 0.3):
        self.out_dir = Path(out_dir)
        self.score_thr = score_thr
        self._names: dict[Path, str] = {}
        self._visualizer: Any = None
        self._reader: Any = None

    def before_test(self, runner: Runner) -> None:
        """Names all pictures at once, so that none takes the place of another."""
        dataset = runner.test_dataloader.dataset
        paths = [Path(dataset.get_data_info(i)['img_path']) for i in range(len(dataset))]
        root = os.path.commonpath([path.parent for path in paths]) if paths else '.'
        self._names = output_names(paths, Path(root))
        self._visualizer = Visualizer(dataset.metainfo, self.score_thr)
        self._reader = ImageReader(pipeline_of(runner.cfg))

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence = ()) -> None:
        """Draws the batch."""
        for sample in outputs:
            path = Path(sample.img_path)
            try:
                picture = self._visualizer.compare(self._reader(path), sample)
                write_picture(self.out_dir / f'{self._names[path]}.png', picture)
            except Exception as error:  # an evaluation of hours is worth more than a picture
                runner.logger.log(logging.WARNING, f'no picture of {path}: {type(error).__name__}: {error}')
