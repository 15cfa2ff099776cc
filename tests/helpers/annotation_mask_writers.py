"""Writers of label maps: numbers, palettes and colours, with the tables of names and colours that tools write beside them."""

import numpy as np
from PIL import Image

from mmvitscale.datasets.mini import CLASSES, PALETTE
from tests.helpers.annotation_samples import UNKNOWN
from tests.helpers.annotation_writers import Flavour, image_sets, labelmap, palette_png, put, voc_palette

BACKGROUND = 'background'
VOC_NAMES = ('aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow', 'diningtable', 'dog')
VOC_NAMES += ('horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa', 'train', 'tvmonitor')


def _png(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def shifted(picture):
    """(H, W): 0 where nothing is known, k + 1 for CLASSES[k], as tools that have a background."""
    return np.where(picture.labels == UNKNOWN, 0, picture.labels + 1).astype(np.uint8)


def colours(picture):
    """(H, W, 3) RGB, black where nothing is known."""
    return np.array([(0, 0, 0), *PALETTE], np.uint8)[shifted(picture)]


def numbers(image='images/{split}/{file}', mask='masks/{split}/{stem}.png'):
    """0 for the first class, 255 for what is ignored; nothing says how the classes are named."""

    def write(pictures, root):
        for picture in pictures:
            names = dict(split=picture.split, file=picture.file, stem=picture.stem)
            put(root / image.format(**names), picture.content)
            _png(root / mask.format(**names), picture.labels)

    return write


def cvat(form):
    """CVAT's Segmentation mask 1.1. form: palette or rgb."""

    def write(pictures, root):
        table = [(0, 0, 0), *PALETTE]
        palette = [v for colour in table for v in colour]
        for picture in pictures:
            put(root / 'JPEGImages' / picture.file, picture.content)
            target = root / f'SegmentationClass/{picture.stem}.png'
            if form == 'palette':
                palette_png(target, shifted(picture), palette + [0] * (768 - len(palette)))
            else:
                _png(target, colours(picture))
            palette_png(root / f'SegmentationObject/{picture.stem}.png', shifted(picture))
        image_sets(pictures, root, 'Segmentation')
        put(root / 'labelmap.txt', labelmap((BACKGROUND, *CLASSES), table))

    return write


def class_dict(file, header, layout):
    """A table of names and colours as CSV."""

    def write(pictures, root):
        for picture in pictures:
            put(root / layout[0].format(split=picture.split, file=picture.file), picture.content)
            _png(root / layout[1].format(split=picture.split, stem=picture.stem), colours(picture))
        rows = [f'{name},{r},{g},{b}' for name, (r, g, b) in zip((*CLASSES, 'Void'), (*PALETTE, (0, 0, 0)))]
        put(root / file, [header, *rows])

    return write


def camvid(pictures, root):
    """The original: all masks in one folder, no splits."""
    for picture in pictures:
        put(root / '701_StillsRaw_full' / picture.file, picture.content)
        _png(root / f'LabeledApproved_full/{picture.stem}_L.png', colours(picture))
    rows = [f'{r} {g} {b}\t{name}' for name, (r, g, b) in zip((*CLASSES, 'Void'), (*PALETTE, (0, 0, 0)))]
    put(root / 'label_colors.txt', rows)


def cvat_camvid(pictures, root):
    """CVAT's CamVid 1.0: lists of pairs, masks in folders with 'annot' behind."""
    for split in ('train', 'val', 'test'):
        lines = []
        for picture in (picture for picture in pictures if picture.split == split):
            put(root / split / picture.file, picture.content)
            _png(root / f'{split}annot/{picture.stem}.png', colours(picture))
            lines.append(f'/{split}/{picture.file} /{split}annot/{picture.stem}.png')
        put(root / f'{split}.txt', lines)
    rows = [f'{r} {g} {b} {name}' for name, (r, g, b) in zip(('Void', *CLASSES), ((0, 0, 0), *PALETTE))]
    put(root / 'label_colors.txt', ['# color (RGB) label', *rows])


def roboflow(pictures, root):
    for picture in pictures:
        folder = root / picture.split.replace('val', 'valid')
        put(folder / picture.file, picture.content)
        _png(folder / f'{picture.stem}_mask.png', shifted(picture))
        rows = [f'{number}, {name}' for number, name in enumerate((BACKGROUND, *CLASSES))]
        put(folder / '_classes.csv', ['Pixel Value, Class', *rows])


def voc(pictures, root):
    """The development kit's own classes and colours; 255 is the border of an object."""
    for picture in pictures:
        put(root / 'JPEGImages' / picture.file, picture.content)
        map_ = np.where(picture.labels == UNKNOWN, 255, picture.labels + 1)
        palette_png(root / f'SegmentationClass/{picture.stem}.png', map_, voc_palette())
    image_sets(pictures, root, 'Segmentation')


KAGGLE = ('{split}/{file}', '{split}_labels/{stem}_L.png')
FOLDERS = ('images/{split}/{file}', 'masks/{split}/{stem}.png')
MASKS = {
    'masks, numbers': Flavour('masks', numbers(), None, CLASSES, given=CLASSES),
    'masks, numbers, splits above': Flavour(
        'masks', numbers('{split}/images/{file}', '{split}/masks/{stem}.png'), None, CLASSES, given=CLASSES
    ),
    'masks, numbers, no splits': Flavour(
        'masks', numbers('images/{file}', 'labels/{stem}.png'), None, CLASSES, splits=False, given=CLASSES
    ),
    'masks, CVAT, palette': Flavour('masks', cvat('palette'), None, (BACKGROUND, *CLASSES)),
    'masks, CVAT, colours': Flavour('masks', cvat('rgb'), None, (BACKGROUND, *CLASSES)),
    'masks, class_dict.csv': Flavour('masks', class_dict('class_dict.csv', 'name,r,g,b', KAGGLE), None, (*CLASSES, 'Void')),
    'masks, classes.csv': Flavour('masks', class_dict('classes.csv', 'name,r,g,b', FOLDERS), None, (*CLASSES, 'Void')),
    'masks, CamVid': Flavour('masks', camvid, None, (*CLASSES, 'Void'), splits=False),
    'masks, CVAT, CamVid': Flavour('masks', cvat_camvid, None, ('Void', *CLASSES)),
    'masks, Roboflow': Flavour('masks', roboflow, None, (BACKGROUND, *CLASSES)),
    'masks, VOC': Flavour('masks', voc, None, (BACKGROUND, *VOC_NAMES)),
}
