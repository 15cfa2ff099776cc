"""Names of the release before: options are refused with their new names, what programs import is there with a warning."""

import pytest

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    'command, expected',
    [
        ('tools/convert_checkpoint.py a.pth b.pth --force', '--force is called --overwrite now'),
        ('tools/make_mini_dataset.py --size 64', '--size is called --image-size now'),
        ('tools/analysis/get_flops.py config --shape 96 96', '--shape is called --image-size now'),
        ('tools/analysis/memory_plan.py config --images 2', '--images is called --batch-size now'),
        ('tools/benchmark.py --memory', '--memory is called --gpu-memory (in benchmark.py --measure-memory) now'),
        ('tools/benchmark.py --peers timm', '--peers is called --implementations now'),
        ('tools/analysis/position_bias.py config a.pth --against config b.pth', '--against is called --compare-with now'),
        ('tools/export.py config a.pth --force', '--force is called --overwrite now'),  # and --out is missing
    ],
)
def test_an_option_of_the_release_before_is_refused_with_its_new_name(run_here, command, expected):
    code, _, err = run_here(*command.split())
    assert code == 2 and err.splitlines()[-1] == expected


def test_an_unknown_option_without_a_new_name_ends_as_argparse_ends_it(run_here):
    code, _, err = run_here('tools/benchmark.py', '--nonsense')
    assert code == 2 and 'unrecognized arguments: --nonsense' in err.splitlines()[-1]


def test_names_of_the_release_before_are_there_with_a_warning():
    from mmvitscale import inference

    with pytest.warns(FutureWarning, match='Painter is called Visualizer now'):
        assert inference.Painter is inference.Visualizer
    with pytest.warns(FutureWarning, match='build_predictor'):
        assert inference.predictor_of is inference.build_predictor
    with pytest.raises(AttributeError, match='no attribute'):
        _ = inference.nothing
