"""scvi-tools: `scvi.model.SCVI` with a negative binomial, trained by its own `train`.

Its model is told the total count of each cell, which vaekit's is not: its reconstruction is conditional on that. The divergence
has its full weight from the first step, as in all peers here, where SCVI's default raises it over 400 epochs.

    python benchmarks/peers/scvi_tools.py --epochs 5 [--dispersion gene-cell]
"""

from __future__ import annotations

from functools import partial
from typing import Any

import turns
from problems import PROBLEMS, Array
from turns import Trained, Turns

turns.needs("scvi", "anndata", install="scvi-tools")

import anndata
import numpy as np
import scvi
import torch
from lightning.pytorch.callbacks import Callback


class Tell(Callback):
    """Passes the end of an epoch on."""

    def __init__(self, epochs: Turns) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.epochs.end_of_epoch()


def train(args: turns.argparse.Namespace, x: Array, epochs: Turns) -> Trained:
    scvi.settings.seed = args.seed
    scvi.settings.progress_bar_style = "tqdm"
    data = anndata.AnnData(x)
    scvi.model.SCVI.setup_anndata(data)
    model = scvi.model.SCVI(data, n_hidden=128, n_latent=10, n_layers=1, gene_likelihood="nb", dispersion=args.dispersion)
    model.train(
        max_epochs=args.epochs,
        accelerator="cpu",
        batch_size=PROBLEMS[args.model].batch,
        train_size=1.0,
        plan_kwargs={"n_epochs_kl_warmup": None},
        enable_progress_bar=False,
        callbacks=[Tell(epochs)],
    )
    module = model.module.eval()

    def encode(x: Array) -> tuple[Any, Any]:
        new = anndata.AnnData(x)
        mu, variance = model.get_latent_representation(new, return_dist=True)
        return mu, np.log(variance)

    @torch.no_grad()
    def decode(z: Array, x: Array) -> dict[str, Array]:
        library = torch.from_numpy(x).sum(1, keepdim=True).log()
        px = module.generative(torch.from_numpy(z), library, torch.zeros(len(z), 1))["px"]
        theta = px.theta.expand_as(px.mu)
        return {"log_mean": px.mu.double().log().numpy(), "log_theta": theta.double().log().numpy()}

    return encode, decode


def main() -> None:
    options = turns.parser(__doc__, ["single-cell"])
    options.add_argument("--dispersion", choices=("gene", "gene-cell"), default="gene", help="SCVI's own option (gene)")
    args = options.parse_args()
    turns.run(args, partial(train, args), ["scvi-tools", "torch"])


if __name__ == "__main__":
    main()
