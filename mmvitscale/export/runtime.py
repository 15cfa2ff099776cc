"""An exported file, run by its own runtime, alone or in the place of the network of a model."""

import inspect
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from mmvitscale.errors import InputError

SUFFIXES = ('.onnx', '.xml', '.pt2')


def is_exported(path: str | Path) -> bool:
    """Whether a file, or a folder of files for several sizes, was exported, by its name."""
    path = Path(path)
    return bool(exported_in(path)) if path.is_dir() else path.suffix in SUFFIXES


def exported_in(folder: Path) -> list[Path]:
    """The files of a folder that are exported ones by their names."""
    return sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())


class ExportedFile:
    """A file that was exported: (B, channels, H, W) as the data preprocessor gives it -> its outputs.

    Args:
        path: of an ``.onnx`` (ONNX Runtime), ``.xml`` (OpenVINO) or ``.pt2`` file (PyTorch).
        threads: of the runtime; None for as many as PyTorch has.

    Raises:
        InputError: for a file that is not there or was not exported by mmvitscale, and where its runtime is not installed.
    """

    def __init__(self, path: str | Path, threads: int | None = None):
        path = Path(path)
        if not path.is_file():
            raise InputError(f'{path} is not there; check the path')
        readers = {'.onnx': self._open_onnx, '.xml': self._open_openvino, '.pt2': self._open_torch}
        if path.suffix not in readers:
            raise InputError(f'{path} found, but an exported file ends in {", ".join(readers)}')
        self.path = path
        try:
            self._run, about = readers[path.suffix](path, threads or torch.get_num_threads())
        except ImportError as error:
            raise InputError(
                f'{path} needs a runtime that is not installed ({error}); install what export needs: '
                "pip install -c constraints.txt -e '.[export]'"
            ) from error
        except InputError:
            raise
        except Exception as error:  # whatever a runtime raises for a damaged file
            raise InputError(
                f'{path} cannot be read ({str(error).splitlines()[0] if str(error) else type(error).__name__}); export it again'
            ) from error
        if not about:
            raise InputError(f'{path} was not written by tools/export.py; export the checkpoint with it')
        self.about = json.loads(about)
        self.size: tuple[int, int] | None = tuple(self.about['size']) if self.about['size'] else None

    def __call__(self, image: Tensor) -> list[Tensor]:
        """Raises InputError for an image of another size than the file's."""
        if self.size and (tuple(image.shape[2:]) != self.size or image.shape[0] != self.about['batch']):
            raise InputError(
                f'{self.path.name} is for {self.about["batch"]} x {self.size[0]} x {self.size[1]} pixels, but '
                f'{image.shape[0]} x {image.shape[2]} x {image.shape[3]} came; export that size, or with '
                '--any-size'
            )
        return self._run(image)

    @staticmethod
    def _open_onnx(path, threads):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        providers = [
            name for name in ('CUDAExecutionProvider', 'CPUExecutionProvider') if name in onnxruntime.get_available_providers()
        ]
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)

        def run(image):
            return [torch.from_numpy(out) for out in session.run(None, dict(image=image.cpu().contiguous().numpy()))]

        return run, session.get_modelmeta().custom_metadata_map.get('mmvitscale')

    @staticmethod
    def _open_openvino(path, threads):
        import openvino

        model = openvino.Core().read_model(path)
        about = model.get_rt_info('mmvitscale').value if model.has_rt_info('mmvitscale') else None
        compiled = openvino.Core().compile_model(
            model, 'CPU', dict(INFERENCE_NUM_THREADS=threads, PERFORMANCE_HINT='LATENCY', INFERENCE_PRECISION_HINT='f32')
        )

        def run(image):
            return [torch.from_numpy(out.copy()) for out in compiled(image.cpu().contiguous().numpy()).to_tuple()]

        return run, about

    @staticmethod
    def _open_torch(path, threads):
        extra = {'about.json': ''}
        program = torch.export.load(path, extra_files=extra)
        # What it asserts of sizes is how a copy would be laid out, where a map is one token wide.
        guards = 'check_guards' in inspect.signature(program.module).parameters
        module = program.module(check_guards=False) if guards else program.module()

        def run(image):
            with torch.no_grad():
                out = module(image)
            return [out] if isinstance(out, Tensor) else list(out)

        return run, extra['about.json']


