"""Texts and templates that the tokenizer is compared on: our own words, and generated ones.

Read by the script that makes the golden files and by the tests; imports neither of the two sides.
"""

from collections.abc import Iterator

SECTION_CHARS = 40_000

PROSE = (
    "The stoker keeps the fire fed. He doesn't look at the sea, he can't; he listens to the boiler, and "
    "when it sighs he opens the door and throws in what it asks for. We've all met someone like that: "
    "they'll work while you're asleep, and they'd rather not be thanked. \u201cIt isn\u2019t "
    "heroism,\u201d he'd say, "
    "\u201cit\u2019s Tuesday.\u201d I'M SHOUTING, YOU'RE NOT; we'LL see who'S right. Caf\u00e9 "
    "na\u00efve fa\u00e7ade, "
    "Cafe\u0301 nai\u0308ve fac\u0327ade \u2014 the same words, spelt with combining marks. e.g. "
    "3.5%, \u00a342, #1, @you, a/b."
)

CODE = '''def fib(n: int) -> int:
    """Return the n-th Fibonacci number."""
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a  # O(n)

\tfor (size_t i = 0; i < n; ++i) { sum += (x[i] ^ 0xFF) >> 3; }\r
#include <stdio.h>
int main(void) { printf("%d\\n", 42); return 0; }
{"name": "caf\u00e9", "values": [1, 2.5e-3, null, true], "nested": {"a": {}}}
<div class="row"><a href="https://example.org/?q=1&amp;x=2">link</a></div>
SELECT id, COUNT(*) FROM runs WHERE t >= '2024-01-31' GROUP BY id;
$ find . -name '*.py' | xargs -n1 wc -l   # comment
const f = async (x) => { await g(x?.y ?? 0); };

'''

NUMBERS = (
    "0 1 12 123 1234 12345 123456 1,234,567.89 3.14159 1e10 0x1F 0b1010 2024-02-29T23:59:60Z "
    "1st 2nd x1 x12y 3D 4\u00d74 \u00bd \u00b2\u00b3 \u2167 \u2460 \u0663\u0664\u0665 \u0967\u0968\u0969 "
    "\uff11\uff12\uff13  7   8    9\t10\n11\n\n12 -5 +5 $6 %7 v1.2.3-rc4 "
)

SPACES = (
    "a b  c   d    e     f\tg\t\th \t i\nj\n\nk\n\n\nl\r\nm\r\n\r\nn \n o  \n  p\n   "
    "q\u00a0r\u2003s\u3000t\u200bu  "
    "\n\t\tv                w\n                        x   \n\n   \n"
)

EMOJI = (
    "\U0001f600\U0001f602 \U0001f44d\U0001f3fd\U0001f44d\U0001f3ff "
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 "
    "\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7 \u2764\ufe0f\u200d\U0001f525 \u2b50\ufe0e! :-) "
    "\U0001f9d1\U0001f3fb\u200d\U0001f680 "
    "#\ufe0f\u20e3 \u26a0\ufe0fno \U0001fae0\U0001f6f8 e\u0301\u0302\u0303 \u0938\u094d\u0924\u0947 "
    "\u0e01\u0e33 \uac01\u1100\u1161\u11a8 "
)

SCRIPTS = {
    "latin": (0x00C0, 0x024F),
    "greek": (0x0391, 0x03C9),
    "cyrillic": (0x0400, 0x04FF),
    "armenian": (0x0531, 0x0586),
    "hebrew": (0x05D0, 0x05EA),
    "arabic": (0x0620, 0x06D3),
    "devanagari": (0x0904, 0x0939),
    "bengali": (0x0985, 0x09B9),
    "tamil": (0x0B85, 0x0BB9),
    "thai": (0x0E01, 0x0E3A),
    "georgian": (0x10D0, 0x10FA),
    "ethiopic": (0x1200, 0x1248),
    "kana": (0x3041, 0x30FA),
    "han": (0x4E00, 0x9FA5),
    "hangul": (0xAC00, 0xD7A3),
    "gothic": (0x10330, 0x1034A),
    "mathematical": (0x1D400, 0x1D7FF),
}

SAMPLES = (
    "",
    " ",
    "Hello, world!",
    "  two spaces, 2 digits 42, don't",
    "1234567890 \u00bd \u0663\u0664",
    "x\n\n\n  y \t z   ",
    (
        "\u4f60\u597d\uff0c\u4e16\u754c\u3002\u041f\u0440\u0438\u0432\u0435\u0442 "
        "\u0645\u0631\u062d\u0628\u0627 \U0001f468\u200d\U0001f469\u200d\U0001f467"
    ),
    "Cafe\u0301 \u212b \ufb01",
)

SPECIAL_SAMPLES = (
    "<|im_start|>user\nHi<|im_end|>\n",
    "a <|endoftext|> b<|im_end|><|im_end|> c<|im_start",
    "<repo_name>x<file_sep>y <|im_end |>",
)

