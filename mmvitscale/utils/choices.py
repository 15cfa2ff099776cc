"""Names that the options of tools choose from. They stand here, apart from what they stand for, so that a parser, ``--help``
and a mistyped option need neither PyTorch nor MMEngine."""

# Annotation formats that are read and written: each is a module of ``datasets/formats`` (``-`` becomes ``_``).
ANNOTATION_FORMATS = ('coco', 'yolo', 'voc', 'labelme', 'cvat', 'label-studio', 'masks')
# Tasks that a config for own data is written for.
TASKS = ('segmentation', 'detection', 'instance')

# Names of ``--track`` -> the backend (engine/tracking.py), and the package that it needs, which is also what pip takes.
TRACKERS: dict[str, tuple[str, str]] = {
    'tensorboard': ('TensorboardVisBackend', 'tensorboard'),
    'wandb': ('WandbVisBackend', 'wandb'),
    'mlflow': ('MLflowVisBackend', 'mlflow'),
    'clearml': ('ClearMLVisBackend', 'clearml'),
    'aim': ('AimVisBackend', 'aim'),
    'dvclive': ('DVCLiveVisBackend', 'dvclive'),
    'neptune': ('NeptuneVisBackend', 'neptune'),
}
# A training whose batch is to be found (engine/batch_size.py) has this in place of a number.
AUTO = 'auto'
# How a training is spread over processes: a fragment of a config each, in ``configs/_base_/scale``.
STRATEGIES = ('ddp', 'zero1', 'deepspeed_zero1', 'fsdp')
# Whose learning rates a resumed training has (engine/resumed_schedule.py).
RESUME_SCHEDULES = ('config', 'checkpoint')

# What a prediction is saved as, each in a folder of its name; and the annotation formats of objects, of which masks are what
# ``labels`` writes.
SAVED_KINDS = ('labels', 'scores', 'logits', 'json')
SAVED_FORMATS = tuple(name for name in ANNOTATION_FORMATS if name != 'masks')
# Formats of exported models -> suffixes of their files.
EXPORT_FORMATS = {'onnx': '.onnx', 'torch-export': '.pt2', 'openvino': '.xml'}
# Libraries that a SwinV2's weights can be written for (``checkpoints.convert.libraries_of``).
LIBRARIES = ('official', 'timm', 'huggingface', 'mmpretrain', 'torchvision')
# How Re-attention's maps are normalised with another number of tokens, N, than was trained with (the laws are those of
# models/deepvit/re_attention_norm.py). token_invariant: the form whose statistics follow them. running: the official form, the
# statistics as they are, whatever N is. scaled: the statistics that the official form would have with N tokens. image: the same
# with the variance of the image itself.
STATISTICS = ('token_invariant', 'running', 'scaled', 'image')

# float32, or the type of autocast.
PRECISIONS = ('fp32', 'bf16', 'fp16')
# What the benchmark measures: modes, and variants of a network: as it comes; through torch.compile; with its own way of
# computing activations again in the backward pass. In place of a whole model an exported file may run.
MODES = ('inference', 'training')
VARIANTS = ('plain', 'compiled', 'checkpointed')
EXPORTED_VARIANTS = ('onnx', 'openvino')
