"""Tests of questions to all workers: recipients, timeouts and remembered commands."""

import asyncio

import pytest

from imagemint.server.processes.messages import Answers, Ask, Question, Reply
from imagemint.server.processes.questions import Questions


class Asked:
    """A keeper of a worker that replies when the test says so."""

    def __init__(self, number, *, ready=True):
        self.number = number
        self.ready = ready
        self.sent = asyncio.Queue()

    def send(self, message):
        """Records a message to the worker."""
        self.sent.put_nowait(message)


@pytest.fixture
def questions():
    """The questions of a supervisor."""
    return Questions()


@pytest.fixture
def keepers():
    """The keepers of two ready workers."""
    return [Asked(0), Asked(1)]


async def reply(questions, keeper, value=b"", error=""):
    """Replies to the next question as this worker."""
    question = await keeper.sent.get()
    questions.record_reply(Reply(question.id, keeper.number, value, error))
    return question


async def test_replies_are_in_the_order_of_workers(questions, keepers):
    """The order of replies does not depend on which worker was first."""
    asking = asyncio.create_task(questions.ask(keepers, "sum", b"7", timeout_s=60))
    for keeper, value in ((keepers[1], b"b"), (keepers[0], b"a")):
        assert (await reply(questions, keeper, value)).payload == b"7"
    assert [(each.worker, each.value) for each in await asking] == [(0, b"a"), (1, b"b")]


async def test_dead_worker_is_an_error(questions, keepers):
    """The result has the replies of the other workers."""
    asking = asyncio.create_task(questions.ask(keepers, "sum", b"", timeout_s=60))
    await reply(questions, keepers[0], b"a")
    questions.record_death(1)
    assert [each.error for each in await asking] == ["", "worker 1 died"]


async def test_late_worker_is_an_error(questions, keepers):
    """A reply after the timeout is ignored."""
    (late,) = await questions.ask(keepers[1:], "sum", b"", timeout_s=0)
    assert late.error == "worker 1 did not answer in time"
    await reply(questions, keepers[1], b"late")


async def test_no_ready_worker_gives_no_reply(questions):
    """A question is answered at once with no replies if all workers are starting."""
    keeper = Asked(0, ready=False)
    assert await questions.ask([keeper], "sum", b"", timeout_s=60) == []
    assert keeper.sent.empty()


async def test_command_without_a_ready_worker_is_remembered(questions):
    """Workers that are starting get the command, and so do later ones."""
    keeper = Asked(0, ready=False)
    asked = await questions.ask([keeper], "do", b"1", timeout_s=60, remember_as="it")
    assert asked == []
    assert questions.remembered == (keeper.sent.get_nowait(),)


async def test_last_command_of_a_name_is_remembered(questions, keepers):
    """Later workers get the last command. A starting worker gets it, but is not waited for."""
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
async def test_command_that_failed_everywhere_is_forgotten(questions, keepers, errors, kept):
    """A later worker does not get a command that failed in every worker."""
    asking = asyncio.create_task(questions.ask(keepers, "do", b"", timeout_s=60, remember_as="it"))
    for keeper, error in zip(keepers, errors, strict=True):
        await reply(questions, keeper, error=error)
    await asking
    assert len(questions.remembered) == kept


async def test_failure_keeps_the_previous_command(questions, keepers):
    """A later worker gets the last command that succeeded."""
    for payload, error in ((b"1", ""), (b"2", "no")):
        asking = asyncio.create_task(
            questions.ask(keepers, "do", payload, timeout_s=60, remember_as="it")
        )
        for keeper in keepers:
            await reply(questions, keeper, error=error)
        await asking
    assert [each.payload for each in questions.remembered] == [b"1"]


async def test_asking_worker_gets_all_replies(questions, keepers):
    """The replies include its own and have the number of its question."""
    questions.pass_on(keepers, keepers[0], Ask(41, "sum", b"", "", 60.0))
    for keeper in keepers:
        await reply(questions, keeper, b"x")
    answers = await keepers[0].sent.get()
    assert not isinstance(answers, Question)
    assert answers == Answers(41, answers.replies)
    assert [each.worker for each in answers.replies] == [0, 1]
