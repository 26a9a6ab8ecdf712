"""How well do digits come through codes? Every posterior over codes beside vector-quantize-pytorch, in one network.

The network is that of the preset "vq-mnist", 7 x 7 positions, on the 4,500 digits of mnist5k that are trained on; nats are those
of the 500 that are not. All learn from the same batches for as many steps; a seed is the network's first weights, the order of
the digits and the noise. The peer is `VectorQuantize` with k-means for its first codes and dead codes replaced (decay 0.8, its
default), in the same network with the same commitment. Columns, means over the seeds with the standard deviation in brackets:

    codes        K, of which each position has one, or so many as "x 2" says
    nats         -log p(x | codes), the reconstruction of held-out digits
    perplexity   codes in even use among those of all held-out digits, of 24,500 vectors
    ms           a training step's processor time

    python benchmarks/codes.py
    python benchmarks/codes.py --seeds 5 --epochs 30 --only vector_quantized --only peer --csv codes.csv
    python benchmarks/codes.py --priors benchmarks/pictures/codes.png

The last trains "vq-mnist" for 30 epochs, fits priors to its codes (those that learn for 12 epochs, with no look at held-out
digits), prints the bound of log p(x) of the held-out digits under each, in nats, and draws from them.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from harness import header, mean_and_deviation, table, write_csv
from torch import Tensor

import vaekit
from vaekit.posteriors import CertainCodes, CodeFamily

COLUMNS = ("nats", "perplexity", "ms")
VQ = {"name": "vector_quantized"}
FALLING = {"name": "linear", "steps": 200, "start": 1.0, "end": 0.5}


class PeerFamily(CodeFamily):
    """vector-quantize-pytorch's codebook; it moves its codes when it is called in training mode."""

    def __init__(self, latent_shape: Sequence[int], codes: int, beta: float = 0.25) -> None:
        super().__init__(latent_shape)
        from vector_quantize_pytorch import VectorQuantize

        self.codes, self.beta = codes, beta
        self.theirs = VectorQuantize(
            dim=self.latent_shape[0], codebook_size=codes, kmeans_init=True, threshold_ema_dead_code=2, commitment_weight=0.0,
            accept_image_fmap=True,
        )  # fmt: skip

    def forward(self, numbers: Tensor) -> Peer:
        _, indices, _ = self.theirs(numbers)
        return Peer(numbers, indices, self)

    def embedded(self, indices: Tensor) -> Tensor:
        codes: Tensor = self.theirs.codebook[indices]
        return codes.movedim(-1, 1)


class PeerLevels(CodeFamily):
    """Its FSQ, whose projections to as many numbers as there are levels are the networks' own last layers."""

    def __init__(self, latent_shape: Sequence[int], levels: Sequence[int]) -> None:
        super().__init__(latent_shape)
        from vector_quantize_pytorch import FSQ

        self.theirs, self.codes = FSQ(levels=list(levels), channel_first=True), math.prod(levels)

    def forward(self, numbers: Tensor) -> CertainCodes:
        rounded, indices = self.theirs(numbers)
        return CertainCodes(rounded, indices.long(), self)

    def embedded(self, indices: Tensor) -> Tensor:
        codes: Tensor = self.theirs.indices_to_codes(indices)
        return codes


class PeerBits(CodeFamily):
    """Its LFQ, with its own weights; its entropy term counts for each position, as ours does."""

    def __init__(self, latent_shape: Sequence[int]) -> None:
        super().__init__(latent_shape)
        from vector_quantize_pytorch import LFQ

        size = self.latent_shape[0]
        self.theirs, self.codes = LFQ(codebook_size=2**size, dim=size), 2**size

    def forward(self, numbers: Tensor) -> PeerSigns:
        _, indices, entropy = self.theirs(numbers)
        return PeerSigns(numbers, indices, self, entropy)

    def embedded(self, indices: Tensor) -> Tensor:
        codes: Tensor = self.theirs.indices_to_codes(indices)
        return codes


class PeerSigns(CertainCodes):
    def __init__(self, encoded: Tensor, indices: Tensor, family: PeerBits, entropy: Tensor) -> None:
        super().__init__(encoded, indices, family)
        self._entropy = entropy

    def penalties(self) -> dict[str, Tensor]:
        return {"entropy": self._entropy * math.prod(self.family.code_shape)}


class Peer(CertainCodes):
    def penalties(self) -> dict[str, Tensor]:
        assert isinstance(self.family, PeerFamily)
        return {"commitment": self.family.beta * (self._wide - self._codes.detach()).square().flatten(1).sum(1)}


