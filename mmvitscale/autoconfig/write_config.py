"""A config for a user's own data: sizes, batch and lengths proposed, and written as a short file that inherits a recipe."""

from dataclasses import dataclass, field
from math import ceil, sqrt
from pathlib import Path

from mmvitscale.autoconfig.files_beside import check_free, folders_beside, splits_and_files
from mmvitscale.autoconfig.layout import InspectedDataset, Split
from mmvitscale.config.training_options import TrainingOptions
from mmvitscale.datasets.folders import PART_MARK
from mmvitscale.datasets.formats.output import written_folder
from mmvitscale.errors import InputError
from mmvitscale.utils.atomic_write import write_bytes_atomically

# What training takes of a GPU's memory, in bytes: each parameter with its gradient and AdamW's two moments in float32, and
# what is kept for the backward pass of each pixel of a batch. Estimates, on the careful side.
_PER_PARAMETER = 16
_PER_PIXEL = dict(segmentation=11_000, detection=5_000, instance=6_000)
_PARAMETERS = dict(segmentation=60e6, detection=45e6, instance=48e6)
_USABLE = 0.9

_RECIPES = dict(segmentation='swinv2-t{}_upernet', detection='swinv2-t{}_faster-rcnn', instance='swinv2-t{}_mask-rcnn')
_SMALL_RECIPES = dict(segmentation='swinv2_upernet_mini', detection='swinv2_retinanet_mini', instance='swinv2_mask_rcnn_mini')
# The parts of a model that count classes.
_HEADS = {
    'retinanet': 'bbox_head=dict(num_classes={n})',
    'faster': 'roi_head=dict(bbox_head=dict(num_classes={n}))',
    'mask': 'roi_head=dict(bbox_head=dict(num_classes={n}), mask_head=dict(num_classes={n}))',
    'upernet': 'decode_head=dict(num_classes={n}), auxiliary_head=dict(num_classes={n})',
}
_MOST_OBJECTS = 100  # that mmdetection's recipes predict in an image
_LEAST_SIDE = 32  # of images that mmdetection's recipes train on
_CROPS = (640, 512, 384, 256)
_VALIDATIONS = 5  # in a training
_LEAST_BATCH, _MOST_BATCH = 2, 16  # BatchNorm in the heads of segmentation wants two

_SEGMENTATION = """\
# {title}.
_base_ = 'mmvitscale::{recipe}'
data_root = {root}
classes = {classes}
crop_size = ({crop}, {crop})
model = dict(
    data_preprocessor=dict(size=crop_size), backbone=dict(window_size={window}),
    {heads})
{pipelines}
dataset = dict(
    data_root=data_root, metainfo=dict(classes=classes, palette=[]), img_suffix={image_suffix},
    seg_map_suffix={mask_suffix}, reduce_zero_label={zero_is_unknown})
{loaders}
{schedule}
"""

_DETECTION = """\
# {title}.
_base_ = 'mmvitscale::{recipe}'
data_root = {root}
classes = {classes}
model = dict({heads})
{pipelines}
dataset = dict(data_root=data_root, metainfo=dict(classes=classes))
{loaders}
{schedule}
"""

_SCHEDULE = """\
iters = {iters}
optim_wrapper = dict(optimizer=dict(lr={lr:.2g}))
auto_scale_lr = dict(enable=False, base_batch_size={batch})
warm_up, decay = _base_.param_scheduler
param_scheduler = [dict(warm_up, end={warmup}), dict(decay, {decay}, end=iters)]
train_cfg = dict(max_iters=iters, val_interval=iters // {validations})
default_hooks = dict(checkpoint=dict(interval=iters // 5))
del warm_up, decay"""

# Of the small recipes, whose own data have no up and down.
_FLIP = "RandomFlip=dict(prob=0.5, direction='horizontal')"
_CHANGED = '{0}_pipeline = [dict(step, **changes.get(step.type, {{}})) for step in _base_.{0}_pipeline]'


@dataclass
class Plan:
    """What is proposed. messages: lines for the user. scale: short side that images are brought to, None as they are."""

    recipe: str
    batch: int
    lr: float
    iters: int
    scale: int | None
    crop: int | None = None
    messages: list[str] = field(default_factory=list)


