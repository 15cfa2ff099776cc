"""A graph -> a file, compared with the model before it takes its place."""

import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mmvitscale.errors import InputError
from mmvitscale.export.graphs import Graph, graph_of
from mmvitscale.export.runtime import ExportedFile

# The most that a file may differ from the model, relative to the largest value of an output.
_TOLERANCE = 1e-3
_OPSET = 20


@dataclass
class ExportRequest:
    """What to write.

    format: a key of EXPORT_FORMATS. part: 'model' or 'backbone'. size: (height, width), or None for one file of every size.
    batch: images that go together, where the size is given. about: plain data that goes with the file. calibration: images
    (1, channels, H, W) as the data preprocessor gives them; with any, the weights and activations of matrix products and
    convolutions become int8.
    """

    format: str = 'onnx'
    part: str = 'model'
    size: tuple[int, int] | None = None
    batch: int = 1
    about: dict = field(default_factory=dict)
    calibration: Sequence[Tensor] = ()


def export_model(model: nn.Module, request: ExportRequest, path: Path) -> float:
    """Write a model's file, atomically.

    Args:
        model: in evaluation mode; it stays as it is.
        request: what to write.
        path: ends in the format's suffix.

    Returns:
        the largest difference of an output from the model's, relative to its largest value, as the format's own runtime
        computes it. Of an int8 file it says how coarse int8 is.

    Raises:
        InputError: for what cannot be exported so, and where a package is missing.
    """
    graph = graph_of(model, request.part, request.size, request.batch)
    about = dict(
        request.about,
        part=request.part,
        outputs=graph.outputs,
        int8=bool(len(request.calibration)),
        size=list(request.size) if request.size else None,
        batch=request.batch if request.size else None,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{path.stem}-', dir=path.parent) as folder, torch.no_grad():
        draft = Path(folder, path.name)
        if request.format == 'torch-export':
            if request.calibration:
                raise InputError('int8 is written by ONNX Runtime and OpenVINO; give --format onnx or openvino')
            torch.export.save(_program(graph), draft, extra_files={'about.json': json.dumps(about)})
        else:
            onnx_draft = Path(folder, f'{path.stem}.onnx')
            _write_onnx(graph, onnx_draft, about)
            if request.format == 'openvino':
                _write_openvino(onnx_draft, draft, about, request.calibration)
                onnx_draft.unlink()
            elif request.calibration:
                _quantise_onnx(onnx_draft, request.calibration)
        difference = _compare(draft, graph)
        if difference > _TOLERANCE and not request.calibration:
            raise InputError(
                f'{path.name} would differ from the model by {difference:.1e}, relative, more than '
                f'{_TOLERANCE}; it was not written'
            )
        if len(list(Path(folder).iterdir())) > 1:  # an earlier file does not meet the weights of this one
            path.unlink(missing_ok=True)
        for part in sorted(Path(folder).iterdir(), key=lambda part: part.name == path.name):  # the file itself last
            os.replace(part, path.parent / part.name)
    return difference


def _program(graph: Graph) -> torch.export.ExportedProgram:
    shapes = (dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC),) if graph.any_size else None
    with warnings.catch_warnings(), _sizes_like_any_other():
        warnings.simplefilter('ignore')
        return torch.export.export(graph.module, (graph.example,), dynamic_shapes=shapes, strict=False)


@contextmanager
def _sizes_like_any_other() -> Iterator[None]:
    """Tracing takes a size for 2 or more, and lets the graph refuse others, by default: that 0 and 1 are sizes as any
    other (an option of PyTorch that has no public name yet). And where it tests whether a rounded quotient can be said of a
    size by itself, PyTorch 2.13 fails on sums of three instead of saying no."""
    from torch.fx.experimental import _config
    from torch.fx.experimental.symbolic_shapes import DimConstraints

    can_be_said = DimConstraints._is_supported_congruence

    def careful(congruence):
        try:
            return can_be_said(congruence)
        except ValueError:
            return False

    option = _config.patch(backed_size_oblivious=True) if hasattr(_config, 'backed_size_oblivious') else nullcontext()
    DimConstraints._is_supported_congruence = staticmethod(careful)
    try:
        with option:
            yield
    finally:
        DimConstraints._is_supported_congruence = can_be_said


