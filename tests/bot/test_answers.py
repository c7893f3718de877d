"""A machine's memory of what it was asked."""

from bot.answers import KEPT_BYTES, KEPT_REQUESTS, Answers
from bot.protocol import Request, Response


def request(name: str) -> Request:
    return Request(id=name, method="GET", path="")


def answer(name: str, size: int = 1) -> Response:
    return Response(id=name, status=200, body="x" * size)


def test_a_request_is_new_once_and_its_answer_is_found_again():
    answers = Answers()
    assert answers.is_new(request("a"))
    assert not answers.is_new(request("a"))
    assert answers.find(request("a")) is None
    answers.keep(answer("a"))
    assert answers.find(request("a")) == answer("a")
    assert not answers.is_new(request("a"))
    assert answers.is_new(request("b"))


def test_the_newest_answers_are_kept_and_no_more_bytes_than_allowed():
    answers = Answers()
    third = KEPT_BYTES // 3
    for name in "abcd":
        answers.is_new(request(name))
        answers.keep(answer(name, third))
    assert [name for name in "abcd" if answers.find(request(name))] == ["b", "c", "d"]
    assert not answers.is_new(request("a")), "it still does not run again"
    answers.keep(answer("b", third))
    assert answers.find(request("b"))


def test_a_thousand_requests_are_remembered():
    answers = Answers()
    for number in range(KEPT_REQUESTS + 1):
        assert answers.is_new(request(str(number)))
        answers.keep(answer(str(number), 100))
    assert not answers.is_new(request("1"))
    assert answers.is_new(request("0"))


def test_an_answer_to_nothing_is_not_kept():
    answers = Answers()
    answers.keep(answer("never-asked"))
    assert answers.find(request("never-asked")) is None
