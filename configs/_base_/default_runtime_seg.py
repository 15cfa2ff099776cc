_base_ = './runtime.py'
default_scope = 'mmseg'
env_cfg = dict(
    cudnn_benchmark=False,  # sizes change between validation images
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
sync_bn = 'torch'  # takes effect on several GPUs; one process keeps BatchNorm
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='SegLocalVisualizer', vis_backends=vis_backends, name='visualizer')
log_processor = dict(by_epoch=False)
log_level = 'INFO'
load_from = None
resume = False
