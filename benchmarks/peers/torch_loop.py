"""A loop written by hand: the textbook's model, fused Adam and nothing else.

python benchmarks/peers/torch_loop.py --model dense-mnist --epochs 5 [--precision bf16]
"""

from __future__ import annotations

from functools import partial

import torch
import turns
from problems import PROBLEMS, Array
from torch_networks import bare
from turns import Trained, Turns


def train(args: turns.argparse.Namespace, x: Array, epochs: Turns) -> Trained:
    torch.manual_seed(args.seed)
    model, data, batch = bare(args.model), torch.from_numpy(x), PROBLEMS[args.model].batch
    adam = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    for _ in range(args.epochs):
        for rows in torch.randperm(len(data)).split(batch):
            with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16"):
                loss = model(data[rows])
            adam.zero_grad()
            loss.backward()
            adam.step()
        epochs.end_of_epoch()
    model.eval()

    @torch.no_grad()
    def encode(x: Array) -> tuple[Array, Array]:
        mu, logvar = model.encode(torch.from_numpy(x))
        return mu.numpy(), logvar.numpy()

    @torch.no_grad()
    def decode(z: Array, x: Array) -> dict[str, Array]:
        return {name: value.numpy() for name, value in model.named(model.decoder(torch.from_numpy(z))).items()}

    return encode, decode


def main() -> None:
    options = turns.parser(__doc__, list(PROBLEMS))
    options.add_argument("--precision", choices=("32", "bf16"), default="32")
    args = options.parse_args()
    turns.run(args, partial(train, args), ["torch"])


if __name__ == "__main__":
    main()
