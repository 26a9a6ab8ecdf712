"""How sharp are reconstructions? One network with a Gaussian, with L1, with features, and with the recipe of latent diffusion.

All learn from the same batches for as many steps, with the same latents; a seed is the first weights, the order and the noise.
What they minimise:

    gaussian       the bound, with one learned variance
    gaussian, free the same with the divergence's weight of latent diffusion, 1e-6 beside a variance of 1
    laplace        L1, that weight
    features       L1 and the distance of a classifier's features
    recipe         L1, features, and a patch discriminator with the weight by gradients, from a third of the steps on

Of held-out pictures: PSNR in decibels and SSIM of reconstructions (more is nearer), FID of reconstructions from the pictures
(less is more alike), and the sharpness, the mean difference of neighbouring pixels as a share of the data's (1 is as sharp).
The objective's features are those of a classifier that is trained here first, in a minute; FID's are those of another, which the
objective has not seen. Columns are means over the seeds with the standard deviation in brackets.

    digits    mnist5k, 4,500 to learn from and 500 held out, with digits for labels; FID by tests/helpers/digits_classifier.py
    photos    32 x 32 pieces of scikit-learn's two photographs, the right quarter of each held out, with places for labels; FID by
              one more classifier that is trained here

    python benchmarks/sharpness.py --csv benchmarks/results/sharpness.csv --picture benchmarks/pictures/sharpness.png
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from harness import header, mean_and_deviation, record, table
from torch import Tensor, nn
from torch.nn import functional as F

import vaekit
from vaekit.evaluation import feature_distances, reconstruction_quality

COLUMNS = ("PSNR", "SSIM", "FID", "sharpness")
HEAD = ("data", "objective", "steps", "seeds", *COLUMNS)
FREE = {"name": "elbo", "beta": 1e-6}
SIDE = 32  # of the pieces of photographs


def photos() -> tuple[Tensor, Tensor, Tensor]:
    """Pieces to learn from, the numbers of their places, and pieces that are held out: [N, 3, 32, 32] in [0, 1]."""
    from sklearn.datasets import load_sample_images

    learned, places, held_out = [], [], []
    for number, image in enumerate(load_sample_images().images):
        x = torch.tensor(image).movedim(-1, 0).float() / 255.0
        edge = 3 * x.shape[2] // 4
        for part, step, into in ((x[:, :, :edge], 12, learned), (x[:, :, edge:], 24, held_out)):
            pieces = part.unfold(1, SIDE, step).unfold(2, SIDE, step)  # [3, rows, columns, 32, 32]
            into.append(pieces.flatten(1, 2).movedim(0, 1))
            if into is learned:
                row, column = torch.meshgrid(*(torch.arange(n) for n in pieces.shape[1:3]), indexing="ij")
                places.append((12 * number + 4 * (3 * row // pieces.shape[1]) + 4 * column // pieces.shape[2]).flatten())
    return torch.cat(learned).contiguous(), torch.cat(places), torch.cat(held_out).contiguous()


def pictures(data: str) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures to learn from, their labels, and pictures that are held out."""
    if data == "photos":
        return photos()
    train, test = vaekit.data.load("mnist5k")
    return F.pad(train.x, (2, 2, 2, 2)), train.y, F.pad(test.x, (2, 2, 2, 2))


