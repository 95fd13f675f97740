"""All mutations, room by room."""

from __future__ import annotations

from tests.mutation.planted import (
    assessment,
    command_line,
    core,
    imaging,
    inference,
    interop,
    learning,
    networks,
    planning,
    preprocessing,
    running,
)

ALL = [
    *core.PLANTED,
    *imaging.PLANTED,
    *planning.PLANTED,
    *preprocessing.PLANTED,
    *networks.PLANTED,
    *learning.PLANTED,
    *inference.PLANTED,
    *assessment.PLANTED,
    *running.PLANTED,
    *interop.PLANTED,
    *command_line.PLANTED,
]
ROOMS = list(dict.fromkeys(item.room for item in ALL))
