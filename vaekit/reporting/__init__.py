"""A report of runs: one page of HTML that needs no network and nothing beside it."""

from vaekit.reporting.report import report

__all__ = ["report"]
