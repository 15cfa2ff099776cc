"""Recipes made small: few and narrow layers, and all else as it is."""

from mmvitscale.models.deepvit.variants import DEEPVIT
from mmvitscale.models.swin_v2.variants import SWIN_V2


def edit(item, key, change):
    """``change`` applied to every value of this key in nested dicts and lists."""
    for name, value in item.items() if isinstance(item, dict) else enumerate(item):
        if name == key:
            item[name] = change(value)
        elif isinstance(value, (dict, list)):
            edit(value, key, change)


def shrink(model, size):
    """A model's config with few and narrow layers, all else as it is, for images of this size."""
    backbone = model.backbone
    backbone.init_cfg = None
    if backbone.type == 'mmvitscale.DeepViT':
        arch = DEEPVIT.resolve(backbone.arch)
        wide, narrow = [arch['embed_dims']], [24]
        backbone.arch = {
            **arch,
            'embed_dims': 24,
            'depth': 4,
            'num_heads': 4,
            're_attention': 4 * arch['re_attention'] // arch['depth'],
        }
        backbone.out_indices = [0, 1, 2, 3] if backbone.get('out_indices') else None
        if backbone.get('global_blocks'):
            backbone.update(window_size=3, global_blocks=[3])
    else:
        arch = SWIN_V2.resolve(backbone.arch)
        wide, narrow = ([dims * 2**i for i in range(4)] for dims in (arch['embed_dims'], 16))
        backbone.arch = dict(_delete_=True, **{**arch, 'embed_dims': 16, 'depths': (2, 2, 2, 2), 'num_heads': (1, 2, 4, 8)})
        backbone.arch.pop('_delete_')
    if model.type in ('SimMIM', 'ImageClassifier'):
        reader = model.neck if model.type == 'SimMIM' else model.head
        reader.in_channels = narrow[wide.index(reader.in_channels)]
        return
    readers = model.get('neck') or [model.get(part) for part in ('decode_head', 'auxiliary_head', 'panoptic_head')]
    for reader in readers if isinstance(readers, list) else [readers]:
        if reader:
            channels = reader.in_channels
            reader.in_channels = (
                narrow[wide.index(channels)] if isinstance(channels, int) else [narrow[wide.index(c)] for c in channels]
            )
            if reader.type == 'mmvitscale.GlobalAttention':
                reader.num_heads = 8
    edit(model, 'fc_out_channels', lambda channels: 64)
    for key, fewer in (('num', 16), ('nms_pre', 100), ('max_per_img', 20)):  # boxes
        edit(model, key, lambda number: fewer)
    edit(model, 'num_layers', lambda layers: 2)
    edit(model, 'num_queries', lambda queries: 20)  # no more than so small an image has tokens
    if model.get('decode_head', {}).get('type') == 'mmvitscale.UPerHead':
        model.decode_head.channels = 32
    if 'size' in model.data_preprocessor:
        model.data_preprocessor.size = size
    for augment in model.data_preprocessor.get('batch_augments') or []:
        augment.size = size
