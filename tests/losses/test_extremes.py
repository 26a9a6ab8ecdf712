"""Objectives at posteriors that are extreme, and finite: no term and no gradient is NaN."""

import pytest
import torch

import vaekit
from vaekit import losses

EXTREMES = {
    "tiny variances": ([0.5, -1.0, 2.0, 0.0], [-200.0, -200.0, -200.0, -200.0]),
    "tinier variances": ([0.5, -1.0, 2.0, 0.0], [-1000.0, -1000.0, -1000.0, -1000.0]),
    "the same tiny posterior twice": ([0.5, 0.5, 0.5, 0.0], [-200.0, -200.0, -200.0, 0.0]),
    "tiny beside large": ([0.5, -1.0, 2.0, 0.0], [-300.0, 0.0, 60.0, -90.0]),
    "large variances": ([0.5, -1.0, 2.0, 0.0], [80.0, 80.0, 10.0, 0.0]),
    "large means": ([1e15, -1e15, 1e8, 0.0], [0.0, -200.0, -20.0, 0.0]),
}
VARIANTS = {
    **{
        name: {"name": name}
        for name in losses.names()
        if name not in ("vector_quantized", "autoencoder", "semi_supervised", "mvae")
    },
    "factor": {"name": "factor", "hidden": (4,)},
    "dip_vae i": {"name": "dip_vae", "kind": "i"},
    "iwae doubly": {"name": "iwae", "gradient": "doubly_reparameterized"},
    "info_vae rbf": {"name": "info_vae", "kernel": "rbf"},
    "renyi 2": {"name": "renyi", "alpha": 2.0},
    "free_bits example": {"name": "free_bits", "per": "example"},
    "capacity batch": {"name": "capacity", "per": "batch"},
    "beta_tc weighted": {"name": "beta_tc", "sampling": "weighted"},
}


class Given(vaekit.Encoder):
    """The posterior of two latents, the same in both, whatever x is."""

    def __init__(self, mu, logvar):
        super().__init__((3,), 2)
        self.mu, self.logvar = (torch.nn.Parameter(torch.tensor(v).unsqueeze(1).repeat(1, 2)) for v in (mu, logvar))

    def forward(self, x):
        return vaekit.DiagonalGaussian(self.mu, self.logvar)


class Saturated(vaekit.Decoder):
    """One that keeps its output, and so the reconstruction, within reason."""

    def __init__(self):
        super().__init__(2, (3,), 1)
        self.linear = torch.nn.Linear(2, 3)

    def forward(self, z):
        return torch.tanh(self.linear(z / (1.0 + z.abs()))).unsqueeze(1)


@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("loss", VARIANTS)
def test_extreme_posteriors_give_no_nan(loss, extreme):
    torch.manual_seed(0)
    vae = vaekit.create_vae(
        input_shape=(3,), latent_dim=2, encoder=Given(*EXTREMES[extreme]), decoder=Saturated(), loss=VARIANTS[loss]
    )
    terms = vae(torch.rand(4, 3), key=vaekit.make_key(0), dataset_size=10)
    named = {"total": terms.total, "reconstruction": terms.reconstruction, "kl": terms.kl, **terms.extras}
    assert not [name for name, value in named.items() if value.isnan().any()]
    if terms.total.isfinite():
        terms.objective.backward()
        assert not [name for name, p in vae.named_parameters() if p.grad is not None and p.grad.isnan().any()]
