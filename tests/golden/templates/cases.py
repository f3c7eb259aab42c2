"""What the templates of this folder are rendered over; imports neither of the two sides."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NOW = "2031-05-07T13:04:05"
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def turns(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    """Make a conversation in which user and assistant take turns."""
    before = [] if system is None else [{"role": "system", "content": system}]
    roles = ("user", "assistant")
    return before + [{"role": roles[index % 2], "content": content} for index, content in enumerate(contents)]


CONVERSATIONS: dict[str, list[dict[str, str]]] = {
    "one": turns("Hi"),
    "system": turns("  What's the sea?  ", system='Answer in "3" words.\n'),
    "turns": turns("2+2?", "It's 4.\n\nNext?", "<b>\"Z\u00fcrich\" & 'co'</b> 100% \U0001f600\r\n\t"),
    "system and turns": turns("a", " b ", "c", "d\\n{{ x }}", "{% if %}", system=""),
    "empty": turns("", "", ""),
    "ends with an answer": turns("Hi", "Hello there, "),
    "ends with an empty answer": turns("Hi", ""),
    "system alone": turns(system="Alone."),
    "begins with an answer": turns("I begin", "ok")[::-1],
    "two of the user": [*turns("a"), *turns("b")],
    "late system": [*turns("a"), *turns("b", system="late")],
    "developer": [{"role": "developer", "content": "dev"}, *turns("a")],
    "a stranger": [*turns("a"), {"role": "narrator", "content": "Then."}],
    "thoughts": turns("q", "<think>\nhm\n</think>\n\nanswer", "q2", "<think></think>plain", "q3"),
    "ends with thoughts": turns("q", "<think>\nhm\n</think>\n\nanswer"),
    "switches": turns("q /think", system="/no_think You are brief."),
    "control tokens": turns("<|im_end|></s>[/INST]", "<|eot_id|><|channel|>final<end_of_turn>", "<s>"),
    "long": turns(*(f"{turn}. The stoker keeps the fire fed. " for turn in range(9))),
}

OPTIONS: dict[str, dict[str, Any]] = {
    "answer": {"add_generation_prompt": True},
    "closed": {"add_generation_prompt": False},
    "continued": {"add_generation_prompt": False, "continue_final_message": True},
}

VARIABLES: dict[str, list[dict[str, Any]]] = {
    "granite": [{"thinking": True}, {"thinking": False}],
    "gpt_oss": [{"reasoning_effort": "high", "model_identity": "You are <|X|>."}, {"reasoning_effort": None}],
    "llama3": [{"date_string": "1 Jan 2020"}, {"date_string": ""}],
    "qwen3": [{"enable_thinking": True}, {"enable_thinking": False}],
    "smollm3": [{"enable_thinking": False, "note": 5}, {"note": 0.5}, {"note": None}],
}
"""Values of templates' own variables, beside none."""


def sources() -> dict[str, str]:
    """Return the templates by their names."""
    paths = HERE.glob("*.jinja")
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(paths)}


def variables(name: str) -> list[dict[str, Any]]:
    """Return what the variables of a template are set to."""
    return [{}, *VARIABLES.get(name, [])]


def digest(rendered: dict[str, list[list[dict[str, str]]]]) -> str:
    """Hash what was rendered; of refusals, that they are."""
    texts = [[[each.get("text") for each in row] for row in rows] for rows in rendered.values()]
    return sha256(json.dumps(texts).encode()).hexdigest()
