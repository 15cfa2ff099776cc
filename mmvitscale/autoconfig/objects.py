"""Objects with boxes or masks: COCO files as they are, and data sets of other formats as COCO files have them, checked."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmvitscale.autoconfig.layout import InspectedDataset, Split, describe_images, middle
from mmvitscale.datasets.annotation_losses import Use, find_losses
from mmvitscale.datasets.coco import check_content, check_sizes, read_coco
from mmvitscale.datasets.folders import SPLITS, repeated, split_of
from mmvitscale.datasets.formats.annotations import AnnotatedDataset
from mmvitscale.datasets.formats.coco import KEY_POINTS, check_lists, chosen_files, coco_files, content_of, image_folder
from mmvitscale.errors import InputError, some_of


def inspect_coco(path: Path, task: str | None, classes: Sequence[str] | None) -> InspectedDataset:
    """A COCO file or a folder with some, the task (None: by what they hold), and names of classes to learn, if not all -> what
    was found. Raises InputError for what cannot be trained on."""
    root = path if path.is_dir() else path.parent
    if root.name == 'annotations' and not path.is_dir():
        root = root.parent  # COCO's own layout, with the images beside that folder
    found = coco_files(root) if path.is_dir() else {path: read_coco(path)}
    if not found:
        found = coco_files(root, KEY_POINTS)  # which have boxes and masks, too
    if not found:
        raise InputError(f'{root} holds no COCO file (JSON with images, annotations and categories) that can be trained on')
    chosen = chosen_files(path, root, found)
    files = []
    for split in (split for split in SPLITS if split in chosen):
        file, content = chosen[split], found[chosen[split]]
        check_lists(content, file)
        images = [image['file_name'] for image in content['images']]
        folder = image_folder(file, images, root, split_of(file, root) or split)
        check_sizes(content['images'], folder, file, skip_unreadable=False)
        files.append(AnnotatedSplit(split, file, folder, content))
    return inspect_objects(root, task or task_of(files), files, classes)


def inspect_annotations(dataset: AnnotatedDataset, task: str | None, classes: Sequence[str] | None) -> InspectedDataset:
    """A data set of another format that was read, the task, and names of classes to learn -> what was found, with what COCO
    files of it should hold. Raises InputError for what cannot be trained on."""
    files = []
    for split in SPLITS:
        images = dataset.of_split(split)
        if images:
            content = content_of(images, dataset.classes, [image.name for image in images])
            for item in content['annotations'] if task != 'detection' else ():
                if item['iscrowd'] and 'segmentation' not in item:  # ignored in any case, but loaders want a mask
                    left, top, width, height = item['bbox']
                    right, bottom = left + width, top + height
                    item['segmentation'] = [[left, top, right, top, right, bottom, left, bottom]]
            files.append(AnnotatedSplit(split, dataset.root, dataset.root, content, converted=True))
    if files[0].split != 'train':
        raise InputError(
            f'{dataset.root} has images for {" and ".join(file.split for file in files)}, but none for training; put some '
            'into a folder train'
        )
    embedded = dataset.images if any(image.embedded for image in dataset.images) else []
    found = inspect_objects(dataset.root, task or task_of(files), files, classes, {image.name for image in embedded})
    found.embedded = embedded
    return found


@dataclass
class AnnotatedSplit:
    """The content of a COCO file: of a file, or of another format as a COCO file has it (``converted``)."""

    split: str
    file: Path
    images: Path
    content: dict
    converted: bool = False


def task_of(files: Sequence[AnnotatedSplit]) -> str:
    """instance where every object has a mask, else detection."""
    objects = [item for file in files for item in file.content['annotations']]
    return 'instance' if objects and all(item.get('segmentation') for item in objects) else 'detection'


def inspect_objects(
    root: Path,
    task: str,
    files: Sequence[AnnotatedSplit],
    classes: Sequence[str] | None,
    embedded: Collection[str] = (),
) -> InspectedDataset:
    """The content of COCO files checked, counted and described. embedded: names of images that are no files yet."""
    contents, chosen = {file.split: file.content for file in files}, {file.split: file.file for file in files}
    names, notes = _coco_classes(contents, chosen, classes)
    splits, sizes = {}, []
    order = [category['name'] for category in contents['train']['categories']]
    for file in files:
        ordered = _in_order(file.content, order)
        use = Use(file.split == 'train', task == 'instance')
        counts, own = check_content(ordered, file.file, file.images, names, use, embedded)
        counts.check([file.file], names, use.training)
        notes += own
        images = [image['file_name'] for image in ordered['images']]
        split = splits[file.split] = Split(file.images, file.file, images, _labels_of(ordered, names, use))
        if file.converted or ordered is not file.content:
            split.content = ordered
        if ordered is not file.content:
            notes.append(
                f'{file.file} has its categories in another order than {chosen["train"]}, in which labels are numbered: a '
                'copy in the order of the latter is written beside the config'
            )
        sizes += [(image['height'], image['width']) for image in ordered['images']]
    lines = [describe_images(splits, sizes), *_describe_boxes(contents['train'], names)]
    per_image = Counter(item['image_id'] for content in contents.values() for item in content['annotations'])
    most = max(per_image.values())
    return InspectedDataset(task, root, names, splits, middle(sizes), min(map(min, sizes)), most, lines=lines, notes=notes)


def _in_order(content: dict, names: Sequence[str]) -> dict:
    """A file's content with its categories in this order; itself where they are."""
    if [category['name'] for category in content['categories']] == list(names):
        return content
    return {**content, 'categories': sorted(content['categories'], key=lambda category: names.index(category['name']))}


