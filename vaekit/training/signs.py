"""Signs that a run goes wrong, while it still goes: warnings, each once in a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from vaekit import divergences
from vaekit.data import Batch, Batches
from vaekit.gathering import Ranks
from vaekit.likelihoods.base import Likelihood
from vaekit.likelihoods.columns import Columns
from vaekit.likelihoods.gaussian import Gaussian
from vaekit.modes import evaluation_mode
from vaekit.ops import philox
from vaekit.posteriors.base import Posterior
from vaekit.posteriors.codes import CodePosterior
from vaekit.schedules import is_final, scheduled
from vaekit.training.explain import listed, span
from vaekit.training.guard import Taken
from vaekit.training.state import RunState
from vaekit.training.warned import warn
from vaekit.vae import VAE

ROWS = 1000  # that are looked at, spread over the data
FAR = 10.0  # times the scale of a Gaussian, or a tenth of it
COLLAPSED = 0.01  # nats
UNUSED = 0.01  # of even use
VECTORS_A_CODE = 20  # in even use, from which on a code that has none is one that is not used
TRAINED = 500  # steps, before which nothing can be said of what was learned
SEEN = 5000  # examples, likewise
LONG = 5000  # steps, after which that is not put off until the end of the epoch
ELEMENTS = 16  # of an example, from which on a mean over them is told from a sum


class Signs:
    """Looks at a run for what will spoil it.

    Args:
        vae: the model, on its device.
        train: the training data.
        validation: held-out data; None where there is none.
        ranks: the processes of the run, of which the first one looks; None for this one alone.
    """

    def __init__(self, vae: VAE, train: Batches, validation: Batches | None = None, ranks: Ranks | None = None) -> None:
        self._vae, self._train, self._validation = vae, train, validation
        ranks = ranks or Ranks()
        self._is_first, self._is_alone = ranks.rank == 0, ranks.world == 1  # a pass through the model takes all processes
        self._posterior: list[Posterior] = []  # the last that the encoder gave
        self._weights = {**scheduled(vae.loss), **scheduled(vae.encoder)}
        self._settled_steps = self._settled_examples = 0  # since the scheduled weights had their final values
        self._last_step = -1
        self._learned_at: int | None = None  # the number of steps after which what was learned was looked at
        self._looked = False
        self._warned_of_logvar = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """What the encoder gives is remembered meanwhile."""
        last = self._posterior

        def remember(module: object, given: object, output: object) -> None:  # a function, which a copy of the model shares
            last[:] = [output] if isinstance(output, Posterior) else []

        handle = self._vae.encoder.register_forward_hook(remember)
        try:
            yield
        finally:
            handle.remove()
            last.clear()

    def before(self) -> None:
        """Warn of data that are far from the scale of a Gaussian, where they are held whole."""
        if self._is_first and _has_fixed_scale(self._vae.likelihood) and (some := self._train.some(ROWS)) is not None:
            _warn_of_scale(self._vae.likelihood, some.x)

    @torch.no_grad()
    def look(self, taken: Sequence[Taken]) -> None:
        """Warn of what shows in the steps that were good since the last look."""
        if not taken or not self._is_first:
            return
        self._count(taken)
        if self._settled_steps >= LONG:
            self._look_at_what_was_learned()
        if not self._looked:
            self._looked = True
            first = taken[0]
            batch = first.examples(self._train)
            if not self._train.is_indexed:
                _warn_of_scale(self._vae.likelihood, batch.x)
            self._warn_of_averages(first, batch)
        logvar = getattr(self._posterior[0], "logvar", None) if self._posterior else None
        if isinstance(logvar, Tensor) and logvar.numel() and not self._warned_of_logvar:
            low, high = torch.stack([logvar.detach().min(), logvar.detach().max()]).tolist()
            limit = math.log(torch.finfo(self._vae.dtype).max)
            if max(-low, high) > limit / 2:
                self._warned_of_logvar = True
                warn(
                    f"step {taken[-1].number}: the encoder's log variance is {span(low, high)}; its exponential overflows "
                    f"{str(self._vae.dtype).removeprefix('torch.')} beyond {limit:.1f}. Bound it, "
                    'posterior={"name": "diagonal_gaussian", "logvar_bound": 10.0} for example, or lower the learning rate'
                )

    def epoch_ended(self) -> None:
        """Warn of latent dimensions that carry nothing, and of codes that are not used: once, as soon as they can be known.

        That is after enough steps and examples, since any weight that warms up has had its final value.
        """
        if self._settled_steps >= TRAINED and self._settled_examples >= SEEN:
            self._look_at_what_was_learned()

    def after(self, state: RunState) -> None:
        """Warn of them again at the end, if there are any; after a run that was too short to tell, of nothing."""
        if self._is_first and state.step >= TRAINED and state.step != self._learned_at:
            self._warn_of_what_was_not_learned("at the end of the run")

    def _count(self, taken: Sequence[Taken]) -> None:
        for one in taken:
            if not all(is_final(weight, one.number) for weight in self._weights.values()):
                self._settled_steps = self._settled_examples = 0
            else:
                self._settled_steps += one.number != self._last_step  # of which it may be a part
                self._settled_examples += sum(one.counts)
            self._last_step = one.number

    def _look_at_what_was_learned(self) -> None:
        if self._learned_at is None:
            self._learned_at = self._last_step + 1
            self._warn_of_what_was_not_learned(f"after step {self._last_step}")

    @torch.no_grad()
    def _warn_of_what_was_not_learned(self, when: str) -> None:
        with evaluation_mode(self._vae):
            if (some := self._some()) is not None:
                batch = some.to(self._vae.device)
                posterior = self._vae.encode(batch.x, batch.condition)
            elif self._posterior:
                posterior = self._posterior[0]
            else:
                return
            if isinstance(posterior, CodePosterior):
                _warn_of_codes(posterior, when)
            elif self._vae.prior.condition is None and divergences.known_by_dimension(posterior, self._vae.prior):
                _warn_of_collapse(posterior, self._vae, when)

    def _some(self) -> Batch | None:
        """Examples to look at: held-out ones where there are some."""
        if not self._is_alone:
            return None
        some = None if self._validation is None else self._validation.some(ROWS)
        return self._train.some(ROWS) if some is None else some

    def _warn_of_averages(self, first: Taken, batch: Batch) -> None:
        """Warn of a reconstruction that is a mean over the elements beside a divergence that is a sum over the dimensions."""
        elements, terms = math.prod(self._vae.input_shape), first.terms
        if elements < ELEMENTS or not first.count:
            return
        total, reconstruction, kl = (float(term.mean()) for term in (terms.total, terms.reconstruction, terms.kl))
        averaged = reconstruction / elements + kl
        in_total = abs(total - averaged) <= 1e-3 * abs(total) and abs(total - (reconstruction + kl)) > 0.5 * abs(total)
        if in_total or (self._is_alone and self._reports_an_average(batch, reconstruction, kl, elements)):
            warn(
                f"the objective {type(self._vae.loss).__name__} takes the reconstruction as a mean over the {elements} elements "
                "of an example, and the divergence as a sum over the latent dimensions: that is a beta of "
                f"{elements}, under which posteriors collapse. Sum both, or average both"
            )

    def _reports_an_average(self, batch: Batch, reconstruction: float, kl: float, elements: int) -> bool:
        """Whether the reconstruction is what the likelihood says, divided by the elements, and the divergence is not."""
        batch = batch.to(self._vae.device)
        with evaluation_mode(self._vae):
            condition = self._vae.completed(batch.x, batch.condition)
            posterior = self._vae.encode(batch.x, condition)
            parameters = self._vae.natural_parameters(posterior.mean, condition)
            nll = float(self._vae.likelihood.nll(parameters, batch.x).mean())
            key = philox.make_key(0, device=self._vae.device)
            divergence = float(posterior.rsample_kl(self._vae.prior_given(condition, len(batch.x)), key=key)[1].mean())
        return _is_near(reconstruction * elements, nll) and not _is_near(kl * elements, divergence)


def _is_near(value: float, other: float) -> bool:
    return other != 0 and 0.5 < value / other < 2.0


def _warn_of_scale(likelihood: Likelihood, x: Tensor) -> None:
    """Warn of columns or channels of x whose scale is not that of a Gaussian with a fixed one."""
    if isinstance(likelihood, Columns):
        group: Any
        for group in likelihood.groups:
            numbers = list(group.numbers)
            _warn_of_columns(group.likelihood, x[:, numbers], [likelihood.names[number] for number in numbers], "column")
    else:
        kind = "column" if x.ndim == 2 else "channel"
        _warn_of_columns(likelihood, x, list(range(x.shape[1])), kind)


def _has_fixed_scale(likelihood: Likelihood) -> bool:
    """Whether some of the data are under a Gaussian whose scale is not learned."""
    kinds = [group.likelihood for group in likelihood.groups] if isinstance(likelihood, Columns) else [likelihood]
    return any(isinstance(kind, Gaussian) and kind.variance == "fixed" for kind in kinds)


def _warn_of_columns(likelihood: Likelihood, x: Tensor, names: Sequence[object], kind: str) -> None:
    if not isinstance(likelihood, Gaussian) or not _has_fixed_scale(likelihood):
        return
    values = x.movedim(1, 0).flatten(1).double() / likelihood.sigma
    mean = values.nanmean(1)
    deviation = (values - mean[:, None]).square().nanmean(1).sqrt()
    # A constant is learned at once, and costs nothing.
    far = (mean.abs() > FAR) | (deviation > FAR) | ((deviation < 1.0 / FAR) & (deviation > 1e-7 * mean.abs()))
    found = far.nonzero().flatten().tolist()
    if found:
        first = found[0]
        warn(
            f"train: the Gaussian likelihood has a fixed sigma of {likelihood.sigma:g}, and the data of {len(found)} of "
            f"{len(names)} {kind}(s) are far from that scale: {listed([names[one] for one in found])}. {kind.capitalize()} "
            f"{names[first]} has the mean {float(mean[first]) * likelihood.sigma:.4g} and the standard deviation "
            f"{float(deviation[first]) * likelihood.sigma:.4g}. Standardise the data, or let the scale be learned: "
            '{"name": "gaussian", "variance": "shared"}'
        )


def _warn_of_collapse(posterior: Posterior, vae: VAE, when: str) -> None:
    _, kl = posterior.rsample_kl_per_dimension(vae.prior, key=philox.make_key(0, device=vae.device))
    mean = kl.mean(0)
    collapsed = [f"z[{', '.join(map(str, place))}]" for place in (mean < COLLAPSED).nonzero().tolist()]
    if collapsed:
        warn(
            f"{when}, {len(collapsed)} of {mean.numel()} latent dimensions have collapsed, with a divergence below {COLLAPSED} "
            f"nats: {listed(collapsed)}. They say nothing of x: take fewer dimensions, a smaller weight of the divergence or one "
            'that rises, {"name": "elbo", "beta": {"name": "linear", "steps": 5000}} for example, or free bits'
        )


def _warn_of_codes(posterior: CodePosterior, when: str) -> None:
    family, uses = posterior.family, posterior.family.averaged_uses
    if posterior.indices.numel() >= VECTORS_A_CODE * family.codes * family.books:
        unused = family.counts(posterior.indices) == 0
    elif uses is not None:
        unused = uses < UNUSED * uses.mean(1, keepdim=True)
    else:
        return
    if unused.any():
        names = [f"{book}.{code}" if family.books > 1 else str(code) for book, code in unused.nonzero().tolist()]
        hint = "" if uses is None else ", or a larger revive_below, which puts such codes onto vectors that are there"
        warn(f"{when}, {len(names)} of {unused.numel()} codes are not used: {listed(names, '')}. Take fewer codes{hint}")
