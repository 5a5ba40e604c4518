"""Draft of an experiment: what the form for a new one edits, and the document that it makes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from console.forms.rules_draft import Document, DraftError, Moment, RulesDraft


@dataclass
class VariantDraft:
    """One way to answer."""

    name: str = ""
    percent: float | None = 50  # of those who take part
    rules: RulesDraft = field(default_factory=RulesDraft)
    model: str = ""  # empty: whichever the others get

    def document(self, where: str) -> Document:
        """Return the variant as the API takes it."""
        if not self.name.strip() or self.percent is None:
            raise DraftError(f"{where}: give a name and a share in percent")
        try:
            rules = self.rules.document()
        except DraftError as wrong:
            raise DraftError(f"{where}: {wrong}") from None
        share = round(self.percent / 100, 8)
        given = {"model": self.model, "rules": rules}
        return {"name": self.name.strip(), "share": share} | {name: value for name, value in given.items() if value}


@dataclass
class ExperimentDraft:
    """A new experiment, field by field."""

    name: str = ""
    description: str = ""
    goal: str = "purchase"
    starts: Moment = field(default_factory=Moment)
    ends: Moment = field(default_factory=Moment)
    layer: str = ""
    layer_from: float | None = 0  # percent
    layer_to: float | None = 100  # percent
    variants: list[VariantDraft] = field(default_factory=lambda: [VariantDraft("control"), VariantDraft("new")])

    def document(self) -> Document:
        """Return the experiment as the API takes it; only what is given is in it.

        Raises:
            DraftError: A field cannot be read.
        """
        variants = [each.document(f"Variant {place}") for place, each in enumerate(self.variants, start=1)]
        given: dict[str, Any] = {
            "description": self.description.strip(),
            "goal": self.goal.strip(),
            "starts": self.starts.value("Starts"),
            "ends": self.ends.value("Ends"),
            "traffic": self._traffic(),
            "variants": variants,
        }
        return {name: value for name, value in given.items() if value}

    def _traffic(self) -> Document | None:
        if not self.layer.strip():
            return None
        begin = (self.layer_from or 0) / 100
        end = (100 if self.layer_to is None else self.layer_to) / 100
        return {"layer": self.layer.strip(), "start": begin, "end": end}