class Classifier(nn.Module):
    """Four convolutions, whose outputs are the features, and a linear layer."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        widths = (channels, 16, 32, 32, 64)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=1 + n % 2, padding=1) for n, (a, b) in enumerate(itertools.pairwise(widths))
        )
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [2.0 * x - 1.0]
        for convolution in self.convolutions:
            maps.append(convolution(maps[-1]).relu())
        return maps[1:]

    def vectors(self, x: Tensor) -> Tensor:
        """The mean and the maximum of each channel of the last two maps: [N, 192]."""
        return torch.cat([f(one.flatten(2), -1) for one in self(x)[-2:] for f in (torch.mean, torch.amax)], dim=1)


def trained_classifier(x: Tensor, y: Tensor, seed: int, steps: int) -> Classifier:
    torch.manual_seed(seed)
    classifier = Classifier(x.shape[1], int(y.max()) + 1)
    adam = torch.optim.Adam(classifier.parameters(), lr=2e-3)
    for _ in range(steps):
        rows = torch.randint(len(x), (64,))
        adam.zero_grad()
        F.cross_entropy(classifier.head(classifier(x[rows])[-1].mean((2, 3))), y[rows]).backward()
        adam.step()
    return classifier.eval().requires_grad_(False)


def judge(data: str, x: Tensor, y: Tensor, steps: int) -> Callable[[Tensor], Tensor]:
    """What gives FID its features: of pictures [N, C, 32, 32] -> [N, D]."""
    if data == "photos":
        return trained_classifier(x, y, 101, steps).vectors
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    from helpers.digits_classifier import digits_classifier

    classifier = digits_classifier()
    return lambda x: classifier(x[:, :, 2:-2, 2:-2])  # without the frame of `pictures`


def objectives(features: nn.Module, steps: int) -> dict[str, dict[str, Any]]:
    """The parts of each model that differ."""
    distance = {"name": "features", "network": features, "weight": 0.5}
    free = {"name": "perceptual", "objective": FREE}
    patch = {"name": "patch", "channels": 16, "layers": 2}
    adversarial = {"discriminator": patch, "adversarial_weight": 0.5, "start": steps // 3}
    return {
        "gaussian": {"likelihood": {"name": "gaussian", "variance": "shared"}},
        "gaussian, free": {"likelihood": "gaussian", "loss": FREE},
        "laplace": {"likelihood": "laplace", "loss": FREE},
        "features": {"likelihood": "laplace", "loss": {**free, "distances": [distance]}},
        "recipe": {"likelihood": "laplace", "loss": {**free, "distances": [distance], **adversarial}},
    }


def trained(x: Tensor, parts: dict[str, Any], args: argparse.Namespace, seed: int) -> vaekit.VAE:
    """A model after the steps."""
    vae = vaekit.create_vae(
        input_shape=x.shape[1:],
        latent_dim=args.latents,
        encoder={"name": "conv", "channels": (16, 32, 32), "spatial": True, "activation": "silu", "normalization": "group"},
        decoder={"name": "conv", "channels": (32, 32, 16), "activation": "silu", "normalization": "group", "upsample": "nearest"},
        seed=seed,
        **parts,
    )
    epochs = max(1, round(args.steps * args.batch_size / len(x)))
    vaekit.fit(
        vae,
        x,
        epochs=epochs,
        batch_size=args.batch_size,
        learning_rate=1e-3,
        seed=seed,
        progress=False,
        initialize_output_bias=True,
    )
    return vae


def differences(x: Tensor) -> float:
    """The mean difference of neighbouring pixels."""
    return float(0.5 * (x.diff(dim=-1).abs().mean() + x.diff(dim=-2).abs().mean()))


def measured(vae: vaekit.VAE, held_out: Tensor, features: Callable[[Tensor], Tensor]) -> dict[str, float]:
    made = vae.reconstruct(held_out).clamp(0.0, 1.0)
    quality = reconstruction_quality(vae, held_out)
    distances = feature_distances(features(held_out), features(made))
    return {
        "PSNR": quality["psnr"],
        "SSIM": quality["ssim"],
        "FID": distances.fid,
        "sharpness": differences(made) / differences(held_out),
    }


def draw(file: Path, held_out: Tensor, made: dict[str, Tensor]) -> None:
    """A row of originals, and one of each model's reconstructions."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    rows = {"original": held_out, **made}
    figure, axes = pyplot.subplots(len(rows), 1, figsize=(9.0, 0.6 * len(rows)), layout="constrained")
    for axis, (name, x) in zip(axes, rows.items(), strict=True):
        strip = F.pad(x.clamp(0.0, 1.0), (1, 1, 1, 1), value=1.0).movedim(1, -1)  # [N, H, W, C]
        axis.imshow(torch.cat(list(strip), dim=1).squeeze(-1), cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
        axis.set(xticks=[], yticks=[], frame_on=False)
    figure.savefig(file, dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("digits", "photos"), default="digits", help="(digits)")
    parser.add_argument("--only", action="append", help="this objective; repeatable (all)")
    parser.add_argument("--steps", type=int, default=600, help="of each model, to the nearest epoch (600)")
    parser.add_argument("--batch-size", type=int, default=32, help="(32)")
    parser.add_argument("--latents", type=int, default=1, help="latent channels at each of 4 x 4 positions (1)")
    parser.add_argument("--seeds", type=int, default=3, help="(3)")
    parser.add_argument("--csv", type=Path, help="write the rows here, in the place of older ones of the same settings")
    parser.add_argument("--picture", type=Path, help="draw reconstructions of the last seed into this file")
    args = parser.parse_args(arguments)
    print(header())
    x, y, held_out = pictures(args.data)
    few = max(200, args.steps // 4)
    specs, features = objectives(trained_classifier(x, y, 100, few), args.steps), judge(args.data, x, y, few)
    rows, made, shown = [], {}, held_out[:: max(1, len(held_out) // 16)][:16]
    for name in args.only or specs:
        found: dict[str, list[float]] = {column: [] for column in COLUMNS}
        for seed in range(args.seeds):
            vae = trained(x, specs[name], args, seed)
            for column, value in measured(vae, held_out, features).items():
                found[column].append(value)
        made[name] = vae.reconstruct(shown)
        figures = {column: mean_and_deviation(values) for column, values in found.items()}
        rows.append({"data": args.data, "objective": name, "steps": args.steps, "seeds": args.seeds, **figures})
        if args.csv:
            record(args.csv, HEAD, HEAD[:3], rows)
    print(table([HEAD, *([row[column] for column in HEAD] for row in rows)]))
    if args.picture:
        draw(args.picture, shown, made)


if __name__ == "__main__":
    main()
