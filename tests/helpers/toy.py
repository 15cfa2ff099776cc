"""The smallest training that MMEngine's runner can do with a backbone."""

from pathlib import Path

import torch
from mmengine.dataset import Compose
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch.utils.data import Dataset

from mmvitscale.engine.runner import Runner


class Toy(BaseModel):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = MODELS.build(backbone)
        self.seen = []  # (height, width) of the images, and the windows they met

    def forward(self, inputs, data_samples=None, mode='tensor'):
        self.seen.append((tuple(inputs.shape[2:]), [stage.window[0] for stage in getattr(self.backbone, 'stages', [])]))
        return dict(loss=sum(out.square().mean() for out in self.backbone(inputs)))


class RandomCrop:
    def __init__(self, crop_size):
        self.crop_size = crop_size

    def __call__(self, sample):
        return dict(inputs=sample['inputs'][:, : self.crop_size[0], : self.crop_size[1]])


class Images(Dataset):
    def __init__(self):
        self.pipeline = Compose([RandomCrop((32, 32))])

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return self.pipeline(dict(inputs=torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(index))))


def train(
    work_dir,
    backbone,
    hooks=(),
    max_iters=1,
    num_workers=0,
    lr=1e-3,
    optimizer='SGD',
    images=None,
    sampler=None,
    model=None,
    batch_sampler=None,
    wrapper='OptimWrapper',
    clip_grad=None,
    accumulative_counts=1,
    collate=None,
    **options,
):
    """Train and return the runner. A checkpoint is written after every iteration."""
    checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=1)
    options = dict(
        dict(train_cfg=dict(by_epoch=False, max_iters=max_iters), default_hooks=dict(checkpoint=checkpoint)), **options
    )
    runner = Runner(
        model=model or Toy(backbone),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=images or Images(),
            batch_size=2,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            sampler=sampler or dict(type='InfiniteSampler', shuffle=False),
            batch_sampler=batch_sampler,
            collate_fn=collate or dict(type='default_collate'),
        ),
        optim_wrapper=options.pop('optim_wrapper', None)
        or dict(
            type=wrapper, optimizer=dict(type=optimizer, lr=lr), clip_grad=clip_grad, accumulative_counts=accumulative_counts
        ),
        custom_hooks=[dict(type='mmvitscale.LogCPBTransferHook'), dict(type='EMAHook'), *hooks],
        experiment_name=f'{Path(work_dir).name}_{id(work_dir)}',
        log_level='WARNING',
        **options,
    )
    runner.train()
    return runner


def last(work_dir):
    """File name of the newest checkpoint."""
    return Path((work_dir / 'last_checkpoint').read_text()).name
