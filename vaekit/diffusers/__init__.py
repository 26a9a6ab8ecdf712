"""diffusers' AutoencoderKL as a vaekit model, and back: the autoencoders of Stable Diffusion 1 to 3, SDXL and FLUX."""

from vaekit.diffusers.reading import from_diffusers
from vaekit.diffusers.writing import to_diffusers

__all__ = ["from_diffusers", "to_diffusers"]
