"""A worker without models, which only communicates with its supervisor and so starts fast."""

import asyncio
import os
import socket
import sys

from imagemint.server.processes.channel import Channel
from imagemint.server.processes.messages import Ready
from imagemint.server.processes.worker import WorkerPeers, _send_heartbeats


async def work(end):
    """Keeps a list of words and answers until it is told to stop."""
    channel = await Channel.from_socket(end)
    begin = await channel.receive()
    peers = WorkerPeers(begin, channel)
    words = []

    async def learn(word):
        words.append(word)
        return len(words)

    async def tell(_):
        return words

    async def tell_elsewhere(_):
        return begin.served_elsewhere

    async def die(_):
        os._exit(7)

    async def relay(question):
        topic, payload, options = question
        answers = await peers.ask(topic, payload, **options)
        return [(answer.worker, answer.value, answer.error) for answer in answers]

    for handler in (learn, tell, tell_elsewhere, die, relay):
        peers.on(handler.__name__, handler)
    listening = asyncio.create_task(peers.listen())
    await peers.catch_up()
    channel.send(Ready({"tiny": [begin.number + 1], "failed": []}))
    beating = asyncio.create_task(_send_heartbeats(channel))
    await peers.drain.wait()
    beating.cancel()
    await channel.close()
    listening.cancel()


asyncio.run(work(socket.socket(fileno=int(sys.argv[1]))))