def _labels_of(content: dict, names: Sequence[str], use: Use) -> dict[str, set]:
    """Of each image, by its name, the classes of the objects in it that are used."""
    files = {image['id']: image['file_name'] for image in content['images']}
    categories = {category['id']: category['name'] for category in content['categories']}
    labels: dict[str, set] = {name: set() for name in files.values()}
    for item, cause in find_losses(content, names, use):
        if cause is None:
            labels[files[item['image_id']]].add(categories[item['category_id']])
    return labels


def _coco_classes(
    contents: dict[str, dict], files: dict[str, Path], classes: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """The classes to learn, in the order of the file, and notes on those left out."""
    per_split = {split: [category['name'] for category in content['categories']] for split, content in contents.items()}
    used: dict[str, set] = {}
    for split, content in contents.items():
        ids = {item['category_id'] for item in content['annotations']}
        used[split] = {category['name'] for category in content['categories'] if category['id'] in ids}
    names = per_split['train']
    twice = repeated(names)
    if twice:
        raise InputError(f'{files["train"]} has the category {some_of(twice)} twice; give each a name of its own')
    for split, others in per_split.items():
        if set(others) != set(names):
            raise InputError(
                f'{files[split]} has the categories {some_of(others)}, but {files["train"]} has '
                f'{some_of(names)}; export both with the same categories'
            )
    if classes:
        unknown = [name for name in classes if name not in names]
        if unknown:
            raise InputError(
                f'--classes names {some_of(unknown)}, but the categories of {files["train"]} are '
                f'{some_of(names)}; choose among them'
            )
        names = [name for name in names if name in classes]
    unseen = [name for name in names if name not in used['train']]
    elsewhere = [name for name in unseen if any(name in some for some in used.values())]
    if elsewhere:
        raise InputError(
            f'class {some_of(elsewhere)} has objects in {" and ".join(sorted(set(used) - {"train"}))} but none '
            f'in training ({files["train"]}); split the data again, or leave the class out with --classes'
        )
    if classes and unseen:
        raise InputError(f'class {some_of(unseen)} has no object in {files["train"]}; leave it out of --classes')
    if not used['train']:
        raise InputError(f'{files["train"]} has no object of any category; export it with its annotations')
    notes = [f'category {some_of(unseen)} has no object and is left out'] if unseen else []
    return [name for name in names if name not in unseen], notes


def _describe_boxes(content: dict, names: Sequence[str]) -> list[str]:
    known = {category['id']: category['name'] for category in content['categories'] if category['name'] in names}
    boxes = [item for item in content['annotations'] if item['category_id'] in known]
    counts = Counter(known[item['category_id']] for item in boxes)
    sides = sorted((item['bbox'][2] * item['bbox'][3]) ** 0.5 for item in boxes)
    small, middle, large = (sides[int(share * (len(sides) - 1))] for share in (0.1, 0.5, 0.9))
    per_image = len(boxes) / max(1, len(content['images']))
    return [
        f'{len(names)} classes: '
        + ', '.join(f'{name} ({counts[name]})' for name in names[:20])
        + (', ...' if len(names) > 20 else ''),
        f'objects: {len(boxes)}, {per_image:.1f} an image; sides of {small:.0f}, {middle:.0f} and {large:.0f} pixels at 10, '
        '50 and 90%',
    ]
