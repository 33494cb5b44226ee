"""Fixtures of the tests of studies."""

import pytest

from support import undrawn


@pytest.fixture(name="undrawn")
def _undrawn(monkeypatch):
    """No pictures, where a study is only repeated or its numbers are all that matters."""
    undrawn.leave_out(monkeypatch)
