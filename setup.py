"""Packaging. The configs, their index and the tools live beside the package and travel in the wheel as ``mmvitscale/.mim``,
where OpenMMLab looks for those of every package."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
# OpenMMLab's distributions that are kept up; an older upstream stack (mmengine, mmcv, ...) works too, so the package
# itself requires neither.
SEG = ['onedl-mmengine>=0.10.8', 'onedl-mmcv>=2.3', 'onedl-mmsegmentation>=1.4']
DET = ['onedl-mmengine>=0.10.8', 'onedl-mmcv>=2.3', 'onedl-mmdetection>=3.5', 'faster-coco-eval>=1.6']
PRETRAIN = ['onedl-mmengine>=0.10.8', 'onedl-mmcv>=2.3', 'onedl-mmpretrain>=1.3']
SCALE = ['deepspeed>=0.16']
TEST = ['pytest>=8', 'transformers>=5', 'rasterio', 'setuptools', 'wheel', *SCALE]


class BuildWithConfigs(build_py):

    def run(self):
        super().run()
        for folder in ('configs', 'tools'):
            target = Path(self.build_lib, 'mmvitscale', '.mim', folder)
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(ROOT / folder, target, ignore=shutil.ignore_patterns('__pycache__', '*.pyc'))
        shutil.copy(ROOT / 'model-index.yml', target.parent)


setup(
    name='mmvitscale',
    version=re.search(r"__version__ = '(.*)'", (ROOT / 'mmvitscale/__init__.py').read_text()).group(1),
    description='SwinV2 and DeepViT backbones for dense prediction with OpenMMLab',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['mmvitscale', 'mmvitscale.*']),
    install_requires=['torch>=2.6', 'numpy', 'opencv-python', 'pillow', 'safetensors', 'tifffile'],
    extras_require=dict(
        seg=SEG, det=DET, pretrain=[*PRETRAIN, 'torchvision'], large=['rasterio'], scale=SCALE, test=TEST,
        # torchvision is kept apart there: mmvitscale/torchvision_shim.py
        all=[*SEG, *DET, *PRETRAIN, 'tensorboard', 'rasterio']),
    cmdclass=dict(build_py=BuildWithConfigs),
    classifiers=[
        'License :: OSI Approved :: Apache Software License',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    zip_safe=False)
