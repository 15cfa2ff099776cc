"""A training as one HTML page that needs nothing else: opened from the disk, without a network, on a phone as well."""

import base64
import html
import io
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS

from mmvitscale.analysis.bias_surfaces import bias_surfaces, draw_surface
from mmvitscale.analysis.confusion import ConfusionMatrix, draw_confusion
from mmvitscale.analysis.extrapolation import report as window_report
from mmvitscale.analysis.extrapolation import swin_backbones
from mmvitscale.analysis.figure_text import literal
from mmvitscale.analysis.logs import RunLog, read_log
from mmvitscale.checkpoints.loading import backbones_of
from mmvitscale.checkpoints.names import is_checkpoint
from mmvitscale.config.embedded import load_embedded_config
from mmvitscale.config.loading import load_test_config
from mmvitscale.config.training_options import main_metric
from mmvitscale.config.view import ConfigView, plain_datasets
from mmvitscale.datasets.checks import check_datasets
from mmvitscale.errors import InputError
from mmvitscale.inference import Reconstructor, Visualizer, load_model
from mmvitscale.inference.evaluated_images import EvaluatedImages
from mmvitscale.inference.progress import progress_bar
from mmvitscale.profiling.flops import count_backbone
from mmvitscale.registry import type_name
from mmvitscale.utils.atomic_write import atomic_write

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 0 auto; max-width: 62rem;
  padding: 1rem; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
