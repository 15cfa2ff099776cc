"""From a trained checkpoint to predictions, and from predictions to pictures."""

import zlib
from pathlib import Path
from typing import Collection, List, Sequence, Tuple

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, default_collate, pseudo_collate
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement, InstanceData
from torch import nn

from .checkpoints.door import into_model
from .checkpoints.files import read_checkpoint
from .checkpoints.windows import settle_windows
from .datasets.checks import class_of
from .errors import InputError
from .machine import check_packages

IMAGE_SUFFIXES = {'.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp'}


def is_masked_modelling(cfg: Config) -> bool:
    """Whether the config trains by masked image modelling: it has no test, and reconstructs images."""
    return 'predict_pipeline' in cfg


def pipeline_of(cfg: Config) -> Sequence[dict]:
    """The steps that an image goes through before the model predicts. Raises InputError for a config without."""
    if is_masked_modelling(cfg):
        return cfg.predict_pipeline
    if not cfg.get('test_dataloader'):
        raise InputError(f'{cfg.filename} has no test_dataloader, so there is nothing to predict with it')
    return cfg.test_dataloader.dataset.pipeline


def list_images(path: str, suffixes: Collection[str] = IMAGE_SUFFIXES) -> List[Path]:
    """An image or a folder -> its images, sorted. Raises InputError if there are none."""
    path = Path(path)
    if path.is_dir():
        images = sorted(p for p in path.iterdir() if p.suffix.lower() in suffixes)
        if not images:
            raise InputError(f'folder {path} holds no image; expected {", ".join(sorted(suffixes))}')
        return images
    if not path.is_file():
        raise InputError(f'image {path} is not there; give an image or a folder of images')
    return [path]


def read_image(path: Path) -> np.ndarray:
    """Path -> (H, W, 3) uint8 BGR, turned as its EXIF data say. Raises InputError for anything but 8-bit colour."""
    raw = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if raw is None:
        raise InputError(f'{path} cannot be read as an image; check the file')
    channels = 1 if raw.ndim == 2 else raw.shape[2]
    if channels != 3 or raw.dtype != np.uint8:
        raise InputError(f'{path} has {channels} channel{"s" * (channels > 1)} of {raw.dtype}, but the model takes 3 '
                         'channels of uint8 (colour); convert it to RGB first')
    return cv2.imread(str(path), cv2.IMREAD_COLOR)


class ImageReader:
    """Path -> the picture that predictions are drawn on, (H, W, 3) uint8 BGR: what the model sees of a colour image, three
    chosen channels of another one.

    Args:
        pipeline: of a data set, whose first step loads the image.
    """

    def __init__(self, pipeline: Sequence[dict]):
        loader = pipeline[0] if pipeline else {}
        self._loader = None
        if str(loader.get('type', '')).endswith('LoadMultispectralImage'):
            from .datasets.multispectral import LoadMultispectralImage
            self._loader = LoadMultispectralImage(**{key: value for key, value in loader.items() if key != 'type'})

    @property
    def suffixes(self) -> Collection[str]:
        """Of the files it reads."""
        if self._loader is None:
            return IMAGE_SUFFIXES
        from .datasets.multispectral import SUFFIXES
        return SUFFIXES

    def __call__(self, path: Path) -> np.ndarray:
        """Raises InputError for what the model cannot take."""
        return read_image(path) if self._loader is None else self._loader.picture(path)


def build_model(cfg: Config) -> nn.Module:
    """The config's model, built in its scope, in evaluation mode on the best device."""
    check_packages(cfg)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    return MODELS.build(cfg.model).eval().to(get_device())


def load_model(cfg: Config, checkpoint: str) -> Tuple[nn.Module, dict]:
    """A config's model with exactly the weights of a checkpoint, and what the file held. Raises InputError where they do not
    fit.

    Where the config grows windows, those that the weights last ran with are used (``test_windows`` in the config decides
    otherwise).
    """
    content = read_checkpoint(checkpoint)
    model = build_model(cfg)
    entries = into_model(model, content, checkpoint, exact=True, tell=lambda line: print_log(line, 'current'))
    for line in settle_windows(model, entries, cfg):
        print_log(f'{checkpoint}: {line}', 'current')
    model.load_state_dict(content['state_dict'])
    return model, content


