"""Laws of the vector-quantised bottleneck: which code is chosen, what gradient passes, how the codebook learns."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.cluster.vq import kmeans2
from torch.testing import assert_close

import vaekit
from vaekit import posteriors
from vaekit.posteriors import VectorQuantized
from vaekit.posteriors import kmeans as module
from vaekit.posteriors.kmeans import kmeans_plus_plus

VectorQuantizedFamily = partial(posteriors.VectorQuantizedFamily, warm_up=False, lloyd=0)  # the papers' own

SHAPES = [(3,), (3, 4), (3, 2, 5), (3, 2, 1, 4)]


def family_with(codebook, **options):
    """A family whose codes are these, placed, and used once in a batch."""
    codebook = torch.as_tensor(codebook)
    family = VectorQuantizedFamily((codebook.shape[1],), codes=len(codebook), **options).to(codebook.dtype)
    with torch.no_grad():
        family.codebook.copy_(codebook)
        family.uses.fill_(1.0)
        family.placed.fill_(True)
        if family.sums is not None:
            family.sums.copy_(codebook)
    return family


def learn(family, batches, seed=0):
    """Update the family by each batch in turn."""
    for key, batch in zip(vaekit.fold_in(vaekit.make_key(seed), torch.arange(len(batches))), batches, strict=True):
        VectorQuantized(batch, family).update_codebook(key)


def clusters(count, rows, dimensions=4, spread=0.01, seed=0, shift=0.0):
    """[rows, dimensions], and which of `count` well-separated clusters each is of; all have about as many."""
    random = np.random.default_rng(seed)
    while True:
        middles = random.normal(shift, 5.0, (count, dimensions))
        gaps = np.linalg.norm(middles[:, None] - middles, axis=2) + 1e9 * np.eye(count)
        if gaps.min() > 3.0:
            break
    which = random.permutation(np.arange(rows) % count)
    points = middles[which] + spread * random.standard_normal((rows, dimensions))
    return torch.from_numpy(points), torch.from_numpy(which), torch.from_numpy(middles)


# Which code.


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from(SHAPES),
    codes=st.integers(1, 70),
    scale=st.sampled_from([1e-6, 1.0, 1e4]),
    offset=st.sampled_from([0.0, 1.0, 300.0]),
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_code_is_the_nearest_one(dtype, seed, shape, codes, scale, offset):
    generator = torch.Generator().manual_seed(seed)
    family = family_with((scale * (offset + torch.randn(codes, shape[0], generator=generator))).to(dtype))
    z = (scale * (offset + torch.randn(5, *shape, generator=generator))).to(dtype)
    q = VectorQuantized(z, family)
    distances = (z.double().movedim(1, -1).unsqueeze(-2) - family.codebook.double()).square().sum(-1)
    taken = distances.gather(-1, q.indices.unsqueeze(-1)).squeeze(-1)
    spread = distances.amax(-1) + (family.codebook.double() - family.codebook.double().median(0).values).square().sum(1).max()
    slack = 32 * torch.finfo(torch.float32 if dtype == torch.bfloat16 else dtype).eps
    assert (taken <= distances.amin(-1) + slack * spread).all()
    assert q.indices.shape == (5, *shape[1:])
    assert torch.equal(q.mean.movedim(1, -1), family.codebook[q.indices])


def test_one_code_far_away_does_not_blur_the_others():
    codebook = torch.cat([torch.randn(100, 4, dtype=torch.float64), torch.full((1, 4), 1e7, dtype=torch.float64)]).float()
    z = torch.randn(500, 4)
    exact = (z.double()[:, None] - codebook.double()).square().sum(2).argmin(1)
    assert (VectorQuantized(z, family_with(codebook)).indices == exact).float().mean() > 0.995


def test_of_codes_that_are_equally_near_the_lowest_is_taken():
    family = family_with([[2.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    assert family.nearest(torch.tensor([[0.0, 0.0], [1.0, 5.0], [1.5, 0.0]])).tolist() == [1, 1, 0]


def test_the_choice_does_not_depend_on_how_many_are_compared_at_once(monkeypatch):
    family, z = family_with(torch.randn(50, 3)), torch.randn(40, 3, 7)
    whole = family.nearest(z)
    monkeypatch.setattr(module, "_SCORES_PER_CHUNK", 200)
    assert torch.equal(family.nearest(z), whole)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_passes_through_as_nan_and_teaches_the_codebook_nothing(bad):
    points, _, _ = clusters(4, 40)
    z = points.clone()
    z[7, 2] = bad
    spoilt, clean = (family_with(points[:4], decay=0.5, revive_below=0.0) for _ in range(2))
    q = VectorQuantized(z, spoilt)
    assert q.mean[7, 2].isnan()
    assert q.mean[torch.arange(40) != 7].isfinite().all()
    q.update_codebook(vaekit.make_key(0))
    learn(clean, [points[torch.arange(40) != 7]])
    for name, buffer in spoilt.named_buffers():
        assert_close(buffer, clean.get_buffer(name), msg=name)

    family = VectorQuantizedFamily((4,), codes=8).double()  # nor is a code put there
    learn(family, [torch.full_like(z, bad)] * 3)
    assert not family.placed.any()
    again = VectorQuantizedFamily((4,), codes=8).double()
    again.load_state_dict(family.state_dict())
    for either in (family, again):  # k-means++ is still to come
        learn(either, [z] * 3)
    assert torch.equal(again.codebook, family.codebook)
    assert all(buffer.isfinite().all() for buffer in family.buffers())
    assert family.placed.all()


def test_what_is_not_finite_has_no_divergence_and_no_density():
    vae, x = small(), torch.randn(4, 5)
    x[2, 1] = math.nan
    assert vae.eval()(x).kl.isnan().tolist() == [False, False, True, False]
    q = vae.encode(x)
    for log_prob in (q.log_prob(q.mean), q.rsample_log_prob()[1], q.log_prob(torch.full_like(q.mean, 3.0))):
        assert log_prob.isnan().tolist() == [False, False, True, False]
    assert q.rsample_log_ratio(vae.prior, num_samples=3)[1].isnan().tolist() == [[False, False, True, False]] * 3


def test_fit_names_the_row_that_is_not_finite_and_keeps_the_codebook_finite():
    vae = small()
    x = torch.randn(100, 5)
    vaekit.fit(vae, x, epochs=2, progress=False)
    x[3] = 1e38
    with pytest.raises(vaekit.NonFiniteLossError, match="not finite in 1 of 64 examples, in train these: 3"):
        vaekit.fit(vae, x, epochs=1, progress=False)
    assert vae.encoder.family.codebook.abs().max() < 1e6


# What passes.


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("decay", [None, 0.9])
def test_the_decoders_gradient_is_handed_on_as_it_is(shape, decay):
    family = family_with(torch.randn(6, 3), decay=decay)
    z = torch.randn(5, *shape, requires_grad=True)
    weight = torch.randn(5, *shape)
    q = VectorQuantized(z, family)
    (gradient,) = torch.autograd.grad((weight * q.mean).sum(), z, retain_graph=True)
    assert torch.equal(gradient, weight)
    (gradient,) = torch.autograd.grad((weight * q.mean**3).sum(), z)
    assert_close(gradient, 3.0 * weight * q.mean.detach() ** 2)  # at the code, not at what was encoded


@pytest.mark.parametrize("shape", SHAPES)
def test_each_term_has_a_gradient_for_its_own_side_only(shape):
    family = family_with(torch.randn(6, 3, dtype=torch.float64), decay=None)
    z = torch.randn(5, *shape, dtype=torch.float64, requires_grad=True)
    q = VectorQuantized(z, family)
    difference = z.detach().movedim(1, -1) - family.codebook.detach()[q.indices]
    squares = difference.square().flatten(1).sum(1)
    for term in (q.commitment(), q.codebook_distance()):
        assert_close(term.detach(), squares)
    wanted = (z, family.codebook)
    of_z, of_codes = torch.autograd.grad(q.commitment().sum(), wanted, allow_unused=True, retain_graph=True)
    assert of_codes is None
    assert_close(of_z.movedim(1, -1), 2.0 * difference)
    of_z, of_codes = torch.autograd.grad(q.codebook_distance().sum(), wanted, allow_unused=True)
    assert of_z is None
    expected = np.zeros((6, 3))
    np.add.at(expected, q.indices.flatten().numpy(), -2.0 * difference.reshape(-1, 3).numpy())
    assert_close(of_codes, torch.from_numpy(expected))


@given(seed=st.integers(0, 2**32 - 1), codes=st.integers(1, 40), rows=st.integers(1, 30))
def test_perplexity_is_exp_of_scipys_entropy(seed, codes, rows):
    generator = torch.Generator().manual_seed(seed)
    family = family_with(torch.randn(codes, 2, generator=generator, dtype=torch.float64))
    q = VectorQuantized(torch.randn(rows, 2, 3, generator=generator, dtype=torch.float64), family)
    counts = np.bincount(q.indices.flatten().numpy(), minlength=codes)
    assert float(q.perplexity()) == pytest.approx(np.exp(stats.entropy(counts)), rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_posterior_is_one_for_the_code_and_zero_elsewhere(shape):
    q = VectorQuantized(torch.randn(5, *shape), family_with(torch.randn(6, 3)))
    z, log_prob = q.rsample_log_prob()
    assert torch.equal(z, q.mean)
    assert torch.equal(log_prob, torch.zeros(5))
    draws, log_prob = q.rsample_log_prob(num_samples=4)
    assert torch.equal(draws, q.mean.expand(4, *q.mean.shape))
    assert torch.equal(log_prob, torch.zeros(4, 5))
    other = draws.clone()
    other[(1, 2, *(-1 for _ in shape))] += 1e-3
    expected = torch.zeros(4, 5)
    expected[1, 2] = -math.inf
    assert torch.equal(q.log_prob(other), expected)
    assert torch.equal(q.log_prob(z), torch.zeros(5))


# How the codebook learns.


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.99])
def test_moving_averages_are_those_of_the_papers_appendix(decay):
    """N = decay N + (1 - decay) n, m = decay m + (1 - decay) sum z, e = m / N, written out in numpy; the unused stay."""
    random, codes = np.random.default_rng(0), 9
    book = random.normal(size=(codes, 3))
    book[5] = 100.0  # never chosen
    count, total = np.ones(codes), book.copy()
    family = family_with(book, decay=decay, revive_below=0.0)
    for _ in range(6):
        z = random.normal(size=(4, 3, 5))
        rows = z.transpose(0, 2, 1).reshape(-1, 3)
        chosen = ((rows[:, None] - book) ** 2).sum(2).argmin(1)
        hot = np.eye(codes)[chosen]
        count = decay * count + (1 - decay) * hot.sum(0)
        total = decay * total + (1 - decay) * hot.T @ rows
        used = count > 0
        book[used] = total[used] / count[used, None]
        q = VectorQuantized(torch.from_numpy(z), family)
        assert q.indices.flatten().tolist() == chosen.tolist()
        q.update_codebook(vaekit.make_key(0))
        assert_close(family.codebook, torch.from_numpy(book), rtol=1e-12, atol=1e-12)
        assert_close(family.uses, torch.from_numpy(count), rtol=1e-12, atol=1e-12)
    assert_close(family.codebook[5], torch.full((3,), 100.0, dtype=torch.float64))


def test_an_unused_code_stays_where_it_is_for_as_long_as_it_likes():
    start = torch.tensor([[0.0, 0.0], [math.pi, -7.3]])
    family = family_with(start, decay=0.7, revive_below=0.0)
    for _ in range(50):
        learn(family, [torch.zeros(4, 2)] * 10)
        assert torch.equal(
            family.codebook[1], start[1]
        )  # also where sum and uses are nearly 0, and their ratio is no more the code
    assert family.uses[1] < 1e-44
    learn(family, [torch.tensor([[0.0, 0.0], [3.0, -7.0]])])
    assert_close(family.codebook[1], torch.tensor([3.0, -7.0]))


def test_without_memory_it_is_k_means():
    points = torch.randn(300, 4, dtype=torch.float64)
    start = points[:12].clone()
    family = family_with(start, decay=0.0, revive_below=0.0)
    learn(family, [points] * 25)
    expected, labels = kmeans2(points.numpy(), start.numpy(), iter=25, minit="matrix")
    assert_close(family.codebook, torch.from_numpy(expected))
    means = np.stack([points[labels == k].mean(0) for k in range(12)])
    assert_close(family.codebook, torch.from_numpy(means), rtol=1e-3, atol=1e-3)


def served(family, points, which):
    """Whether each cluster has a code of its own, that no other shares."""
    indices = VectorQuantized(points, family).indices
    owners = [set(indices[which == k].tolist()) for k in range(int(which.max()) + 1)]
    return all(owners[a].isdisjoint(owners[b]) for a in range(len(owners)) for b in range(a))


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.99])
@pytest.mark.parametrize("count", [2, 8, 32])
def test_a_codebook_finds_every_well_separated_cluster(count, decay):
    for seed in range(10):
        points, which, middles = clusters(count, 40 * count, seed=seed)
        family = VectorQuantizedFamily((4,), codes=count, decay=decay).double()
        learn(family, points.repeat(30, 1).split(20 * count), seed)
        assert served(family, points, which)
        nearest = torch.cdist(middles, family.codebook).min(1)
        assert sorted(nearest.indices.tolist()) == list(range(count))
        assert nearest.values.max() < 0.05


def test_a_first_batch_with_few_vectors_of_each_cluster_loses_some_for_good_and_one_with_many_does_not():
    """32 codes for 32 clusters: of 64 random vectors in a batch a few clusters have none, of 640 all have some."""
    found = {64: [], 640: []}
    for size, counts in found.items():
        for seed in range(5):
            points, _, middles = clusters(32, 3200, seed=seed)
            generator = torch.Generator().manual_seed(seed)
            family = VectorQuantizedFamily((4,), codes=32).double()
            learn(family, [points[torch.randint(3200, (size,), generator=generator)] for _ in range(400)], seed)
            counts.append(int((torch.cdist(middles, family.codebook).min(1).values < 0.3).sum()))
    assert found[640] == [32] * 5
    assert min(found[64]) < 31


def test_of_a_large_first_batch_k_means_plus_plus_sees_some_vectors_for_each_code(monkeypatch):
    """16 of each, at random and finite ones only; still every cluster gets a code."""
    points, which, _ = clusters(8, 4000)
    points[::3] = math.nan
    seen, whole = [], module.kmeans_plus_plus
    monkeypatch.setattr(module, "kmeans_plus_plus", lambda rows, *rest: seen.append(rows) or whole(rows, *rest))
    family = VectorQuantizedFamily((4,), codes=8).double()
    learn(family, [points] * 3)
    (rows,) = seen
    assert rows.shape == (128, 4)
    numbers = (rows[:, None] == points).all(2).int()
    assert (numbers.sum(1) == 1).all()
    numbers = numbers.argmax(1)
    assert len(numbers.unique()) == 128
    assert stats.kstest(numbers.numpy() / 4000, "uniform").pvalue > 1e-3
    finite = points.isfinite().all(1)
    assert served(family, points[finite], which[finite])


def test_a_start_from_rows_at_random_misses_some():
    """What k-means++ is for: with as many codes as clusters, two in one cluster stay there, and another has none."""
    missed = 0
    for seed in range(10):
        points, which, _ = clusters(8, 320, seed=seed)
        rows = torch.randperm(320, generator=torch.Generator().manual_seed(seed))[:8]
        family = family_with(points[rows], decay=0.9, revive_below=0.0)
        learn(family, points.repeat(30, 1).split(160), seed)
        missed += not served(family, points, which)
    assert missed >= 5


def test_when_the_data_has_moved_away_dead_codes_follow_it_only_if_they_are_revived():
    followed = {}
    for revive_below in (0.0, 0.1):
        followed[revive_below] = 0
        for seed in range(10):
            old, _, _ = clusters(16, 320, seed=seed)
            new, which, _ = clusters(8, 320, seed=100 + seed, shift=40.0)
            family = VectorQuantizedFamily((4,), codes=16, decay=0.9, revive_below=revive_below).double()
            learn(family, torch.cat([old.repeat(5, 1), new.repeat(100, 1)]).split(160), seed)
            followed[revive_below] += served(family, new, which)
    assert followed[0.1] >= 9  # in the tenth every code is in use, one of them by two clusters
    assert followed[0.0] == 0


@pytest.mark.parametrize("decay", [0.99, None])
@pytest.mark.parametrize(("first", "then"), [(64, 1024), (1024, 64)])
def test_a_batch_of_another_size_than_before_leaves_the_codes_where_they_are(first, then, decay):
    """Even use is of the same averages as each code's, so that no code looks unused because batches have grown."""
    points, _, middles = clusters(32, 1024)
    family = VectorQuantizedFamily((4,), codes=32, decay=decay).double()
    learn(family, [points, *(points[torch.randperm(1024)[:first]] for _ in range(400))])
    learned = family.codebook.detach().clone()
    learn(family, [points[torch.randperm(1024)[:then]] for _ in range(5)])
    assert torch.cdist(middles, learned).min(1).values.max() < 0.05
    assert_close(family.codebook.detach(), learned, rtol=0.0, atol=0.05)