def propose(inspected: InspectedDataset, images: int, memory: float | None, frozen: bool) -> Plan:
    """A recipe with its sizes for what was found.

    The crop of segmentation is the largest of 640 to 256 pixels, no larger than the median image, of which a batch of two
    fits into the memory; the short side of detection the largest of 800 to 400. Without a GPU the crop is 128.

    Args:
        images: in training.
        memory: of the GPU, in GB. None: there is none, so a small model from scratch is proposed.
        frozen: keep the backbone as it was pretrained.

    Raises:
        InputError: for memory that is too small.
    """
    segmentation = inspected.task == 'segmentation'
    if memory is None:
        scale = None if min(inspected.size) <= (320 if segmentation else 640) else 256 if segmentation else 600
        batch, epochs, least, crop, lr = (8, 30, 1200, 128, 2e-3) if segmentation else (4, 18, 900, None, 1e-3)
        plan = Plan(_SMALL_RECIPES[inspected.task], batch, lr, _length(images, batch, epochs, least, 4000), scale, crop)
        plan.messages.append('no GPU here: a small model from scratch; for a GPU give its memory in GB, e.g. --gpu-memory 24')
    else:
        sides = (
            [crop for crop in _CROPS if crop <= min(inspected.size)] or [_CROPS[-1]]
            if segmentation
            else [800, 700, 600, 500, 400]
        )
        fitting = [
            (side, batch_that_fits(inspected.task, memory, side * side if segmentation else side * side * 5 // 3))
            for side in sides
        ]
        side, batch = next(((side, batch) for side, batch in fitting if batch >= _LEAST_BATCH), (None, 0))
        if side is None:
            raise InputError(
                f'--gpu-memory {memory:g} found, but {_LEAST_BATCH} images with a short side of {sides[-1]} take '
                'more with a SwinV2-T; give the memory of a larger GPU in GB, or leave --gpu-memory out for a '
                'small model'
            )
        recipe = _RECIPES[inspected.task].format('-frozen' if frozen else '')
        lr = (6e-5 if segmentation else 1e-4) * sqrt(batch / 16)
        iters = _length(images, batch, 80 if segmentation else 50, 1000, 40000 if segmentation else 20000)
        plan = Plan(recipe, batch, lr, iters, side, side if segmentation else None)
    size = f'crops of {plan.crop} x {plan.crop}, ' if plan.crop else ''
    scale = f'short side {plan.scale}, ' if plan.scale else 'images as large as they are, '
    plan.messages.append(
        f'recipe {plan.recipe}: {scale}{size}batch {plan.batch}, learning rate {plan.lr:.2g}, {plan.iters} '
        f'iterations ({plan.iters * plan.batch / images:.0f} epochs)'
    )
    return plan


def batch_that_fits(task: str, memory: float, pixels: int) -> int:
    """Images of so many pixels that fit into so many GB of a GPU's memory, at most 16; 0 if none does."""
    free = memory * 2**30 * _USABLE - _PARAMETERS[task] * _PER_PARAMETER
    return max(0, min(_MOST_BATCH, int(free / (_PER_PIXEL[task] * pixels))))


def _length(images: int, batch: int, epochs: int, least: int, most: int) -> int:
    """Iterations of so many epochs, within bounds, in full hundreds."""
    return 100 * ceil(min(most, max(least, images * epochs / batch)) / 100)


def write_config(
    inspected: InspectedDataset,
    out: Path,
    memory: float | None,
    frozen: bool = False,
    force: bool = False,
    options: TrainingOptions | None = None,
) -> list[str]:
    """Write a config for what was found, and what it needs beside it; return what was chosen, a line each.

    Args:
        inspected: of the data.
        out: the config's path, ending in .py. Where the data have no images for validation, every tenth of those for
            training is kept for it, listed in files beside the config.
        memory, frozen: as in ``propose``.
        force: overwrite what is there.
        options: of the training, such as EMA, written into the config.

    Raises:
        InputError: for a name that is taken, or memory that is too small.
    """
    if out.suffix != '.py':
        raise InputError(f'--out {out} found, but a config is a Python file; name it such as my_data.py')
    if frozen and memory is None:
        raise InputError(
            '--frozen keeps pretrained weights, but without a GPU the proposal is a small model from scratch; '
            'give the memory of the GPU that it is for, in GB, with --gpu-memory'
        )
    files, splits, lines = splits_and_files(inspected, out)
    folders = folders_beside(inspected, splits, out)
    check_free(inspected, out, [*files, *folders], force)
    plan = propose(inspected, len(splits['train'].names), memory, frozen)
    segmentation = inspected.task == 'segmentation'
    head = next(text for key, text in _HEADS.items() if key in plan.recipe)
    counts = ', '.join(f'{len(split.names)} for {name}' for name, split in splits.items())
    text = (_SEGMENTATION if segmentation else _DETECTION).format(
        title=f'{inspected.task.capitalize()} on {literal(str(inspected.root))}: images {counts}; '
        f'{len(inspected.classes)} classes',
        root=literal(f'{inspected.root}/'),
        recipe=plan.recipe,
        classes=literal(tuple(inspected.classes)),
        crop=plan.crop,
        window=plan.crop // 32 if plan.crop and memory is not None else 8,
        heads=head.format(n=len(inspected.classes)) + _more_objects(plan, inspected.most_objects),
        pipelines='\n'.join(_mask_pipelines(plan, memory) if segmentation else _box_pipelines(plan, memory)),
        image_suffix=literal(inspected.splits['train'].image_suffix),
        mask_suffix=literal(inspected.splits['train'].mask_suffix),
        zero_is_unknown=inspected.zero_is_unknown,
        loaders='\n'.join(_loaders(inspected, splits, plan)),
        schedule=_schedule(plan, not segmentation and memory is not None, options),
    )
    text += '\n'.join([*options.lines(), '']) if options else ''
    for folder, fill in folders.items():
        with written_folder(folder, overwrite=True, mark=PART_MARK) as output:
            fill(output)
    for path, content in files.items():
        write_bytes_atomically(path, content)
    write_bytes_atomically(out, text.encode())
    return [*lines, *plan.messages]


def _more_objects(plan: Plan, most: int) -> str:
    """What lets a detector give more than the 100 objects of COCO's recipes, where images have more."""
    if most <= _MOST_OBJECTS:
        return ''
    limit = f'max_per_img={100 * ceil(most * 1.5 / 100)}'
    plan.messages.append(f'an image has {most} objects: up to {limit.split("=")[1]} are predicted in each')
    return (
        f', test_cfg=dict({limit})'
        if 'retinanet' in plan.recipe
        else f', test_cfg=dict(rpn=dict(nms_pre=2000, max_per_img=2000), rcnn=dict({limit}))'
    )


def literal(value: object) -> str:
    """A value as a config writes it. MMEngine replaces what stands in double braces before it reads a config, and would do so
    in names of classes and folders, too."""
    return repr(value).replace('{{', '{\\x7b')


def _schedule(plan: Plan, stepped: bool, options: TrainingOptions | None) -> str:
    warmup = min(200, plan.iters // 10)
    decay = 'milestones=[iters * 3 // 4, iters * 11 // 12]' if stepped else f'begin={warmup}'
    # To stop early there must be more validations than those without improvement.
    validations = max(_VALIDATIONS, 4 * options.early_stop) if options and options.early_stop else _VALIDATIONS
    return _SCHEDULE.format(iters=plan.iters, lr=plan.lr, batch=plan.batch, warmup=warmup, decay=decay, validations=validations)


def _below(path: Path, inspected: InspectedDataset) -> str:
    """A path as a config writes it: relative to data_root, or absolute outside of it."""
    return str(path.relative_to(inspected.root)) if path.is_relative_to(inspected.root) else str(path)


def _loaders(inspected: InspectedDataset, splits: dict[str, Split], plan: Plan) -> list[str]:
    """Lines of the three data loaders, and of the evaluators that name a file."""
    masks, lines = inspected.task == 'segmentation', []
    for name, split in splits.items():
        if name == 'test' and split is splits['val']:
            lines.append(
                'test_dataloader = val_dataloader'
                if masks
                else 'test_dataloader, test_evaluator = val_dataloader, val_evaluator'
            )
            continue
        batch = f'batch_size={plan.batch}, ' if name == 'train' else ''
        lines.append(f'{name}_dataloader = dict({batch}dataset=dict(')
        listed = ''
        if masks:
            listed = f'ann_file={literal(_below(split.listed, inspected))}, ' if split.listed else ''
            lines += [
                f'    data_prefix=dict(img_path={literal(_below(split.images, inspected))},',
                f'                     seg_map_path={literal(_below(split.ground_truth, inspected))}),',
            ]
        else:
            folder = _below(split.images, inspected) + '/'
            lines.append(
                f'    ann_file={literal(_below(split.ground_truth, inspected))}, data_prefix=dict(img={literal(folder)}),'
            )
            if name == 'train' and (inspected.smallest < _LEAST_SIDE or not all(split.labels.values())):
                # mmdetection's recipes leave out small images, and those without objects.
                listed = 'filter_cfg=dict(filter_empty_gt=False, min_size=1), '
        whole = 'dataset'
        own = {'img_suffix': split.image_suffix, 'seg_map_suffix': split.mask_suffix}
        common = {'img_suffix': splits['train'].image_suffix, 'seg_map_suffix': splits['train'].mask_suffix}
        if own != common:
            whole = f'{{**dataset, **{literal(own)}}}'
        lines.append(f'    {listed}pipeline={"train" if name == "train" else "test"}_pipeline, **{whole}))')
        if name != 'train' and not masks:
            root = 'data_root + ' if split.ground_truth.is_relative_to(inspected.root) else ''
            lines.append(f'{name}_evaluator = dict(ann_file={root}{literal(_below(split.ground_truth, inspected))})')
    return lines


def _box_pipelines(plan: Plan, memory: float | None) -> list[str]:
    if memory is None:
        resize = (
            f', Resize=dict(scale=({plan.scale * 4 // 3}, {plan.scale}), scale_factor=None, keep_ratio=True)'
            if plan.scale
            else ''
        )
        return [
            # In the scenes that the small recipe is made for hues and up and down show nothing; in photographs they do.
            f'changes = dict(PhotoMetricDistortion=dict(hue_delta=18), {_FLIP}{resize})',
            *(_CHANGED.format(split) for split in ('train', 'test')),
        ]
    short = plan.scale or 800  # as in the recipe
    long = short * 5 // 3
    if short == 800:
        return ['train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline']
    return [
        "resize = dict(type='RandomChoiceResize', keep_ratio=True,",
        f'              scales=[({long}, s) for s in range({short}, {short * 3 // 5 - 1}, -32)])',
        "train_pipeline = [resize if step.type == 'RandomChoice' else step for step in _base_.train_pipeline]",
        f'changes = dict(Resize=dict(scale=({long}, {short})))',
        _CHANGED.format('test'),
    ]


def _mask_pipelines(plan: Plan, memory: float | None) -> list[str]:
    scale = f'({4 * plan.scale}, {plan.scale})' if plan.scale else None
    if memory is None:
        lines = [
            f'changes = dict(RandomCrop=dict(crop_size=crop_size), PhotoMetricDistortion=dict(hue_delta=18), {_FLIP})',
            *(_CHANGED.format(split) for split in ('train', 'test')),
        ]
        if scale:
            lines += [
                f"resize = dict(type='Resize', scale={scale}, keep_ratio=True)",
                'train_pipeline.insert(2, resize)',
                'test_pipeline.insert(1, resize)  # before the annotations: the ground truth keeps its size',
            ]
    else:
        lines = [
            f'scale = dict(scale={scale})',
            'changes = dict(RandomResize=scale, Resize=scale, RandomCrop=dict(crop_size=crop_size))',
            *(_CHANGED.format(split) for split in ('train', 'test')),
        ]
    if plan.scale:
        ratios = (0.75, 1.0, 1.25) if memory is None else (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
        lines += [
            "tta_pipeline = [_base_.tta_pipeline[0], dict(type='TestTimeAug', transforms=[",
            f"    [dict(type='Resize', scale=(int({4 * plan.scale} * r), int({plan.scale} * r)), keep_ratio=True)",
            f'     for r in {ratios}],',
            '    *_base_.tta_pipeline[1].transforms[1:]])]',
        ]
    return lines