img { max-width: 100%; height: auto; } figure { margin: 0 0 1.2rem; } figcaption { font-size: .85rem; color: #555; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
td, th { padding: .15rem .7rem .15rem 0; text-align: left; overflow-wrap: anywhere; vertical-align: top; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); gap: 0 1rem; }
td.number, th.number { text-align: right; }
tr:nth-child(even) td { background: #f6f6f6; }
pre { font-size: .78rem; overflow-x: auto; background: #f6f6f6; padding: .6rem; }
.key { font-size: 1.6rem; font-weight: 600; } .missing { color: #777; font-style: italic; }
"""
_OPTIONS_SHOWN = (
    'arch',
    'window_size',
    'pretrained_window_sizes',
    'position_bias',
    'attention',
    'block_norm',
    'img_size',
    'drop_path_rate',
    'with_cp',
    'frozen_stages',
    'init_cfg',
)


@dataclass
class Page:
    """Sections of HTML, one after the other; each knows what it could not show."""

    title: str
    sections: list[str] = field(default_factory=list)

    def add(self, title: str, *parts: str) -> None:
        """Add a section."""
        self.sections.append(f'<section><h2>{html.escape(title)}</h2>{"".join(parts)}</section>')

    def html(self) -> str:
        """The whole page."""
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
            f'content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
            f'<title>{html.escape(self.title)}</title>'
            f'<style>{_STYLE}</style></head><body><h1>{html.escape(self.title)}</h1>{"".join(self.sections)}'
            '</body></html>\n'
        )


def write_report(
    work_dir: Path,
    out: Path,
    checkpoint: str | None = None,
    limit: int = 200,
    pictures: int = 4,
    options: dict | None = None,
    score_thr: float = 0.3,
) -> list[str]:
    """A work folder of a training, or a checkpoint alone -> the page, and a line for each part that could not be shown.

    Args:
        checkpoint: by default the best one that the training kept, else the last.
        limit: test images that are looked at, spread evenly over the set.
        pictures: of the worst and of the best of them, each.
        options: overrides of the config, such as ``data_root``.
        score_thr: detections below it are neither drawn nor counted.

    Raises:
        InputError: for a folder without logs or config, and a checkpoint without config.
    """
    work_dir = Path(work_dir)
    if work_dir.is_file():
        log, cfg, weights = RunLog(), load_embedded_config(str(work_dir), options), work_dir
    else:
        log = read_log(work_dir)
        cfg = load_test_config(str(_config_of(work_dir)), options)
        weights = Path(checkpoint) if checkpoint else _checkpoint_of(work_dir)
    page = Page(f'{Path(cfg.filename).stem}: {work_dir.resolve().name}')
    notes = list(log.notes)
    model = _loaded(cfg, weights, notes)
    _add_summary(page, cfg, log, model, weights)
    _add_curves(page, log)
    _add_training_images(page, work_dir)
    images = None
    if model is not None:
        images = _tested(cfg, model, limit, notes)
        _add_windows(page, model)
    if images is not None:
        _add_predictions(page, images, pictures, score_thr)
    elif model is not None and weights is not None and ConfigView(cfg).task == 'masked modelling':
        _add_reconstructions(page, cfg, weights, pictures, notes)
    if model is not None:
        _add_biases(page, model)
    _add_monitor(page, log)
    _add_speed(page, cfg, log)
    _add_environment(page, work_dir, cfg)
    if notes:
        page.add('What is not shown', *(f'<p class="missing">{html.escape(note)}</p>' for note in notes))
    with atomic_write(out, advice='give an --out in a folder that can be written') as part:
        part.write_text(page.html(), encoding='utf-8')
    return notes


def _config_of(work_dir: Path) -> Path:
    """The config that a training left in its folder, the newest."""
    found = sorted(work_dir.glob('*.py'), key=lambda path: path.stat().st_mtime)
    if not found:
        raise InputError(f'{work_dir} holds logs but no config (*.py); give the work folder of a training')
    return found[-1]


def _checkpoint_of(work_dir: Path) -> Path | None:
    if (work_dir / 'best.pth').is_file():
        return work_dir / 'best.pth'
    best = sorted(work_dir.glob('best_*.pth'), key=lambda path: path.stat().st_mtime)
    if best:
        return best[-1]
    last = work_dir / 'last_checkpoint'
    path = work_dir / Path(last.read_text().strip()).name if last.is_file() else None
    return path if path is not None and path.is_file() else None


def _loaded(cfg: Config, weights: Path | None, notes: list[str]) -> torch.nn.Module | None:
    if weights is None:
        notes.append('no checkpoint is there: predictions, windows and biases are left out')
        return None
    try:
        return load_model(cfg, str(weights))[0]
    except InputError as error:
        notes.append(f'the checkpoint cannot be used: {error}')
        return None


def _tested(cfg: Config, model: torch.nn.Module, limit: int, notes: list[str]) -> EvaluatedImages | None:
    if ConfigView(cfg).task == 'masked modelling':
        return None
    try:
        check_datasets(cfg, ('test',))
        return EvaluatedImages(cfg, model, limit)
    except InputError as error:
        notes.append(f'the test data cannot be used: {error}')
        return None


def _add_summary(page: Page, cfg: Config, log: RunLog, model: torch.nn.Module | None, weights: Path | None) -> None:
    name, value = _main_metric(log)
    headline = f'<p class="key">{html.escape(name)} {value:.2f}</p>' if name else ''
    backbone = cfg.model.get('backbone') or {}
    rows = [('scope', cfg.get('default_scope', '')), ('backbone', type_name(backbone))]
    rows += [(key, backbone[key]) for key in _OPTIONS_SHOWN if backbone.get(key) is not None]
    if model is not None and hasattr(model, 'backbone') and backbones_of(model):
        rows.append(('parameters', f'{sum(p.numel() for p in model.parameters()) / 1e6:.1f}M'))
        side = _crop_of(cfg)
        parts, _ = count_backbone(model.backbone, *side)
        rows.append((f'multiply-adds of the backbone at {side[0]} x {side[1]}', f'{(parts[-1].multiply_adds or 0) / 1e9:.2f}G'))
    wrapper = cfg.get('optim_wrapper') or {}
    optimizer = wrapper.get('optimizer') or {}
    rows += [
        ('optimizer', ', '.join(f'{k} {type_name(optimizer) if k == "type" else v}' for k, v in optimizer.items())),
        ('wrapper', type_name(wrapper)),
        ('batch of one process', (cfg.get('train_dataloader') or {}).get('batch_size', '')),
        ('length', ', '.join(f'{k} {v}' for k, v in (cfg.get('train_cfg') or {}).items() if k.startswith('max'))),
        ('checkpoint', weights.name if weights else 'none'),
    ]
    page.sections.insert(0, f'<section>{headline}{_table(("", ""), rows)}</section>')


def _crop_of(cfg: Config) -> tuple[int, int]:
    """Height and width that the model is trained on, as far as the config says; else 512."""
    size = (cfg.model.get('data_preprocessor') or {}).get('size')
    for loader in ConfigView(cfg).loaders('train'):
        for step in next(plain_datasets(loader.get('dataset') or {})).get('pipeline', []):
            size = size or step.get('crop_size')
    if isinstance(size, int):
        return size, size
    return (
        tuple(size)
        if isinstance(size, (list, tuple)) and len(size) == 2 and all(isinstance(n, int) for n in size)
        else (512, 512)
    )


def _main_metric(log: RunLog) -> tuple[str, float]:
    """Of the last validation, the metric that its task is usually judged by; an empty name where there was none."""
    names = log.names(training=False)
    names = [name for name in names if 'time' not in name and not name.startswith(('attention/', 'amplitude/'))]
    name = main_metric(names) if names else ''
    return (name, log.curve(name)[1][-1]) if name else ('', 0.0)


def _curves(log: RunLog, title: str, names: Sequence[str]) -> str:
    """A figure with a line for each name."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3))
    axes = figure.subplots()
    for name in names:
        steps, values = log.curve(name)
        axes.plot(steps, values, label=literal(name), lw=1.2, marker='o' if len(steps) < 20 else None, ms=3)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    return _figure(figure, title)


def _side_by_side(figures: Iterable[str]) -> str:
    """Next to each other while there is room."""
    return f'<div class="grid">{"".join(figures)}</div>'


def _add_curves(page: Page, log: RunLog) -> None:
    losses = [name for name in log.names() if name == 'loss' or 'loss' in name.split('.')[-1]]
    metrics = [name for name in log.names(False) if 'time' not in name and not name.startswith(('attention/', 'amplitude/'))]
    panels = [
        ('loss over iterations', losses[:8]),
        ('learning rate over iterations', [name for name in ('lr',) if name in log.names()]),
        ('gradient norm over iterations', [name for name in ('grad_norm',) if name in log.names()]),
        ('metrics of validation, over iterations or epochs', metrics[:8]),
    ]
    if any(names for _, names in panels):
        page.add('Curves', _side_by_side(_curves(log, title, names) for title, names in panels if names))


def _add_training_images(page: Page, work_dir: Path) -> None:
    """What ``TrainingBatchPictureHook`` wrote."""
    path = work_dir / 'train_batch.jpg'
    picture = cv2.imread(str(path)) if path.is_file() else None
    if picture is not None:
        page.add('Training images after augmentation', _picture(picture, 'the first batch, as the network was fed it'))


def _add_windows(page: Page, model: torch.nn.Module) -> None:
    for backbone in swin_backbones(model):
        page.add(
            'Windows',
            '<p>In tokens: the window that the position bias was trained with, the one in use, and how far it '
            f'reaches beyond.</p><pre>{html.escape(window_report(backbone))}</pre>',
        )


def _add_predictions(page: Page, images: EvaluatedImages, count: int, score_thr: float) -> None:
    matrix = ConfusionMatrix(images.dataset_meta.get('classes') or (), score_thr)
    qualities: dict[int, float] = {}
    with progress_bar(len(images)) as advance:
        for index, _, sample in images:
            quality = matrix.quality(matrix.add(sample))
            if quality is not None:
                qualities[index] = quality
            advance()
    ranked = sorted(qualities, key=qualities.__getitem__)
    visualizer = Visualizer(images.dataset_meta, score_thr)
    unit = 'mean IoU of the classes in it' if matrix.unit != 'images' else 'right or wrong'
    seen = f'{len(images)} of {len(images.dataset)} test images'
    worst = ranked[: min(count, (len(ranked) + 1) // 2)]
    best = [index for index in ranked[::-1][:count] if index not in worst]
    for title, chosen in (('Worst predictions', worst), ('Best predictions', best)):
        figures = []
        for index in chosen:
            _, path, sample = images.one(index)
            picture = visualizer.compare(images.read_image(path), sample)
            figures.append(_picture(picture, f'{path.name}: {qualities[index]:.2f} ({unit})'))
        if figures:
            page.add(title, f'<p>Image, ground truth and prediction, of {seen}.</p>', *figures)
    rows = [
        (entry['name'], entry['count'], *(_percent(entry[key]) for key in ('iou', 'recall', 'precision')))
        for entry in matrix.per_class()
    ]
    page.add(
        'Classes',
        f'<p>Of {seen}, in percent; counted in {matrix.unit}.</p>',
        _table(('class', matrix.unit, 'IoU', 'recall', 'precision'), rows, numbers=True),
    )
    page.add('Confusion matrix', _figure(draw_confusion(matrix), 'rows: ground truth, columns: prediction'))


def _add_reconstructions(page: Page, cfg: Config, weights: Path, count: int, notes: list[str]) -> None:
    try:
        check_datasets(cfg, ('train',))
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        reconstructor = Reconstructor(cfg, str(weights))
        figures = []
        for i in range(min(count, len(dataset))):
            path = Path(dataset.get_data_info(i * len(dataset) // count)['img_path'])
            picture, loss = reconstructor(path)
            figures.append(_picture(picture, f'{path.name}: loss {loss:.4f}'))
        page.add('Reconstructions', '<p>Masked, filled in, original; training images.</p>', *figures)
    except InputError as error:
        notes.append(f'images cannot be reconstructed: {error}')


def _add_biases(page: Page, model: torch.nn.Module) -> None:
    """The first block's bias of each stage in the window in use."""
    from matplotlib.figure import Figure

    for backbone in swin_backbones(model):
        surfaces = [bias_surfaces(backbone, [stage.window], i)[0] for i, stage in enumerate(backbone.stages)]
        figure = Figure(figsize=(3.1 * len(surfaces), 3))
        for axes, surface in zip(figure.subplots(1, len(surfaces), squeeze=False)[0], surfaces):
            shown = draw_surface(axes, surface)
            axes.set_title('stage {}, {} x {}'.format(surface.stage, *surface.window), fontsize=9)
            figure.colorbar(shown, shrink=0.7)
        figure.tight_layout()
        caption = 'mean over heads of the first block of each stage, over the offset in tokens; extrapolated '
        page.add('Position biases', _figure(figure, caption + 'beyond a dashed frame'))


def _add_monitor(page: Page, log: RunLog) -> None:
    """What ``AttentionMonitorHook`` wrote."""
    names = [name for name in log.names(False) if name.startswith(('attention/', 'amplitude/')) and 'layer_' not in name]
    if names:
        page.add(
            'Attention and activations',
            '<p>Of one image, every time that AttentionMonitorHook looked.</p>',
            _side_by_side(_curves(log, name, [name]) for name in names),
        )


def _add_speed(page: Page, cfg: Config, log: RunLog) -> None:
    rows = []
    for name, label, unit in (
        ('time', 'an iteration', 's'),
        ('data_time', 'of it waiting for data', 's'),
        ('memory', 'memory of a GPU', 'MB'),
    ):
        values = [record[name] for record in log.training.values() if name in record]
        if values:
            rows.append(
                (label, f'{max(values):.0f} {unit} at most' if name == 'memory' else f'{median(values):.3f} {unit}, median')
            )
    validation = [record['time'] for record in log.validation.values() if 'time' in record]
    if validation:
        images = (cfg.get('val_dataloader') or {}).get('batch_size', 1)
        rows.append(('an image in validation', f'{median(validation) / images:.3f} s, median, in batches of {images}'))
    if rows:
        page.add('Speed and memory', _table(('', ''), rows))


def _add_environment(page: Page, work_dir: Path, cfg: Config) -> None:
    rows = []
    for path in sorted(work_dir.glob('*/*.log')):
        found = re.search(r'System environment:\n(.*?)\nRuntime environment:', path.read_text(errors='replace'), re.DOTALL)
        if found:
            lines = re.findall(r'^    ([^:\n]+): (.*)$', found[1], re.MULTILINE)
            rows = [(key, value) for key, value in lines if 'compiling' not in key and 'seed' not in key]
    if rows:
        page.add('Environment', _table(('', ''), rows))
    text = cfg.pretty_text if is_checkpoint(cfg.filename) else Path(cfg.filename).read_text(errors='replace')
    page.add(
        'Config',
        f'<details><summary>{html.escape(Path(cfg.filename).name)}, whole</summary><pre>{html.escape(text)}</pre></details>',
    )


def _percent(share: float | None) -> str:
    return '-' if share is None else f'{100 * share:.1f}'


def _table(header: Sequence[str], rows: Sequence[Sequence], numbers: bool = False) -> str:
    """numbers: all columns but the first are."""

    def line(cells, tag):
        return (
            '<tr>'
            + ''.join(
                f'<{tag}{" class=number" if numbers and i else ""}>{html.escape(str(cell))}</{tag}>'
                for i, cell in enumerate(cells)
            )
            + '</tr>'
        )

    head = line(header, 'th') if any(header) else ''
    return f'<div class="wide"><table>{head}{"".join(line(row, "td") for row in rows)}</table></div>'


def _figure(figure, caption: str) -> str:
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({'svg.fonttype': 'none'}), warnings.catch_warnings():  # text, in the fonts of whoever reads the page
        warnings.filterwarnings('ignore', 'Glyph')
        figure.savefig(buffer, format='svg', bbox_inches='tight')
    return _embedded(buffer.getvalue(), 'image/svg+xml', caption)


def _picture(picture: np.ndarray, caption: str) -> str:
    """(H, W, 3) BGR, no wider than a screen."""
    factor = min(1.0, 1400 / picture.shape[1])
    if factor < 1:
        picture = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, 88])[1]
    return _embedded(encoded.tobytes(), 'image/jpeg', caption)


def _embedded(content: bytes, kind: str, caption: str) -> str:
    data, caption = base64.b64encode(content).decode(), html.escape(caption)
    return f'<figure><img alt="{caption}" src="data:{kind};base64,{data}"><figcaption>{caption}</figcaption></figure>'