@pytest.mark.parametrize("decay", [0.9, None])
def test_dead_codes_are_put_onto_what_the_batch_holds_and_live_ones_left_alone(decay):
    book = torch.tensor([[0.0, 0.0], [10.0, 0.0], [500.0, 500.0], [-500.0, 500.0], [0.0, 10.0]])
    family = family_with(book, decay=decay, revive_below=0.3)
    with torch.no_grad():
        family.uses.copy_(torch.tensor([8.0, 8.0, 1.5, 3.0, 9.5]))  # 30 in all, with 6 an even share: dead below 1.8
        if family.sums is not None:
            family.sums.copy_(family.uses[:, None] * book)
    z = book[torch.tensor([0, 1, 4])].repeat(10, 1) + 0.1 * torch.randn(30, 2)
    learn(family, [z])
    assert (family.codebook[2] == z).all(1).any()
    assert family.uses[2] == pytest.approx(3.6)
    assert_close(family.codebook[3], book[3])
    assert (family.codebook[[0, 1, 4]] - book[[0, 1, 4]]).abs().max() < 0.2


@pytest.mark.parametrize(("revive_below", "share"), [(0.0, 1.0), (0.1, 0.2), (0.3, 0.6)])
def test_a_code_that_is_placed_counts_as_used_twice_as_much_as_it_must_be(revive_below, share):
    """Of 60 vectors for 6 codes even use is 10; where none is ever revived a code begins with that."""
    family = VectorQuantizedFamily((2,), codes=6, decay=0.9, revive_below=revive_below)
    learn(family, [torch.randn(60, 2)])
    assert_close(family.uses, torch.full((6,), 10.0 * share))
    assert_close(family.sums, family.uses[:, None] * family.codebook)


