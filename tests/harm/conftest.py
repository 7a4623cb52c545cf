"""What a tenant, a handler or a local user could do to others, seen from outside: real processes, reached over HTTP.

Each test names its fault, as those of `tests/faults` do, and has its row in the same table.
"""

from tests.faults.reporting import measured, pytest_configure, pytest_runtest_makereport

__all__ = ["measured", "pytest_configure", "pytest_runtest_makereport"]
