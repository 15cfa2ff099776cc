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
SEG = ['onedl-mmengine>=0.10.8', 'onedl-mmcv>=2.3', 'onedl-mmsegmentation>=1.4', 'pycocotools']
DET = ['onedl-mmengine>=0.10.8', 'onedl-mmcv>=2.3', 'onedl-mmdetection>=3.5', 'faster-coco-eval>=1.6']
PRETRAIN = ['onedl-mmengine>=0.10.8', 'onedl-mmcv>=2.3', 'onedl-mmpretrain>=1.3']
SCALE = ['deepspeed>=0.16']
EXPORT = ['onnx>=1.18', 'onnxscript>=0.5', 'onnxruntime>=1.20', 'openvino>=2025.0', 'nncf>=2.15']
DOCS = ['mkdocs-material>=9', 'mkdocstrings[python]>=0.26']
# What ``make test-fast`` needs: mmengine, and mmcv without its compiled ops.
UNIT = ['onedl-mmengine>=0.10.8', 'onedl-mmcv>=2.3', 'pytest>=8', 'pytest-xdist', 'hypothesis']
TRACK = ['tensorboard', 'mlflow>=3']
TEST = [*UNIT, 'transformers>=5', 'rasterio', 'supervision', 'seaborn', 'setuptools', 'wheel', *TRACK, *SCALE, *EXPORT]
DEV = [*DOCS, 'ruff', 'mypy', 'pre-commit', 'build', 'twine', 'nbmake', 'ipykernel']


class BuildWithConfigs(build_py):
    def run(self):
        super().run()
        for folder in ('configs', 'tools'):
            target = Path(self.build_lib, 'mmvitscale', '.mim', folder)
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(ROOT / folder, target, ignore=shutil.ignore_patterns('__pycache__', '*.pyc'))
        for name in ('model-index.yml', 'constraints.txt'):
            shutil.copy(ROOT / name, target.parent)


setup(
    name='mmvitscale',
    version=re.search(r"__version__ = '(.*)'", (ROOT / 'mmvitscale/__init__.py').read_text()).group(1),
    description='SwinV2 and DeepViT backbones for dense prediction with OpenMMLab',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    python_requires='>=3.10',
    packages=find_packages(include=['mmvitscale', 'mmvitscale.*']),
    install_requires=['torch>=2.6', 'numpy', 'opencv-python', 'pillow', 'safetensors', 'tifffile'],
    extras_require=dict(
        seg=SEG,
        det=DET,
        pretrain=[*PRETRAIN, 'torchvision'],
        large=['rasterio'],
        scale=SCALE,
        export=EXPORT,
        docs=DOCS,
        unit=UNIT,
        test=TEST,
        dev=DEV,
        # torchvision is kept apart there: mmvitscale/utils/torchvision_shim.py
        all=[*SEG, *DET, *PRETRAIN, 'tensorboard', 'rasterio'],
    ),
    entry_points=dict(console_scripts=['mmvitscale = mmvitscale.__main__:main']),
    cmdclass=dict(build_py=BuildWithConfigs),
    classifiers=[
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    zip_safe=False,
)
