"""A copy of the repository to build in, and what stands in for CUDA; no setting of the caller's reaches these tests."""

import os
from pathlib import Path

import pytest
from helpers.builds import copy_repository, fake_nvcc, fake_torch
from helpers.installs import environment


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch):
    """Leaves of the environment what builds do not look at: the functions of csrc/build_tools read it."""
    for name in set(os.environ) - set(environment()):
        monkeypatch.delenv(name)


@pytest.fixture
def repository(tmp_path) -> Path:
    """A copy whose library is the stand-in."""
    return copy_repository(tmp_path / "repository")


@pytest.fixture
def toolkit(tmp_path) -> Path:
    return fake_nvcc(tmp_path / "toolkit")


@pytest.fixture
def with_cuda(tmp_path, toolkit) -> dict:
    """The variables of a build for which there are a torch with CUDA and an nvcc."""
    torch_with_cuda = fake_torch(tmp_path / "torch-with-cuda", "2.99.0+cu130", "13.0")
    return {"VAEKIT_CUDA": "", "VAEKIT_TORCH_DIR": torch_with_cuda, "CUDA_HOME": toolkit}