def test_a_revived_code_goes_where_the_error_is_and_where_vectors_are():
    """Of two places with squared distances 1 and 9 from the only live code, and a mean of 2.5: a binomial test."""
    far = 0
    z = torch.tensor([[0.0]] * 10 + [[1.0]] * 5 + [[-3.0]] * 5)
    for seed in range(1000):
        family = family_with([[0.0], [1e6]], decay=0.5, revive_below=0.1)
        family.uses[1] = 0.0
        learn(family, [z], seed)
        place = float(family.codebook[1])
        assert place in (1.0, -3.0)
        far += place == -3.0
    assert stats.binomtest(far, 1000, (9.0 + 2.5) / (9.0 + 2.5 + 1.0 + 2.5)).pvalue > 1e-3


def test_k_means_plus_plus_draws_as_its_paper_says():
    """The second of two rows: each with the probability of its squared distance from the first."""
    rows = torch.tensor([[0.0], [1.0], [3.0]])
    u = torch.rand(3000, 2, generator=torch.Generator().manual_seed(0))
    drawn = torch.stack([kmeans_plus_plus(rows, torch.ones(3, dtype=torch.bool), pair) for pair in u])
    for first in range(3):
        squares = (rows - rows[first]).square().flatten().double()
        seconds = drawn[drawn[:, 0] == first, 1]
        counts = torch.bincount(seconds, minlength=3).numpy()
        assert counts[first] == 0
        others = [k for k in range(3) if k != first]
        expected = squares[others] / squares.sum() * len(seconds)
        assert stats.chisquare(counts[others], expected.numpy()).pvalue > 1e-3
    assert stats.chisquare(torch.bincount(drawn[:, 0], minlength=3).numpy()).pvalue > 1e-3
    left_out = torch.tensor([True, False, True])
    assert set(kmeans_plus_plus(rows, left_out, torch.tensor([0.9, 0.2, 0.5])).tolist()) == {0, 2, -1}


