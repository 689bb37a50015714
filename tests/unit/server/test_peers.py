"""Tests of imagemint.server.peers for a single worker."""

import asyncio

from imagemint.server.peers import Answer, Peers, Refused


async def test_single_worker_answers_itself():
    """The answer is the result of its handler."""
    peers = Peers()

    async def double(payload):
        return 2 * payload

    peers.on("double", double)
    assert await peers.ask("double", 21, remember_as="x") == [Answer(0, 42)]


async def test_failure_is_an_answer():
    """A failing handler and a missing handler give an answer with an error."""
    peers = Peers(3)

    async def fail(_):
        raise ValueError("no such thing")

    peers.on("fail", fail)
    assert await peers.ask("fail") == [Answer(3, error="no such thing")]
    assert await peers.ask("tpyo") == [Answer(3, error="nothing answers 'tpyo'")]


async def test_refusal_is_an_answer_with_a_value():
    """The answer has the value of the refusal and counts as a failure."""
    peers = Peers()

    async def refuse(payload):
        raise Refused((payload, "no"))

    peers.on("refuse", refuse)
    assert await peers.ask("refuse", 7) == [Answer(0, (7, "no"), error="refused")]


async def test_questions_of_a_topic_run_in_turn():
    """The second question starts when the first has ended. Other topics do not wait."""
    peers = Peers()
    begun, first, free = [], asyncio.Event(), asyncio.Event()

    async def slow(payload):
        begun.append(payload)
        first.set()
        await free.wait()

    async def quick(payload):
        begun.append(payload)

    peers.on("slow", slow)
    peers.on("quick", quick)
    waiting = [asyncio.create_task(peers.ask("slow", number)) for number in (1, 2)]
    await first.wait()
    await peers.ask("quick", "q")
    assert begun == [1, "q"]
    free.set()
    await asyncio.gather(*waiting)
    assert begun == [1, "q", 2]
