"""Measure how alike the attention maps of a DeepViT's or ViT's blocks are, on an image or a folder of images."""

import argparse
import json

import torch
from mmengine.config import DictAction

from mmvitscale import inference
from mmvitscale.analysis.recorder import recorded_attention
from mmvitscale.analysis.similarity import cross_layer_similarity, mean_similarity, similar_blocks
from mmvitscale.commands import check_writable, run_command
from mmvitscale.config import load_test_config
from mmvitscale.errors import InputError


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('image', help='image, or folder of images')
    parser.add_argument('--out', required=True, metavar='D', help='folder of similarity.json and similarity.png')
    parser.add_argument('--threshold', type=float, default=0.9, help='similar means above this (default 0.9)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='override the config')
    return parser.parse_args()


def draw(similarity, path):
    from matplotlib.figure import Figure
    figure = Figure(figsize=(6, 5))
    axes = figure.subplots()
    shown = axes.imshow(similarity, vmin=0, vmax=1)
    axes.set(xlabel='block', ylabel='block', title='cosine of attention maps')
    figure.colorbar(shown)
    figure.savefig(path, dpi=120, bbox_inches='tight')


def main():
    args = parse_args()
    cfg = load_test_config(args.config, args.cfg_options)
    images = inference.list_images(args.image, inference.ImageReader(inference.pipeline_of(cfg)).suffixes)
    out = check_writable(args.out)
    predictor = inference.Predictor(cfg, args.checkpoint)
    totals = []
    for path in images:
        predictor.read_image(path)  # one line for what the model cannot take
        with recorded_attention(predictor.model) as passes:
            predictor(path)
        if not passes or len(passes[0]) < 2:
            raise InputError(f'{args.config} has {len(passes[0]) if passes else 0} blocks with attention over all '
                             'tokens, but at least 2 are compared; give the config of a DeepViT or a ViT')
        totals += [cross_layer_similarity(maps) for maps in passes]
    similarity = torch.stack(totals).mean(0)
    result = dict(
        images=len(images),
        blocks=len(similarity),
        similar_blocks=similar_blocks(similarity, args.threshold),
        threshold=args.threshold,
        mean_similarity=mean_similarity(similarity),
        similarity=similarity.tolist())
    (out / 'similarity.json').write_text(json.dumps(result, indent=1) + '\n')
    draw(similarity, out / 'similarity.png')
    print('block  similarity to the block before')
    for i, value in enumerate(similarity.diagonal(offset=1).tolist(), start=1):
        print(f'{i:5d}  {value:.3f}')
    print(f'{result["blocks"]} blocks, {len(images)} images: {result["similar_blocks"]} blocks more than '
          f'{args.threshold} like the one before; mean similarity of different blocks {result["mean_similarity"]:.4f}')
    print(f'{out / "similarity.json"}, {out / "similarity.png"}')


if __name__ == '__main__':
    run_command(main)
