"""The compiled CPU kernel against the pure-PyTorch reference, and what only a kernel can get wrong."""

import ast
import multiprocessing
import os
import platform
import subprocess
import sys
import threading

import pytest
import torch
from helpers.operands import assert_like_the_reference, backward_scales, calls, forward_scales
from helpers.strategies import DTYPES, gaussians, keys
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from vaekit import fold_in, make_key, reparameterize_kl
from vaekit.ops import native, reference
from vaekit.ops.operands import Operands

pytestmark = pytest.mark.skipif("cpu" not in native.LOADED, reason="no compiled CPU kernel is loaded")

forward = torch.ops.vaekit.reparameterize_kl.default
backward = torch.ops.vaekit.reparameterize_kl_backward.default


@given(calls())
def test_forward_is_the_reference(arguments):
    assert_like_the_reference(forward(*arguments), reference.forward(*arguments), forward_scales(arguments))


@given(calls(), st.sampled_from(["both", "z", "kl"]), st.booleans())
def test_backward_is_the_reference(arguments, which, broadcast):
    z, kl = forward(*arguments)
    grad_z, grad_kl = torch.randn(z.shape).to(z.dtype), torch.randn(kl.shape).to(kl.dtype)
    if broadcast:  # what the gradient of a sum looks like
        grad_z, grad_kl = torch.ones((), dtype=z.dtype).expand(z.shape), torch.ones((), dtype=kl.dtype).expand(kl.shape)
    gradients = (grad_z if which != "kl" else None, grad_kl if which != "z" else None)
    expected = reference.backward(*gradients, *arguments)
    assert_like_the_reference(backward(*gradients, *arguments), expected, backward_scales(*gradients, arguments))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(3, 255), (3, 256), (3, 257), (5, 513), (2, 1025), (70, 700), (1, 150_000), (100_000, 2), (300, 3)]
)
def test_large_and_awkward_shapes_are_the_reference(shape, dtype):
    mu, logvar = torch.randn(*shape[:-1], 2 * shape[-1]).to(dtype).chunk(2, dim=-1)
    prior = (
        (torch.randn(shape[-1:]).to(dtype).expand(shape), torch.randn(shape).to(dtype)) if shape[0] in (3, 5) else (None, None)
    )
    arguments = Operands(mu, logvar, make_key(5, 2**64 - 3), None, *prior, num_samples=3, row_start=1)
    assert_like_the_reference(forward(*arguments), reference.forward(*arguments), forward_scales(arguments))
    gradients = (
        torch.randn(shape[0], 3, shape[1]).to(dtype).movedim(1, 0),
        torch.randn(shape[0]).to(reference.compute_dtype(dtype)),
    )
    expected = reference.backward(*gradients, *arguments)
    assert_like_the_reference(backward(*gradients, *arguments), expected, backward_scales(*gradients, arguments))


@given(gaussians(min_ndim=2), keys, st.data())
def test_a_row_has_the_same_bits_alone_and_in_any_batch(parameters, key, data):
    mu, logvar = parameters
    rows_mu, rows_logvar = mu.flatten(0, -2), logvar.flatten(0, -2)
    row = data.draw(st.integers(0, len(rows_mu) - 1))
    z, kl = reparameterize_kl(rows_mu, rows_logvar, key=make_key(*key))
    alone_z, alone_kl = reparameterize_kl(rows_mu[row : row + 1], rows_logvar[row : row + 1], key=make_key(*key), row_start=row)
    assert torch.equal(z[row], alone_z[0])
    assert torch.equal(kl[row], alone_kl[0])


@pytest.mark.parametrize("shape", [(1, 700_000), (63, 9000), (64, 9000), (5000, 130), (100_000, 3)])
def test_threads_change_no_bit_forward_or_backward(shape):
    arguments = Operands(torch.randn(shape), torch.randn(shape), make_key(1))
    gradients = torch.randn(shape), torch.randn(shape[0])
    results = []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        results.append((*forward(*arguments), *backward(*gradients, *arguments)[:2]))
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


def test_only_mu_logvar_and_the_key_are_saved_for_backward():
    mu, logvar, key = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True), make_key(1)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t), t)[1], lambda t: t):
        reparameterize_kl(mu, logvar, key=key)
    assert [t.data_ptr() for t in saved] == [mu.data_ptr(), logvar.data_ptr(), key.data_ptr()]
    saved.clear()
    with torch.no_grad(), torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t), t)[1], lambda t: t):
        z, kl = reparameterize_kl(mu, logvar, key=key)
    assert saved == []
    assert not z.requires_grad
    assert not kl.requires_grad


def test_results_are_contiguous_and_own_their_memory():
    parameters = torch.randn(6, 10)
    mu, logvar = parameters.chunk(2, dim=-1)
    arguments = Operands(mu, logvar, make_key(1))
    z, kl = forward(*arguments)
    gradients = backward(torch.ones(()).expand(6, 5), torch.ones(()).expand(6), *arguments)
    for result in (z, kl, *gradients[:2]):
        assert result.is_contiguous()
        assert result.untyped_storage().data_ptr() != parameters.untyped_storage().data_ptr()


def test_python_threads_at_once_get_what_one_gets():
    mu, logvar = torch.randn(300, 200), torch.randn(300, 200)
    expected = [reparameterize_kl(mu, logvar, key=make_key(i)) for i in range(8)]
    results = [None] * 8

    def work(i):
        for _ in range(5):
            results[i] = reparameterize_kl(mu, logvar, key=make_key(i))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for got, want in zip(results, expected, strict=True):
        assert all(map(torch.equal, got, want))


