"""The report of an evaluation of bags: one HTML file that opens in a browser without a network."""

from training.bag.report.page import ReportError, require_libraries, write_report

__all__ = ["ReportError", "require_libraries", "write_report"]
