"""`LocalCodec`: text to token ids and back, without an engine."""

from stoker.core.errors import InvalidRequestError
from stoker.core.text import Prompt
from stoker.text.prompt import PromptEncoder
from stoker.text.tokenizer import Tokenizer


class LocalCodec:
    """A `TextCodec` over a model's tokenizer and chat template.

    Args:
        prompts: Encodes prompts, long ones in its threads.
        tokenizer: The model's tokenizer.
    """

    def __init__(self, prompts: PromptEncoder, tokenizer: Tokenizer) -> None:
        self._prompts = prompts
        self._tokenizer = tokenizer

    async def tokenize(self, prompt: Prompt) -> list[int]:
        """Return the prompt's token ids.

        Raises:
            InvalidRequestError: The model cannot take the prompt.
            ContextLengthError: The prompt is certain to exceed the context.
        """
        return await self._prompts.tokenize(prompt)

    def spellings(self, token_ids: list[int]) -> list[str]:
        """Return the tokens as the vocabulary spells them."""
        return [self._tokenizer.spelling(each) for each in token_ids]

    async def detokenize(self, token_ids: list[int]) -> str:
        """Return the text of tokens, control tokens spelt out; malformed UTF-8 gives U+FFFD.

        Raises:
            InvalidRequestError: A token id is outside the vocabulary.
        """
        return await self._prompts.run(len(token_ids), self._detokenize, token_ids)

    def _detokenize(self, token_ids: list[int]) -> str:
        size = self._tokenizer.vocab_size
        for index, each in enumerate(token_ids):
            if not 0 <= each < size:
                raise InvalidRequestError(
                    f"tokens[{index}] is {each}, expected a token id from 0 to {size - 1}.", param="tokens"
                )
        return b"".join(map(self._tokenizer.token_bytes, token_ids)).decode(errors="replace")
