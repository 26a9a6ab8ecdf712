"""The model: an encoder, a decoder, a likelihood, a prior and an objective, composed.

D. P. Kingma, M. Welling, "Auto-Encoding Variational Bayes", 2013, arXiv:1312.6114.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

import torch
from torch import Tensor

from vaekit import autocast, compatibility, looking, schedules, sizes, starts, tiles
from vaekit.conditions.base import Condition
from vaekit.decoders.base import Decoder
from vaekit.encoders.base import Encoder
from vaekit.likelihoods.base import Likelihood
from vaekit.losses.base import Batch, Loss, LossTerms, StepContext
from vaekit.losses.elbo import Elbo
from vaekit.ops import philox
from vaekit.ops.dispatch import constant_in_graphs
from vaekit.posteriors.base import Posterior
from vaekit.priors.base import Prior
from vaekit.priors.standard_normal import StandardNormal
from vaekit.shortcuts import Shortcuts
from vaekit.summary import Summary

_MEAN_CHUNK = 4096  # rows at a time: the statistics of classes are many times as large as x


class VAE(Shortcuts):
    """A variational autoencoder composed of objects; `vaekit.create_vae` composes by names.

    Args:
        encoder: what the likelihood shows of x, x itself as a rule -> a posterior over z [B, *latent_shape].
        decoder: z -> natural parameters [B, P, *input_shape], or of another layout where the likelihood has one of its own.
        likelihood: p(x | z), with P parameters for each element.
        prior: p(z); the standard normal by default.
        loss: the objective; the ELBO by default.
        condition: what a conditional model is told of each example besides x, labels for example; None by default. Encoder and
            decoder have its `dim` as their condition_dim; an encoder may also be without.

    Raises:
        TypeError: a part that is not of its kind, a name instead of an object for example.
        ValueError: parts whose shapes do not fit each other.

    Example:
        >>> from vaekit.encoders import MLPEncoder
        >>> from vaekit.decoders import MLPDecoder
        >>> from vaekit.likelihoods import Bernoulli
        >>> vae = VAE(MLPEncoder((1, 8, 8), latent_dim=2), MLPDecoder(2, (1, 8, 8)), likelihood=Bernoulli())
        >>> x = torch.rand(5, 1, 8, 8)
        >>> vae(x).total.shape, vae.reconstruct(x).shape, vae.sample(16).shape
        (torch.Size([]), torch.Size([5, 1, 8, 8]), torch.Size([16, 1, 8, 8]))
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        *,
        likelihood: Likelihood,
        prior: Prior | None = None,
        loss: Loss | None = None,
        condition: Condition | None = None,
    ) -> None:
        super().__init__()
        prior = StandardNormal() if prior is None else prior
        loss = Elbo() if loss is None else loss
        parts = {
            "encoder": encoder,
            "decoder": decoder,
            "likelihood": likelihood,
            "prior": prior,
            "loss": loss,
            "condition": condition,
        }
        compatibility.check_kinds(parts)
        compatibility.check_decoder_and_likelihood(decoder, likelihood)
        compatibility.check_encoder_and_likelihood(encoder, likelihood, compatibility.data_shape(decoder, likelihood))
        compatibility.check_encoder_and_decoder(encoder, decoder)
        compatibility.check_networks_and_condition(encoder, decoder, condition)
        compatibility.check_latents_of("prior", prior, encoder)
        compatibility.check_latents_of("loss", loss, encoder)
        compatibility.check_loss_and_rest(loss, condition, likelihood, encoder)
        likelihood.set_data_shape(compatibility.data_shape(decoder, likelihood))
        self.encoder, self.decoder, self.likelihood, self.prior, self.loss = encoder, decoder, likelihood, prior, loss
        self.condition = condition
        self._objectives_without_step: tuple[Loss, ...] = ()  # in a tuple, where it is no submodule a second time
        prior.attach(encoder)
        decoder.attach(encoder)
        for network in decoder.modules():
            if isinstance(network, Decoder):
                network.gives_logits = likelihood.has_logits

    def __repr__(self) -> str:
        return str(Summary.of(self))

    def _repr_html_(self) -> str:
        return Summary.of(self)._repr_html_()

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return compatibility.data_shape(self.decoder, self.likelihood)

    @property
    def stride(self) -> int | None:
        """Of a fully convolutional model, how many positions of the data along each axis are one of the latents; otherwise None.

        Such a model takes data of any size that the stride divides, whatever its input_shape, for which it was made.
        """
        return sizes.stride_of(self.encoder, self.decoder, self.likelihood)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape of one example's latents."""
        return self.encoder.latent_shape

    @property
    def latent_levels(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of the levels of latents, from the one that is drawn first; mostly there is one, latent_shape."""
        path = self.encoder.family.path
        return (self.latent_shape,) if path is None else path.level_shapes

    def split_levels(self, z: Tensor) -> tuple[Tensor, ...]:
        """The levels of z [B, *latent_shape], each [B, *its shape in `latent_levels`]."""
        path = self.encoder.family.path
        return (z,) if path is None else path.split(z)

    @property
    def output_weight(self) -> Tensor | None:
        """The weight of the decoder's last layer; None where the decoder does not say which it is."""
        return self.decoder.output_weight

    @property
    def told(self) -> Condition | None:
        """What is given with each example besides x: the model's condition, or its prior's where the networks are told none."""
        return self.prior.condition if self.condition is None else self.condition

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype, which x and z have to have."""
        return next(self.parameters()).dtype

    def forward(
        self,
        x: Tensor | Mapping[str, Tensor],
        condition: Any = None,
        *,
        key: Tensor | None = None,
        generator: torch.Generator | None = None,
        step: int | None = None,
        index: Tensor | None = None,
        dataset_size: int | None = None,
        row_start: int = 0,
    ) -> LossTerms:
        """The objective on one batch, in nats; under `torch.autocast` in the weights' dtype, but for what the networks compute.

        Args:
            x: [B, *input_shape], in the weights' dtype; of a model of several modalities {name: [B, *shape]} of those there are.
            condition: for a conditional model, what it is told of each example: labels [B] for example. One value stands for all.
            key: the noise, int64 [2]; without one it is drawn from `generator` or torch's global generator.
            step: the number of optimizer steps before this one; None outside training, where scheduled weights have their final
                values.
            index, dataset_size, row_start: for objectives that look at them; see `StepContext` and `Batch`.

        Returns:
            LossTerms(total [], reconstruction [B], kl [B], extras, auxiliary); a training loop calls backward on `objective`.
            Under `torch.export` the batch can be dynamic, unless the objective compares its examples: what those compute depends
            on how many there are.

        Raises:
            TypeError, ValueError: an x of another dtype or shape.

        Warns:
            UserWarning: training without `step`, where a weight of the objective is scheduled; once for each model.

        `vaekit.step_key` shows a training loop of one's own.
        """
        x = self.joined(x)
        if step is None and self.training and torch.is_grad_enabled():
            self._warn_of_final_weights()
        if self.stride is not None and isinstance(x, Tensor) and x.shape[1:] != self.input_shape:
            self._check_input(x)
            sizes.check_prior_and_loss(self.prior, self.loss)
        key = philox.resolve_key(key, generator, x.device)
        told = condition if self.condition is None else self.condition.as_rows(condition, x.shape[0])
        self.encoder.family.see(step)
        with autocast.only_in((self.encoder, self.decoder), x.device):
            return self.loss(self, Batch(x, told, index), StepContext(key, step, dataset_size, row_start))

    def encode(
        self, x: Tensor | Mapping[str, Tensor], condition: Any = None, *, pad: bool = False, tile: int | None = None
    ) -> Posterior:
        """q(z | x) for x [B, *input_shape], or q(z | x, c) with the condition of each example, [B] or [B, K].

        The encoder sees what `likelihood.encoder_input` makes of x. With a likelihood that ignores missing values that is 0 for
        each NaN: the zero imputation of P.-A. Mattei, J. Frellsen, "MIWAE", 2019, arXiv:1812.02633, section 2. Standardised data
        has its mean there. An encoder that is not told the condition can do without it.

        Args:
            pad: repeat the last positions of x until the `stride` divides its sizes; `decode(z, size=...)` crops back.
            tile: take x in tiles of so many positions along each axis, one of one example at a time, which overlap by a quarter
                and are blended: memory for one tile, and not quite the numbers of the whole, see `vaekit.tiles`.
        """
        x = self.joined(x)
        x = sizes.padded(x, self.stride) if pad else x
        self._check_input(x)
        condition = self.completed(x, condition)
        told = self._embedded(condition, x.shape[0]) if self.encoder.condition_dim or self.condition is None else ()
        read = self.likelihood.encoder_input(x)
        if tile is None:
            posterior = self.encoder(read, *told)
        else:
            posterior = self.encoder.posterior(tiles.encoded(self.encoder, read, told, tile, self.stride))
        if not isinstance(posterior, Posterior):
            raise TypeError(
                f"{type(self.encoder).__name__}.forward has to return a vaekit.Posterior, "
                f"vaekit.DiagonalGaussian(mu, logvar) for example, got {type(posterior).__name__}"
            )
        return posterior

    def natural_parameters(self, z: Tensor, condition: Any = None, *, tile: int | None = None) -> Tensor:
        """What the decoder makes of z [B, *latent_shape], and of the condition [B] or [B, K]: [B, P, *output_shape].

        Args:
            tile: as of `decode`.
        """
        told = self._embedded(condition, z.shape[0])
        return self.decoder(z, *told) if tile is None else tiles.decoded(self.decoder, z, told, tile, self.stride)

    def prior_given(self, condition: Any, count: int) -> Prior:
        """The prior of `count` examples with these conditions, [count] or [count, K]: told them, where it is one that is told."""
        return self.prior.given(condition, count)

    def decode(self, z: Tensor, condition: Any = None, *, size: Sequence[int] | None = None, tile: int | None = None) -> Tensor:
        """The likelihood's mean, what a person would look at: z [B, *latent_shape] -> [B, *input_shape].

        Args:
            condition: for a conditional model, of each example, [B] or [B, K]; one value stands for all.
            size: what to crop the result to, of data that `encode(x, pad=True)` padded: its height and width.
            tile: of how many positions of the data along each axis tiles are that are decoded one at a time and blended, as of
                `encode`.
        """
        sizes.check_z(z, self.latent_shape, self.stride)
        self._check_dtype("z", z)
        mean = self.likelihood.mean(self.natural_parameters(z, condition, tile=tile))
        return mean if size is None else sizes.cropped(mean, size)

    @overload
    def reconstruct(self, x: Tensor, condition: Any = None, *, pad: bool = False, tile: int | None = None) -> Tensor: ...

    @overload
    def reconstruct(
        self, x: Mapping[str, Tensor], condition: Any = None, *, pad: bool = False, tile: int | None = None
    ) -> dict[str, Tensor]: ...

    @torch.no_grad()
    def reconstruct(
        self, x: Tensor | Mapping[str, Tensor], condition: Any = None, *, pad: bool = False, tile: int | None = None
    ) -> Tensor | dict[str, Tensor]:
        """The decoded posterior mean of x, [B, *input_shape], without gradients.

        The model is looked at in evaluation mode, whatever its own is, and left as it was; many examples are taken in pieces.
        There are values where x has missing ones, given a likelihood that ignores those: their imputation. Of several modalities,
        {name: [B, *shape]} of those that are there, it gives all of them in the same way.

        Args:
            pad: take data of sizes that the `stride` does not divide, as `encode` does, and crop the result.
            tile: encode and decode in tiles, as `encode` and `decode` do.

        Example:
            >>> import vaekit
            >>> vae = vaekit.create_vae(input_shape=(3,), latent_dim=1, likelihood={"name": "gaussian", "missing": "ignore"})
            >>> vae.reconstruct(torch.tensor([[1.0, float("nan"), 2.0]])).isfinite().all()
            tensor(True)
        """
        made = looking.reconstruct(self, self.joined(x), condition, pad, tile)
        return self.likelihood.parted(made) if isinstance(x, Mapping) else made

    @torch.no_grad()
    def sample(
        self,
        n: int,
        condition: Any = None,
        *,
        draw: bool = False,
        size: Sequence[int] | None = None,
        tile: int | None = None,
        prior: Prior | None = None,
        key: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Decode n draws from the prior, without gradients.

        The model is looked at in evaluation mode, whatever its own is, and left as it was; many are made in pieces.

        Args:
            n: how many.
            condition: for a conditional model or prior, of each one, [n] or [n, K]; one value, 3 for example, stands for all.
                Drawn from p(c) where it is missing, if the model infers it.
            draw: draw from the likelihood as well, instead of taking its mean.
            size: of a fully convolutional model, the height and width of what is drawn, multiples of the `stride`.
            tile: decode in tiles, as `decode` does.
            prior: take z from this one instead, `vaekit.evaluation.fitted_mixture` for example.
            key: the noise, int64 [2]; without one it is drawn from `generator` or torch's global generator.

        Returns:
            [n, *input_shape].

        Raises:
            TypeError: a prior of another type, a name for example.
            ValueError: n below 0; a prior over latents of another shape, or made of another model's posteriors or codes.
            MemoryError: there is no room for n of them.
        """
        return looking.sample(self, n, condition, draw, size, tile, prior, philox.resolve_key(key, generator, self.device))

    @torch.no_grad()
    def initialize_output_bias(self, x: Tensor | Iterable[Tensor]) -> None:
        """Let a new decoder start from the mean of x, so that training does not begin with learning it.

        What the decoder's last layer adds becomes the parameters under which that is the likelihood's mean, or of classes the
        frequencies: for each element, or for each channel where the last layer is a convolution. Missing values are left out;
        where there is no other, the bias stays. `Likelihood.parameters_of_mean` says what else it starts from.

        Args:
            x: [N, *input_shape], the training data, or enough of it, or batches of it;
                `fit(..., initialize_output_bias=True)` takes all.

        Raises:
            NotImplementedError: the decoder or the likelihood does not say how.
            TypeError, ValueError: an x of another dtype or shape, outside the likelihood's support, or without examples.

        Example:
            >>> import vaekit
            >>> vae = vaekit.create_vae(input_shape=(3,), latent_dim=2, likelihood="gaussian")
            >>> vae.initialize_output_bias(torch.tensor([[0.0, 1.0, 2.0], [2.0, 1.0, 4.0]]))
            >>> vae.decode(torch.zeros(1, 2)).tolist()
            [[1.0, 1.0, 3.0]]
        """
        bias = self.decoder.output_bias
        if bias is None:
            raise NotImplementedError(
                f"{type(self.decoder).__name__} does not say where its output bias is; define its property output_bias, "
                "or leave the bias as it is"
            )
        batches = x.split(_MEAN_CHUNK) if isinstance(x, Tensor) else x
        bias.copy_(starts.bias_from_mean(bias, self.likelihood, map(self._checked_input, batches)))

    @constant_in_graphs
    def _warn_of_final_weights(self) -> None:
        """Warn of training without a step, once for each objective that has a schedule."""
        if self.loss not in self._objectives_without_step:
            self._objectives_without_step = (self.loss,)
            schedules.warn_of_final_values(self.loss, stacklevel=5)

    def _embedded(self, condition: Any, count: int) -> tuple[Tensor, ...]:
        """What the networks are told of `count` examples besides x or z: [count, dim], or nothing."""
        if self.condition is None:
            if condition is not None and self.prior.condition is None:
                raise ValueError(
                    "a condition was given, but the model has none; compose it with condition= for example "
                    'condition={"name": "labels", "classes": 10}'
                )
            return ()
        rows = self.condition.as_rows(condition, count)
        return (self.condition(self.condition.placed(rows, self.device, self.dtype)),)

    def joined(self, x: Any) -> Tensor:
        """x as one tensor, of several modalities {name: tensor} as the likelihood joins them."""
        if not isinstance(x, Mapping):
            return x  # type: ignore[no-any-return]  # what is no tensor is refused where it is looked at
        return self.likelihood.joined(x).to(self.device)

    def _checked_input(self, x: Tensor) -> Tensor:
        if isinstance(x, (tuple, list, dict)):
            raise TypeError(f"batches have to be x alone, got {type(x).__name__}; (x for x, y in loader) for example")
        self._check_input(x)
        return x

    def _check_input(self, x: Tensor) -> None:
        sizes.check_x(x, self.input_shape, self.stride)
        self._check_dtype("x", x)

    def _check_dtype(self, name: str, value: Tensor) -> None:
        if value.dtype == (dtype := self.dtype):
            return
        if self.encoder.autocast_dtype is None and autocast.dtype_on(value.device) is None:
            raise TypeError(
                f"{name} is {value.dtype}, the model's weights are {dtype}; convert one, {name}.to({dtype}) for example"
            )
