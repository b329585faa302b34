"""The list of planted faults stays applicable; `python -m tests.mutations` runs it."""

import pytest

from tests.mutations import FAULTS, ROOT


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_every_fault_has_its_place(fault):
    assert (ROOT / fault.file).read_text().count(fault.right) == 1
    assert fault.right != fault.wrong
    assert (ROOT / fault.tests).exists()


def test_there_are_at_least_twenty_faults():
    assert len(FAULTS) >= 20