def test_k_means_plus_plus_draws_no_row_twice_at_either_end_of_its_noise():
    rows = torch.cat([torch.zeros(1, 1), torch.arange(4.0)[:, None], torch.full((3, 1), 3.0)])
    for u in (1.0, 2.0**-33):
        drawn = kmeans_plus_plus(rows, torch.ones(8, dtype=torch.bool), torch.full((5,), u))
        assert sorted(rows[drawn[:4], 0].tolist()) == [0.0, 1.0, 2.0, 3.0]
        assert drawn[4] == -1


def test_k_means_plus_plus_is_an_operator_as_torch_has_them():
    arguments = (torch.randn(9, 3), torch.ones(9, dtype=torch.bool), torch.rand(4))
    torch.library.opcheck(kmeans_plus_plus, arguments)


@pytest.mark.parametrize("revive_below", [0.0, 0.1])
def test_with_fewer_vectors_than_codes_each_has_its_own_and_the_rest_wait(revive_below):
    family = VectorQuantizedFamily((2,), codes=10, revive_below=revive_below)
    z = torch.randn(4, 2)
    learn(family, [z])
    assert family.placed.sum() == 4
    assert_close(VectorQuantized(z, family).commitment(), torch.zeros(4), rtol=0.0, atol=1e-10)
    waiting = ~family.placed
    learn(family, [torch.randn(9, 2)], seed=1)
    assert family.placed.all()
    assert (family.uses[waiting] > 0).all()


