# SwinV2-L + HTC++ on COCO at 1536 x 1536 with window 32, pretrained at window 12 (SwinV2, Table 3: 58.8 box and 51.1 mask
# AP on minival; with window 48 in testing 58.9 and 51.2, there with multi-scale testing, too, 60.2 and 52.1, on test-dev
# 60.8 and 52.7). Its semantic branch needs COCO's stuffthingmaps; without them:
#   htc-without-semantic_swinv2-l-w32-in22k_fpn_64xb1-lsj1536-3x_coco.py
# With InstaBoost, as the paper has it (pip install instaboostfast):
#   htc_swinv2-l-w32-in22k_fpn_64xb1-instaboost-lsj1536-3x_coco.py
# Tested with window 48: htc_swinv2-l-w48-in22k_fpn_test_coco.py
# Sequential attention in the first two stages and checkpointed blocks make it fit (section 3.5).
_base_ = [
    '../_base_/models/htc_semantic_swinv2.py',
    '../_base_/datasets/coco_stuff_htc.py',
    '../_base_/schedules/coco_3x_htc.py',
    '../_base_/default_runtime_det.py',
]
