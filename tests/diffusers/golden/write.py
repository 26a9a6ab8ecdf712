"""Write the golden model beside this file, with diffusers: its folder, and what it gives for two images, in float64."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

HERE = Path(__file__).parent

torch.manual_seed(0)
model = AutoencoderKL(
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    block_out_channels=(4, 8),
    latent_channels=2,
    norm_num_groups=2,
    sample_size=16,
    scaling_factor=0.75,
    shift_factor=0.25,
).eval()
with torch.no_grad():
    for parameter in model.parameters():
        parameter += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(HERE)
    x = 2.0 * torch.rand(2, 3, 16, 16, dtype=torch.float64) - 1.0
    posterior = model.double().encode(x).latent_dist
    numbers = {"mean": posterior.mean, "logvar": posterior.logvar, "reconstruction": model.decode(posterior.mean).sample}
save_file({"x": x, **{name: tensor.contiguous() for name, tensor in numbers.items()}}, HERE / "numbers.safetensors")