class ExportedFiles:
    """Files for several sizes in one folder; the one for the image's size runs, or else the one for every size. Files of a
    backbone alone are left out.

    Raises:
        InputError: for a folder with a file that was not exported, with two files that could run, or of several models.
    """

    def __init__(self, folder: Path):
        every = [ExportedFile(path) for path in exported_in(folder)]
        whole = [file for file in every if file.about['part'] == 'model'] or every
        self.files: dict[tuple[int, int] | None, ExportedFile] = {}
        for file in whole:
            other = self.files.setdefault(file.size, file)
            if other is not file:
                size = 'every size' if file.size is None else f'{file.size[0]}x{file.size[1]} pixels'
                raise InputError(
                    f'{folder} holds two files for {size}, {other.path.name} and {file.path.name}; give one of them, or a '
                    'folder with one file for each size'
                )
        self.about = whole[0].about
        for file in whole[1:]:
            different = [key for key in _OF_THE_MODEL if file.about.get(key) != self.about.get(key)]
            if different:
                raise InputError(
                    f'{folder} holds files of different models: {whole[0].path.name} and {file.path.name} differ in '
                    f'{" and ".join(different)}; give one of them, or a folder with files of one model'
                )

    def __call__(self, image: Tensor) -> list[Tensor]:
        """Raises InputError where no file is for the image's size and none for every size."""
        size = tuple(image.shape[2:])
        file = self.files.get(size) or self.files.get(None)
        if file is None:
            sizes = ', '.join(f'{height}x{width}' for height, width in sorted(own for own in self.files if own))
            raise InputError(
                f'there are files for {sizes} pixels, but none for {size[0]}x{size[1]}; export that size, or with --any-size'
            )
        return file(image)


# What files of one model have in common, whatever their size.
_OF_THE_MODEL = ('checkpoint', 'part', 'outputs', 'classes', 'int8')


def run_instead(model: nn.Module, path: str | Path) -> dict:
    """Let an exported file do a model's work in ``test_step``: what comes before, the data preprocessor and test-time windows,
    and behind, the data samples, stays as it is.

    Args:
        model: a segmentor, a detector or a classifier, built from the config that was exported; its weights are not used.
        path: of the file, or of a folder with files for several sizes.

    Returns:
        what goes with the file (``about_model``).

    Raises:
        InputError: for a file of a backbone alone or of another kind of model.
    """
    path = Path(path)
    file = ExportedFiles(path) if path.is_dir() else ExportedFile(path)
    if file.about['part'] != 'model':
        raise InputError(f'{path} holds a backbone, but a whole model is to be run; export with --part model')
    outputs = file.about['outputs']
    if hasattr(model, 'encode_decode') and outputs == ['logits']:
        model.encode_decode = lambda inputs, metas: file(inputs)[0].to(inputs.device)
    elif hasattr(model, 'bbox_head') and outputs == ['boxes', 'scores', 'labels']:
        model.predict = lambda inputs, samples, rescale=True: _detect(model, file, inputs, samples, rescale)
    elif hasattr(model, 'head') and outputs == ['logits']:
        model.predict = lambda inputs, samples=None, **kwargs: model.head._get_predictions(
            torch.cat([file(image[None])[0] for image in inputs]), samples
        )
    else:
        raise InputError(
            f'{path} gives {", ".join(outputs)}, which a {type(model).__name__} does not predict from; give the '
            'config that it was exported with'
        )
    return file.about


def _detect(model: nn.Module, file, inputs: Tensor, samples: list, rescale: bool) -> list:
    """As mmdetection's detectors: boxes in pixels of the image as it was read, where ``rescale``."""
    from mmengine.structures import InstanceData

    results = []
    for image, sample in zip(inputs, samples):
        boxes, scores, labels = file(image[None])
        height, width = sample.img_shape[:2]
        boxes = boxes.clone()
        boxes[:, 0::2].clamp_(0, width)
        boxes[:, 1::2].clamp_(0, height)
        if rescale:
            boxes = boxes / boxes.new_tensor(sample.scale_factor).repeat(2)
        results.append(InstanceData(bboxes=boxes, scores=scores, labels=labels.long()))
    return model.add_pred_to_datasample(samples, results)
