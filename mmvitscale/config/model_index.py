"""The lists of configs that people and OpenMMLab's tools read: a table in the README of each family, metafile.yml and
model-index.yml, made from the configs themselves and from configs/results.json."""

import json
import re
from pathlib import Path

import torch
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS

from mmvitscale.config.loading import load_config
from mmvitscale.config.names import configs_folder, find_config, list_configs
from mmvitscale.config.view import ConfigView
from mmvitscale.utils.torchvision_shim import make_torchvision_importable

_FAMILIES: dict[str, dict] = {
    'swinv2': dict(
        Name='SwinV2',
        Paper=dict(Title='Swin Transformer V2: Scaling Up Capacity and Resolution', URL='https://arxiv.org/abs/2111.09883'),
    ),
    'deepvit': dict(
        Name='DeepViT', Paper=dict(Title='DeepViT: Towards Deeper Vision Transformer', URL='https://arxiv.org/abs/2103.11886')
    ),
    'pretrain': dict(Name='Pretraining'),
    'own_data': dict(Name='Own data'),
    'mini': dict(Name='Synthetic mini dataset'),
}
_TABLE = re.compile('(?<=<!-- table of the configs -->\\n).*?(?=<!-- end of the table -->)', re.DOTALL)
_STATES = 16  # bytes of a parameter that learns: itself, its gradient and AdamW's two moments in float32
_FROZEN = 4


def family_of(name: str) -> str:
    """The folder below configs/ in whose README a config is listed."""
    folder = find_config(name).parent
    return folder.name if folder != configs_folder() else name.split('_')[0]


def recipe_of(short_name: str) -> str:
    """Name of a config at the top of configs/ -> that of the recipe below, which it inherits unchanged."""
    return Path(re.search(r"^_base_ = '(.*)\.py'$", find_config(short_name).read_text(), re.M)[1]).name  # type: ignore[index]


def describe(name: str, results: dict[str, dict]) -> dict:
    """A config's entry: its parameters, the memory of its training states on paper, its weights and its results."""
    cfg = load_config(name)
    model = build_on_meta(cfg)
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    count = sum(p.numel() for p in model.parameters())
    memory = (learning * _STATES + (count - learning) * _FROZEN) / 2**30
    weights = (cfg.model.backbone.get('init_cfg') or {}).get('checkpoint')
    return dict(
        name=name,
        path=find_config(name).relative_to(configs_folder()).as_posix(),
        millions=round(count / 1e6, 1),
        memory=round(memory, 1),
        weights=weights,
        **results.get(name, {}),
    )


def build_on_meta(cfg: Config) -> torch.nn.Module:
    """A config's model at full size, without memory for its weights."""
    if ConfigView(cfg).scope == 'mmpretrain':
        make_torchvision_importable()
    with MODELS.switch_scope_and_registry(ConfigView(cfg).scope) as registry, torch.device('meta'):
        return registry.build(cfg.model)


def files() -> dict[Path, str]:
    """Path -> content of every generated file."""
    root = configs_folder()
    results = json.loads((root / 'results.json').read_text())
    entries: dict[str, list[dict]] = {family: [] for family in _FAMILIES}
    short_names = {recipe_of(name): name for name in list_configs() if find_config(name).parent == root}
    for name in list_configs():
        if find_config(name).parent != root:  # those there are short names of others
            entries[family_of(name)].append(dict(describe(name, results), short_name=short_names.get(name)))
    content = {}
    for family, listed in entries.items():
        readme = root / family / 'README.md'
        table = _table(listed)
        content[readme] = _TABLE.sub(table.replace('\\', r'\\'), readme.read_text())
        content[root / family / 'metafile.yml'] = _metafile(family, listed)
    index = dict(Import=[f'configs/{family}/metafile.yml' for family in _FAMILIES])
    content[root.parent / 'model-index.yml'] = yaml.safe_dump(index)
    return content


def _table(entries: list[dict]) -> str:
    heads = ['config', 'parameters', 'GPU memory on paper', 'weights', 'in the paper', 'here']
    lines = [f'| {" | ".join(heads)} |', f'|{" --- |" * len(heads)}']
    for entry in entries:
        short = f', in short `{entry["short_name"]}`' if entry['short_name'] else ''
        weights = '' if not entry['weights'] else entry['weights'].split('/')[-1].removesuffix('.pth')
        if (entry['weights'] or '').startswith('http'):
            weights = f'[{weights}]({entry["weights"]})'
        lines.append(
            f'| [{entry["name"]}]({entry["path"].split("/")[-1]}){short} | {entry["millions"]:g}M | {entry["memory"]:g} GB | '
            f'{weights} | {entry.get("paper", "")} | {entry.get("here", "")} |'
        )
    return '\n'.join([*lines, ''])


def _metafile(family: str, entries: list[dict]) -> str:
    collection = dict(_FAMILIES[family], README=f'configs/{family}/README.md')
    models = []
    for entry in entries:
        metadata = {
            'Parameters': f'{entry["millions"]:g}M',
            'Pretrained': entry['weights'],
            'Paper': entry.get('paper'),
            'Here': entry.get('here'),
        }
        paths = {entry['name']: entry['path'], entry['short_name']: f'{entry["short_name"]}.py'}
        models += [
            {
                'Name': name,
                'In Collection': collection['Name'],
                'Config': f'configs/{path}',
                'Metadata': {key: value for key, value in metadata.items() if value},
            }
            for name, path in paths.items()
            if name
        ]
    return yaml.safe_dump(dict(Collections=[collection], Models=models), sort_keys=False, width=200)
