"""What importing the library and drawing import, each in a process of its own."""

import subprocess
import sys
from pathlib import Path


def imported_after(code: str, folder: Path) -> set[str]:
    script = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_library_imports_nothing_heavy(tmp_path):
    modules = imported_after("import vaekit", tmp_path)
    assert "vaekit.plots" in modules
    assert not modules & {"matplotlib", "lightning_fabric", "mlxtend", "typer", "pandas", "sklearn"}


def test_drawing_makes_no_pyplot_state(tmp_path):
    modules = imported_after(
        "import torch, vaekit\n"
        "vae = vaekit.create_vae(input_shape=(1, 4, 4), latent_dim=2, encoder={'hidden': ()}, decoder={'hidden': ()})\n"
        "x = torch.rand(3, 1, 4, 4)\n"
        "vaekit.plots.reconstructions(vae, x), vaekit.plots.samples(vae, 2), vaekit.plots.latent_space(vae, x)\n"
        "vaekit.plots.latent_grid(vae, 2), vaekit.plots.traversals(vae, steps=2)\n"
        "vaekit.plots.loss_curves({'loss': [1.0]})",
        tmp_path,
    )
    assert "matplotlib.figure" in modules
    assert "matplotlib.pyplot" not in modules