# In a model.


def small(seed=0, **options):
    return vaekit.create_vae(
        input_shape=(5,), latent_dim=2, encoder={"hidden": (16,)}, decoder={"hidden": (16,)}, likelihood="gaussian",
        posterior={"name": "vector_quantized", "codes": 6, **options}, prior="codes", loss="vector_quantized", seed=seed,
    )  # fmt: skip


def state(vae):
    return {name: tensor.clone() for name, tensor in vae.state_dict().items()}


def changed(vae, before):
    return {name for name, tensor in vae.state_dict().items() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize("decay", [0.9, None])
def test_only_the_objective_in_training_mode_moves_the_codebook(decay):
    vae, x = small(decay=decay), torch.randn(20, 5)
    before = state(vae)
    vae.encode(x), vae.reconstruct(x), vae.sample(3)
    vae.eval()
    vae(x), vaekit.evaluate(vae, x), vaekit.evaluation.importance_weighted_bound(vae, x, num_samples=2)
    assert not changed(vae, before)
    vae.train()
    vaekit.evaluate(vae, x)
    assert not changed(vae, before)
    vae(x)
    own = {"codebook", "uses", "placed", "updates", *(() if decay is None else ("sums",))}
    assert changed(vae, before) == {f"encoder.family.{name}" for name in own}


def test_a_recomputed_forward_pass_updates_nothing_again_and_has_the_same_gradient():
    from torch.utils.checkpoint import checkpoint

    gradients = []
    for recompute in (False, True):
        vae, x = small(decay=0.5), torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
        torch.manual_seed(0)
        vae(x, key=vaekit.make_key(0))  # places the codes
        if recompute:
            vae.encoder.forward = partial(checkpoint, vae.encoder.forward, use_reentrant=False)
        vae(x, key=vaekit.make_key(0)).total.backward()
        gradients.append([p.grad for p in vae.parameters()] + list(vae.buffers()))
    for plain, again in zip(*gradients, strict=True):
        assert_close(plain, again)


def test_fit_repeats_to_the_last_bit():
    x, runs = torch.randn(100, 5), []
    for other in range(2):
        torch.manual_seed(other)
        vae = small()
        vaekit.fit(vae, x, epochs=3, seed=4, progress=False, device="cpu")
        runs.append(vae.state_dict())
    assert all(torch.equal(tensor, runs[1][name]) for name, tensor in runs[0].items())


@pytest.mark.parametrize("decay", [0.9, None])
def test_where_codes_are_put_is_a_function_of_the_key(decay):
    books = []
    for key, other in ((0, 0), (0, 1), (1, 0)):
        vae, x = small(decay=decay), torch.randn(100, 5, generator=torch.Generator().manual_seed(0))
        torch.manual_seed(other)
        state = torch.get_rng_state()
        vae(x, key=vaekit.make_key(key))
        vae.encoder.family.uses[:4] = 0.0  # and 4 codes are revived
        vae(x, key=vaekit.make_key(key, 5))
        assert torch.equal(torch.get_rng_state(), state)
        books.append(vae.encoder.family.codebook.detach().clone())
    assert torch.equal(books[0], books[1])
    assert not torch.equal(books[0], books[2])


def with_dropout():
    return vaekit.create_vae(
        input_shape=(5,), latent_dim=2, encoder={"hidden": (16,), "dropout": 0.2}, decoder={"hidden": (16,)},
        posterior={"name": "vector_quantized", "codes": 32}, prior="codes", loss="vector_quantized", likelihood="gaussian",
        seed=0,
    )  # fmt: skip


def trained_alike(vae, other, x, **options):
    """Whether the two come out of the same training with the same bits."""
    for model in (vae, other):
        vaekit.fit(model, x, epochs=2, batch_size=20, progress=False, device="cpu", **options)
    return all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in vae.state_dict().items())


