"""The Hugging Face hub, through huggingface_hub: addresses, files that are downloaded, folders that are pushed."""

from vaekit.hub import client
from vaekit.hub.address import SCHEME, HubAddress
from vaekit.hub.download import file, is_repository
from vaekit.hub.upload import check, push

__all__ = ["SCHEME", "HubAddress", "check", "client", "file", "is_repository", "push"]