def contenders(codes: int) -> dict[str, Callable[[], dict[str, Any]]]:
    """The options of `create_vae` for each, with about K codes a position where there is a choice."""
    levels = {128: (5, 5, 5), 1024: (8, 5, 5, 5)}[codes]
    bits = {128: 7, 1024: 10}[codes]

    def vq(**options: Any) -> Callable[[], dict[str, Any]]:
        return lambda: {"posterior": {**VQ, "codes": codes, **options}}

    return {
        "vector_quantized": vq(),
        "peer": lambda: {"encoder": {"posterior": PeerFamily((16, 7, 7), codes)}},
        "vector_quantized, as in the papers": vq(warm_up=False, lloyd=0),
        "finite_scalar": lambda: {"latent_dim": len(levels), "posterior": {"name": "finite_scalar", "levels": levels}},
        "lookup_free": lambda: {"latent_dim": bits, "posterior": {"name": "lookup_free"}},
        "peer's FSQ": lambda: {"latent_dim": len(levels), "encoder": {"posterior": PeerLevels((len(levels), 7, 7), levels)}},
        "peer's LFQ": lambda: {"latent_dim": bits, "encoder": {"posterior": PeerBits((bits, 7, 7))}},
        "vector_quantized, cosine": vq(distance="cosine"),
        "vector_quantized, codebook_dim 8": vq(codebook_dim=8),
        "vector_quantized, 2 heads": vq(heads=2),
        "residual_vector_quantized, 2 books": lambda: {
            "posterior": {"name": "residual_vector_quantized", "codes": codes, "quantizers": 2}
        },
        "gumbel_softmax": lambda: {
            "posterior": {"name": "gumbel_softmax", "codes": codes, "temperature": FALLING},
            "loss": "elbo",
        },
    }


def built(options: dict[str, Any], seed: int) -> vaekit.VAE:
    """The model of a contender; the peer's family is an object, which the preset's posterior would stand beside."""
    preset = vaekit.presets.registry.create("vq-mnist")
    preset = {name: value for name, value in preset.items() if name != "posterior" or "encoder" not in options}
    encoder = {**preset["encoder"], **options.get("encoder", {})}
    return vaekit.create_vae(**{**preset, **options, "encoder": encoder}, seed=seed)


def scores(options: dict[str, Any], seed: int, epochs: int) -> dict[str, float]:
    """A contender trained with a seed, by column."""
    train, test = vaekit.data.load("mnist5k")
    vae = built(options, seed)
    begin = time.process_time()
    history = vaekit.fit(vae, train, epochs=epochs, batch_size=64, seed=seed, progress=False, device="cpu")
    seconds = time.process_time() - begin
    steps = len(history["loss"]) * -(-len(train) // 64)
    family = vae.encoder.family
    assert isinstance(family, CodeFamily)
    counts = family.counts(vae.indices(torch.as_tensor(test.x))).double()
    share = counts / counts.sum(1, keepdim=True)
    perplexity = torch.special.entr(share).sum(1).mean().exp()
    return {
        "nats": vaekit.evaluate(vae, test)["reconstruction"],
        "perplexity": float(perplexity),
        "ms": 1e3 * seconds / steps,
    }


def priors(file: Path) -> list[Sequence[object]]:
    """A table of the bound under each prior, and draws from them in a picture."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    train, test = vaekit.data.load("mnist5k")
    vae = vaekit.create_vae("vq-mnist", seed=0)
    vaekit.fit(vae, train, epochs=30, batch_size=64, progress=False, device="cpu")
    fitted: dict[str, vaekit.Prior] = {"codes, uniform": vae.prior}
    specs = {
        "codes, counted": "codes",
        "pixel_cnn": {"name": "pixel_cnn", "width": 32, "layers": 4},
        "autoregressive_codes": {"name": "autoregressive_codes", "width": 64, "layers": 2},
    }
    seconds = {}
    for name, spec in specs.items():
        begin = time.process_time()
        fitted[name] = vaekit.fit_prior(vae, train, spec, epochs=12)
        seconds[name] = f"{time.process_time() - begin:.0f}"
    rows: list[Sequence[object]] = [("prior", "reconstruction", "codes", "bound", "fit, s")]
    figure = Figure(figsize=(8.0, 6.2))
    for (name, prior), axes in zip(fitted.items(), figure.subplots(len(fitted), 1), strict=True):
        vae.prior = prior
        terms = vaekit.evaluate(vae, test)
        bound = terms["reconstruction"] + terms["kl"]
        rows.append((name, f"{terms['reconstruction']:.1f}", f"{terms['kl']:.1f}", f"{bound:.1f}", seconds.get(name, "-")))
        x = vae.sample(32, key=vaekit.make_key(0)).view(2, 16, 28, 28)
        axes.imshow(x.permute(0, 2, 1, 3).reshape(56, 448).numpy(), cmap="gray_r")
        axes.set_axis_off()
        axes.set_title(f"{name}: {bound:.0f} nats", loc="left", fontsize=9)
    figure.tight_layout()
    figure.savefig(file, dpi=80)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codes", type=int, action="append", choices=(128, 1024))
    parser.add_argument("--only", action="append", help="contenders whose name begins so; may be given several times")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4, help="of 71 steps")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--priors", type=Path, help="compare priors over the codes instead, with draws in this picture")
    arguments = parser.parse_args()
    print(header())
    if arguments.priors:
        print(table(priors(arguments.priors)))
        return
    rows: list[Sequence[object]] = [("codes", "posterior", *COLUMNS)]
    lines: list[Sequence[object]] = [("codes", "posterior", "epochs", "seed", *COLUMNS)]
    for codes in arguments.codes or (128, 1024):
        for name, options in contenders(codes).items():
            if arguments.only and not name.startswith(tuple(arguments.only)):
                continue
            torch.manual_seed(0)
            found = [scores(options(), seed, arguments.epochs) for seed in range(arguments.seeds)]
            lines += [(codes, name, arguments.epochs, seed, *one.values()) for seed, one in enumerate(found)]
            rows.append((codes, name, *(mean_and_deviation([one[column] for one in found], 1) for column in COLUMNS)))
            write_csv(arguments.csv, lines)  # what there is, after each
    print(table(rows))


if __name__ == "__main__":
    main()
