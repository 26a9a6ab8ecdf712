"""How far is a picture in tiles from the whole, and what memory do they take?

A `resnet` of the shape of Stable Diffusion's autoencoder, a quarter as wide, learns first, briefly, from pieces of 64 x 64 of
scikit-learn's photograph of a temple. Its photograph of a flower, square and enlarged to each size, is then encoded and decoded
whole and in tiles, which overlap by a quarter.

    encode, decode, both    what differs: the means of latents, the picture decoded from the whole's latents, the reconstruction
    max, mean               absolute differences; of latents in standard deviations of the whole's
    PSNR                    of the tiled beside the whole, in decibels; pictures are clipped to their range, [-1, 1]
    MiB                     by how much both, encoding and decoding, raise the resident memory of a process that has the model

    python benchmarks/tiles.py --csv benchmarks/results/tiles.csv
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from harness import header, peak_memory, record, rounded, table
from torch import Tensor
from torch.nn import functional as F

import vaekit

HEAD = ("channels", "steps", "size", "tile", "overlap", "work", "max", "mean", "PSNR", "MiB", "MiB of the whole")
PIECE = 64


def photograph(name: str) -> Tensor:
    """[1, 3, H, W] in [-1, 1]."""
    from sklearn.datasets import load_sample_image

    return torch.tensor(load_sample_image(name)).movedim(-1, 0)[None].float() / 127.5 - 1.0


def square(size: int) -> Tensor:
    x = photograph("flower.jpg")
    side = min(x.shape[2:])
    return F.interpolate(x[:, :, :side, :side], (size, size), mode="bicubic", antialias=True).clamp(-1.0, 1.0)


def made(channels: Sequence[int]) -> vaekit.VAE:
    both: dict[str, Any] = {"name": "resnet", "norm_eps": 1e-6, "attention": True, "groups": channels[0] // 4}
    return vaekit.create_vae(
        input_shape=(3, PIECE, PIECE),
        latent_dim=4,
        encoder={
            **both,
            "channels": tuple(channels),
            "blocks": 2,
            "spatial": True,
            "downsample_padding": "end",
            "quant_conv": True,
        },
        decoder={**both, "channels": tuple(channels[::-1]), "blocks": 3, "post_quant_conv": True},
        likelihood="laplace",
        loss={"name": "elbo", "beta": 1e-3},
        seed=0,
    )


def trained(channels: Sequence[int], steps: int, batch_size: int = 4) -> vaekit.VAE:
    """The model after so many steps with pieces from random places."""
    vae, x = made(channels), photograph("china.jpg")[0]
    if not steps:
        return vae.eval()
    generator = torch.Generator().manual_seed(0)
    corners = [
        [int(torch.randint(side - PIECE, (1,), generator=generator)) for side in x.shape[1:]] for _ in range(batch_size * steps)
    ]
    pieces = torch.stack([x[:, row : row + PIECE, column : column + PIECE] for row, column in corners])
    vaekit.fit(vae, pieces, epochs=1, batch_size=batch_size, learning_rate=1e-3, seed=0, progress=False)
    return vae


def memory(folder: str, size: int, tile: int | None) -> str:
    glibc = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, "--memory-of", folder, str(size), str(tile or 0)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **glibc}).stdout.strip()


def print_memory(folder: str, size: str, tile: str) -> None:
    vae, x = vaekit.load(folder), square(int(size))
    added = peak_memory(lambda: vae.reconstruct(x, tile=int(tile) or None))
    print("" if added is None else f"{added:.0f}")


def differences(whole: Tensor, tiled: Tensor, unit: float) -> dict[str, str]:
    difference = (tiled - whole).abs() / unit
    psnr = 10 * math.log10(4.0 / float(difference.square().mean()))
    return {"max": rounded(float(difference.max())), "mean": rounded(float(difference.mean())), "PSNR": f"{psnr:.1f}"}


@torch.no_grad()
def rows_of(vae: vaekit.VAE, size: int, tiles: Sequence[int]) -> list[dict[str, object]]:
    x = square(size)
    z = vae.encode(x).mean
    shown = partial(torch.clamp, min=-1.0, max=1.0)
    picture, rows = shown(vae.decode(z)), []
    for tile in tiles:
        codes = vae.encode(x, tile=tile).mean
        found = {
            "encode": differences(z, codes, float(z.std())),
            "decode": differences(picture, shown(vae.decode(z, tile=tile)), 1.0),
            "both": differences(picture, shown(vae.decode(codes, tile=tile)), 1.0),
        }
        del found["encode"]["PSNR"]
        rows += [{"size": size, "tile": tile, "overlap": tile // 4, "work": work, **figures} for work, figures in found.items()]
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, nargs="+", default=[32, 64, 128, 128], help="of the levels (32 64 128 128)")
    parser.add_argument("--steps", type=int, default=100, help="of training, with 4 pieces each (100)")
    parser.add_argument("--size", type=int, nargs="+", default=[512, 1024], help="height and width (512 1024)")
    parser.add_argument("--tile", type=int, nargs="+", default=[256, 512], help="those below a size are measured (256 512)")
    parser.add_argument("--csv", type=Path, help="write the rows here, in the place of older ones of the same settings")
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.memory_of:
        print_memory(*args.memory_of)
        return
    print(header())
    vae, settings = trained(args.channels, args.steps), {"channels": " ".join(map(str, args.channels)), "steps": args.steps}
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        vae.save(folder)
        for size in args.size:
            of_size = rows_of(vae, size, [tile for tile in args.tile if tile < size])
            whole = memory(folder, size, None)
            for row in of_size:
                row |= settings
                if row["work"] == "both":
                    row |= {"MiB": memory(folder, size, int(str(row["tile"]))), "MiB of the whole": whole}
            rows += of_size
            if args.csv:
                record(args.csv, HEAD, HEAD[:6], rows)
    print(table([HEAD, *([row.get(name, "") for name in HEAD] for row in rows)]))


if __name__ == "__main__":
    main()
