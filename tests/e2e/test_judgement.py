"""The real server judges texts: the scores are those that completions and chats tell of the same prompts."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from stoker.testing.server_process import ServerProcess

pytestmark = pytest.mark.e2e

MODEL = "smollm2-135m-instruct"
DOCUMENTS = ["Interest rates rose.", "Most cats like fish. {query}", "Paris is a town in France."]
QUERY = "What do cats eat?"
PROMPT = "Query: {query}\nDocument: {document}\nIs the document an answer to the query, yes or no? It is:"
CHOICES = [" yes", " no", " not at all"]


def ask(server: ServerProcess, path: str, status: int = 200, **body: Any) -> Any:
    answer = httpx2.post(f"{server.url}{path}", json={"model": MODEL, **body}, timeout=60)
    assert answer.status_code == status, answer.text
    return answer.json()


def told(answer: Any) -> float:
    score: float = answer["choices"][0]["early_exit"]["scores"][CHOICES[0]]
    return score


def test_a_score_is_what_a_completion_says_of_its_first_choice(server: ServerProcess) -> None:
    before = server.metrics().get("stoker_early_exits_total", 0)
    ranking = ask(server, "/v1/rerank", query=QUERY, documents=DOCUMENTS, choices=CHOICES, prompt=PROMPT)
    assert server.metrics()["stoker_early_exits_total"] - before == len(DOCUMENTS)
    scores = {result["index"]: result["relevance_score"] for result in ranking["results"]}
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    whole = [PROMPT.format(query=QUERY, document=document) for document in DOCUMENTS]
    answers = [ask(server, "/v1/completions", prompt=prompt, choices=CHOICES) for prompt in whole]
    assert [scores[index] for index in range(len(DOCUMENTS))] == list(map(told, answers))
    assert ranking["usage"]["prompt_tokens"] == sum(each["usage"]["prompt_tokens"] for each in answers)


def test_the_question_is_asked_by_the_chat_template(server: ServerProcess) -> None:
    scores = ask(server, "/v1/score", text_1=QUERY, text_2=DOCUMENTS, choices=CHOICES, instruction="Find it")
    system = (
        "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
        'Note that the answer can only be " yes", " no" or " not at all".'
    )
    expected = []
    for document in DOCUMENTS:
        question = f"<Instruct>: Find it\n<Query>: {QUERY}\n<Document>: {document}"
        messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
        expected.append(told(ask(server, "/v1/chat/completions", messages=messages, choices=CHOICES)))
    assert [each["score"] for each in scores["data"]] == expected


def test_company_changes_no_bit_of_a_ranking(server: ServerProcess) -> None:
    body: dict[str, Any] = {"query": QUERY, "documents": DOCUMENTS * 8, "choices": CHOICES}
    alone = ask(server, "/v1/rerank", **body)["results"]
    with ThreadPoolExecutor(4) as threads:
        chats = [
            threads.submit(ask, server, "/v1/completions", prompt="Once upon a time", max_tokens=24)
            for _ in range(2)
        ]
        together = list(threads.map(lambda _: ask(server, "/v1/rerank", **body)["results"], range(2)))
        assert all(chat.result()["choices"] for chat in chats)
    assert together == [alone] * 2


def test_what_does_not_fit_is_named(server: ServerProcess) -> None:
    error = ask(server, "/v1/rerank", 400, query=QUERY, documents=["a", "word " * 9000], choices=CHOICES[:2])[
        "error"
    ]
    assert (error["param"], error["code"]) == ("documents.1", "context_length_exceeded")
    error = ask(server, "/v1/score", 400, text_1="a", text_2="b", instruction="I")["error"]
    assert error["param"] == "instruction"
