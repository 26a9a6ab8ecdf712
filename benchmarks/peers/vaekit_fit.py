"""vaekit: the preset of that name, trained by `vaekit.fit`.

python benchmarks/peers/vaekit_fit.py --model dense-mnist --epochs 5 [--precision bf16] [--compile]
"""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning_fabric  # noqa: F401 (importing it is not training)
import torch
import turns
from problems import PROBLEMS, Array
from turns import Trained, Turns

import vaekit


class Tell(vaekit.Callback):
    """Passes the end of an epoch on."""

    def __init__(self, epochs: Turns) -> None:
        self.epochs = epochs

    def on_epoch_end(self, state: Any) -> None:
        self.epochs.end_of_epoch()


def named(vae: vaekit.VAE, model: str, parameters: torch.Tensor) -> dict[str, torch.Tensor]:
    """The likelihood's parameters by name, as problems.py takes them."""
    if model == "single-cell":
        return dict(zip(("log_mean", "log_theta"), parameters.unbind(1), strict=True))
    if model != "table":
        return {"logits": parameters.flatten(1)}
    p = parameters[:, 0]
    logvar = vae.likelihood.likelihoods[0].logvar
    return {"mean": p[:, :2], "logvar": logvar, "logits": p[:, 2:5], "log_mean": p[:, 5], "log_theta": p[:, 6]}


def train(args: turns.argparse.Namespace, x: Array, epochs: Turns) -> Trained:
    options = {"likelihood": "negative_binomial"} if args.model == "single-cell" else {}
    vae = vaekit.create_vae(args.model, seed=args.seed, **options)
    vaekit.fit(
        vae,
        shaped(vae, x),
        epochs=args.epochs,
        batch_size=PROBLEMS[args.model].batch,
        precision=args.precision,
        compile=args.compile,
        seed=args.seed,
        device="cpu",
        callbacks=[Tell(epochs)],
        progress=False,
    )

    @torch.no_grad()
    def encode(x: Array) -> tuple[Array, Array]:
        posterior = vae.encode(shaped(vae, x))
        return posterior.mu.numpy(), posterior.logvar.numpy()

    @torch.no_grad()
    def decode(z: Array, x: Array) -> dict[str, Array]:
        parameters = vae.natural_parameters(torch.from_numpy(z))
        return {name: value.numpy() for name, value in named(vae, args.model, parameters).items()}

    return encode, decode


def shaped(vae: vaekit.VAE, x: Array) -> torch.Tensor:
    return torch.from_numpy(x).reshape(-1, *vae.input_shape)


def main() -> None:
    options = turns.parser(__doc__, list(PROBLEMS))
    options.add_argument("--precision", choices=("32", "bf16"), default="32")
    options.add_argument("--compile", action="store_true")
    args = options.parse_args()
    turns.run(args, partial(train, args), ["vaekit", "torch"])


if __name__ == "__main__":
    main()
