"""A part of the training images kept for validation, stratified by class."""

from collections import Counter
from collections.abc import Hashable, Mapping

from mmvitscale.autoconfig.layout import InspectedDataset


def stratified_part(labels: Mapping[str, set[Hashable]], count: int) -> set[str]:
    """About ``count`` images in which every class has its share of images, and none whose classes would be missing in the
    others: iterative stratification (Sechidis, Tsoumakas and Vlahavas, ECML 2011), which begins with the rarest class.

    Args:
        labels: the classes in each image.
        count: images wanted, at least 1 and less than there are.

    Returns:
        names of images. The same labels give the same part.
    """
    share = count / len(labels)
    images = Counter(label for own in labels.values() for label in own)
    wanted = {label: max(n * share, float(n > 1)) for label, n in images.items()}
    left = {name: set(own) for name, own in labels.items()}
    remaining = dict(images)
    part: set[str] = set()

    def decide(name: str, kept: bool) -> None:
        for label in left.pop(name):
            remaining[label] -= 1
            wanted[label] -= kept
        if kept:
            part.add(name)

    outside, inside = Counter[Hashable](), set[Hashable]()
    while any(left.values()):
        label = min((label for label, n in remaining.items() if n), key=lambda label: (remaining[label], str(label)))
        for name in sorted(name for name, own in left.items() if label in own):
            # The first of a class are learned; the part takes its share of those that follow.
            needed = {other for other in left[name] if not outside[other]}
            full = len(part) >= (count if label in inside else 2 * count)
            if needed or wanted[label] < 0.5 or full:
                outside.update(left[name])
                decide(name, False)
            else:
                inside |= left[name]
                decide(name, True)
    # Images without any class fill the part up.
    empty = sorted(left)
    for number, name in enumerate(empty):
        decide(name, len(part) < count and number % max(1, round(1 / share)) == 0)
    if not part:  # every class is in one image only: one of those that share theirs with others, or the last
        rest = Counter(label for own in labels.values() for label in own)
        part.add(max(sorted(labels), key=lambda name: (all(rest[label] > 1 for label in labels[name]), -len(labels[name]))))
    return part


def describe_parts(labels: Mapping[str, Mapping[str, set[Hashable]]], inspected: InspectedDataset) -> list[str]:
    """Lines that say how training and validation images were split, counted again.

    Args:
        labels: of train and val, the classes in each image, by name or, of masks, by number.
        inspected: names the classes.
    """
    offset = int(inspected.zero_is_unknown)
    counts = {split: Counter(label for own in images.values() for label in own) for split, images in labels.items()}
    keys = {name: i + offset if inspected.task == 'segmentation' else name for i, name in enumerate(inspected.classes)}
    listed = ', '.join(f'{name} {counts["train"][key]} + {counts["val"][key]}' for name, key in list(keys.items())[:20])
    lines = [
        f'no images for validation: {len(labels["val"])} of the {len(labels["train"]) + len(labels["val"])} for training were '
        f'kept for it, by class; images with each in training + validation: {listed}{", ..." if len(keys) > 20 else ""}'
    ]
    alone = [name for name, key in keys.items() if counts['val'][key] and not counts['train'][key]]
    if alone:
        lines.append(
            f'note: {", ".join(alone[:3])}{", ..." if len(alone) > 3 else ""} is in one image alone, which was kept for '
            'validation, and cannot be learned; add images'
        )
    missing = [name for name, key in keys.items() if counts['train'][key] and not counts['val'][key]]
    if missing:
        lines.append(
            f'note: {", ".join(missing[:3])}{", ..." if len(missing) > 3 else ""} is in too few images to be in validation, '
            'too, so the score says nothing of it'
        )
    return lines
