"""Optimizers: each against torch's or its paper's equation, and who gets which options."""

import itertools
import sys

import pytest
import torch
from helpers.small_runs import X, fit, model, weights

import vaekit
from vaekit import plain
from vaekit.data import as_batches
from vaekit.registry import UnknownNameError
from vaekit.training import FitOptions, optimizers
from vaekit.training.plan import Plan

CPU = torch.device("cpu")


class LionByHand(torch.optim.Optimizer):
    """X. Chen et al., 2023, arXiv:2302.06675, algorithm 2."""

    def __init__(self, params, lr, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            (first, second), rate, decay = group["betas"], group["lr"], group["weight_decay"]
            for weight in group["params"]:
                m = self.state[weight].get("m", torch.zeros_like(weight))
                update = torch.sign(first * m + (1 - first) * weight.grad)
                weight -= rate * (update + decay * weight)
                self.state[weight]["m"] = second * m + (1 - second) * weight.grad


BY_HAND = {
    "adam": (torch.optim.Adam, {"eps": 1e-3, "weight_decay": 0.1}),
    "adamw": (torch.optim.AdamW, {"betas": (0.5, 0.9), "weight_decay": 0.5}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adamax": (torch.optim.Adamax, {"betas": (0.8, 0.9)}),
    "rmsprop": (torch.optim.RMSprop, {"alpha": 0.9, "centered": True, "momentum": 0.5, "eps": 1e-2, "weight_decay": 0.1}),
    "nadam": (torch.optim.NAdam, {"betas": (0.8, 0.9), "momentum_decay": 0.1, "weight_decay": 0.1}),
    "radam": (torch.optim.RAdam, {"betas": (0.8, 0.9), "weight_decay": 0.1}),
    "adafactor": (torch.optim.Adafactor, {"beta2_decay": -0.5, "eps": (1e-6, 1e-2), "d": 2.0, "weight_decay": 0.1}),
    "lion": (LionByHand, {"betas": (0.8, 0.9), "weight_decay": 0.5}),
}


def trained_by_hand(vae, optimizer, rate):
    """Eight steps on what `fit` with the seed 3 sees; `rate` is called with the number of each."""
    plan, number = Plan(as_batches(X, 16), 3, CPU), 0
    for epoch in range(2):
        for step in plan.steps(epoch, number):
            for group in optimizer.param_groups:
                group["lr"] = rate(number) * group.get("times", 1.0)
            optimizer.zero_grad()
            vae(step.parts[0].batch.x, key=step.key, step=number).total.backward()
            optimizer.step()
            number += 1


def test_every_optimizer_is_held_against_another():
    assert set(BY_HAND) == set(optimizers.names())


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("rate", [0.01, {"name": "linear", "steps": 8, "start": 0.0, "end": 0.05}], ids=["constant", "scheduled"])
def test_an_optimizer_and_a_schedule_are_those_of_a_loop_by_hand(name, rate):
    make, options = BY_HAND[name]
    vae, by_hand = model(), model()
    fit(vae, seed=3, learning_rate=rate, optimizer={"name": name, **options})
    groups = [{"params": list(by_hand.parameters())}]
    if name in ("adamw", "lion"):
        groups = [
            {"params": [p for p in by_hand.parameters() if p.ndim == 2]},
            {"params": [p for p in by_hand.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ]
    trained_by_hand(by_hand, make(groups, lr=1.0, **options), vaekit.schedules.as_schedule(rate))
    torch.testing.assert_close(weights(vae), weights(by_hand), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{"betas": (1.5, 0.9)}, {"weight_decay": -1.0}, {"betas": (0.9,)}])
def test_lion_refuses_by_name_what_its_package_asserts(options):
    with pytest.raises(ValueError, match="betas|weight_decay|lion"):
        FitOptions(optimizer={"name": "lion", **options})


def test_an_optimizer_whose_package_is_missing_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lion_pytorch", None)
    with pytest.raises(ModuleNotFoundError, match=r"'lion'.*pip install 'vaekit\[lion\]'"):
        FitOptions(optimizer="lion")


@pytest.mark.parametrize("name", optimizers.names())
def test_the_page_of_an_optimizer_says_what_it_is_for_and_who_found_it(name):
    page = optimizers.describe(name).documentation
    for part in ("Use it ", ">>> ", "20" if name != "sgd" else "1964"):
        assert part in page


# Groups by patterns of names.


def groups_of(spec, vae=None, rate=1e-3):
    """Name of a parameter -> its group's options."""
    vae = model() if vae is None else vae
    names = {p: name for name, p in vae.named_parameters()}
    built = optimizers.build(spec, vae, rate)
    assert sum(len(group["params"]) for group in built.param_groups) == len({*names} & {p for p in names if p.requires_grad})
    return {names[p]: group for group in built.param_groups for p in group["params"]}


def test_a_parameter_takes_the_options_of_every_pattern_that_matches_and_the_later_value():
    patterns = {
        "encoder.*": {"lr": 1e-4, "eps": 1e-3},
        "*.bias": {"eps": 1e-2, "weight_decay": 0.5},
        "decoder.*": {"lr_factor": 3},
    }
    for name, group in groups_of({"name": "adam", "groups": patterns}).items():
        assert group["lr"] == pytest.approx(1e-4 if name.startswith("encoder") else 3e-3)
        assert group["eps"] == (1e-2 if name.endswith("bias") else 1e-3 if name.startswith("encoder") else 1e-8)
        assert group["weight_decay"] == (0.5 if name.endswith("bias") else 0.0)
    for order, rate in (("ab", 2e-3), ("ba", 1e-4)):  # a rate that stays and a factor are one option
        both = {"a": ("encoder.*", {"lr": 1e-4}), "b": ("*.bias", {"lr_factor": 2})}
        group = groups_of({"name": "adam", "groups": dict(both[one] for one in order)})["encoder.body.0.bias"]
        assert group["lr"] == pytest.approx(rate)


def test_groups_train_as_by_hand_under_a_schedule():
    vae, by_hand, rate = model(), model(), {"name": "cosine", "start": 0.05, "end": 0.0}  # over the run's own eight steps
    patterns = {"encoder.*": {"lr_factor": 0.1}, "decoder.*.bias": {"lr": 0.02}}
    fit(vae, seed=3, learning_rate=rate, optimizer={"name": "sgd", "groups": patterns})
    still = model()
    parts = {"encoder": [], "bias": [], "rest": []}
    for name, p in by_hand.named_parameters():
        parts["encoder" if name.startswith("encoder") else "bias" if name.endswith("bias") else "rest"].append(p)
    optimizer = torch.optim.SGD([{"params": parts["rest"]}, {"params": parts["encoder"], "times": 0.1}], lr=1.0)
    fixed = torch.optim.SGD(parts["bias"], lr=0.02)
    optimizer.register_step_post_hook(lambda *_: (fixed.step(), fixed.zero_grad()))
    trained_by_hand(by_hand, optimizer, vaekit.schedules.Cosine(8, 0.05, 0.0))
    torch.testing.assert_close(weights(vae), weights(by_hand), rtol=1e-5, atol=1e-7)
    assert not torch.equal(weights(vae), weights(still))


def test_a_shared_parameter_is_in_one_group_and_found_by_each_of_its_names():
    vae = model(encoder={"hidden": (8, 8)})
    vae.encoder.body[2].weight = vae.encoder.body[0].weight = torch.nn.Parameter(torch.zeros(8, 8))
    for name in ("encoder.body.0.weight", "encoder.body.2.weight"):
        groups = groups_of({"name": "adam", "groups": {name: {"lr": 0.5}}}, vae)
        assert [shared for shared, group in groups.items() if group["lr"] == 0.5] == ["encoder.body.0.weight"]


@pytest.mark.parametrize(
    ("groups", "error", "said"),
    [
        (
            {"encoder.*": {"lrr": 1.0}},
            TypeError,
            r"groups\['encoder.\*'\] takes no option 'lrr'. Did you mean 'lr'.*lr_factor, betas",
        ),
        ({"encoder.*": {"momentum": 1.0}}, TypeError, "takes no option 'momentum'"),
        ({"encoder.*": {"lr": 0.0}}, ValueError, r"groups\['encoder.\*'\]: lr has to be a finite number above 0"),
        ({"encoder.*": {"lr": {"name": "linear"}}}, TypeError, "lr has to be a number"),
        ({"encoder.*": {"lr_factor": -1}}, ValueError, "lr_factor has to be a finite number above 0"),
        ({"encoder.*": {"lr": 1.0, "lr_factor": 1.0}}, ValueError, "leave one of them out"),
        ({"encoder.*": {"eps": -1.0}}, ValueError, r"groups\['encoder.\*'\].*eps"),
        ({"encoder.*": {"betas": (0.9,)}}, ValueError, r"groups\['encoder.\*'\].*"),
        ({"encoder.*": {}}, TypeError, "has to be a mapping of options"),
        ({"encoder.*": 1e-4}, TypeError, "has to be a mapping of options"),
        ([{"lr": 1}], TypeError, "groups has to map patterns"),
        ({"encoder": {"*": {"lr": 1e-4}}}, TypeError, r"--set 'optimizer.groups="),
    ],
)
def test_groups_that_cannot_be_are_refused_before_there_is_a_model(groups, error, said):
    with pytest.raises(error, match=said):
        FitOptions(optimizer={"name": "adam", "groups": groups})


def test_a_pattern_that_matches_nothing_is_refused_with_near_names():
    for pattern, near in (
        ("encodr.*", "'encoder"),
        ("encoder.body.0.wieght", "'encoder.body.0.weight'"),
        ("Encoder.*", "'encoder"),
    ):
        with pytest.raises(ValueError, match=f"matches no parameter of the model; near it are .*{near}"):
            groups_of({"name": "adam", "groups": {pattern: {"lr": 1e-4}}})


class Shifted(torch.nn.Linear):
    """A layer whose bias has the shape of its output with a batch axis."""

    def __init__(self, size_in, size_out):
        super().__init__(size_in, size_out)
        self.bias = torch.nn.Parameter(torch.zeros(1, size_out))


def test_of_adamw_layers_are_decayed_and_nothing_else_unless_a_group_says_so():
    """Not biases and norms of any shape, embeddings, means, pseudo-inputs, codebooks and vectors of labels."""
    vaes = [
        model(prior={"name": "gaussian_mixture", "components": 3}, condition={"name": "labels", "classes": 2, "dim": 3}),
        model(prior={"name": "vamp", "components": 3}, likelihood={"name": "gaussian"}),
        model(
            encoder={"posterior": {"name": "vector_quantized", "codes": 4, "decay": None}}, prior="codes", loss="vector_quantized"
        ),
    ]
    for vae in vaes:
        vae.encoder.table = torch.nn.Embedding(3, 2)
        vae.encoder.norm = torch.nn.LayerNorm((2, 3))
        vae.encoder.shifted = Shifted(2, 3)
        layers = (torch.nn.Linear, torch.nn.MultiheadAttention)
        expected = {f"{name}.weight" for name, module in vae.named_modules() if isinstance(module, layers)}
        decayed = {name for name, group in groups_of("adamw", vae).items() if group["weight_decay"]}
        assert decayed == expected
        others = {name for name, p in vae.named_parameters() if p.ndim > 1} - expected
        assert others >= {"encoder.table.weight", "encoder.norm.weight", "encoder.shifted.bias"}
        assert any(name.startswith(("prior.", "encoder.family.codebook")) for name in others)
    everything = groups_of({"name": "adamw", "groups": {"*": {"weight_decay": 0.1}}}, vaes[0])
    assert {group["weight_decay"] for group in everything.values()} == {0.1}
    assert {group["weight_decay"] for group in groups_of({"name": "adam", "weight_decay": 0.1}, vaes[0]).values()} == {0.1}


# Groups of the objective.


class WithScale(vaekit.Elbo):
    """An ELBO with a parameter of its own, whose gradient is 1."""

    def __init__(self, groups):
        super().__init__()
        self.scale, self.groups = torch.nn.Parameter(torch.zeros(3)), groups

    def parameter_groups(self):
        return self.groups(self)

    def forward(self, *arguments):
        return super().forward(*arguments)._replace(auxiliary=self.scale.sum())


def with_scale(groups):
    parts = model()
    return vaekit.VAE(parts.encoder, parts.decoder, likelihood=parts.likelihood, loss=WithScale(groups))


FALLING = {"name": "linear", "start": 0.0, "end": 1e-3}


@pytest.mark.parametrize(
    ("patterns", "moved"),
    [
        ({}, 4 * 0.25),
        ({"encoder.*": {"lr": 1e-9}}, 4 * 0.25),
        ({"loss.*": {"lr": 0.5}}, 4 * 0.5),  # the user's comes before the objective's
        ({"*.scale": {"lr_factor": 100.0}}, (0 + 1 + 2 + 3) * 100.0 * 1e-3 / 4),
    ],
    ids=["the objective's", "others", "user's rate", "user's factor"],
)
def test_a_rate_of_the_objectives_own_stays_unless_the_user_says_otherwise(patterns, moved):
    vae = with_scale(lambda loss: [{"params": [("scale", loss.scale)], "lr": 0.25}])
    fit(vae, optimizer={"name": "sgd", "groups": patterns}, learning_rate=FALLING, epochs=1)
    torch.testing.assert_close(vae.loss.scale.detach(), torch.full((3,), -moved))


@pytest.mark.parametrize(
    ("groups", "error", "said"),
    [
        (lambda loss: None, TypeError, "WithScale.parameter_groups has to give a list of mappings.*got None"),
        (lambda loss: {"params": [loss.scale]}, TypeError, "has to give a list of mappings"),
        (lambda loss: [loss.scale], TypeError, 'has to give mappings with "params"'),
        (lambda loss: [{"lr": 1.0}], TypeError, 'has to give mappings with "params".*got lr'),
        (lambda loss: [{"params": 3}], TypeError, 'has to give parameters as "params", got 3'),
        (lambda loss: [{"params": ["scale"]}], TypeError, "has to give parameters"),
        (lambda loss: [{"params": [loss.scale], "betas": (0, 0)}], TypeError, r"parameter_groups .*'sgd'.*betas"),
        (lambda loss: [{"params": [loss.scale, loss.scale]}], ValueError, "gives the parameter 'loss.scale' twice"),
        (lambda loss: [{"params": [loss.scale]}, {"params": loss.scale}], ValueError, "gives the parameter 'loss.scale' twice"),
        (lambda loss: [{"params": [torch.zeros(2)]}], ValueError, r"not the model's, of the shape \(2,\)"),
        (lambda loss: [{"params": [loss.scale], "momentum": -1.0}], ValueError, "WithScale.parameter_groups gives .*momentum"),
        (lambda loss: [{"params": [loss.scale], "lr": 0.0}], ValueError, "lr in WithScale.parameter_groups"),
    ],
)
def test_an_objective_that_asks_for_what_cannot_be_is_named(groups, error, said):
    with pytest.raises(error, match=said):
        fit(with_scale(groups), optimizer="sgd", learning_rate=1e-3)


def test_what_returns_no_optimizer_is_refused():
    optimizers.register("test-none")(lambda params, lr: None)
    try:
        with pytest.raises(TypeError, match="'test-none' has to return a torch.optim.Optimizer, got None"):
            FitOptions(optimizer="test-none")
    finally:
        del optimizers.registry._parts["test-none"]


# A function in the place of a spec.


@pytest.mark.parametrize("rate", [0.02, {"name": "linear", "start": 0.0, "end": 0.05}], ids=["constant", "scheduled"])
def test_a_function_of_the_groups_trains_with_the_runs_rate(rate):
    expected, vae = model(), model()
    fit(expected, learning_rate=rate, optimizer={"name": "sgd", "momentum": 0.9})
    fit(vae, learning_rate=rate, optimizer=lambda groups: torch.optim.SGD(groups, momentum=0.9))
    torch.testing.assert_close(weights(vae), weights(expected), rtol=1e-6, atol=1e-7)
    fit(model(), optimizer=torch.optim.Adagrad)


def test_a_function_gets_the_groups_of_the_objective():
    vae = with_scale(lambda loss: [{"params": [loss.scale], "lr": 0.25, "momentum": 0.0}])
    fit(vae, optimizer=torch.optim.SGD, learning_rate=FALLING, epochs=1)
    torch.testing.assert_close(vae.loss.scale.detach(), torch.full((3,), -4 * 0.25))
    with pytest.raises(TypeError, match="WithScale.parameter_groups gives momentum, which Adam does not take"):
        fit(vae, optimizer=torch.optim.Adam)


def flat(groups):
    return torch.optim.SGD([p for group in groups for p in group["params"]], lr=1e-3)


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (
            lambda groups: torch.optim.Adam(groups, lr=3e-4),
            ValueError,
            "sets lr=0.0003, where the run has learning_rate=0.001; leave lr",
        ),
        (flat, ValueError, "optimizer: flat changes lr"),
        (lambda groups: torch.optim.SGD(groups[0]["params"][1:], lr=1e-3), ValueError, "1 are missing, and 0 are others"),
        (lambda groups: torch.optim.SGD([*groups, {"params": torch.zeros(1)}]), ValueError, "0 are missing, and 1 are others"),
        (lambda groups: None, TypeError, "has to return a torch.optim.Optimizer, got None"),
        (torch.optim.LBFGS, TypeError, "the step of LBFGS needs a closure"),
    ],
)
def test_a_function_that_makes_something_else_is_refused(make, error, said):
    with pytest.raises(error, match=said):
        fit(model(), optimizer=make)


def test_an_optimizer_that_has_its_parameters_already_is_refused_with_what_to_give():
    with pytest.raises(TypeError, match=r"has its parameters already.*lambda groups: Adam\(groups"):
        FitOptions(optimizer=torch.optim.Adam(model().parameters()))
    with pytest.raises(UnknownNameError, match="adam"):
        FitOptions(optimizer={"name": "adm"})


@pytest.mark.parametrize("name", BY_HAND)
def test_a_state_that_is_written_down_as_plain_data_goes_on_bit_for_bit(name):
    spec, vae = {"name": name, "groups": {"encoder.*": {"lr_factor": 0.5}, "*.bias": {"lr": 1e-3}}}, model()

    def step(vae, optimizer, number):
        vae(X, key=vaekit.step_key(0, number), step=number).objective.backward()
        optimizer.step()
        optimizer.zero_grad()

    optimizer, again = optimizers.build(spec, vae, 0.01), model()
    for number in range(3):
        step(vae, optimizer, number)
    again.load_state_dict(vae.state_dict())
    resumed = optimizers.build(spec, again, 0.01)
    text, tensors = plain.pack(optimizer.state_dict())
    resumed.load_state_dict(plain.unpack(text, {name: tensor.clone() for name, tensor in tensors.items()}))
    step(vae, optimizer, 3)
    step(again, resumed, 3)
    assert torch.equal(weights(again), weights(vae))
    for one, other in zip(resumed.param_groups, optimizer.param_groups, strict=True):
        assert {**one, "params": None} == {**other, "params": None}


# Frozen parts.


class FreezeEncoder(vaekit.Callback):
    """Freezes the encoder after three steps, and keeps its weights of each step."""

    def __init__(self):
        self.seen = []

    def on_step_end(self, state):
        if state.step == 3:
            state.vae.encoder.requires_grad_(False)
        self.seen.append(weights(state.vae.encoder))


MOVING = [{"name": name, **({"weight_decay": 0.1} if "decay" in str(optimizers.describe(name)) else {})} for name in BY_HAND]
MOVING[list(BY_HAND).index("sgd")]["momentum"] = 0.9


@pytest.mark.parametrize("optimizer", MOVING, ids=lambda optimizer: optimizer["name"])
def test_what_is_frozen_has_no_group_and_what_is_frozen_in_a_run_stands_still_from_then_on(optimizer):
    vae = model()
    vae.decoder.requires_grad_(False)
    assert all(name.startswith("encoder") for name in groups_of(optimizer, vae))
    before, freeze = weights(vae.decoder), FreezeEncoder()
    vae.encoder.requires_grad_(True)
    next(vae.decoder.parameters()).requires_grad_(True)  # something is left to train when the encoder is frozen
    moving = next(vae.decoder.parameters()).detach().clone()
    fit(vae, optimizer=optimizer, callbacks=[freeze], gradient_clip=1.0)
    first, later = freeze.seen[:3], freeze.seen[3:]
    assert not torch.equal(first[0], first[2])
    assert all(torch.equal(each, first[2]) for each in later)
    assert not torch.equal(next(vae.decoder.parameters()).detach(), moving)
    assert torch.equal(weights(vae.decoder)[moving.numel() :], before[moving.numel() :])


class Toggle(vaekit.Callback):
    """Freezes or unfreezes the encoder when asked."""

    def __init__(self, at_start=None, **at_step):
        self.at_start, self.at_step, self.seen = at_start, {int(step[1:]): flag for step, flag in at_step.items()}, []

    def on_fit_start(self, state):
        if self.at_start is not None:
            state.vae.encoder.requires_grad_(self.at_start)

    def on_step_end(self, state):
        self.seen.append(weights(state.vae.encoder))
        if state.step in self.at_step:
            state.vae.encoder.requires_grad_(self.at_step[state.step])


def test_what_a_callback_freezes_and_frees_again_stands_still_in_between():
    toggle, vae = Toggle(False, s2=True, s4=False), model()
    start = weights(vae.encoder)
    fit(vae, optimizer={"name": "adamw", "weight_decay": 0.1}, callbacks=[toggle])
    seen = [start, *toggle.seen]
    assert [torch.equal(one, other) for one, other in itertools.pairwise(seen)] == [True] * 2 + [False] * 2 + [True] * 4


def test_what_is_freed_in_a_run_that_began_without_it_is_refused_by_name():
    vae = model()
    vae.encoder.requires_grad_(False)
    with pytest.raises(ValueError, match=r"'encoder.body.0.weight' and \d more had requires_grad=False when fit began"):
        fit(vae, callbacks=[Toggle(s3=True)])


def test_a_run_in_which_all_is_frozen_says_so():
    vae = model()
    vae.decoder.requires_grad_(False)
    with pytest.raises(ValueError, match="step 2: the objective depends on no parameter that can be trained"):
        fit(vae, callbacks=[Toggle(s2=False)])


@pytest.mark.parametrize("everything", [False, True])
def test_the_rate_that_callbacks_see_is_the_runs(everything):
    rates = []

    class Seen(vaekit.Callback):
        def on_step_end(self, state):
            rates.append(state.learning_rate)

    patterns = {"*" if everything else "encoder.*": {"lr_factor": 0.5}, "*.bias": {"lr": 7.0}}
    fit(model(), optimizer={"name": "adam", "groups": patterns}, learning_rate=FALLING, epochs=1, callbacks=[Seen()])
    assert rates == pytest.approx([0.0, 0.25e-3, 0.5e-3, 0.75e-3])
