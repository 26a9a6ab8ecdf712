"""A small model of small pictures."""

import vaekit


def model(**options):
    networks = {"encoder": {"hidden": (8,)}, "decoder": {"hidden": (8,)}}
    return vaekit.create_vae(input_shape=(1, 6, 6), latent_dim=2, seed=0, **networks, **options)
