"""One choice's tokens to its text: detokenizing, stop strings and log-probabilities together."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from stoker.core.early_exit import EarlyExit
from stoker.core.text import TextDelta, TextLogprob
from stoker.core.tokens import FinishReason, TokensEvent
from stoker.text.detokenize import Detokenizer
from stoker.text.exit_watch import ExitWatch
from stoker.text.logprobs import text_logprob
from stoker.text.stops import StopMatcher
from stoker.text.tokenizer import Tokenizer


@dataclass(slots=True)
class _PendingLogprob:
    """A token's log-probability that waits for the token's text to become visible.

    Attributes:
        entry: What to report.
        start: Characters of the choice before the token.
        end: Characters of the choice up to and including the last that the token is part of.
    """

    entry: TextLogprob
    start: int
    end: int


class ChoiceText:
    """Turns the token events of one choice into text deltas.

    Args:
        choice: Index of the choice.
        tokenizer: The model's tokenizer.
        stops: The request's stop strings.
        stop_token_ids: Tokens that end the choice, as the engine was told.
        report: Whether log-probabilities that come are reported.
        report_end: Whether that of the token that ends the choice is too.
        held: The beginning of a character that comes before the choice.
        answers: It is an answer and does not go on with a text: a space in front that the tokenizer
            puts before any text is no part of it.
        watch: Ends it when the model is not sure enough; needs log-probabilities.

    Attributes:
        n_tokens: Tokens generated so far, up to the one that completed a stop string.
        finish_reason: Why the choice ended; None while it goes on.
        stop_string: The stop string that ended it, or None.
        logprob: Sum of the log-probabilities of those tokens; 0 if none came.
    """

    def __init__(
        self,
        choice: int,
        tokenizer: Tokenizer,
        stops: Sequence[str],
        stop_token_ids: frozenset[int],
        *,
        report: bool = True,
        report_end: bool = False,
        held: bytes = b"",
        answers: bool = False,
        watch: ExitWatch | None = None,
    ) -> None:
        self._choice = choice
        self._tokenizer = tokenizer
        self._stop_token_ids = stop_token_ids
        self._report = report
        self._report_end = report_end
        self._detokenizer = Detokenizer(held)
        self._drops_space = answers and tokenizer.adds_space
        self._matcher = StopMatcher(stops) if stops else None
        self._watch = watch
        self._stopped = False
        self._logprobs: deque[_PendingLogprob] = deque()
        self._n_decoded = 0
        self._n_visible = 0
        self.n_tokens = 0
        self.finish_reason: FinishReason | None = None
        self.stop_string: str | None = None
        self.logprob = 0.0

    def feed(self, event: TokensEvent) -> TextDelta | None:
        """Take an event; return what becomes visible by it, or None when that is nothing."""
        if self._matcher is None and not event.logprobs:
            visible = self._take_all(event)
        else:
            visible = self._take_each(event)
        if self._stopped and self.finish_reason is None:
            visible += self._finish(FinishReason.STOP)
        elif event.finish_reason is not None and self.finish_reason is None:
            if self._watch is not None and event.finish_reason is FinishReason.STOP and not self._ends(event):
                self._watch.complete()
            visible += self._finish(event.finish_reason)
        self._n_visible += len(visible)
        logprobs = self._due_logprobs()
        return TextDelta(self._choice, visible, logprobs) if visible or logprobs else None

    @property
    def early_exit(self) -> EarlyExit | None:
        """What is told of an early end; None if there was no rule for one."""
        return None if self._watch is None else self._watch.told

    def _take_all(self, event: TokensEvent) -> str:
        self.n_tokens += len(event.token_ids)
        shown = event.token_ids[:-1] if self._ends(event) else event.token_ids
        return self._detokenizer.feed(self._begin(b"".join(map(self._tokenizer.text_bytes, shown))))

    def _begin(self, data: bytes) -> bytes:
        """Return what is part of the choice of its next bytes."""
        if not self._drops_space or not data:
            return data
        self._drops_space = False
        return data.removeprefix(b" ")

    def _ends(self, event: TokensEvent) -> bool:
        """Whether the event's last token ended the choice, of whose text it is no part."""
        return event.finish_reason is FinishReason.STOP and event.token_ids[-1] in self._stop_token_ids

    def _take_each(self, event: TokensEvent) -> str:
        visible = ""
        for index, token_id in enumerate(event.token_ids):
            self.n_tokens += 1
            logprob = event.logprobs[index] if event.logprobs else None
            if logprob is not None:
                self.logprob += logprob.logprob
            ends = index + 1 == len(event.token_ids) and self._ends(event)
            start = self._n_decoded
            added = b"" if ends else self._begin(self._tokenizer.text_bytes(token_id))
            text = self._detokenizer.feed(added)
            self._n_decoded += len(text)
            if logprob is not None and self._report and (self._report_end or not ends):
                end = self._n_decoded + bool(self._detokenizer.held)
                entry = text_logprob(self._tokenizer, token_id, logprob, added=added)
                self._logprobs.append(_PendingLogprob(entry, start, end))
            visible += self._match(text)
            if logprob is not None and self._watch is not None and not ends and self.finish_reason is None:
                self._stopped = self._watch.take(logprob.logprob)
            if self.finish_reason is not None or self._stopped:
                break
        return visible

    def _match(self, text: str) -> str:
        """Pass text through the stop strings."""
        if self._matcher is None:
            return text
        visible = self._matcher.feed(text)
        if self._matcher.matched is not None:
            self.finish_reason = FinishReason.STOP
            self.stop_string = self._matcher.matched
        return visible

    def _finish(self, reason: FinishReason) -> str:
        """Release what is held; the last character may still complete a stop string."""
        tail = self._detokenizer.flush()
        self._n_decoded += len(tail)
        visible = self._match(tail)
        if self.finish_reason is None:
            self.finish_reason = reason
            if self._matcher is not None:
                visible += self._matcher.flush()
        return visible

    def _due_logprobs(self) -> tuple[TextLogprob, ...]:
        """Take out the log-probabilities of tokens whose text is visible in full.

        At the end also of those whose beginning is: the first characters of a token that a stop
        string cuts. Tokens wholly inside the stop string are not reported.
        """
        due = []
        while self._logprobs:
            first = self._logprobs[0]
            cut = self.stop_string is not None and first.start < self._n_visible
            if first.end > self._n_visible and not cut:
                break
            due.append(self._logprobs.popleft().entry)
        return tuple(due)
