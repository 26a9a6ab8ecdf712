"""What learns from what in an objective that has a discriminator."""

import vaekit


def assert_total_and_auxiliary_share_no_weight(vae, x, discriminator):
    """`auxiliary` reaches the weights whose names are in `discriminator`, and `total` all others."""
    for what in ("total", "auxiliary"):
        vae.zero_grad()
        getattr(vae(x, key=vaekit.make_key(0)), what).backward()
        for name, parameter in vae.named_parameters():
            reached = parameter.grad is not None
            assert reached == ((name in discriminator) == (what == "auxiliary")), (what, name)
            assert not reached or parameter.grad.any(), name