@pytest.mark.parametrize("dead", [0, 16])
def test_a_loaded_model_goes_on_as_the_one_that_was_saved_would(dead, tmp_path):
    vae, x = with_dropout(), torch.randn(100, 5)
    vaekit.fit(vae, x, epochs=2, batch_size=20, progress=False, device="cpu")
    family = vae.encoder.family
    family.uses[:dead] = 0.0
    again = vaekit.load(vae.save(tmp_path))
    book = family.codebook.clone()
    for model in (vae, again):  # one step by hand, without a call of train() for the one that was never out of it
        torch.manual_seed(0)
        model.encoder.family.training or model.train()
        model(x[:20], key=vaekit.make_key(3))
    assert (family.codebook != book).any(1)[:dead].all()  # revived at once
    assert torch.equal(again.encoder.family.codebook, family.codebook)
    assert trained_alike(vae, again, x, seed=1)


def test_from_its_initial_weights_a_model_starts_again_as_a_new_one():
    x, vae = torch.randn(100, 5), with_dropout()
    start = state(vae)
    vaekit.fit(vae, x, epochs=2, progress=False, device="cpu")
    vae.load_state_dict(start)
    assert trained_alike(vae, with_dropout(), x, seed=1)
    for name, tensor in vae.state_dict().items():  # as fit puts the last finite weights back
        tensor.copy_(start[name])
    assert trained_alike(vae, with_dropout(), x, seed=1)


