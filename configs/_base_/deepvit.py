# DeepViT's sizes with their weights. The official files are on Google Drive, linked in the README of
# github.com/zhoudaquan/dvit_repo: put them into checkpoints/ under these names, or name your own with
# --cfg-options model.backbone.init_cfg.checkpoint=FILE; from scratch: model.backbone.init_cfg=None
#
# layer_decay: what lets the stem learn as in BEiT-B (arXiv 2106.08254, 12 blocks at 0.9: 0.9 ** 13 = 0.25 of the rate)
# at the depth of 16, 24 and 32 blocks; 0.9 itself would leave 3% of it at 32.
four_blocks = {16: [3, 7, 11, 15], 24: [5, 11, 17, 23], 32: [7, 15, 23, 31]}
deepvit = {
    name: dict(
        backbone=dict(
            arch=name, out_indices=four_blocks[blocks], init_cfg=dict(type='Pretrained', checkpoint=f'checkpoints/{name}.pth')
        ),
        channels=channels,
        layer_decay=layer_decay,
    )
    for name, blocks, channels, layer_decay in [
        ('deepvit-16b', 16, 384, 0.92),
        ('deepvit-24b', 24, 384, 0.95),
        ('deepvit-32b', 32, 384, 0.96),
        ('deepvit-s', 16, 396, 0.92),
        ('deepvit-l', 32, 420, 0.96),
        ('vit-32b', 32, 384, 0.96),
    ]
}
# The official models were trained on images of -1 to 1.
deepvit_preprocessor = dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5])
del four_blocks
