"""What the routes of one API process share, and how a route gets at it."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import Request

from app.broker.base import Broker
from app.services.admission import Admission, LimitedBatches
from app.services.catalogue import Catalogue
from app.services.changes import Changes
from app.services.intake import Intake
from app.services.keys import Keys
from app.services.lease_desk import Desk
from app.services.leases import Leases
from app.services.limits import Limits
from app.services.submission import Submissions
from app.settings import Settings
from app.slices import Slices


@dataclass(frozen=True)
class State:
    """Made once by `app.main.create_app`."""

    settings: Settings
    engine: AsyncEngine
    broker: Broker
    submissions: Submissions
    limits: Limits
    admission: Admission
    batches: LimitedBatches
    changes: Changes
    catalogue: Catalogue
    intake: Intake
    keys: Keys
    slices: Slices
    leases: Leases
    desk: Desk


def state_of(request: Request) -> State:
    """The state of the application that serves this request."""
    state: State = request.app.state.accepted
    return state
