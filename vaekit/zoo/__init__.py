"""Small trained models that come with vaekit, each under 300 KB: `vaekit.load("zoo://dense-mnist")` needs no network.

benchmarks/zoo.py makes them; about.json beside each says from what, how, and how well it does on held-out data.
"""

from vaekit.zoo.catalogue import SCHEME, ZooAddress, about, folder, names

__all__ = ["SCHEME", "ZooAddress", "about", "folder", "names"]
