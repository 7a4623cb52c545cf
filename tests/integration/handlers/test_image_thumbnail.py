"""The job type `image.thumbnail`: fetching the picture. Resizing is tested in `tests/unit`."""

import pytest

from accepted.domain.failures import InvalidJob, TransientError
from accepted_worker.handlers.image_thumbnail import MAX_SOURCE_BYTES, fetched
from tests.support.servers.scripted_receiver import StartReceiver, an_egress, replies


async def test_a_picture_that_breaks_off_is_fetched_again_and_one_too_large_is_not(receiver: StartReceiver) -> None:
    cut = await receiver(replies(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nGIF8"))
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (MAX_SOURCE_BYTES + 1)
    large = await receiver(replies(head, bytes(MAX_SOURCE_BYTES + 1)))
    async with an_egress() as egress:
        with pytest.raises(TransientError):
            await fetched(cut.url, egress)
        with pytest.raises(InvalidJob, match="larger"):
            await fetched(large.url, egress)
