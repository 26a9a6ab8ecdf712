"""Small AutoencoderKLs of diffusers, of the shapes of Stable Diffusion 1 to 3, SDXL and FLUX, with random weights."""

import torch

SMALL = {
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "block_out_channels": [8, 12, 12],
    "layers_per_block": 2,
    "norm_num_groups": 4,
    "sample_size": 24,
}
KINDS = {
    "stable diffusion": {"scaling_factor": 0.18215},
    "sdxl": {"scaling_factor": 0.13025, "force_upcast": True},
    "sd3": {"scaling_factor": 1.5305, "shift_factor": 0.0609, "latent_channels": 16, "use_quant_conv": False,
            "use_post_quant_conv": False},
    "flux": {"scaling_factor": 0.3611, "shift_factor": 0.1159, "latent_channels": 16, "use_quant_conv": False,
             "use_post_quant_conv": False},
    "by channel": {"scaling_factor": 0.5, "latents_mean": [-1.6, 1.4, 0.7, -0.2], "latents_std": [8.4, 5.6, 6.3, 6.1]},
    "without attention": {"mid_block_add_attention": False, "block_out_channels": [8, 8, 12], "layers_per_block": 1},
}  # fmt: skip


def config_of(kind):
    return {**SMALL, **KINDS[kind]}


def autoencoder(kind, dtype=torch.float64, seed=0):
    """diffusers' own, with weights of which none is 0 or 1 throughout, and the latents' scale and shift of its pipelines."""
    from diffusers import AutoencoderKL

    model = AutoencoderKL(**config_of(kind)).to(dtype).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=dtype)
    return model


def units(config):
    """(shift, scale) as a pipeline applies them: (latents - shift) scale; numbers, or [D, 1, 1]."""
    if config.get("latents_mean") is None:
        return config.get("shift_factor") or 0.0, config["scaling_factor"]
    mean, std = (torch.tensor(config[name], dtype=torch.float64).view(-1, 1, 1) for name in ("latents_mean", "latents_std"))
    return mean, config["scaling_factor"] / std


def images(*sizes, dtype=torch.float64, count=2):
    return 2.0 * torch.rand(count, 3, *sizes, generator=torch.Generator().manual_seed(1), dtype=dtype) - 1.0
