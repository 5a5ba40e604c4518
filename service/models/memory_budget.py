"""Memory budget of the models that are loaded beside the live one, so that it is never short of memory for them."""

from __future__ import annotations

from math import ceil

from model_store.errors import EtegrecError
from service.settings import ENV_PREFIX


class OverBudget(EtegrecError):
    """A second model takes more memory than is left for it.

    Attributes:
        need: What it needs and what there is, to follow the name of the version.
    """

    def __init__(self, version: str, need: str) -> None:
        hint = f"raise {ENV_PREFIX}SECOND_MODELS_MB if the machine has the memory, or take the other alias away"
        super().__init__(f"version {version} {need}", hint)
        self.need = need


class MemoryBudget:
    """Memory for second models, in bytes. What each takes is what its trial took.

    Args:
        limit_mb: Memory that all of them may take together, in MB of 2**20 bytes.
    """

    def __init__(self, limit_mb: int) -> None:
        self._limit = limit_mb << 20
        self._taken: dict[str, int] = {}

    def taken(self, alias: str) -> int:
        """Return what the model of an alias takes, in bytes."""
        return self._taken.get(alias, 0)

    def take(self, alias: str, version: str, size: int) -> None:
        """Take memory for the model of an alias, which must have none.

        Raises:
            OverBudget: So much is not left.
        """
        left = self._limit - sum(self._taken.values())
        if size > left:
            need = (
                f"takes {ceil(size / (1 << 20))} MB beside the live version, and {left >> 20} of"
                f" {self._limit >> 20} MB are left"
            )
            raise OverBudget(version, need)
        self._taken[alias] = size

    def free(self, alias: str) -> None:
        """Give back the memory of an alias."""
        self._taken.pop(alias, None)
