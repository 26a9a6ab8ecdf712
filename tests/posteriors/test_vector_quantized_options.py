"""What a codebook may be besides: a warm-up of the decay, k-means at the start, cosine distance, heads, a projected space."""

import pytest
import torch
from scipy.cluster.vq import kmeans2
from torch.nn import functional as F
from torch.testing import assert_close

import vaekit
from vaekit.posteriors import VectorQuantized, VectorQuantizedFamily
from vaekit.posteriors.kmeans import lloyd


def encoded(rows, size=4, positions=(), seed=0):
    return torch.randn(rows, size, *positions, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def begun(z, **options):
    """A family that has learned from one batch."""
    torch.manual_seed(0)
    family = VectorQuantizedFamily(tuple(z.shape[1:]), **options).double()
    VectorQuantized(z, family).update_codebook(vaekit.make_key(0))
    return family


def test_the_decay_grows_with_the_batches_until_it_is_what_was_asked_for():
    family = VectorQuantizedFamily((1,), codes=1, decay=0.5, revive_below=0.0).double()
    average = None
    for batch in range(20):
        value = torch.tensor([[float(batch)]], dtype=torch.float64)
        VectorQuantized(value, family).update_codebook(vaekit.make_key(0))
        if average is None:
            average, weight = value, 1.0
        else:
            decay = min(0.5, (1 + batch) / (10 + batch))
            average = (decay * weight * average + (1 - decay) * value) / (decay * weight + 1 - decay)
            weight = decay * weight + 1 - decay
        assert_close(family.codebook, average)


def test_a_model_that_was_saved_before_there_was_a_warm_up_is_warm():
    family = begun(encoded(20), codes=3)
    state = {name: value for name, value in family.state_dict().items() if name != "updates"}
    again = VectorQuantizedFamily((4,), codes=3).double()
    again.load_state_dict(state)
    before = again.uses.clone()
    q = VectorQuantized(encoded(20, seed=1), again)
    q.update_codebook(vaekit.make_key(0))
    assert_close(again.uses, 0.8 * before + 0.2 * again.counts(q.indices)[0].double())


@pytest.mark.parametrize("rounds", [0, 1, 5])
def test_lloyd_steps_are_scipys(rounds):
    rows = encoded(300)
    start = rows[:7]
    every = torch.ones(300, dtype=torch.bool)
    got = lloyd(rows, every, start, torch.ones(7, dtype=torch.bool), rounds)
    expected = kmeans2(rows.numpy(), start.numpy(), iter=rounds, minit="matrix")[0] if rounds else start.numpy()
    assert_close(got, torch.from_numpy(expected))


def test_the_first_codes_cost_less_after_lloyd_steps():
    z = encoded(2000)
    costs = []
    for rounds in (0, 1, 4, 10):
        family = begun(z, codes=16, lloyd=rounds)
        costs.append(float(VectorQuantized(z, family).commitment().mean()))
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 0.9 * costs[0]


def test_cosine_distance_chooses_by_angle_and_gives_unit_vectors():
    family = begun(encoded(200, positions=(3,)), codes=9, distance="cosine")
    z = encoded(50, positions=(3,), seed=1)
    q = family(z)
    similarity = F.cosine_similarity(z.movedim(1, -1).unsqueeze(-2), family.codebook, dim=-1)
    assert torch.equal(q.indices, similarity.argmax(-1))
    assert_close(q.mean.norm(dim=1), torch.ones(50, 3, dtype=torch.float64))
    assert torch.equal(family(7.0 * z).indices, q.indices)
    assert_close(q.commitment(), (2.0 - 2.0 * similarity.amax(-1)).sum(1))


def test_heads_round_parts_of_a_vector_by_one_codebook():
    family = begun(encoded(100, 6, (5,)), codes=8, heads=3)
    assert family.codebook.shape == (8, 2)
    z = encoded(30, 6, (5,), seed=1)
    q = family(z)
    assert q.indices.shape == (30, 3, 5)
    for head in range(3):
        part = z[:, 2 * head : 2 * head + 2]
        single = VectorQuantizedFamily((2, 5), codes=8).double()
        single.codebook.copy_(family.codebook)
        assert torch.equal(q.indices[:, head], single.nearest(part))
        assert torch.equal(q.mean[:, 2 * head : 2 * head + 2], single.embedded(q.indices[:, head]))


def test_heads_learn_as_one_codebook_from_all_parts():
    z = encoded(100, 6, (5,))
    together = begun(z, codes=8, heads=3, lloyd=0, decay=0.7)
    apart = begun(z.movedim(1, -1).reshape(-1, 2), codes=8, lloyd=0, decay=0.7)
    with torch.no_grad():
        apart.load_state_dict(together.state_dict())
    q = together(encoded(40, 6, (5,), seed=2))
    q.update_codebook(vaekit.make_key(1))
    VectorQuantized(q.encoded.movedim(1, -1).reshape(-1, 2), apart).update_codebook(vaekit.make_key(1))
    for name, value in apart.state_dict().items():
        assert_close(together.state_dict()[name], value, msg=name)


@pytest.mark.parametrize("heads", [1, 2])
def test_projected_codes_are_rounded_in_their_own_space_and_mapped_to_the_latents(heads):
    torch.manual_seed(0)
    family = VectorQuantizedFamily((7, 3), codes=5, codebook_dim=2, heads=heads, decay=None).double()
    assert family.outputs == 2 * heads
    z = encoded(20, 2 * heads, (3,)).requires_grad_()
    q = family(z)
    codes = family.quantized(q.indices)
    expected = family.project(codes.movedim(1, -1)).movedim(-1, 1)
    assert_close(q.mean, expected)
    weight = encoded(20, 7, (3,), seed=2)
    wanted = (z, family.project.weight)
    of_z, of_map = torch.autograd.grad((weight * q.mean).sum(), wanted, retain_graph=True)
    assert_close(of_z, torch.einsum("bdp,dc->bcp", weight, family.project.weight))  # as if nothing had been rounded
    assert_close(of_map, torch.einsum("bdp,bcp->dc", weight, codes))
    assert_close(q.commitment(), (z - codes).square().flatten(1).sum(1))


def theirs(**options):
    peers = pytest.importorskip("vector_quantize_pytorch")
    torch.manual_seed(0)
    return peers.VectorQuantize(commitment_weight=1.0, accept_image_fmap=True, **options).double()


@pytest.mark.parametrize("options", [{}, {"distance": "cosine"}, {"heads": 2}])
def test_numbers_are_those_of_vector_quantize_pytorch(options):
    peer = theirs(
        dim=6, codebook_size=11, decay=0.8, threshold_ema_dead_code=0, use_cosine_sim=options.get("distance") == "cosine",
        heads=options.get("heads", 1), **({"codebook_dim": 3} if "heads" in options else {}),
    )  # fmt: skip
    if "heads" in options:
        peer.project_in = peer.project_out = torch.nn.Identity()
    family = VectorQuantizedFamily((6, 4, 4), codes=11, decay=0.8, revive_below=0.0, warm_up=False, **options).double()
    with torch.no_grad():
        family.codebook.copy_(peer.codebook)
    z = encoded(9, 6, (4, 4)).requires_grad_()
    mean, indices, loss = peer.eval()(z)
    q = family(z)
    ours = q.indices.movedim(1, -1) if "heads" in options else q.indices
    assert torch.equal(ours, indices)
    assert_close(q.mean, mean)
    if not options:
        _, _, loss = peer.train()(z)
        assert_close(q.commitment().mean() / (6 * 16), loss.squeeze())
        (of_theirs,) = torch.autograd.grad(loss.sum(), z)
        (of_ours,) = torch.autograd.grad(q.commitment().mean() / (6 * 16), z)
        assert_close(of_ours, of_theirs)


def test_moving_averages_are_those_of_vector_quantize_pytorch():
    peer = theirs(dim=4, codebook_size=8, decay=0.8, threshold_ema_dead_code=0)
    family = VectorQuantizedFamily((4, 5, 5), codes=8, decay=0.8, revive_below=0.0, warm_up=False).double()
    with torch.no_grad():
        family.codebook.copy_(peer.codebook)
        family.sums.copy_(peer._codebook.embed_avg[0])
        family.uses.copy_(peer._codebook.cluster_size[0])
        family.placed.fill_(True)
    peer._codebook.eps = 0.0
    for seed in range(5):
        z = encoded(20, 4, (5, 5), seed=seed)
        _, indices, _ = peer.train()(z)
        q = family(z)
        assert torch.equal(q.indices, indices)
        q.update_codebook(vaekit.make_key(seed))
        used = family.counts(q.indices)[0] > 0
        assert_close(family.codebook[used], peer.codebook[used], rtol=1e-5, atol=1e-6)


def test_what_does_not_fit_is_refused():
    for options, message in [
        ({"heads": 3}, "the heads have to divide the 4 latents at a position, got heads=3"),
        ({"distance": "manhattan"}, "distance has to be one of 'euclidean', 'cosine'"),
        ({"codebook_dim": 0}, "codebook_dim has to be a whole number of at least 1"),
        ({"lloyd": -1}, "lloyd has to be a whole number of at least 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            VectorQuantizedFamily((4,), **options)
    with pytest.raises(TypeError, match="warm_up has to be True or False"):
        VectorQuantizedFamily((4,), warm_up=1)
