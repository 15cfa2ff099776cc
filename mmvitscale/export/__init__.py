"""From a trained model to a file that runs without it: ONNX, torch.export, OpenVINO; and such files tested in its place."""

from mmvitscale.export.graphs import graph_of
from mmvitscale.export.metadata import about_model
from mmvitscale.export.runtime import ExportedFile, is_exported, run_instead
from mmvitscale.export.writer import ExportRequest, export_model
from mmvitscale.utils.choices import EXPORT_FORMATS as FORMATS

__all__ = ['FORMATS', 'ExportRequest', 'ExportedFile', 'about_model', 'export_model', 'graph_of', 'is_exported', 'run_instead']
