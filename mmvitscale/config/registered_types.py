"""Which types of OpenMMLab a config from a stranger may name, place by place: those that compute, not those that read further
files, open connections, write, or take code.

MMEngine's registries are no such list: ``Registry.get`` imports ``<scope>.registry`` of any package that is named, or else
any dotted path; and what is registered includes a teacher's config that is run as Python, tokenizers and
backbones that are downloaded, data sets that unpickle, transforms that look functions up by name, metrics that remove folders.
"""

import re
from importlib import import_module
from typing import Any

from mmengine import registry as root

# Scopes that are looked into: importing ``<scope>.registry`` of any other would run a package that a file chose.
SCOPES = ('mmengine', 'mmdet', 'mmseg', 'mmpretrain', 'mmvitscale')

_NAME = re.compile(r'(?:([A-Za-z_]\w*)\.)?([A-Za-z_]\w*)')


def names(text: str) -> frozenset[str]:
    """Words between spaces and line breaks."""
    return frozenset(text.split())


_MODEL_PACKAGES = (
    *('torch.nn.', 'mmcv.cnn.', 'mmcv.ops.', 'mmengine.model.', 'mmvitscale.models.'),
    *('mmseg.structures.sampler.', 'mmpretrain.models.selfsup.simmim.'),
    *(
        f'{package}.models.{part}.'
        for package, parts in dict(
            mmdet='backbones data_preprocessors dense_heads detectors layers losses necks roi_heads seg_heads task_modules '
            'test_time_augs',
            mmseg='assigners backbones data_preprocessor decode_heads losses necks segmentors utils',
            mmpretrain='backbones classifiers heads losses necks tta utils',
        ).items()
        for part in parts.split()
    ),
)
# Modules among them whose types read files, download, or run a config.
_REFUSED_MODULES = (
    'mmdet.models.dense_heads.atss_vlfusion_head.',  # BertConfig.from_pretrained
    'mmdet.models.dense_heads.grounding_dino_head.',
    'mmdet.models.detectors.d2_wrapper.',  # a config of Detectron2
    'mmdet.models.detectors.glip.',
    'mmdet.models.detectors.grounding_dino.',
    'mmdet.models.detectors.kd_one_stage.',  # runs the teacher's config
    'mmdet.models.detectors.lad.',  # the same
    'mmdet.models.task_modules.tracking.',  # eval of an option, weights of its own
    'mmseg.models.backbones.timm_backbone.',  # downloads
    'mmseg.models.backbones.vpd.',  # a diffusion model's config and weights
    'mmseg.models.decode_heads.san_head.',
    'mmpretrain.models.backbones.timm_backbone.',
    'mmpretrain.models.classifiers.hugging_face.',
    'mmpretrain.models.classifiers.timm.',
    'mmpretrain.models.heads.vqa_head.',  # reads a list of answers
    'mmpretrain.models.utils.huggingface.',
    'mmpretrain.models.utils.tokenizer.',
    'mmpretrain.models.utils.vector_quantizer.',  # reads a codebook
)

