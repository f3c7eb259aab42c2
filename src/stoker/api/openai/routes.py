"""The dialect's routes."""

from concurrent.futures import Executor

from starlette.routing import Route

from stoker.api.limits import ApiLimits
from stoker.api.openai.chat_answer import ChatAnswer
from stoker.api.openai.chat_request import parse_chat
from stoker.api.openai.classify import parse_classify
from stoker.api.openai.completion_answer import CompletionAnswer
from stoker.api.openai.completion_request import parse_completion
from stoker.api.openai.embedding_request import parse_embedding
from stoker.api.openai.generation import Endpoint, Generation
from stoker.api.openai.models import ModelDetail, ModelList
from stoker.api.openai.rerank_request import parse_rerank, parse_score
from stoker.api.openai.text_jobs import ParseTextJob, TextJobs
from stoker.api.openai.tokenization import Detokenize, Tokenize
from stoker.api.served import ServedModels
from stoker.observe.metrics import Metrics

CHAT = Endpoint(parse_chat, ChatAnswer, "chatcmpl-")
COMPLETION = Endpoint(parse_completion, CompletionAnswer, "cmpl-")


def openai_routes(
    *, models: ServedModels, limits: ApiLimits, metrics: Metrics, parser: Executor
) -> list[Route]:
    """Return the routes under ``/v1``, and those that turn text to tokens and back."""

    def generation(endpoint: Endpoint) -> Generation:
        return Generation(endpoint, models=models, limits=limits, metrics=metrics, parser=parser)

    def measure(parse: ParseTextJob) -> TextJobs:
        return TextJobs(parse, models=models, limits=limits, metrics=metrics, parser=parser)

    return [
        Route("/v1/chat/completions", generation(CHAT), methods=["POST"]),
        Route("/v1/completions", generation(COMPLETION), methods=["POST"]),
        Route("/v1/embeddings", measure(parse_embedding), methods=["POST"]),
        Route("/v1/rerank", measure(parse_rerank), methods=["POST"]),
        Route("/rerank", measure(parse_rerank), methods=["POST"]),
        Route("/v1/score", measure(parse_score), methods=["POST"]),
        Route("/score", measure(parse_score), methods=["POST"]),
        Route("/v1/classify", measure(parse_classify), methods=["POST"]),
        Route("/classify", measure(parse_classify), methods=["POST"]),
        Route("/v1/models", ModelList(models), methods=["GET"]),
        Route("/v1/models/{model:path}", ModelDetail(models), methods=["GET"]),
        Route("/tokenize", Tokenize(models, limits, parser), methods=["POST"]),
        Route("/detokenize", Detokenize(models, limits, parser), methods=["POST"]),
    ]
