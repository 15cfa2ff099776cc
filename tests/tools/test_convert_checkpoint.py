"""The command as a user types it; in this process, to save time."""

import pytest
import torch
from hostile import Attack
from official_layout import official_state_dict
from randomise import randomise

from mmvitscale.checkpoints import convert as conversion
from mmvitscale.checkpoints.files import read_checkpoint
from mmvitscale.models import SwinTransformerV2

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
    """A file that does not tell its reference windows."""
    weights = {key: value for key, value in SwinTransformerV2(SMALL, 8).state_dict().items() if key != 'lineage'}
    torch.save(weights, tmp_path / 'silent.pth')
    return tmp_path / 'silent.pth'


def read(path):
    return conversion.convert(conversion.weights_in(read_checkpoint(path)))


def test_a_report_names_format_variant_and_lineage_and_writes_nothing(convert, official):
    before = sorted(official.parent.iterdir())
    code, out, _ = convert(official)
    assert code == 0
    assert 'format             official' in out
    assert 'variant            SwinV2 (8 channels, depths 1,1,2,1, heads 1,1,2,2)' in out
    assert 'windows            16x16, 16x16, 16x16, 8x8' in out
    assert 'reference windows  12x12, 12x12, 12x12, 6x6' in out
    assert 'left out: layers.0.blocks.0.attn.relative_coords_table' in out
    assert sorted(official.parent.iterdir()) == before


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_a_converted_file_holds_weights_and_lineage(convert, official, suffix):
    dst = official.parent / 'sub' / f'out{suffix}'
    assert convert(official, dst)[0] == 0
    written, original = read(dst), read(official)
    assert written.source == 'mmvitscale' and written.lineage == original.lineage
    assert written.weights.keys() == original.weights.keys()
    assert all(torch.equal(written.weights[key], value) for key, value in original.weights.items())
    assert [path.name for path in dst.parent.iterdir()] == [dst.name]


def test_unknown_reference_windows_can_be_given(convert, silent):
    dst = silent.parent / 'out.pth'
    code, out, _ = convert(silent, dst)
    assert code == 0 and 'reference windows  unknown' in out and 'give --pretrained-window-sizes' in out
    assert read(dst).lineage.references == (None, ) * 4
    assert convert(silent, dst, '--force', '--pretrained-window-sizes', 12, 12, 12, 6)[0] == 0
    assert read(dst).lineage.references == ((12, 12), (12, 12), (12, 12), (6, 6))
    assert convert(silent, dst, '--force', '--pretrained-window-sizes', 8)[0] == 0
    assert read(dst).lineage.references == ((8, 8), ) * 4
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
    assert chosen.lineage == read(official).lineage
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
        ([official, tmp_path / 'there.pth'], 'there.pth exists; give another DST, or --force'),
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
