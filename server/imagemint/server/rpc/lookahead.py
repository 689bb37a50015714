"""The chunks of one stream that are computed ahead of its reader."""

import time
from collections import deque
from dataclasses import dataclass

from imagemint.server.access.caller import current_caller
from imagemint.server.batching import Job
from imagemint.server.repository import ServedVersion
from imagemint.server.rpc.call import Context, current_call, send

# What one stream computes ahead of the chunk that is being sent, but at least one chunk. It is
# enough to keep every instance busy while a chunk is on its way.
_MOST_IMAGES = 512
_MOST_BYTES = 16 * 2**20
# What a stream computes, the next chunk included, before its reader has taken any chunk, and again
# after its reader has paused. It is at least one chunk. A client that never reads costs no more
# than this.
UNPROVEN_BYTES = 2**20
_PROMPT_S = 1.0


@dataclass(frozen=True)
class Pending:
    """A submitted job and the position of its first image in the request."""

    job: Job
    offset: int


class Lookahead:
    """Keeps the chunks of a stream that are being computed, in order.

    Args:
        version: the version that computes them.
        most_images: most images in one chunk.

    Attributes:
        pending: the next chunk to send and those after it.
        next_offset: position of the first image of the next chunk to submit.
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
        """Returns whether the stream may compute another chunk of this many images now."""
        if not self.pending:
            return True
        if self._is_prompt:
            return len(self.pending) <= self._most_ahead
        images_ahead = sum(each.job.count for each in self.pending)
        is_small = (images_ahead + images) * self._version.spec.image_bytes <= UNPROVEN_BYTES
        return is_small and len(self.pending) <= self._most_ahead

    def add(self, job: Job) -> None:
        """Appends a submitted job."""
        self.pending.append(Pending(job, self.next_offset))
        self.next_offset += job.count

    async def send_next(self, context: Context, response: object) -> None:
        """Sends the response with the next chunk. Returns when flow control has accepted it."""
        offset = self.pending.popleft().offset  # a kept job would keep its images
        began_s = time.monotonic()
        await send(context, response)
        self._call.release(offset)
        self._is_prompt = time.monotonic() - began_s < _PROMPT_S

    def drop(self) -> None:
        """Drops all chunks that were not sent."""
        for left in self.pending:
            self._version.batcher.drop(left.job)
            self._call.release(left.offset)

    def _relieve(self) -> None:
        """Drops the chunks that were computed ahead while the reader does not take the one before.

        The stream computes them again, with the same pixels, when the reader continues.
        """
        if self.pending:
            self.drop()
            self._caller.give_back(sum(each.job.count for each in self.pending))
            self.next_offset = self.pending[0].offset
            self.pending.clear()


def count_chunks_ahead(chunk_size: int, image_bytes: int) -> int:
    """Returns how many chunks a stream may compute ahead of the one that is being sent."""
    return max(1, min(_MOST_IMAGES, _MOST_BYTES // image_bytes) // chunk_size)
