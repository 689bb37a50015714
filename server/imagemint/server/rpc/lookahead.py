"""The chunks of one stream that are made ahead of its reader."""

import time
from collections import deque
from dataclasses import dataclass

from imagemint.server.access.caller import current_caller
from imagemint.server.batching import Job
from imagemint.server.repository import ServedVersion
from imagemint.server.rpc.call import Context, current_call, send

# What one stream keeps in the making beyond the chunk being sent, but one chunk at least: enough to
# keep every instance busy while a chunk travels.
_MOST_IMAGES = 512
_MOST_BYTES = 16 * 2**20
# What it keeps in the making, the next chunk included, before its reader has taken anything, and
# again after its reader has stopped for a while: one chunk at least. A client that never reads
# costs no more than this.
UNPROVEN_BYTES = 2**20
_PROMPT_S = 1.0


@dataclass(frozen=True)
class Pending:
    """A job under way and its place in the order."""

    job: Job
    offset: int


class Lookahead:
    """Keeps the chunks of a stream that are under way, in order.

    Args:
        version: what makes them.
        most_images: images in one chunk at most.

    Attributes:
        pending: the chunk to be sent next, and those that follow it.
        next_offset: where the next chunk begins.
    """

    def __init__(self, version: ServedVersion, most_images: int) -> None:
        self.pending: deque[Pending] = deque()
        self.next_offset = 0
        self._version = version
        self._most_ahead = count_chunks_ahead(most_images, version.spec.image_bytes)
        self._is_prompt = False
        self._call = current_call.get()
        self._caller = current_caller.get()
        self._call.relieve = self._relieve

    def has_room(self, images: int) -> bool:
        """Whether another chunk of so many images may be made already."""
        if not self.pending:
            return True
        if self._is_prompt:
            return len(self.pending) <= self._most_ahead
        made = sum(each.job.count for each in self.pending)
        is_small = (made + images) * self._version.spec.image_bytes <= UNPROVEN_BYTES
        return is_small and len(self.pending) <= self._most_ahead

    def add(self, job: Job) -> None:
        """Appends a job that was queued."""
        self.pending.append(Pending(job, self.next_offset))
        self.next_offset += job.count

    async def send_next(self, context: Context, answer: object) -> None:
        """Sends the answer that holds the next chunk; returns once flow control has let it go."""
        offset = self.pending.popleft().offset  # without its job, whose images would be kept
        began_s = time.monotonic()
        await send(context, answer)
        self._call.release(offset)
        self._is_prompt = time.monotonic() - began_s < _PROMPT_S

    def drop(self) -> None:
        """Gives up all chunks that were not sent."""
        for left in self.pending:
            self._version.batcher.drop(left.job)
            self._call.release(left.offset)

    def _relieve(self) -> None:
        """Gives up what was made ahead, while the reader does not take the chunk before it.

        The chunks are made again, with the same pixels, once the reader goes on.
        """
        if self.pending:
            self.drop()
            self._caller.give_back(sum(each.job.count for each in self.pending))
            self.next_offset = self.pending[0].offset
            self.pending.clear()


def count_chunks_ahead(chunk_size: int, image_bytes: int) -> int:
    """Returns how many chunks a stream may keep in the making beyond the one being sent."""
    return max(1, min(_MOST_IMAGES, _MOST_BYTES // image_bytes) // chunk_size)