# Steps of test pipelines. Not those that take functions or look them up by name (Albu, torchvision's, KeyMapper, Lambda), run
# code in data (LoadBiomedicalData with pickle) or read other files than the image.
_STEPS = names("""
    AdjustGamma AlignResize BioMedical3DPad CLAHE CenterCrop Collect EfficientNetCenterCrop FixScaleResize FixShapeResize
    ImageToTensor LoadAnnotations LoadImageFromFile LoadMultispectralImage LoadPanopticAnnotations MultiScaleFlipAug
    Normalize NormalizeChannels PackDetInputs PackInputs PackSegInputs Pad RGB2Gray RandomFlip Rerange Resize ResizeEdge
    ResizeShortestEdge ResizeToMultiple SimMIMMaskGenerator TestTimeAug ToTensor
""")
# Not those that unpickle (OpenImages, CIFAR, RefCOCO), download (CIFAR, MNIST) or ask a server (OneDL).
_DATASETS = names("""
    ADE20KDataset BDD100KDataset BaseSegDataset COCOStuffDataset CUB Caltech101 ChaseDB1Dataset CityscapesDataset
    CocoDataset CocoPanopticDataset ConcatDataset CrowdHumanDataset CustomDataset DRIVEDataset DTD DarkZurichDataset
    DeepFashionDataset FGVCAircraft Flowers102 Food101 HRFDataset HSIDrive20Dataset ISPRSDataset ImageNet ImageNet21k
    LIPDataset LVISDataset LVISV05Dataset LVISV1Dataset LoveDADataset MapillaryDataset_v1 MapillaryDataset_v2
    MultiLabelDataset NightDrivingDataset OxfordIIITPet PascalContextDataset PascalContextDataset59 PascalVOCDataset
    Places205 PotsdamDataset REFUGEDataset RepeatDataset STAREDataset SUN397 StanfordCars SynapseDataset VOC VOCDataset
    WIDERFaceDataset iSAIDDataset
""")
# Not those that write (DumpResults, CityScapesMetric) or start programs (captions).
_METRICS = names("""
    Accuracy AveragePrecision CocoMetric CocoPanopticMetric ConfusionMatrix DepthMetric FasterCocoMetric IoUMetric
    LVISMetric MultiLabelMetric SingleLabelMetric VOCAveragePrecision VOCMetric VOCMultiLabelMetric
""")
_PACKAGES = ('mmcv.', 'mmdet.', 'mmengine.', 'mmpretrain.', 'mmseg.', 'mmvitscale.')

# Keys whose type is looked up elsewhere: mmcv evaluates the name of a suppression as Python, mmdet gets its layer of mmcv.ops.
_FUNCTIONS = {
    'nms': frozenset(('nms', 'soft_nms')),
    'nms_cfg': frozenset(('nms', 'soft_nms')),
    'roi_layer': frozenset(('RoIAlign', 'RoIPool', 'DeformRoIPool', 'ModulatedDeformRoIPool')),
}

_KINDS = {
    'model': ('MODELS', 'TASK_UTILS'),
    'transform': ('TRANSFORMS',),
    'data set': ('DATASETS',),
    'metric': ('METRICS',),
}


def is_allowed(name: str, kind: str, key: str, scope: str) -> bool:
    """Whether a config that is data may have this type.

    Args:
        name: as in ``type=``, with a scope before it or not.
        kind: what it is to be: model (any part of one), transform, data set or metric.
        key: under which the dict with this type stands.
        scope: the config's, one of SCOPES.

    Raises:
        ImportError: for a scope whose package is not installed.
    """
    if key in _FUNCTIONS:
        return name in _FUNCTIONS[key]
    found = find_registered(name, kind, scope)
    if found is None:
        return False
    module, plain = f'{getattr(found, "__module__", "")}.', name.split('.')[-1]
    if kind == 'model':
        return module.startswith(_MODEL_PACKAGES) and not module.startswith(_REFUSED_MODULES)
    allowed = {'transform': _STEPS, 'data set': _DATASETS, 'metric': _METRICS}[kind]
    return plain in allowed and module.startswith(_PACKAGES)


def find_registered(name: str, kind: str, scope: str) -> Any:
    """What is registered under a name, as a scope finds it, or None; nothing is imported but the packages of SCOPES."""
    match = _NAME.fullmatch(name)
    own = (match[1] or scope) if match else None
    if not match or own not in SCOPES:
        return None
    for needed in (scope, own):
        import_module(f'{needed}.registry')
    for registry_name in _KINDS[kind]:
        top = getattr(root, registry_name)
        top.children.get(scope, top).import_from_location()  # which registers mmcv's, at the top
        registry = top if own == top.scope else top.children.get(own, top)
        while registry is not None:
            registry.import_from_location()
            if match[2] in registry.module_dict:
                return registry.module_dict[match[2]]
            registry = registry.parent
    return None


def registered_name(found: Any) -> str | None:
    """The name with its scope that a class or function is registered under, whatever it is; None for what is not."""
    tops = [value for value in vars(root).values() if isinstance(value, root.Registry)]
    for top in tops:
        for registry in (*top.children.values(), top):
            for name, registered in registry.module_dict.items():
                if registered is found:
                    return f'{registry.scope}.{name}'
    return None
