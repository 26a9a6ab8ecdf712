"""What the objectives that compare the examples of a batch with each other are held against."""

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import vaekit


class LargestTensor(TorchDispatchMode):
    """Remembers the elements of the largest tensor that any operation gives, in forward and in backward."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.elements = max([self.elements, *(leaf.numel() for leaf in tree_leaves(out) if hasattr(leaf, "numel"))])
        return out


def largest_tensor(loss, rows, latents, dtype, x):
    """Elements of the largest tensor in a training step with `loss`."""
    vae = vaekit.create_vae(input_shape=x.shape[1:], latent_dim=latents, loss=loss, likelihood="gaussian", seed=0).to(dtype)
    with LargestTensor() as largest:
        vae(x, key=vaekit.make_key(0), dataset_size=10 * rows).total.backward()
    return largest.elements