# A fresh process, which has not run torch in parallel, forks; its child runs the operator on two threads.
FORKS = """
import multiprocessing, torch
from vaekit import make_key, reparameterize_kl

def in_child(pipe):
    z, kl = reparameterize_kl(torch.zeros(300, 200), torch.zeros(300, 200), key=make_key(2))
    pipe.send((float(z.double().sum()), float(kl.sum())))

torch.set_num_threads(2)
context = multiprocessing.get_context("fork")
here, there = context.Pipe()
child = context.Process(target=in_child, args=(there,))
child.start()
there.close()
print(here.recv())
child.join()
"""


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this platform does not fork")
def test_a_forked_child_gets_what_its_parent_gets(tmp_path):
    done = subprocess.run([sys.executable, "-c", FORKS], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    z, _ = reparameterize_kl(torch.zeros(300, 200), torch.zeros(300, 200), key=make_key(2))
    assert ast.literal_eval(done.stdout) == (float(z.double().sum()), 0.0)


def test_inference_mode_and_deterministic_mode_change_nothing():
    mu, logvar, key = torch.randn(5, 3), torch.randn(5, 3), make_key(1)
    expected = reparameterize_kl(mu, logvar, key=key)
    with torch.inference_mode():
        inferred = reparameterize_kl(mu, logvar, key=key)
    torch.use_deterministic_algorithms(True)
    try:
        deterministic = reparameterize_kl(mu, logvar, key=key)
    finally:
        torch.use_deterministic_algorithms(False)
    for got in (inferred, deterministic):
        assert all(map(torch.equal, got, expected))


def test_fake_tensors_have_the_shapes_of_real_ones():
    with FakeTensorMode() as mode:
        mu = torch.randn(4, 6, dtype=torch.bfloat16)
        z, kl = reparameterize_kl(mu, mu, key=torch.zeros(2, dtype=torch.int64), num_samples=3)
    assert mode is not None
    assert z.shape == (3, 4, 6)
    assert z.dtype == torch.bfloat16
    assert kl.shape == (4,)
    assert kl.dtype == torch.float32


def test_it_can_be_exported_with_a_dynamic_batch():
    class Draw(torch.nn.Module):
        def forward(self, mu, logvar, key):
            return reparameterize_kl(mu, logvar, key=key)

    example = torch.randn(4, 3), torch.randn(4, 3), make_key(1)
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(Draw(), example, dynamic_shapes=({0: batch}, {0: batch}, None))
    assert any("reparameterize_kl" in str(node.target) for node in program.graph.nodes)
    mu, logvar, key = torch.randn(9, 3), torch.randn(9, 3), make_key(2)
    assert all(map(torch.equal, program.module()(mu, logvar, key), reparameterize_kl(mu, logvar, key=key)))


def test_the_operator_called_directly_refuses_what_does_not_fit():
    mu, key = torch.randn(4, 3), make_key(1)
    good = Operands(mu, mu, key)
    grad_z, grad_kl = torch.randn(4, 3), torch.randn(4)
    assert len(forward(*good)) == 2
    wrong = [
        ("shape", {"logvar": mu[:2]}),
        ("dtype", {"logvar": mu.double()}),
        ("takes float", {"mu": mu.int(), "logvar": mu.int()}),
        ("event_dims", {"event_dims": 3}),
        ("num_samples", {"num_samples": 0}),
        ("row_start", {"row_start": -1}),
        ("row_start", {"row_start": 2**62}),
        ("key", {"key": key[:1]}),
        ("key", {"key": key.int()}),
        ("key or eps", {"key": None}),
        ("eps", {"key": None, "eps": mu[:2]}),
        ("prior", {"prior_mu": mu}),
        ("prior", {"prior_mu": mu[:2], "prior_logvar": mu}),
    ]
    for message, changes in wrong:
        with pytest.raises(RuntimeError, match=message):
            forward(*good._replace(**changes))
    for message, gradients in [
        ("grad_z", (grad_z[:2], None)),
        ("grad_kl", (None, grad_kl[:2])),
        ("grad_kl", (None, grad_kl.double())),
    ]:
        with pytest.raises(RuntimeError, match=message):
            backward(*gradients, *good)


def test_a_key_may_be_a_slice_of_many():
    keys_ = fold_in(make_key(3), torch.arange(4))
    spaced = torch.stack([keys_, keys_], dim=-1)[..., 0]  # not contiguous
    mu = torch.zeros(2, 3)
    for i in range(4):
        expected = reparameterize_kl(mu, mu, key=keys_[i].clone())
        assert all(map(torch.equal, reparameterize_kl(mu, mu, key=spaced[i]), expected))


IN_USE = "import vaekit; print(vaekit.build_info()['cpu kernel'])"


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="there is one instruction set on this machine")
def test_the_instruction_set_can_be_limited_and_a_wrong_name_is_told(tmp_path):
    def run(capability):
        environment = {**os.environ, "VAEKIT_CPU_CAPABILITY": capability}
        # Not in this folder, whose vaekit would be imported instead of the tested one.
        program = [sys.executable, "-c", IN_USE]
        return subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert "native (x86-64;" in run("x86-64").stdout
    assert "has to be one of x86-64, x86-64-v3, x86-64-v4, baseline, got 'avx512'" in run("avx512").stderr
