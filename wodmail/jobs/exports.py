"""The step of PDF and WORD: the student's notebooks become documents, which are kept for the result mail."""

from __future__ import annotations

from collections.abc import Sequence

from wodmail import exporting
from wodmail.jobs.services import StepContext
from wodmail.mail.grammar import visible
from wodmail.mail.report import size_of
from wodmail.model import State, StepResult
from wodmail.students.exports import Document

_NAMED = 5


def export(ctx: StepContext) -> StepResult:
    """Export the notebooks into the workshop's folder; the documents are on our disk before this ends."""
    exporting.require()
    services, student = ctx.services, ctx.step.student
    found = services.accounts.export(student, ctx.spec.ws, exporting.FORMS[ctx.spec.action])
    services.documents.put(ctx.spec.job, student, found)
    failed = [each for each in found if each.error]
    note = "; ".join([told(found), *_remarks(found)])
    if not failed:
        return StepResult(State.DONE, note=note)
    more = f"; and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""
    error = "; ".join(f"{visible(each.notebook)}: {visible(each.error, 300)}" for each in failed[:_NAMED]) + more
    cause = "; ".join(f"{visible(each.notebook)}: {visible(each.cause, 300)}" for each in failed[:_NAMED] if each.cause)
    return StepResult(State.FAILED, note=note, error=error, cause=cause)


def _remarks(found: Sequence[Document]) -> list[str]:
    """What else is to be said of the first few documents of which something is."""
    return [f"{visible(each.notebook)}: {visible(each.note, 300)}" for each in found if each.note][:_NAMED]


def told(found: Sequence[Document]) -> str:
    """How many documents were made, how large they are, and how many notebooks failed."""
    made = [each for each in found if each.path]
    words = f"{len(made)} document{'' if len(made) == 1 else 's'}, {size_of(sum(each.size for each in made))}"
    return f"{words}, {len(found) - len(made)} failed" if len(made) < len(found) else words