class Predictor:
    """A config and its checkpoint, ready to predict.

    Args:
        cfg: of any task whose model has ``test_step``.
        checkpoint: path of a file with exactly the model's weights (``load_model``).
    """

    def __init__(self, cfg: Config, checkpoint: str):
        self.model, content = load_model(cfg, checkpoint)
        pipeline = cfg.test_dataloader.dataset.pipeline
        self.read_image = ImageReader(pipeline)
        self.pipeline = Compose([step for step in pipeline if 'Annotations' not in step['type']])
        self.dataset_meta = (content.get('meta') or {}).get('dataset_meta') or self._declared_meta(cfg)

    @staticmethod
    def _declared_meta(cfg: Config) -> dict:
        dataset = cfg.test_dataloader.dataset
        return dataset.get('metainfo') or class_of(cfg, dataset).METAINFO

    def __call__(self, path: Path) -> BaseDataElement:
        """Path of an image -> the task's data sample with predictions, on the CPU."""
        data = self.pipeline(dict(img_path=str(path), img_id=0))
        with torch.inference_mode():
            return self.model.test_step(pseudo_collate([data]))[0].cpu()


class Reconstructor:
    """A config of masked image modelling and its checkpoint, ready to draw what the model makes of masked images.

    Args:
        cfg: of mmpretrain's SimMIM; its ``predict_pipeline`` loads an image and masks it.
        checkpoint: path of a file with exactly the model's weights.
    """

    def __init__(self, cfg: Config, checkpoint: str):
        self.model, _ = load_model(cfg, checkpoint)
        self.read_image = ImageReader(cfg.predict_pipeline)
        self.pipeline = Compose(cfg.predict_pipeline)

    def __call__(self, path: Path) -> Tuple[np.ndarray, float]:
        """Path of an image -> the masked image, what the model fills in and the original side by side, (H, 3 W, 3) uint8
        BGR, and the loss. Equal paths are masked equally."""
        np.random.seed(zlib.crc32(path.name.encode()))
        data = self.model.data_preprocessor(default_collate([self.pipeline(dict(img_path=str(path)))]), False)
        image = data['inputs']
        mask = torch.stack([sample.mask for sample in data['data_samples']]).to(image.device)
        head = self.model.head
        with torch.inference_mode():
            filled = self.model.neck(self.model.backbone(image, mask)[0])
            loss = head.loss(filled, image, mask).item()
        if hasattr(head.loss_module, 'restore'):
            filled = head.loss_module.restore(filled, image)
        where = mask.repeat_interleave(head.patch_size, 1).repeat_interleave(head.patch_size, 2)[:, None].bool()
        panels = torch.cat((torch.where(where, torch.zeros_like(image), image), torch.where(where, filled, image), image), 3)
        preprocessor = self.model.data_preprocessor
        pixels = (panels * preprocessor.std + preprocessor.mean)[0].clamp(0, 255).round().byte()
        return np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy()[..., ::-1]), loss


