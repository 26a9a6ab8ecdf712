"""What every decoder offers: z -> the likelihood's natural parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from vaekit import autocast
from vaekit.checks import checked_size, checked_sizes
from vaekit.layers import Network, halved_resolutions, precise_layer
from vaekit.registry import Part, Registry


class Decoder(Part, Network, ABC):
    """The network of p(x | z), or p(x | z, c): from latents [B, *latent_shape] to natural parameters [B, P, *output_shape].

    A class of one's own becomes conditional by taking the option condition_dim, which it hands on to `super().__init__`, and the
    argument condition; without them its condition_dim is 0 and it is called with z alone. `vaekit.Encoder` has an example.
    Where the network is in a lower precision, `vaekit.layers.precise_layer` computes the layer that reads z in float32, and
    `last_layer` the last one too, unless its numbers are logits.

    Args:
        latent_dim: the number D of latent dimensions, or the shape (D, *sizes) of a spatial latent; `latent_shape` is (D,) or
            that shape.
        output_shape: the shape of one example; the likelihood's `decoder_output_shape`, where that is another.
        parameters_per_element: P, the likelihood's; the axis is there even when it is 1.
        condition_dim: the size of the condition c, what `vaekit.conditions` makes of an example's label or vector; 0 for none.

    Attributes:
        gives_logits: whether the natural parameters are logits, see `Likelihood.has_logits`; a `vaekit.VAE` tells its decoder.

    Raises:
        ValueError: an empty shape, or a size that is not a whole number of at least 1; a condition_dim below 0.
    """

    gives_logits: bool = False

    def __init__(
        self,
        latent_dim: int | Sequence[int],
        output_shape: Sequence[int],
        parameters_per_element: int = 1,
        condition_dim: int = 0,
    ) -> None:
        super().__init__(condition_dim)
        if isinstance(latent_dim, (list, tuple)) and latent_dim:
            self.latent_shape: tuple[int, ...] = checked_sizes("latent_dim", latent_dim)
        else:
            self.latent_shape = (checked_size("latent_dim", latent_dim),)  # type: ignore[arg-type]
        self.output_shape = checked_sizes("output_shape", output_shape)
        if not self.output_shape:
            raise ValueError("output_shape has to have at least one dimension; a table with 13 columns has (13,)")
        self.parameters_per_element = checked_size("parameters_per_element", parameters_per_element)

    def __call__(self, *inputs: Any, **named: Any) -> Tensor:
        """`forward`; what it gives under `torch.autocast` in half precision is handed on in float32."""
        parameters, is_lower = self._computed(inputs, named)
        return autocast.single(parameters) if is_lower else parameters

    @abstractmethod
    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """[B, *latent_shape] -> [B, P, *output_shape], unconstrained.

        Args:
            z: the latents.
            condition: [B, condition_dim], in the dtype of z; a decoder whose condition_dim is 0 is called without it.
        """

    def attach(self, encoder: nn.Module) -> None:
        """Called by the `vaekit.VAE` that the decoder is for, with its encoder: for one that reads a path that both share.

        Raises:
            ValueError: the decoder belongs to another model, or does not fit the encoder.
        """

    def last_layer(self, layer: nn.Module, features: Tensor) -> Tensor:
        """layer(features): under `torch.autocast` in float32, see `vaekit.layers.precise_layer`, but for logits.

        A logit l in bfloat16 is off by about |l| / 256, and the nll of its element by no more nats than that. Half of a dense
        decoder's work is its last layer.
        """
        outputs: Tensor = layer(features) if self.gives_logits else precise_layer(layer, features)
        return outputs

    @property
    def output_bias(self) -> Tensor | None:
        """What the last layer adds, a view of its bias as [P, *output_shape], with a size of 1 where positions share it.

        `VAE.initialize_output_bias` writes into it. None where a decoder has no such thing.
        """
        return None

    @property
    def output_weight(self) -> Tensor | None:
        """The weight of the last layer, at which an adversarial objective compares gradients, see `vaekit.losses.Perceptual`.

        None where a decoder has no such thing; they are compared at what it gives then.
        """
        return None

    @property
    def is_spatial(self) -> bool:
        """Whether the latents keep positions, rather than being D numbers."""
        return len(self.latent_shape) > 1

    def doubled_resolutions(self, channels: Sequence[int], doublings: int) -> list[tuple[int, ...]]:
        """The spatial sizes before and after each doubling, through those that halving the data's sizes gives.

        Args:
            channels: the decoder's option, for the message.
            doublings: how often that many channels double.

        Raises:
            ValueError: latents whose positions are not those at which the decoder then starts.
        """
        sizes = self.output_shape[1:]
        resolutions = halved_resolutions(sizes, doublings)[::-1]
        if not self.is_spatial or self.latent_shape[1:] == resolutions[0]:
            return resolutions
        halved = halved_resolutions(sizes, max(sizes).bit_length())
        latents = f"spatial latents of the shape {self.latent_shape}"
        if self.latent_shape[1:] not in halved:
            raise ValueError(
                f"no number of doublings leads from {latents} to data {self.output_shape}; the sizes in latent_dim have to be "
                f"one of {', '.join(map(str, halved))}"
            )
        entries = len(channels) + halved.index(self.latent_shape[1:]) - doublings
        if entries < 1:
            raise ValueError(
                f"{latents} are as large as the data {self.output_shape}, and this decoder doubles at least once; take the "
                "decoder 'resnet' with one entry in channels, which does not, or give the encoder one more"
            )
        example = (*(channels[0],) * (entries - len(channels)), *channels[-entries:])
        raise ValueError(
            f"{latents} do not lead to data {self.output_shape} by {doublings} doubling(s), which is what the decoder's option "
            f"channels={tuple(channels)} means; give it {entries} of them, channels={example} for example"
        )


registry: Registry[Decoder] = Registry("decoder", "vaekit.decoders", Decoder)
