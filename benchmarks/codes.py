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
"""

from __future__ import annotations

import argparse
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
        "vector_quantized, no warm-up": vq(warm_up=False),
        "vector_quantized, no Lloyd steps": vq(lloyd=0),
        "vector_quantized, neither": vq(warm_up=False, lloyd=0),
        "vector_quantized, decay 0.8": vq(decay=0.8, warm_up=False),
        "vector_quantized, weights": vq(decay=None),
        "vector_quantized, cosine": vq(distance="cosine"),
        "vector_quantized, codebook_dim 8": vq(codebook_dim=8),
        "vector_quantized, 2 heads": vq(heads=2),
        "residual_vector_quantized, 2": lambda: {
            "posterior": {"name": "residual_vector_quantized", "codes": codes, "quantizers": 2}
        },
        "finite_scalar": lambda: {"latent_dim": len(levels), "posterior": {"name": "finite_scalar", "levels": levels}},
        "lookup_free": lambda: {"latent_dim": bits, "posterior": {"name": "lookup_free"}},
        "gumbel_softmax": lambda: {
            "posterior": {"name": "gumbel_softmax", "codes": codes, "temperature": FALLING},
            "loss": "elbo",
        },
        "peer": lambda: {"encoder": {"posterior": PeerFamily((16, 7, 7), codes)}, "posterior": None},
    }  # fmt: skip


def built(options: dict[str, Any], seed: int) -> vaekit.VAE:
    """The model of a contender; the peer's family is an object, which the preset's posterior would stand beside."""
    preset = vaekit.presets.registry.create("vq-mnist")
    preset = {name: value for name, value in preset.items() if name != "posterior" or "encoder" not in options}
    given = {name: value for name, value in options.items() if value is not None}
    encoder = {**preset.pop("encoder"), **given.pop("encoder", {})}
    return vaekit.create_vae(**{**preset, **given, "encoder": encoder}, seed=seed)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codes", type=int, action="append", choices=(128, 1024))
    parser.add_argument("--only", action="append", help="contenders whose name begins so; may be given several times")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4, help="of 71 steps")
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    print(header())
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
            print(rows[-1], flush=True)
    print(table(rows))
    write_csv(arguments.csv, lines)


if __name__ == "__main__":
    main()
