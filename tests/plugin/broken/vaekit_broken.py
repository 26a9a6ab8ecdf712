"""A plugin whose import fails."""

raise RuntimeError("this plugin needs a newer sun")