def test_a_codebook_in_half_precision_is_evaluated_but_does_not_learn():
    for dtype in (torch.bfloat16, torch.float16):
        vae, x = small().to(dtype), torch.rand(20, 5, dtype=dtype)
        assert vae.eval()(x).kl.isfinite().all()
        before = state(vae)
        with pytest.raises(TypeError, match=f"codebook in {dtype} cannot learn.* in float32, .*autocast"):
            vae.train()(x)
        assert not changed(vae, before)


@pytest.mark.parametrize("decay", [0.9, None])
def test_a_trained_model_comes_back_with_its_codebook_and_goes_on_from_it(decay, tmp_path):
    vae, x = small(decay=decay, revive_below=0.0), torch.randn(100, 5)
    vaekit.fit(vae, x, epochs=3, progress=False, device="cpu")
    again = vaekit.load(vae.save(tmp_path))
    assert again.encoder.family.decay == decay
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in vae.state_dict().items())
    assert torch.equal(vae.eval()(x).total, again.eval()(x).total)
    placed = vae.encoder.family.codebook.detach().clone()
    for model in (vae, again):  # a loaded codebook is not put onto the next batch anew
        torch.manual_seed(0)
        with torch.no_grad():
            model.train()(x)
        assert_close(model.encoder.family.codebook.detach(), placed, rtol=0.0, atol=0.5)


