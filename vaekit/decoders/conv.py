"""A convolutional decoder for images: dense layers, then upsampling 3x3 convolutions.

The shape of the Keras variational autoencoder example (F. Chollet, 2020, keras.io/examples/generative/vae); resizing before a
convolution instead of a transposed one avoids checkerboards (A. Odena et al., 2016, doi:10.23915/distill.00003).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from vaekit.decoders.base import Decoder, registry
from vaekit.layers import activation_layer, dense_layers, glorot, halved_resolutions
from vaekit.sizes import checked_sizes


@registry.register("conv")
class ConvDecoder(Decoder):
    """Dense layers, then upsampling convolutions, for images of any size.

    Every entry of `channels` doubles height and width, through the very sizes that `ConvEncoder` halved.

    Args:
        latent_dim: D.
        output_shape: (channels, height, width), any sizes.
        parameters_per_element: P of the likelihood.
        channels: the output channels of the upsampling convolutions, from the latents' side.
        hidden: the sizes of dense layers before them.
        activation: after every layer but the last: elu, gelu, leaky_relu, relu, silu, softplus or tanh.
        upsample: "transpose", a transposed convolution, or "nearest" or "bilinear", resizing and then a convolution.

    Raises:
        ValueError: an output_shape of another rank; no channels; another word for `upsample`.

    Example:
        >>> import torch
        >>> decoder = ConvDecoder(2, (1, 28, 28), channels=(64, 32))
        >>> sum(p.numel() for p in decoder.parameters())  # Keras' example prints the same
        65089
        >>> decoder(torch.zeros(5, 2)).shape
        torch.Size([5, 1, 1, 28, 28])
    """

    def __init__(
        self,
        latent_dim: int,
        output_shape: Sequence[int],
        parameters_per_element: int = 1,
        channels: Sequence[int] = (64, 32),
        hidden: Sequence[int] = (),
        activation: str = "relu",
        upsample: str = "transpose",
    ) -> None:
        super().__init__(latent_dim, output_shape, parameters_per_element)
        if upsample not in ("transpose", "nearest", "bilinear"):
            raise ValueError(f'upsample has to be "transpose", "nearest" or "bilinear", got {upsample!r}')
        resolutions = halved_resolutions(self.output_shape, len(checked_sizes("channels", channels)))[::-1]
        self.first_shape = (channels[0], *resolutions[0])
        self.body = dense_layers((latent_dim, *checked_sizes("hidden", hidden), math.prod(self.first_shape)), activation)
        layers: list[nn.Module] = []
        for channels_in, channels_out, small, large in zip(
            (channels[0], *channels), channels, resolutions, resolutions[1:], strict=False
        ):
            if upsample == "transpose":
                # A transposed convolution makes 2 s - 1 from s; where the encoder halved an even size, one more is needed.
                padding = (large[0] - 2 * small[0] + 1, large[1] - 2 * small[1] + 1)
                layers.append(
                    glorot(nn.ConvTranspose2d(channels_in, channels_out, 3, stride=2, padding=1, output_padding=padding))
                )
            else:
                layers += [nn.Upsample(large, mode=upsample), glorot(nn.Conv2d(channels_in, channels_out, 3, padding=1))]
            layers.append(activation_layer(activation))
        last = nn.Conv2d(channels[-1], parameters_per_element * self.output_shape[0], 3, padding=1)
        self.convolutions = nn.Sequential(*layers, glorot(last))

    def forward(self, z: Tensor) -> Tensor:
        image = self.convolutions(self.body(z).reshape(len(z), *self.first_shape))
        return image.reshape(len(z), self.parameters_per_element, *self.output_shape)  # type: ignore[no-any-return]
