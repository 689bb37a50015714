"""Questions to all workers: who is asked, who is waited for, and what is remembered."""

import asyncio

import pytest

from imagemint.server.processes.messages import Answers, Ask, Question, Reply
from imagemint.server.processes.questions import Questions


class Asked:
    """The keeper of a worker that answers when the test says so."""

    def __init__(self, number, *, ready=True):
        self.number = number
        self.ready = ready
        self.sent = asyncio.Queue()

    def send(self, message):
        """Takes what the worker would be told."""
        self.sent.put_nowait(message)


@pytest.fixture
def questions():
    """Of a supervisor."""
    return Questions()


@pytest.fixture
def keepers():
    """Of two workers that are ready."""
    return [Asked(0), Asked(1)]


async def reply(questions, keeper, value=b"", error=""):
    """Has a worker reply to the next question that it got."""
    question = await keeper.sent.get()
    questions.replied(Reply(question.id, keeper.number, value, error))
    return question


async def test_replies_come_in_order_of_workers(questions, keepers):
    """Whoever was first."""
    asking = asyncio.create_task(questions.ask(keepers, "sum", b"7", timeout_s=60))
    for keeper, value in ((keepers[1], b"b"), (keepers[0], b"a")):
        assert (await reply(questions, keeper, value)).payload == b"7"
    assert [(each.worker, each.value) for each in await asking] == [(0, b"a"), (1, b"b")]


async def test_dead_worker_is_an_error(questions, keepers):
    """The others' replies are there all the same."""
    asking = asyncio.create_task(questions.ask(keepers, "sum", b"", timeout_s=60))
    await reply(questions, keepers[0], b"a")
    questions.died(1)
    assert [each.error for each in await asking] == ["", "worker 1 died"]


async def test_late_worker_is_an_error(questions, keepers):
    """Its reply, when it comes, disturbs nobody."""
    (late,) = await questions.ask(keepers[1:], "sum", b"", timeout_s=0)
    assert late.error == "worker 1 did not answer in time"
    await reply(questions, keepers[1], b"late")


async def test_nobody_ready_is_no_reply(questions):
    """A question to workers that are all starting is answered at once, by none of them."""
    keeper = Asked(0, ready=False)
    assert await questions.ask([keeper], "sum", b"", timeout_s=60) == []
    assert keeper.sent.empty()


async def test_what_nobody_was_ready_for_is_remembered(questions):
    """Those that start are told, and do it; so must those that come after them."""
    keeper = Asked(0, ready=False)
    asked = await questions.ask([keeper], "do", b"1", timeout_s=60, remember_as="it")
    assert asked == []
    assert questions.remembered == (keeper.sent.get_nowait(),)


async def test_last_of_a_name_is_remembered(questions, keepers):
    """For workers to come; what is starting now is told, and not waited for."""
    starting = Asked(2, ready=False)
    for name, payload in (("a", b"1"), ("b", b"2"), ("a", b"3")):
        asking = asyncio.create_task(
            questions.ask([*keepers, starting], "do", payload, timeout_s=60, remember_as=name)
        )
        for keeper in keepers:
            await reply(questions, keeper)
        assert len(await asking) == 2
        assert (await starting.sent.get()).payload == payload
    assert [each.payload for each in questions.remembered] == [b"2", b"3"]


@pytest.mark.parametrize(("errors", "kept"), [(("no", "no"), 0), (("no", ""), 1)])
async def test_what_failed_everywhere_is_forgotten(questions, keepers, errors, kept):
    """A worker to come has nothing to make up for."""
    asking = asyncio.create_task(questions.ask(keepers, "do", b"", timeout_s=60, remember_as="it"))
    for keeper, error in zip(keepers, errors, strict=True):
        await reply(questions, keeper, error=error)
    await asking
    assert len(questions.remembered) == kept


async def test_failure_leaves_what_was_remembered_before(questions, keepers):
    """What worked last is what a worker to come makes up for."""
    for payload, error in ((b"1", ""), (b"2", "no")):
        asking = asyncio.create_task(
            questions.ask(keepers, "do", payload, timeout_s=60, remember_as="it")
        )
        for keeper in keepers:
            await reply(questions, keeper, error=error)
        await asking
    assert [each.payload for each in questions.remembered] == [b"1"]


async def test_worker_that_asks_gets_all_answers(questions, keepers):
    """Its own included, under the number of its asking."""
    questions.pass_on(keepers, keepers[0], Ask(41, "sum", b"", "", 60.0))
    for keeper in keepers:
        await reply(questions, keeper, b"x")
    answers = await keepers[0].sent.get()
    assert not isinstance(answers, Question)
    assert answers == Answers(41, answers.replies)
    assert [each.worker for each in answers.replies] == [0, 1]
