"""The table of sessions: whose is whose, how many, and in pages."""

import pytest
from fake_front import bench

from service.config import Limits
from service.errors import InvalidRequest, SessionNotFound, TooManySessions


def test_a_client_finds_only_its_own_sessions() -> None:
    given = bench()
    mine = given.session("cam", client="me")
    theirs = given.session("cam", client="them")
    table = given.front.table
    assert (table.get("me", "cam"), table.get("them", "cam")) == (mine, theirs)
    assert table.get("stranger", "cam") is None


def test_ids_that_the_server_chooses_are_long_and_different() -> None:
    given = bench()
    ids = {given.session("").session_id for _ in range(50)}
    assert len(ids) == 50
    assert min(map(len, ids)) >= 22


async def test_one_session_over_the_limit_is_refused_until_another_ends() -> None:
    given = bench(Limits(max_sessions=2))
    first = given.session("1")
    given.session("2")
    with pytest.raises(TooManySessions, match="max_sessions is 2"):
        given.session("3")
    await given.front.table.end(first, SessionNotFound("deleted"))
    given.session("3")


async def test_pages_show_every_session_of_the_client_once() -> None:
    given = bench()
    sessions = [given.session(str(number)) for number in range(5)]
    given.session("other", client="them")
    table = given.front.table
    first = table.page("me", 2, "")
    await table.end(sessions[1], SessionNotFound("deleted"))
    second = table.page("me", 2, first.next_token)
    third = table.page("me", 2, second.next_token)
    shown = [session.session_id for page in (first, second, third) for session in page.sessions]
    assert (shown, third.next_token) == (["0", "1", "2", "3", "4"], "")


@pytest.mark.parametrize(("size", "token"), [(-1, ""), (1, "x"), (1, "²"), (1, "9" * 19), (1, "9" * 5000)])
def test_a_page_that_cannot_be_is_refused(size: int, token: str) -> None:
    with pytest.raises(InvalidRequest):
        bench().front.table.page("me", size, token)
