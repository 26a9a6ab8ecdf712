"""An objective that goes wrong at chosen steps."""

import math

import torch

import vaekit


class Spoiled(vaekit.Elbo):
    """An ELBO in which some steps are not finite.

    In a "term", in these rows of it; in the "total", a sum whose terms are finite; in the "gradient" alone; or in an "extra" that
    is in no objective.
    """

    def __init__(self, steps=(0,), how="term", rows=(1,)):
        super().__init__()
        self.steps, self.how, self.rows = steps, how, list(rows)

    def forward(self, model, batch, context):
        terms = super().forward(model, batch, context)
        if context.step is None or context.step not in self.steps:
            return terms
        if self.how == "gradient":  # the derivative of a square root at 0
            weight = next(model.decoder.parameters())
            return terms._replace(total=terms.total + (0 * weight).abs().sqrt().sum())
        if self.how == "extra":
            return terms._replace(extras={"odd": torch.tensor(math.inf)})
        if self.how == "total":
            return terms._replace(total=terms.total * math.nan)
        reconstruction = terms.reconstruction.clone()
        reconstruction[self.rows] = math.nan
        return terms._replace(total=reconstruction.mean() + terms.kl.mean(), reconstruction=reconstruction)


def spoil(vae, *arguments, **options):
    """The model's parts with such an objective, which is made from the arguments."""
    loss = Spoiled(*arguments, **options)
    return vaekit.VAE(vae.encoder, vae.decoder, likelihood=vae.likelihood, prior=vae.prior, loss=loss)
