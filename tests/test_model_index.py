"""The generated lists of configs are those of the configs."""

import pytest
import yaml

import mmvitscale
from mmvitscale.config import configs_folder
from mmvitscale.model_index import files

pytestmark = pytest.mark.integration

ROOT = configs_folder().parent


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
