"""pythae: networks of one's own in its `VAE`, trained by its `BaseTrainer`.

python benchmarks/peers/pythae_trainer.py --model dense-mnist --epochs 5
"""

from __future__ import annotations

import tempfile
from functools import partial
from typing import Any

import turns
from problems import PROBLEMS, Array
from turns import Trained, Turns

turns.needs("pythae", install="pythae")

import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback
from torch import Tensor, nn
from torch_networks import bodies


class Encoder(BaseEncoder):
    def __init__(self, body: nn.Module, features: int, latent: int) -> None:
        super().__init__()
        self.body, self.mu, self.logvar = body, nn.Linear(features, latent), nn.Linear(features, latent)

    def forward(self, x: Tensor) -> ModelOutput:
        h = self.body(x.flatten(1))
        return ModelOutput(embedding=self.mu(h), log_covariance=self.logvar(h))


class Decoder(BaseDecoder):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=torch.sigmoid(self.body(z)).reshape(-1, 1, 28, 28))


class Tell(TrainingCallback):
    """Passes the end of an epoch on."""

    def __init__(self, epochs: Turns) -> None:
        self.epochs = epochs

    def on_epoch_end(self, training_config: Any, **_: Any) -> None:
        self.epochs.end_of_epoch()


def train(args: turns.argparse.Namespace, x: Array, epochs: Turns) -> Trained:
    torch.manual_seed(args.seed)
    body, features, decoder = bodies(args.model)
    problem = PROBLEMS[args.model]
    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=problem.latent_dim, reconstruction_loss="bce")
    model = VAE(config, encoder=Encoder(body, features, problem.latent_dim), decoder=Decoder(decoder))
    with tempfile.TemporaryDirectory() as folder:
        trainer = BaseTrainer(
            model,
            BaseDataset(torch.from_numpy(x).reshape(-1, 1, 28, 28), torch.zeros(len(x))),
            training_config=BaseTrainerConfig(
                output_dir=folder,
                num_epochs=args.epochs,
                per_device_train_batch_size=problem.batch,
                learning_rate=1e-3,
                no_cuda=True,
                seed=args.seed,
            ),
            callbacks=[Tell(epochs)],
        )
        trainer.train()
    model.eval()

    @torch.no_grad()
    def encode(x: Array) -> tuple[Array, Array]:
        found = model.encoder(torch.from_numpy(x))
        return found.embedding.numpy(), found.log_covariance.numpy()

    @torch.no_grad()
    def decode(z: Array, x: Array) -> dict[str, Array]:
        return {"probabilities": model.decoder(torch.from_numpy(z)).reconstruction.flatten(1).numpy()}

    return encode, decode


def main() -> None:
    args = turns.parser(__doc__, ["dense-mnist", "burda-mnist", "keras-mnist"]).parse_args()
    turns.run(args, partial(train, args), ["pythae", "torch"])


if __name__ == "__main__":
    main()
