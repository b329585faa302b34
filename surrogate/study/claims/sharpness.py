"""To be listed."""

from ..claim import Claim

CLAIMS: tuple[Claim, ...] = ()
