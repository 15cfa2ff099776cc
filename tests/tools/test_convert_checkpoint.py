"""The command as a user types it; in this process, to save time."""

import json

import pytest
import torch

from mmvitscale.checkpoints import convert as conversion
from mmvitscale.checkpoints.io import read_checkpoint
from mmvitscale.checkpoints.metadata import STATE_DICT_KEY
from mmvitscale.models import SwinTransformerV2
from tests.helpers.hostile import Attack
from tests.helpers.official_layout import official_state_dict
from tests.helpers.randomise import randomise

pytestmark = pytest.mark.integration

SMALL = dict(embed_dims=8, depths=(1, 1, 2, 1), num_heads=(1, 1, 2, 2))


@pytest.fixture
def convert(run_here):
    """Runs the command; returns its exit status, output and error output."""

    def run(*arguments):
        code, out, err = run_here('tools/convert_checkpoint.py', *arguments)
        assert 'Traceback' not in err
        return code, out, err.strip()

    return run


@pytest.fixture
def official(tmp_path):
    source = randomise(SwinTransformerV2(SMALL, [16, 16, 16, 8], [12, 12, 12, 6]))
    torch.save(dict(model=official_state_dict(source, (16, 16, 16, 8), (12, 12, 12, 6))), tmp_path / 'a.pth')
    return tmp_path / 'a.pth'


@pytest.fixture
def silent(tmp_path):
    """A file that does not contain its pretrained windows."""
    weights = {key: value for key, value in SwinTransformerV2(SMALL, 8).state_dict().items() if key != STATE_DICT_KEY}
    torch.save(weights, tmp_path / 'silent.pth')
    return tmp_path / 'silent.pth'


def read(path):
    return conversion.convert(conversion.weights_in(read_checkpoint(path)))


def test_the_report_lists_format_variant_and_windows_and_writes_nothing(convert, official):
    before = sorted(official.parent.iterdir())
    code, out, _ = convert(official)
    assert code == 0
    assert 'format             official' in out
    assert 'variant            SwinV2 (8 channels, depths 1,1,2,1, heads 1,1,2,2)' in out
    assert 'windows            16x16, 16x16, 16x16, 8x8' in out
    assert 'pretrained windows 12x12, 12x12, 12x12, 6x6' in out
    assert 'unexpected: layers.0.blocks.0.attn.relative_coords_table' in out
    assert sorted(official.parent.iterdir()) == before


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_a_converted_file_holds_weights_and_metadata(convert, official, suffix):
    dst = official.parent / 'sub' / f'out{suffix}'
    assert convert(official, dst)[0] == 0
    written, original = read(dst), read(official)
    assert written.source == 'mmvitscale' and written.weight_metadata == original.weight_metadata
    assert written.weights.keys() == original.weights.keys()
    assert all(torch.equal(written.weights[key], value) for key, value in original.weights.items())
    assert [path.name for path in dst.parent.iterdir()] == [dst.name]


def test_unknown_pretrained_windows_can_be_given_as_an_option(convert, silent):
    dst = silent.parent / 'out.pth'
    code, out, _ = convert(silent, dst)
    assert code == 0 and 'pretrained windows unknown' in out and 'give --pretrained-window-sizes' in out
    assert read(dst).weight_metadata.pretrained_windows == (None,) * 4
    assert convert(silent, dst, '--overwrite', '--pretrained-window-sizes', 12, 12, 12, 6)[0] == 0
    assert read(dst).weight_metadata.pretrained_windows == ((12, 12), (12, 12), (12, 12), (6, 6))
    assert convert(silent, dst, '--overwrite', '--pretrained-window-sizes', 8)[0] == 0
    assert read(dst).weight_metadata.pretrained_windows == ((8, 8),) * 4
    telling = silent.rename(silent.parent / 'swinv2_base_window12to24_192to384_22kft1k.pth')
    assert '--pretrained-window-sizes 12 12 12 6 here' in convert(telling)[1]


def test_one_of_several_backbones_can_be_chosen(convert, official, tmp_path):
    weights = torch.load(official, weights_only=True)['model']
    both = {f'student.{key}': value for key, value in weights.items()}
    both.update({f'teacher.{key}': value + 1 if 'fc1' in key else value for key, value in weights.items()})
    torch.save(both, tmp_path / 'b.pth')
    assert 'choose one with prefix' in convert(tmp_path / 'b.pth')[2]
    code, out, _ = convert(tmp_path / 'b.pth', tmp_path / 'out.pth', '--prefix', 'teacher')
    assert code == 0
    chosen, key = read(tmp_path / 'out.pth'), 'stages.0.blocks.0.mlp.fc1.weight'
    assert chosen.weight_metadata == read(official).weight_metadata
    assert torch.equal(chosen.weights[key], read(official).weights[key] + 1)


