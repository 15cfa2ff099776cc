"""The hook that draws what a test run found."""

from pathlib import Path

from mmengine.hooks import Hook

from ..inference import ImageReader, Painter, write_picture
from ..registry import HOOKS


@HOOKS.register_module()
class ComparisonPictureHook(Hook):
    """Writes, for every tested image, out_dir/<name>.png: image, truth and prediction side by side.

    Args:
        out_dir: folder of the pictures, made if need be.
        score_thr: instances below this score are not drawn.
    """

    def __init__(self, out_dir: str, score_thr: float = 0.3):
        self.out_dir = Path(out_dir)
        self.score_thr = score_thr

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=()) -> None:
        painter = Painter(runner.test_dataloader.dataset.metainfo, self.score_thr)
        read_image = ImageReader(runner.cfg.test_dataloader.dataset.get('pipeline', []))
        for sample in outputs:
            path = Path(sample.img_path)
            write_picture(self.out_dir / f'{path.stem}.png', painter.compare(read_image(path), sample))
