"""Random parameters everywhere: norms that start at zero would hide every error behind them."""

import torch


@torch.no_grad()
def randomise(module):
    """Fill all parameters and floating-point buffers with numbers of the size of trained ones."""
    for name, parameter in module.named_parameters():
        if 'logit_scale' in name:
            parameter.uniform_(1.0, 4.0)  # larger ones amplify rounding beyond what float32 can compare
        elif 'norm' in name and name.endswith('weight'):
            parameter.uniform_(0.5, 1.5)
        elif parameter.ndim == 1:
            parameter.normal_(std=0.2)
        else:
            parameter.normal_(std=parameter[0].numel() ** -0.5)
    return module
