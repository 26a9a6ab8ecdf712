"""A small model, 50 examples for it, and a short run of four steps an epoch."""

import torch

import vaekit

X = torch.rand(50, 6, generator=torch.Generator().manual_seed(0))


def model(seed=0, **parts):
    small = {"encoder": {"hidden": (8,)}, "decoder": {"hidden": (8,)}}
    return vaekit.create_vae(input_shape=(6,), latent_dim=2, seed=seed, **{**small, **parts})


def fit(vae, data=X, **options):
    return vaekit.fit(vae, data, **{"epochs": 2, "batch_size": 16, "progress": False, "device": "cpu", **options})


def weights(vae):
    return torch.cat([p.detach().flatten() for p in vae.parameters()])


class Stop(vaekit.Callback):
    """Ends the run after so many steps, as one that is finished."""

    def __init__(self, after):
        self.after = after

    def on_step_end(self, state):
        state.stop = state.step == self.after


class Interrupt(Stop):
    """Ends it there so that it can be resumed within the epoch."""

    def on_step_end(self, state):
        if state.step == self.after:
            state.interrupt = "a test"
