"""The application: judge, batches, store, review, report and command line."""

__version__ = "0.1.0"
