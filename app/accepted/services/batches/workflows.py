"""From the members of a workflow that were checked one by one to the whole: ids, edges, and the order of acceptance."""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from accepted.domain.batch import Node, flaws, in_order
from accepted.domain.job import NewJob
from accepted.errors import FieldError, InvalidRequest
from accepted.services.batches.checks import MAX_LISTED


class Workflow(msgspec.Struct, frozen=True):
    """`jobs` each after all that it needs, with rising ids; `edges` are (needs, job_id)."""

    jobs: list[NewJob]
    edges: list[tuple[UUID, UUID]]


def workflow(nodes: Sequence[Node], jobs: Sequence[NewJob]) -> Workflow:
    """The workflow of `jobs`, each with its node. Raises `InvalidRequest` for refs that are wrong and for cycles."""
    if found := flaws(nodes, MAX_LISTED):
        raise InvalidRequest([FieldError(f"/jobs{flaw.pointer}", flaw.detail) for flaw in found])
    order = in_order(nodes)
    ids = {nodes[number].ref: id for number, id in zip(order, sorted(job.id for job in jobs), strict=True)}
    return Workflow(
        jobs=[_member(jobs[number], nodes[number], ids) for number in order],
        edges=[(ids[ref], ids[nodes[number].ref]) for number in order for ref in nodes[number].depends_on],
    )


def _member(job: NewJob, node: Node, ids: dict[str, UUID]) -> NewJob:
    return msgspec.structs.replace(job, id=ids[node.ref], ref=node.ref, blockers=len(node.depends_on))