class Painter:
    """Draws data samples: semantic maps over the image, instances as boxes and masks, classes of images as text, with a
    legend.

    Args:
        dataset_meta: ``classes`` and, if there is one, ``palette`` (RGB).
        score_thr: instances below this score are not drawn.
    """

    def __init__(self, dataset_meta: dict, score_thr: float = 0.3):
        self.classes: Sequence[str] = dataset_meta['classes']
        palette = dataset_meta.get('palette')
        if not isinstance(palette, (list, tuple)) or len(palette) < len(self.classes):
            hues = np.linspace(0, 179, len(self.classes), endpoint=False).astype(np.uint8)
            hsv = np.stack([hues, np.full_like(hues, 200), np.full_like(hues, 230)], axis=-1)
            palette = cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0].tolist()
        self.palette = [tuple(int(c) for c in colour) for colour in palette]
        self.score_thr = score_thr

    def compare(self, image: np.ndarray, sample: BaseDataElement) -> np.ndarray:
        """(H, W, 3) BGR -> image, truth and prediction side by side over a legend, BGR."""
        truth, shown_truth = self._overlay(image, sample, 'gt')
        prediction, shown_prediction = self._overlay(image, sample, 'pred')
        return self._with_legend(np.hstack([image, truth, prediction]), shown_truth | shown_prediction)

    def paint(self, image: np.ndarray, sample: BaseDataElement) -> np.ndarray:
        """(H, W, 3) BGR -> the image with the prediction drawn over a legend, BGR."""
        return self._with_legend(*self._overlay(image, sample, 'pred'))

    def _overlay(self, image: np.ndarray, sample: BaseDataElement, source: str) -> Tuple[np.ndarray, set]:
        """The image with the truth (gt) or the prediction (pred) drawn on it, and the class indices drawn."""
        if f'{source}_sem_seg' in sample:
            labels = sample.get(f'{source}_sem_seg').data.squeeze(0).cpu().numpy()
            known = labels < len(self.classes)  # 255 is ignored
            colours = np.array(self.palette, np.uint8)[:, ::-1][np.where(known, labels, 0)]
            blend = cv2.addWeighted(image, 0.4, colours, 0.6, 0)
            return np.where(known[..., None], blend, image), set(np.unique(labels[known]).tolist())
        if f'{source}_instances' in sample:
            return self._instances(image, sample.get(f'{source}_instances'))
        if f'{source}_label' in sample:
            return self._image_labels(image, sample, source)
        return image, set()

    def _image_labels(self, image: np.ndarray, sample: BaseDataElement, source: str) -> Tuple[np.ndarray, set]:
        """The image with its class, and the score of a prediction, in a strip at its top."""
        labels = sample.get(f'{source}_label').flatten().tolist()
        text = ', '.join(self.classes[label] + (f' {sample.pred_score[label]:.2f}' if source == 'pred' else '')
                         for label in labels)
        picture, scale = image.copy(), min(max(image.shape[0] / 600, 0.45), 2.0)
        cv2.rectangle(picture, (0, 0), (picture.shape[1], int(34 * scale)), (255, 255, 255), -1)
        cv2.putText(picture, text, (int(8 * scale), int(24 * scale)), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0),
                    max(int(scale), 1), cv2.LINE_AA)
        return picture, set(labels)

    def _instances(self, image: np.ndarray, instances: InstanceData) -> Tuple[np.ndarray, set]:
        picture = image.copy()
        instances = instances.cpu().numpy()
        if 'scores' in instances:
            instances = instances[instances.scores >= self.score_thr]
        masks = instances.get('masks', [])
        masks = masks.to_ndarray() if hasattr(masks, 'to_ndarray') else masks  # mmdet keeps the truth's packed
        for mask, label in zip(masks, instances.labels):
            mask, colour = mask.astype(bool), np.array(self.palette[label][::-1])
            picture[mask] = (0.5 * picture[mask] + 0.5 * colour).astype(np.uint8)
        for i, (box, label) in enumerate(zip(instances.bboxes, instances.labels)):
            left, top, right, bottom = (int(round(v)) for v in box)
            colour = self.palette[label][::-1]
            cv2.rectangle(picture, (left, top), (right, bottom), colour, 2)
            text = self.classes[label] + (f' {instances.scores[i]:.2f}' if 'scores' in instances else '')
            cv2.putText(picture, text, (left, max(top - 4, 10)), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA)
        return picture, set(instances.labels.tolist())

    def _with_legend(self, picture: np.ndarray, shown: set) -> np.ndarray:
        """The picture over rows of colour and class name, as many as fit into its width."""
        scale = min(max(picture.shape[0] / 600, 0.45), 2.0)
        line, pad = int(34 * scale), int(8 * scale)
        entries, x, y = [], pad, 0
        for label in sorted(shown):
            name = self.classes[label]
            width = int(cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0]) + line + 2 * pad
            if x + width > picture.shape[1] and x > pad:
                x, y = pad, y + line
            entries.append((label, name, x, y))
            x += width
        legend = np.full((y + line if entries else 0, picture.shape[1], 3), 255, np.uint8)
        for label, name, x, y in entries:
            side = line - 2 * pad
            cv2.rectangle(legend, (x, y + pad), (x + side, y + pad + side), self.palette[label][::-1], -1)
            cv2.putText(legend, name, (x + side + pad, y + line - pad - 1), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0),
                        max(int(scale), 1), cv2.LINE_AA)
        return np.vstack([picture, legend])


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Raises InputError if the file cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), picture):
        raise InputError(f'cannot write {path}; free some space or give another folder')


def predict_folder(cfg: Config, checkpoint: str, images: Sequence[Path], out: Path, score_thr: float = 0.3,
                   report=print) -> List[str]:
    """Write out/<name>.png for each image, and return one line for each that failed.

    Predictions are drawn on the image; of masked image modelling, what the model makes of the masked image.
    """
    if is_masked_modelling(cfg):
        reconstructor = Reconstructor(cfg, checkpoint)
    else:
        predictor = Predictor(cfg, checkpoint)
        painter = Painter(predictor.dataset_meta, score_thr)
    failures = []
    for path in images:
        note = ''
        try:
            if is_masked_modelling(cfg):
                reconstructor.read_image(path)  # one line for what the model cannot take
                picture, loss = reconstructor(path)
                note = f' (masked, reconstructed, original; loss {loss:.4f})'
            else:
                picture = painter.paint(predictor.read_image(path), predictor(path))
            write_picture(out / f'{path.stem}.png', picture)
        except InputError as error:
            failures.append(str(error))
        else:
            report(f'{path} -> {out / (path.stem + ".png")}{note}')
    return failures
