"""Whether benchmarks/cells.py measures both libraries alike: one model in both of them, and its log p by three programs.

SCVI is trained, and its weights are copied into a VAE of vaekit; SCVI's encoder adds 1e-4 to its variances, which is left out for
this. The two then have to say the same of held-out cells: means of latents, logarithms of shares, and log p(x) by importance
weights, mean in nats, which each library has a function of its own for.

With --ablate: log p of held-out cells
- of SCVI as it is, and with the warm-up of the divergence over 400 epochs that it has by default;
- of SCVI with what vaekit starts from, step by step: dispersions of 1, whose logarithms SCVI draws from N(0, 1); the output's
  bias at the genes' mean shares, an option of `fit`; weights of X. Glorot, Y. Bengio, 2010;
- of vaekit, with that option too, and with dispersions drawn as SCVI's.

    python benchmarks/cells_witness.py --epochs 20
    python benchmarks/cells_witness.py --data pbmc --epochs 40 --ablate --seeds 3 --csv benchmarks/results/cells_starts.csv
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cells
import torch
from harness import header, mean_and_deviation, table, write_csv
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


@torch.no_grad()
def dispersion_of_one(module: nn.Module, adata: cells.anndata.AnnData) -> None:
    module.px_r.zero_()


@torch.no_grad()
def mean_shares_too(module: nn.Module, adata: cells.anndata.AnnData) -> None:
    dispersion_of_one(module, adata)
    x = torch.from_numpy(adata.X).double()
    module.decoder.px_scale_decoder[0].bias.copy_((x / x.sum(1, keepdim=True)).mean(0).clamp(min=1e-8).log())
    module.decoder.px_dropout_decoder.bias.zero_()


@torch.no_grad()
def glorot_too(module: nn.Module, adata: cells.anndata.AnnData) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    mean_shares_too(module, adata)


@dataclass
class VaekitFromDraws(cells.Vaekit):
    """vaekit from dispersions drawn as SCVI's are."""

    def compose(self, trained: vaekit.data.Cells, seed: int) -> None:
        super().compose(trained, seed)
        with torch.no_grad():
            self.vae.likelihood.counts.log_theta.normal_(generator=torch.Generator().manual_seed(seed))


CONTENDERS: dict[str, Callable[[str, str], cells.Vaekit | cells.Scvi]] = {
    "SCVI": cells.Scvi,
    "SCVI, warm-up over 400 epochs": functools.partial(cells.Scvi, epochs_of_warm_up=400),
    "SCVI, dispersions from 1": functools.partial(cells.Scvi, prepare=dispersion_of_one),
    "SCVI, and from the mean shares": functools.partial(cells.Scvi, prepare=mean_shares_too),
    "SCVI, and Glorot's weights": functools.partial(cells.Scvi, prepare=glorot_too),
    "vaekit": cells.Vaekit,
    "vaekit, and from the mean shares": functools.partial(cells.Vaekit, initialize_output_bias=True),
    "vaekit, dispersions drawn": VaekitFromDraws,
}


def ablation(data: str, likelihood: str, normalization: str, epochs: int, seeds: int) -> list[tuple[object, ...]]:
    """log p of held-out cells by what the model starts from."""
    rows: list[tuple[object, ...]] = [("data", "likelihood", "normalization", "model", "log p", "above SCVI")]
    found: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for seed in range(seeds):
        trained, held_out = cells.divided(cells.PROBLEMS[data](seed).known, seed)
        for name, made in CONTENDERS.items():
            contender = made(likelihood, normalization)
            contender.train(trained, epochs, seed)
            found[name].append(cells.log_p(contender, held_out, seed))
    for name, values in found.items():
        gaps = [value - of_scvi for value, of_scvi in zip(values, found["SCVI"], strict=True)]
        rows.append((data, likelihood, normalization, name, mean_and_deviation(values), mean_and_deviation(gaps)))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=tuple(cells.PROBLEMS), default="simulated")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--ablate", action="store_true", help="what makes the difference")
    parser.add_argument("--likelihood", choices=tuple(cells.LIKELIHOODS), default="nb", help="with --ablate")
    parser.add_argument("--normalization", choices=("batch", "layer"), default="batch", help="with --ablate")
    parser.add_argument("--seeds", type=int, default=3, help="with --ablate")
    parser.add_argument("--csv", type=Path, help="the table of --ablate")
    options = parser.parse_args(arguments)
    cells.be_quiet()
    print(header(), f"scvi-tools {cells.scvi.__version__}; {options.epochs} epochs", sep="\n")
    if options.ablate:
        rows = ablation(options.data, options.likelihood, options.normalization, options.epochs, options.seeds)
        print(table(rows))
        write_csv(options.csv, rows)
        return
    rows = [
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
        scvi.marginal_ll(held_out, draws),
        float(copy.vae.score((known.x[:], known.y), samples=draws).log_likelihood.mean()),
    ]
    return [*(f"{value:.1e}" for value in differences), *(f"{value:.2f}" for value in log_p)]


def _largest(pair: Sequence[Tensor]) -> float:
    return float((pair[0] - pair[1]).abs().max())


if __name__ == "__main__":
    main()
