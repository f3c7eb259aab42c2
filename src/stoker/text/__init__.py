"""The text side of an engine: chat templates, tokenizing, detokenizing, stop strings.

`LocalGenerator` turns a `TokenEngine` (token ids) into a `Generator` (text). Nothing here knows HTTP.
"""

from stoker.text.generator import LocalGenerator
from stoker.text.template import ChatTemplate
from stoker.text.tokenizer import Tokenizer

__all__ = ["ChatTemplate", "LocalGenerator", "Tokenizer"]
