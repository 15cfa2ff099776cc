"""The generated lists of configs are those of the configs."""

import pytest
import yaml

import mmvitscale
from mmvitscale.config import model_index
from mmvitscale.config.model_index import files
from mmvitscale.config.names import configs_folder

pytestmark = pytest.mark.integration

ROOT = configs_folder().parent


def test_the_table_and_the_metafile_of_the_mini_configs_are_up_to_date(monkeypatch):
    """The quick part of the next."""
    names = [name for name in mmvitscale.list_configs() if model_index.family_of(name) == 'mini']
    monkeypatch.setattr(model_index, 'list_configs', lambda: names)
    made = {path: content for path, content in files().items() if path.parent == configs_folder() / 'mini'}
    assert len(names) > 5 and {path.name for path in made} == {'README.md', 'metafile.yml'}
    assert all(path.read_text() == content for path, content in made.items())


@pytest.mark.slow
def test_tables_and_metafiles_are_up_to_date():
    """If this fails: python tools/model_index.py"""
    for path, content in files().items():
        assert path.read_text() == content, path


def test_every_config_is_listed_where_openmmlab_looks():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    listed = [model for path in index['Import'] for model in yaml.safe_load((ROOT / path).read_text())['Models']]
    assert sorted(model['Name'] for model in listed) == sorted(mmvitscale.list_configs())
    assert all((ROOT / model['Config']).is_file() for model in listed)