CONVERSATIONS: dict[str, list[dict[str, str]]] = {
    "one": [{"role": "user", "content": "Hi"}],
    "system": [
        {"role": "system", "content": "Answer in 3 words.\n"},
        {"role": "user", "content": "  What's the sea?  "},
    ],
    "turns": [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "It's 4.\n\nNext?"},
        {"role": "user", "content": "<b>\"Z\u00fcrich\" & 'co'</b> 100% \U0001f600\n\n"},
    ],
    "code": [{"role": "user", "content": CODE}],
    "empty": [{"role": "user", "content": ""}],
    "long": [
        {"role": ("user", "assistant")[turn % 2], "content": f"{turn}. {PROSE[turn * 7 :][:200]}"}
        for turn in range(21)
    ],
}

TEMPLATES = {
    "blocks": """
{%- for message in messages %}
    {% if loop.first and message['role'] == 'system' %}
        {{- '<<SYS>> ' + message['content'] | trim + ' <</SYS>>' }}
        {% continue %}
    {% endif %}
[{{ loop.index }}/{{ loop.length }}] {{ message.role | upper }}: {{ message['content'] | trim }}
    {%- if not loop.last %} |{% endif %}

{% endfor %}
{% if add_generation_prompt %}
ASSISTANT:
{% endif %}
""",
    "values": (
        "{{ bos_token }}{% set ns = namespace(n=0, last=none) %}"
        "{% for m in messages[::-1] %}{% if m.role == 'user' %}{% set ns.last = m %}{% break %}{% "
        "endif %}{% endfor %}"
        "{% macro turn(m, deep=2) %}{{ m | tojson }}|{{ m.content | tojson(indent=deep) }}{% endmacro %}"
        "{% for m in messages %}{% set ns.n = ns.n + m.content | length %}{{ turn(m) }}{{ eos_token "
        "}}{% endfor %}"
        "{{ ns.n }} {{ ns.last.content.split('\\n')[0] if ns.last else '-' }}"
        "{{ tools is none }} {{ documents is defined }} {{ missing is defined }}{{ missing }}"
        "{{ '%s-%02d' % ('x', 7) }} {{ 'ab' * 3 }} {{ 2 ** 5 }} {{ range(3) | list }} {{ 'a' ~ 1 }}"
        "{% generation %}{{ messages[-1].content | replace('<', '(') }}{% endgeneration %}"
    ),
    "dates": "Today is {{ strftime_now('%Y') | length }} long.{{ messages[0].content }}",
    "recursive": (
        "{% for x in [1, [2, [3, 4]], 5] recursive %}"
        "{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }},{% endif %}{% endfor %}{{ messages "
        "| length }}"
    ),
}


class Lcg:
    """Knuth's MMIX generator: the same numbers everywhere, forever."""

    def __init__(self, seed: int) -> None:
        self._state = seed

    def below(self, bound: int) -> int:
        self._state = (self._state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self._state >> 33) * bound >> 31


def sections() -> Iterator[tuple[str, str]]:
    """Yield names and texts, `SECTION_CHARS` long or a little more."""
    fixed = {"prose": PROSE, "code": CODE, "numbers": NUMBERS, "spaces": SPACES, "emoji": EMOJI}
    for seed, (name, text) in enumerate(fixed.items()):
        yield name, shuffle(text, Lcg(seed))
    yield "scripts", words(Lcg(100))
    yield "anything", "".join(code_point(rng) for rng in [Lcg(200)] for _ in range(SECTION_CHARS))
    yield "one word", "supercalifragilistic" * (SECTION_CHARS // 20)
    yield "one space", " " * 5000 + "x" + "\n" * 5000 + "x" + "\t " * 2500


def shuffle(text: str, rng: Lcg) -> str:
    """Join random slices of a text."""
    parts: list[str] = [text]
    size = len(text)
    while size < SECTION_CHARS:
        start = rng.below(len(text))
        part = text[start : start + 1 + rng.below(60)]
        parts.append(part)
        size += len(part)
    return "".join(parts)


def words(rng: Lcg) -> str:
    """Make words of each script's letters, with spaces and punctuation between."""
    parts: list[str] = []
    for low, high in SCRIPTS.values():
        for _ in range(SECTION_CHARS // 10 // len(SCRIPTS)):
            parts += [chr(low + rng.below(high - low + 1)) for _ in range(1 + rng.below(10))]
            parts.append((" ", " ", ", ", ". ", "\n", "-", "'s ", "\u3002")[rng.below(8)])
    return "".join(parts)


def code_point(rng: Lcg) -> str:
    """Pick a code point, assigned or not, that small vocabularies can spell too."""
    while True:
        value = rng.below((0x80, 0x800, 0x10000, 0x20000)[rng.below(4)])
        if 0x20 <= value < 0xD800 or value >= 0xE000:
            return chr(value)
