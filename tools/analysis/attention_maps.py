"""Draw what one place of an image attends to, layer by layer: in a SwinV2 inside its window, in a DeepViT over all
tokens."""

import argparse
from math import log2

from mmvitscale.cli import ConfigOptions, add_model, config_of, parse_model_args, run_command, save_figure
from mmvitscale.errors import InputError
from mmvitscale.utils.atomic_write import atomic_write, check_writable


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    add_model(parser)
    parser.add_argument('image', help='image')
    parser.add_argument(
        '--query', type=int, nargs=2, metavar=('X', 'Y'), help='place in the image, in pixels (default: its middle)'
    )
    parser.add_argument(
        '--layers', nargs='+', type=int, metavar='I', help='blocks, counted from 0 (default: up to 12, evenly spread)'
    )
    parser.add_argument('--heads', action='store_true', help='each head for itself instead of their mean')
    parser.add_argument('--out', required=True, metavar='D', help='folder of attention_maps.png and attention_maps.npz')
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE', help='override the config')
    return parse_model_args(parser)


def crop_around(inputs, query, crop):
    """The part of (1, C, H, W) that sliding windows of this size would see, with the query as near to its middle as may be,
    and where it starts."""
    corner = [min(max(q - side // 2, 0), max(length - side, 0)) for q, side, length in zip(query, crop, inputs.shape[2:])]
    (top, left), (height, width) = corner, crop
    return inputs[:, :, top : top + height, left : left + width], corner


def main(args):
    import cv2
    import numpy as np
    import torch
    from mmengine.dataset import pseudo_collate

    from mmvitscale import inference
    from mmvitscale.analysis.recorder import blocks_of, checked_blocks, recorded_attention

    cfg = config_of(args.config, args.checkpoint, args.cfg_options)
    out = check_writable(args.out)
    predictor = inference.Predictor(cfg, args.checkpoint)
    (path,) = inference.list_images(args.image, predictor.read_image.suffixes)[:1]
    count = len(blocks_of(predictor.model))
    layers = args.layers or sorted({round(i * (count - 1) / 11) for i in range(12)})
    checked_blocks(predictor.model, layers)
    fields, picture = predictor.read_image.read(path)
    height, width = picture.shape[:2]
    x, y = args.query or (width // 2, height // 2)
    if not (0 <= x < width and 0 <= y < height):
        raise InputError(f'--query {x} {y} found, but {path} has {width} x {height} pixels')
    data = predictor.model.data_preprocessor(pseudo_collate([predictor.prepare(fields)]), False)
    inputs = data['inputs']
    resized = data['data_samples'][0].img_shape[:2]  # padding follows it
    query = [int((q + 0.5) * new / old) for q, new, old in zip((y, x), resized, (height, width))]
    corner, seen = [0, 0], inputs
    if (cfg.model.get('test_cfg') or {}).get('mode') == 'slide':
        seen, corner = crop_around(inputs, query, cfg.model.test_cfg.crop_size)
    with torch.inference_mode(), recorded_attention(predictor.model, layers) as passes:
        predictor.model.backbone(seen)

    shown = cv2.resize(picture, resized[::-1], interpolation=cv2.INTER_AREA)
    shown = shown[corner[0] : corner[0] + seen.shape[2], corner[1] : corner[1] + seen.shape[3], ::-1]
    place = [q - c for q, c in zip(query, corner)]
    found = {}
    for maps in passes[0]:
        stride = 2 ** round(log2(seen.shape[2] / maps.size[0]))
        token = [min(p // stride, n - 1) for p, n in zip(place, maps.size)]
        weights = maps.of_query(*token)
        found[maps.layer] = (weights if args.heads else weights.mean(0, keepdim=True)).numpy()
    with atomic_write(out / 'attention_maps.npz') as part:
        np.savez(part, **{f'layer_{layer}': weights for layer, weights in found.items()})
    draw(shown, place, found, out / 'attention_maps.png')
    for maps in passes[0]:
        share = found[maps.layer].sum((1, 2))
        print(
            f'layer {maps.layer:3d}  {maps.name:32} tokens {maps.size[0]}x{maps.size[1]}, largest weight '
            f'{np.abs(found[maps.layer]).max():.3f}, sum {share.mean():.3f}'
        )
    print(f'{out / "attention_maps.png"}, attention_maps.npz')


def draw(image, place, found, path):
    import numpy as np
    from matplotlib.figure import Figure

    panels = [
        (f'layer {layer}' + (f', head {head}' if len(weights) > 1 else ''), weights[head])
        for layer, weights in found.items()
        for head in range(len(weights))
    ]
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.2 * columns, 3.2 * rows * image.shape[0] / image.shape[1] + 0.3 * rows))
    for axes, panel in zip(figure.subplots(rows, columns, squeeze=False).flat, [*panels, *[None] * (rows * columns)]):
        axes.axis('off')
        if panel is None:
            continue
        title, weights = panel
        axes.imshow(image)
        # Re-attention's weights may be negative: what counts is how far they are from nothing.
        heat = np.abs(weights) / max(np.abs(weights).max(), 1e-12)
        extent = (-0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5)
        axes.imshow(heat, cmap='inferno', alpha=0.25 + 0.65 * heat, extent=extent, interpolation='nearest', vmin=0, vmax=1)
        axes.plot(place[1], place[0], marker='+', color='cyan', ms=12, mew=2)
        axes.set_title(title, fontsize=9)
    figure.tight_layout()
    save_figure(figure, path)


if __name__ == '__main__':
    run_command(parse_args, main)
