"""A model and a table that jobs are tested with."""

from tests.cli.conftest import model_dir, table  # noqa: F401