@pytest.mark.compile
@pytest.mark.parametrize("decay", [0.9, None])
def test_a_compiled_training_step_is_one_graph_with_the_same_numbers(decay):
    x = torch.randn(20, 5)
    eager, other = small(decay=decay), small(decay=decay)
    torch._dynamo.reset()
    compiled = torch.compile(other, backend="aot_eager", fullgraph=True)
    for step in range(4):
        if step == 2:  # as after loading, with codes to revive
            for model in (eager, other):
                model.train()
                model.encoder.family.uses[:3] = 0.0
        totals = []
        for model in (eager, compiled):
            torch.manual_seed(step)
            terms = model(x, key=vaekit.make_key(step))
            terms.total.backward()
            totals.append(terms.total)
        assert_close(*totals)
    for (name, a), b in zip(eager.named_parameters(), other.parameters(), strict=True):
        assert_close(a.grad, b.grad, msg=name)
    for (name, a), b in zip(eager.named_buffers(), other.buffers(), strict=True):
        assert_close(a, b, msg=name)


def test_under_autocast_codes_and_what_is_put_onto_them_are_in_the_precision_of_the_codebook():
    vae, x = small(), torch.randn(50, 5)
    vae(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms, q = vae(x), vae.encode(x)
    assert (q.encoded.dtype, q.mean.dtype) == (torch.float32, torch.float32)
    assert_close(terms.kl, torch.full((50,), math.log(6)))
    terms.total.backward()
    assert all(tensor.isfinite().all() for tensor in (*vae.buffers(), *(p.grad for p in vae.parameters())))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"codes": 0}, ValueError, "codes .*got 0"),
        ({"decay": 1.0}, ValueError, r"decay .*got 1\.0"),
        ({"decay": -0.1}, ValueError, "decay .*got -0.1"),
        ({"decay": True}, TypeError, "decay .*got True"),
        ({"revive_below": 1}, ValueError, "revive_below .*got 1"),
        ({"revive_below": None}, TypeError, "revive_below .*got None"),
        ({"revive_below": math.nan}, ValueError, "revive_below .*got nan"),
    ],
)
def test_options_that_make_no_codebook_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        VectorQuantizedFamily((2,), **options)


VQ = {"posterior": {"name": "vector_quantized", "codes": 6}, "prior": "codes", "loss": "vector_quantized"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "elbo"}, "Elbo is a loss for latents that are vectors of real numbers.* VectorQuantizedFamily are codes"),
        ({"loss": "iwae"}, "Iwae is a loss for"),
        (
            {"prior": "standard_normal"},
            "StandardNormal is a prior for latents that are vectors .* VectorQuantizedFamily are codes",
        ),
        ({"prior": "vamp"}, "Vamp is a prior for"),
        (
            {"posterior": "diagonal_gaussian"},
            "Codes is a prior for latents that are codes, .* DiagonalGaussianFamily are vectors",
        ),
        (
            {"posterior": "diagonal_gaussian", "prior": "standard_normal"},
            "VectorQuantizedLoss is a loss for latents that are codes",
        ),
    ],
)
def test_parts_that_do_not_go_with_it_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        vaekit.create_vae(input_shape=(5,), latent_dim=2, **{**VQ, **changes})