def _write_onnx(graph: Graph, path: Path, about: dict) -> None:
    onnx = _needed('onnx', 'onnxscript')
    with warnings.catch_warnings(), _quiet():
        warnings.simplefilter('ignore')
        program = torch.onnx.export(
            _program(graph), dynamo=True, input_names=['image'], output_names=graph.outputs, opset_version=_OPSET, verbose=False
        )
    program.save(str(path), external_data=False)
    model = onnx.load(path)
    if graph.suppress:
        _append_suppression(onnx, model, graph.suppress)
    onnx.helper.set_model_props(model, dict(mmvitscale=json.dumps(about)))
    onnx.save(model, path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on packages that it does not need."""
    loggers = [logging.getLogger(name) for name in ('torch.onnx', 'onnxscript', 'onnx_ir')]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def _append_suppression(onnx, model, limits: dict[str, float]) -> None:
    """Behind boxes, scores and labels: class by class, as mmcv does it by moving each class's boxes to a place of their own."""
    graph, make = model.graph, onnx.helper.make_node
    names = ['boxes', 'scores', 'labels']
    for node in graph.node:
        node.output[:] = [f'all_{name}' if name in names else name for name in node.output]
        node.input[:] = [f'all_{name}' if name in names else name for name in node.input]
    constants = dict(
        one=np.array([1], np.float32),
        axis_0=np.array([0], np.int64),
        axes_01=np.array([0, 1], np.int64),
        axis_1=np.array([1], np.int64),
        column=np.array(2, np.int64),
        most=np.array([limits['max_per_image']], np.int64),
        iou=np.array([limits['iou_threshold']], np.float32),
        lowest=np.array([limits['score_threshold']], np.float32),
    )
    graph.initializer.extend(onnx.numpy_helper.from_array(value, f'nms_{name}') for name, value in constants.items())
    graph.node.extend(
        [
            make('ReduceMax', ['all_boxes'], ['nms_largest'], keepdims=0),
            make('Add', ['nms_largest', 'nms_one'], ['nms_step']),
            make('Cast', ['all_labels'], ['nms_classes'], to=onnx.TensorProto.FLOAT),
            make('Mul', ['nms_classes', 'nms_step'], ['nms_moves']),
            make('Unsqueeze', ['nms_moves', 'nms_axis_1'], ['nms_move']),
            make('Add', ['all_boxes', 'nms_move'], ['nms_apart']),
            make('Unsqueeze', ['nms_apart', 'nms_axis_0'], ['nms_boxes']),
            make('Unsqueeze', ['all_scores', 'nms_axes_01'], ['nms_scores']),
            make('NonMaxSuppression', ['nms_boxes', 'nms_scores', 'nms_most', 'nms_iou', 'nms_lowest'], ['nms_selected']),
            make('Gather', ['nms_selected', 'nms_column'], ['nms_index'], axis=1),
            *(make('Gather', [f'all_{name}', 'nms_index'], [name], axis=0) for name in names),
        ]
    )
    for output in graph.output:
        output.type.tensor_type.shape.dim[0].ClearField('dim_value')
        output.type.tensor_type.shape.dim[0].dim_param = 'instances'


def _write_openvino(onnx_path: Path, path: Path, about: dict, calibration: Sequence[Tensor]) -> None:
    openvino = _needed('openvino')
    model = openvino.convert_model(onnx_path)
    if calibration:
        nncf = _needed('nncf')
        model = nncf.quantize(
            model,
            nncf.Dataset([image.numpy() for image in calibration]),
            subset_size=len(calibration),
            model_type=nncf.ModelType.TRANSFORMER,
        )
    model.set_rt_info(json.dumps(about), 'mmvitscale')
    openvino.save_model(model, path, compress_to_fp16=False)


def _quantise_onnx(path: Path, calibration: Sequence[Tensor]) -> None:
    _needed('onnxruntime')
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.images = iter(calibration)

        def get_next(self):
            image = next(self.images, None)
            return None if image is None else dict(image=image.numpy())

    whole, coarse = path.with_suffix('.whole'), path.with_suffix('.int8')
    quant_pre_process(str(path), str(whole), skip_symbolic_shape=True)
    quantize_static(
        str(whole),
        str(coarse),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=['MatMul', 'Gemm', 'Conv'],
        extra_options=dict(MatMulConstBOnly=True),
    )
    whole.unlink()
    shutil.move(coarse, path)


def _needed(*names: str):
    """Import packages, and return the first. Raises InputError where one is missing."""
    modules = []
    for name in names:
        try:
            modules.append(__import__(name))
        except ImportError as error:
            raise InputError(
                f'this format needs the package {name}, which is not installed ({error}); install what export '
                "needs: pip install -c constraints.txt -e '.[export]'"
            ) from error
    if 'onnx' in names:
        import onnx.numpy_helper  # noqa: F401
    return modules[0]


def _compare(path: Path, graph: Graph) -> float:
    """The largest relative difference of the file from the module that was traced, on images of the size, or of several."""
    file = ExportedFile(path)
    images = [graph.example]
    if graph.any_size:
        channels = graph.example.shape[1]
        images += [torch.rand(1, channels, *size) for size in ((64, 64), (33, 200), (20, 7))]
    return max(largest_difference(file(image), _outputs(graph, image)) for image in images)


def _outputs(graph: Graph, image: Tensor) -> list[Tensor]:
    out = graph.module(image)
    out = [out] if isinstance(out, Tensor) else list(out)
    return _suppressed(out, graph.suppress) if graph.suppress else out


def _suppressed(outputs: list[Tensor], limits: dict[str, float]) -> list[Tensor]:
    """Non-maximum suppression by mmcv, to compare with."""
    from mmcv.ops import batched_nms

    boxes, scores, labels = outputs
    kept = scores > limits['score_threshold']
    boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
    if not len(scores):
        return [boxes, scores, labels]
    _, index = batched_nms(boxes, scores, labels, dict(type='nms', iou_threshold=limits['iou_threshold']))
    index = index[: limits['max_per_image']]
    return [boxes[index], scores[index], labels[index]]


def largest_difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Of any output, relative to its largest value; infinite where shapes differ."""
    largest = 0.0
    for one, other in zip(found, expected, strict=True):
        if one.shape != other.shape:
            return float('inf')
        if other.numel():
            scale = other.double().abs().max().clamp_min(1e-6)
            largest = max(largest, ((one.double() - other.double()).abs().max() / scale).item())
    return largest
