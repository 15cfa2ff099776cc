"""Draw the position bias of a SwinV2's block as a surface over the offset, at several windows; of several models side by
side (SwinV2, figure 4). What lies outside of the dashed frame did not occur in the window that the bias was trained with."""

import argparse

from mmvitscale.analysis.figure_text import literal
from mmvitscale.cli import add_models, models_of, parse_model_args, run_command, save_figure, save_json
from mmvitscale.errors import InputError
from mmvitscale.utils.atomic_write import check_writable


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    add_models(parser)
    parser.add_argument('--out', required=True, metavar='D', help='folder of position_bias.json and position_bias.png')
    parser.add_argument(
        '--windows', nargs='+', type=int, metavar='N', help='sides in tokens (default: the learned window and twice as much)'
    )
    parser.add_argument('--stage', type=int, default=0, help='counted from 0 (default 0)')
    parser.add_argument('--block', type=int, default=0, help='counted from 0 (default 0)')
    parser.add_argument('--head', type=int, help='counted from 0 (default: the mean over heads)')
    return parse_model_args(parser)


def measure(model, args):
    """The surfaces of a model."""
    from mmvitscale.analysis.bias_surfaces import bias_surfaces
    from mmvitscale.analysis.extrapolation import swin_backbones
    from mmvitscale.inference import load_model

    cfg = model.load_config()
    loaded, _ = load_model(cfg, model.checkpoint)
    backbones = swin_backbones(loaded)
    if not backbones:
        raise InputError(f'{cfg.filename} has no SwinV2 backbone, whose position bias could be drawn; give the config of one')
    learned = bias_surfaces(backbones[0], [backbones[0].stages[0].window], args.stage, args.block)[0].learned
    surfaces = bias_surfaces(backbones[0], args.windows or [learned, tuple(2 * n for n in learned)], args.stage, args.block)
    heads = len(surfaces[0].surface)
    if args.head is not None and not 0 <= args.head < heads:
        raise InputError(f'--head {args.head} found, but stage {args.stage} has the heads 0 to {heads - 1}')
    return backbones[0].position_bias, surfaces


def draw(models, head, path):
    from matplotlib.figure import Figure

    from mmvitscale.analysis.bias_surfaces import draw_surface

    columns = max(len(surfaces) for _, surfaces in models.values())
    figure = Figure(figsize=(4 * columns, 3.6 * len(models)))
    rows = figure.subplots(len(models), columns, squeeze=False)
    for (label, (kind, surfaces)), row in zip(models.items(), rows):
        shown = [s.surface.mean(0) if head is None else s.surface[head] for s in surfaces]
        limits = dict(vmin=min(s.min().item() for s in shown), vmax=max(s.max().item() for s in shown))
        for axes, surface in zip(row, surfaces):
            image = draw_surface(axes, surface, head, **limits)
            axes.set_title('{}\n{}, window {} x {}'.format(literal(label), kind, *surface.window), fontsize=9)
            figure.colorbar(image)
        for axes in row[len(surfaces) :]:
            axes.axis('off')
    figure.supxlabel('horizontal offset in tokens')
    figure.supylabel('vertical offset in tokens')
    figure.tight_layout()
    save_figure(figure, path)


def main(args):
    out = check_writable(args.out)
    models = {model.label: measure(model, args) for model in models_of(args)}
    content = {}
    for label, (kind, surfaces) in models.items():
        content[label] = [dict(position_bias=kind, **s.summary(), surface=s.surface.tolist()) for s in surfaces]
        print(f'{label}: {kind}, stage {args.stage}, block {args.block}, mean over heads')
        for entry in content[label]:
            inside, outside = ('-' if r is None else f'{r[0]:.3f} ... {r[1]:.3f}' for r in (entry['inside'], entry['outside']))
            print(
                '  window {}x{}'.format(*entry['window']),
                'trained with {}x{}:'.format(*entry['learned']),
                f'inside {inside}, extrapolated {outside}',
            )
    save_json(content, out / 'position_bias.json')
    draw(models, args.head, out / 'position_bias.png')
    print(f'{out / "position_bias.json"}, {out / "position_bias.png"}')


if __name__ == '__main__':
    run_command(parse_args, main)
