"""Keras 3 on JAX: a `keras.Model` with `compute_loss`, trained by `fit` on arrays, whose train step Keras compiles as a whole.

python benchmarks/peers/keras_jax.py --model dense-mnist --epochs 5
"""

from __future__ import annotations

import math
import os
from functools import partial
from typing import Any

import turns
from problems import CLASSES, PROBLEMS, Array
from turns import Trained, Turns

turns.needs("keras", "jax", install="keras jax")
os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax.numpy as jnp
import keras
from jax.scipy.special import gammaln
from keras import layers, ops

DENSE = {"dense-mnist": ((2000, 256), "relu"), "burda-mnist": ((200, 200), "tanh"), "table": ((128, 64), "relu")}
WIDTHS = {"dense-mnist": 784, "burda-mnist": 784, "table": 7}


def networks(model: str) -> tuple[keras.Model, keras.Model]:
    """The encoder, which gives mu and logvar side by side, and the decoder."""
    latent = PROBLEMS[model].latent_dim
    if model == "keras-mnist":
        convolution = {"strides": 2, "padding": "same", "activation": "relu"}
        encoder = keras.Sequential(
            [
                keras.Input((28, 28, 1)),
                layers.Conv2D(32, 3, **convolution),
                layers.Conv2D(64, 3, **convolution),
                layers.Flatten(),
                layers.Dense(16, activation="relu"),
                layers.Dense(2 * latent),
            ]
        )
        decoder = keras.Sequential(
            [
                keras.Input((latent,)),
                layers.Dense(7 * 7 * 64, activation="relu"),
                layers.Reshape((7, 7, 64)),
                layers.Conv2DTranspose(64, 3, **convolution),
                layers.Conv2DTranspose(32, 3, **convolution),
                layers.Conv2DTranspose(1, 3, padding="same"),
            ]
        )
        return encoder, decoder
    (first, second), activation = DENSE[model]
    wide, narrow = layers.Dense(first, activation=activation), layers.Dense(second, activation=activation)
    encoder = keras.Sequential([keras.Input((6 if model == "table" else 784,)), wide, narrow, layers.Dense(2 * latent)])
    narrow, wide = layers.Dense(second, activation=activation), layers.Dense(first, activation=activation)
    decoder = keras.Sequential([keras.Input((latent,)), narrow, wide, layers.Dense(WIDTHS[model])])
    return encoder, decoder


class VAE(keras.Model):
    """Bernoulli pixels from logits."""

    def __init__(self, model: str, seed: int) -> None:
        super().__init__()
        self.encoder, self.decoder = networks(model)
        self.seed_generator = keras.random.SeedGenerator(seed)

    def encode(self, x: Any) -> tuple[Any, Any]:
        return ops.split(self.encoder(x), 2, axis=1)

    def call(self, x: Any) -> tuple[Any, Any, Any]:
        mu, logvar = self.encode(x)
        eps = keras.random.normal(ops.shape(mu), seed=self.seed_generator)
        return mu, logvar, self.decoder(mu + ops.exp(0.5 * logvar) * eps)

    def nll(self, parameters: Any, x: Any) -> Any:
        """The sum over the batch, in nats."""
        return ops.sum(ops.binary_crossentropy(x, parameters, from_logits=True))

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None) -> Any:
        mu, logvar, parameters = y_pred
        kl = -0.5 * ops.sum(1 + logvar - ops.square(mu) - ops.exp(logvar))
        return (self.nll(parameters, x) + kl) / ops.shape(x)[0]

    def named(self, parameters: Any) -> dict[str, Any]:
        """The likelihood's parameters by name, as problems.py takes them."""
        return {"logits": ops.reshape(parameters, (-1, 784))}


class Table(VAE):
    """Two numbers with a learned variance each, a class and a count."""

    def __init__(self, model: str, seed: int) -> None:
        super().__init__(model, seed)
        self.logvar = self.add_weight(shape=(2,), initializer="zeros", name="logvar")

    def encode(self, x: Any) -> tuple[Any, Any]:
        one_hot = ops.one_hot(ops.cast(x[:, 2], "int32"), CLASSES)
        return super().encode(ops.concatenate([x[:, :2], one_hot, ops.log1p(x[:, 3:])], axis=1))

    def nll(self, parameters: Any, x: Any) -> Any:
        p = self.named(parameters)
        squares = ops.square(x[:, :2] - p["mean"]) * ops.exp(-p["logvar"]) + p["logvar"] + math.log(2 * math.pi)
        classes = ops.sparse_categorical_crossentropy(ops.cast(x[:, 2], "int32"), p["logits"], from_logits=True)
        theta, log_sum, count = ops.exp(p["log_theta"]), ops.logaddexp(p["log_mean"], p["log_theta"]), x[:, 3]
        choices = gammaln(count + theta) - gammaln(theta) - gammaln(count + 1)
        counts = -(choices + theta * (p["log_theta"] - log_sum) + count * (p["log_mean"] - log_sum))
        return 0.5 * ops.sum(squares) + ops.sum(classes) + ops.sum(counts)

    def named(self, parameters: Any) -> dict[str, Any]:
        p, logvar = parameters, ops.convert_to_tensor(self.logvar)
        return {"mean": p[:, :2], "logvar": logvar, "logits": p[:, 2:5], "log_mean": p[:, 5], "log_theta": p[:, 6]}


class Tell(keras.callbacks.Callback):
    """Passes the end of an epoch on."""

    def __init__(self, epochs: Turns) -> None:
        super().__init__()
        self.epochs = epochs

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.epochs.end_of_epoch()


def shaped(model: str, x: Array) -> Array:
    return x.reshape(-1, 28, 28, 1) if model == "keras-mnist" else x


def train(args: turns.argparse.Namespace, x: Array, epochs: Turns) -> Trained:
    keras.utils.set_random_seed(args.seed)
    vae = (Table if args.model == "table" else VAE)(args.model, args.seed)
    vae.compile(optimizer=keras.optimizers.Adam(1e-3))
    batch = PROBLEMS[args.model].batch
    vae.fit(shaped(args.model, x), batch_size=batch, epochs=args.epochs, verbose=0, callbacks=[Tell(epochs)])

    def encode(x: Array) -> tuple[Any, Any]:
        return vae.encode(jnp.asarray(shaped(args.model, x)))

    def decode(z: Array, x: Array) -> dict[str, Any]:
        named = vae.named(vae.decoder(jnp.asarray(z)))
        return {name: ops.convert_to_numpy(value) for name, value in named.items()}

    return encode, decode


def main() -> None:
    args = turns.parser(__doc__, ["dense-mnist", "burda-mnist", "keras-mnist", "table"]).parse_args()
    turns.run(args, partial(train, args), ["keras", "jax"])


if __name__ == "__main__":
    main()
