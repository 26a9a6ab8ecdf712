"""Whether benchmarks/cells.py measures both libraries alike: one model in both of them, and its log p by three programs.

SCVI is trained, and its weights are copied into a VAE of vaekit; SCVI's encoder adds 1e-4 to its variances, which is left out for
this. The two then have to say the same of held-out cells: means of latents, logarithms of shares, and log p(x) by importance
weights, mean in nats, which each library has a function of its own for.

    python benchmarks/cells_witness.py --data simulated --epochs 20
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import cells
import numpy as np
import torch
from harness import header, table
from torch import Tensor, nn

import vaekit


@torch.no_grad()
def copied(scvi: cells.Scvi, adata: cells.anndata.AnnData) -> cells.Vaekit:
    """vaekit's model with the weights of SCVI's."""
    own = cells.Vaekit(scvi.likelihood, scvi.normalization)
    own.compose(vaekit.data.as_examples(adata, batch="batch"), seed=0)
    module, vae = scvi.model.module, own.vae
    module.z_encoder.var_eps = 0.0
    _copy_hidden(module.z_encoder.encoder, vae.encoder.body)
    _copy_hidden(module.decoder.px_decoder, vae.decoder.body)
    _copy_heads([module.z_encoder.mean_encoder, module.z_encoder.var_encoder], vae.encoder.head)
    heads = [module.decoder.px_scale_decoder[0], module.decoder.px_dropout_decoder]
    _copy_heads(heads[: vae.likelihood.parameters_per_element], vae.decoder.head)
    vae.likelihood.counts.log_theta.copy_(module.px_r.reshape(vae.likelihood.counts.log_theta.shape))
    vae.eval()
    return own


def _copy_hidden(theirs: nn.Module, ours: nn.Sequential) -> None:
    """A linear layer and its normalisation; SCVI's layer normalisation has no weights, vaekit's no bias before batch's."""
    linear, batch_norm = theirs.fc_layers[0][0], theirs.fc_layers[0][1]
    ours[0].weight.copy_(linear.weight)
    if not isinstance(batch_norm, nn.BatchNorm1d):
        ours[0].bias.copy_(linear.bias)
        ours[1].eps = 1e-5
        return
    ours[1].load_state_dict(batch_norm.state_dict())
    ours[1].eps = batch_norm.eps
    ours[1].running_mean.sub_(linear.bias)


def _copy_heads(theirs: Sequence[nn.Linear], ours: nn.Linear) -> None:
    ours.weight.copy_(torch.cat([each.weight for each in theirs]))
    ours.bias.copy_(torch.cat([each.bias for each in theirs]))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=tuple(cells.PROBLEMS), default="simulated")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--draws", type=int, default=100)
    options = parser.parse_args(arguments)
    cells.be_quiet()
    print(header(), f"scvi-tools {cells.scvi.__version__}; {options.epochs} epochs", sep="\n")
    rows: list[tuple[object, ...]] = [
        ("likelihood", "normalization", "latents", "log shares", "log p, SCVI", "of the copy", "get_marginal_ll", "vae.score")
    ]
    for likelihood in cells.LIKELIHOODS:
        for normalization in ("batch", "layer"):
            trained, held_out = cells.divided(cells.PROBLEMS[options.data](0).known, 0)
            scvi = cells.Scvi(likelihood, normalization)
            scvi.train(trained, options.epochs, 0)
            rows.append((likelihood, normalization, *_agreement(scvi, copied(scvi, trained), held_out, options.draws)))
    print(table(rows))


def _agreement(scvi: cells.Scvi, copy: cells.Vaekit, held_out: cells.anndata.AnnData, draws: int) -> list[str]:
    z, shares = [], []
    for one in (scvi, copy):
        mean, _ = one.encoded(held_out)
        z.append(mean)
        shares.append(one.decoded(z[0], held_out)[0])
    differences = [_largest(z), _largest(shares)]
    known = vaekit.cells.matching(copy.vae, held_out)
    log_p = [
        cells.log_p(scvi, held_out, 0),
        cells.log_p(copy, held_out, 0),
        float(np.mean(scvi.marginal_ll(held_out, draws))),
        float(copy.vae.score((known.x[:], known.y), samples=draws).log_likelihood.mean()),
    ]
    return [*(f"{value:.1e}" for value in differences), *(f"{value:.2f}" for value in log_p)]


def _largest(pair: Sequence[Tensor]) -> float:
    return float((pair[0] - pair[1]).abs().max())


if __name__ == "__main__":
    main()