def test_bad_input_is_one_line_and_nothing_is_written(convert, official, silent, tmp_path):
    torch.save(dict(model=Attack(tmp_path / 'marker')), tmp_path / 'evil.pth')
    (tmp_path / 'cut.pth').write_bytes(official.read_bytes()[:2000])
    (tmp_path / 'there.pth').write_text('precious')
    torch.save({'layers.0.blocks.0.attn.relative_position_bias_table': torch.ones(1)}, tmp_path / 'v1.pth')
    weights = torch.load(official, weights_only=True)['model']
    torch.save({key: value for i, (key, value) in enumerate(weights.items()) if i % 2}, tmp_path / 'half.pth')
    new = tmp_path / 'new.pth'
    for arguments, message in (
        ([tmp_path / 'nowhere.pth', new], 'is not there'),
        (['http://127.0.0.1:9/a.pth', new], 'cannot be reached'),
        ([tmp_path / 'evil.pth', new], 'would run code'),
        ([tmp_path / 'cut.pth', new], 'is no PyTorch checkpoint or is damaged'),
        ([tmp_path / 'v1.pth', new], 'v1.pth: this is a SwinV1 checkpoint'),
        ([tmp_path / 'half.pth', new], 'half.pth: '),
        ([official, tmp_path / 'there.pth'], 'there.pth exists; give another DST, or --overwrite'),
        ([official, tmp_path / 'new.onnx'], 'ends in .pth or .safetensors'),
        ([official, tmp_path / 'there.pth' / 'new.pth'], 'cannot write into'),
        ([official, new, '--pretrained-window-sizes', 8], 'leave --pretrained-window-sizes out'),
        ([silent, new, '--pretrained-window-sizes', 8, 8], '--pretrained-window-sizes has 2 values'),
        ([silent, new, '--pretrained-window-sizes', 0], 'window 0 found'),
    ):
        code, _, error = convert(*arguments)
        assert code == 1 and error.startswith('error: ') and len(error.splitlines()) == 1, error
        assert message in error
    assert not new.exists() and not (tmp_path / 'marker').exists()
    assert (tmp_path / 'there.pth').read_text() == 'precious'


def test_hugging_face_loads_the_converted_folder_with_equal_outputs(tmp_path, run_here):
    from transformers import Swinv2Backbone, Swinv2ForImageClassification, Swinv2Model

    image = torch.randn(2, 3, 256, 256)
    ours = randomise(SwinTransformerV2(SMALL, 8, [4, 4, 4, 2])).eval()
    classifier = {
        **{f'backbone.{key}': value for key, value in ours.state_dict().items()},
        'head.fc.weight': torch.randn(7, 64),
        'head.fc.bias': torch.randn(7),
    }
    for name, weights in dict(backbone=ours.state_dict(), classifier=classifier).items():
        torch.save(dict(state_dict=weights), tmp_path / f'{name}.pth')
        code, out, err = run_here(
            'tools/convert_checkpoint.py', tmp_path / f'{name}.pth', tmp_path / name, '--to', 'huggingface'
        )
        assert code == 0 and 'from_pretrained' in out and 'left out           out_norms.0.weight' in out, err
    with torch.no_grad():
        expected = ours(image)[-1].flatten(2).transpose(1, 2)
        for model, loading in (
            Swinv2Model.from_pretrained(tmp_path / name, output_loading_info=True) for name in ('backbone', 'classifier')
        ):
            assert not loading['missing_keys']
            assert torch.allclose(model.eval()(image).last_hidden_state, expected, atol=1e-4)
        model = Swinv2ForImageClassification.from_pretrained(tmp_path / 'classifier').eval()
        logits = expected.mean(1) @ classifier['head.fc.weight'].T + classifier['head.fc.bias']
        assert torch.allclose(model(image).logits, logits, atol=1e-3)
        raw = SwinTransformerV2(SMALL, 8, [4, 4, 4, 2], out_norm=False).eval()
        raw.load_state_dict({key: value for key, value in ours.state_dict().items() if not key.startswith('out_norms')})
        stages = [f'stage{i}' for i in range(1, 5)]
        maps = Swinv2Backbone.from_pretrained(tmp_path / 'backbone', out_features=stages).eval()(image).feature_maps
        for out, found in zip(raw(image), maps, strict=True):
            assert torch.allclose(out, found, atol=1e-4)
    assert json.loads((tmp_path / 'classifier/config.json').read_text())['window_size'] == 8


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_converting_back_to_official_writes_a_readable_file(suffix, tmp_path, run_here, error_of):
    ours = randomise(SwinTransformerV2(SMALL, 8, [4, 4, 4, 2]))
    torch.save(dict(state_dict={f'backbone.{key}': value for key, value in ours.state_dict().items()}), tmp_path / 'a.pth')
    target = tmp_path / f'official{suffix}'
    code, out, _ = run_here('tools/convert_checkpoint.py', tmp_path / 'a.pth', target, '--to', 'official')
    assert code == 0 and 'pretrained_window_sizes=[4, 4, 4, 2]' in out
    again = read(target)
    assert again.weight_metadata.pretrained_windows == ((4, 4),) * 3 + ((2, 2),)
    assert torch.equal(again.weights['stages.2.blocks.1.attn.q_bias'], ours.stages[2].blocks[1].attn.q_bias)
    assert 'exists' in error_of('tools/convert_checkpoint.py', tmp_path / 'a.pth', target, '--to', 'official')
    assert 'without DST' in error_of('tools/convert_checkpoint.py', tmp_path / 'a.pth', '--to', 'timm')
    assert 'is a folder' in error_of('tools/convert_checkpoint.py', tmp_path / 'a.pth', target, '--to', 'huggingface')


def test_converting_back_requires_known_pretrained_windows(tmp_path, run_here, error_of):
    silent = {key: value for key, value in SwinTransformerV2(SMALL, 8).state_dict().items() if key != STATE_DICT_KEY}
    torch.save(silent, tmp_path / 'a.pth')
    assert 'give --pretrained-window-sizes' in error_of(
        'tools/convert_checkpoint.py', tmp_path / 'a.pth', tmp_path / 'b.pth', '--to', 'timm'
    )
    assert not (tmp_path / 'b.pth').exists()
    code, out, _ = run_here(
        'tools/convert_checkpoint.py', tmp_path / 'a.pth', tmp_path / 'b.pth', '--to', 'timm', '--pretrained-window-sizes', '6'
    )
    assert code == 0 and 'window_size=6' in out
