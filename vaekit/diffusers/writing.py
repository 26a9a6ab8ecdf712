"""`to_diffusers`: a model as the folder that `diffusers.AutoencoderKL.from_pretrained` reads."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

from torch import Tensor

from vaekit import weights
from vaekit.diffusers.config import config_of
from vaekit.diffusers.names import divided, names_of
from vaekit.diffusers.reading import CONFIG_FILE, WEIGHTS_FILE
from vaekit.files import writable_folder, write_atomically
from vaekit.vae import VAE


def to_diffusers(vae: VAE, folder: str | os.PathLike[str]) -> Path:
    """Write the encoder and decoder as config.json and diffusion_pytorch_model.safetensors, and return the folder.

    `diffusers.AutoencoderKL.from_pretrained(folder)` computes what they do. Likelihood, prior and objective are not written; its
    `scaling_factor` and `shift_factor` are the model's `latent_scale` and `latent_shift`.

    Args:
        vae: of the parts 'resnet', with `groups=`, `norm_eps=1e-6`, a spatial latent, `downsample_padding="end"`, and one block
            more in the decoder's levels than in the encoder's: `from_diffusers` gives such a model.
        folder: made if it is not there.

    Raises:
        ValueError: a model that is not the function of any AutoencoderKL; the message says what differs.
        OSError: the folder cannot be written.
    """
    config = config_of(vae)
    own = vae.state_dict()
    tensors: dict[str, Tensor] = {}
    for name, theirs in names_of(vae).items():
        tensors.update(divided(own[name], theirs))
    folder = writable_folder(folder)
    write_atomically(folder / WEIGHTS_FILE, partial(weights.write, tensors=tensors, metadata={"format": "pt"}))
    write_atomically(folder / CONFIG_FILE, (json.dumps(config, indent=2) + "\n").encode())
    return folder
