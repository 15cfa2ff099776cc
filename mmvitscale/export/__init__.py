"""From a trained model to a file that runs without it: ONNX, torch.export, OpenVINO; and such files tested in its place."""

from .graphs import graph_of
from .runtime import ExportedFile, run_instead
from .writer import FORMATS, ExportRequest, export_model

__all__ = ['FORMATS', 'ExportRequest', 'ExportedFile', 'export_model', 'graph_of', 'run_instead']
