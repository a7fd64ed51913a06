"""The lists of mutations, which `tox run -e mutation` tries, fit the code as it is."""

import pytest

from tests.mutations.__main__ import ROOT, Mutation, read_mutations


@pytest.mark.parametrize("mutation", read_mutations(), ids=lambda mutation: mutation.name)
def test_mutation_fits(mutation: Mutation) -> None:
    """What it replaces is there once, and so are the tests that have to find it."""
    code = (ROOT / "django_pgsnap" / mutation.file).read_text()

    assert code.count(mutation.old) == 1
    for test in mutation.tests:
        path, _, function = test.partition("::")
        assert f"def {function.partition('[')[0]}" in (ROOT / path).read_text()
