"""Models for others: a folder with a model, its card and pictures, and such a folder pushed to the Hugging Face hub."""

from vaekit.sharing.folder import push_to_hub, write

__all__ = ["push_to_hub", "write"]
