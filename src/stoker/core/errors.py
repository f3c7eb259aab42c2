"""The one exception tree.

Everything that Stoker raises on purpose derives from `StokerError`::

    StokerError
    ├── RequestError              the caller can fix it
    │   ├── InvalidRequestError       a field is malformed or out of range         400
    │   │   ├── ContextLengthError    prompt + output do not fit the context       400
    │   │   └── UnsupportedFieldError a known field that is not supported          400
    │   ├── AuthenticationError       no key, or a wrong one                       401
    │   ├── ForbiddenError            not from there, or not under that name       403
    │   ├── ModelNotFoundError        no such model is served                      404
    │   ├── PinNotFoundError          no such prefix is pinned                     404
    │   ├── ConflictError             what is asked for contradicts what is        409
    │   ├── PayloadTooLargeError      the body is over the limit                   413
    │   ├── RequestTimeoutError       the body did not arrive in time              408
    │   ├── SlowReaderError           the client reads its stream too slowly       408
    │   └── ClientGoneError           the client left before the answer was done   (499, in logs only)
    ├── CapacityError             the caller can try again later
    │   ├── QueueFullError            every place is taken; carries retry_after_s  429
    │   ├── QueueTimeoutError         its turn did not come in time; likewise      429
    │   ├── DeadlineError             it was not finished in its time limit        504
    │   ├── NotReadyError             no engine is ready                           503
    │   └── ShuttingDownError         the server takes no more requests            503
    ├── EngineError               a fault of ours
    │   ├── EngineDiedError           the engine process ended under a request     500
    │   └── RequestQuarantinedError   engine processes die of this request         500
    ├── ModelError                a model cannot be fetched, read or loaded
    │   ├── UnknownModelError         neither the catalogue nor the disk has it
    │   ├── SourceError               a download failed or its checksum is wrong
    │   ├── CorruptFileError          a file is truncated or malformed
    │   ├── UnsupportedModelError     a well-formed file that Stoker cannot run
    │   └── OutOfMemoryError          weights or KV cache do not fit the machine
    └── SettingsError             a setting is wrong, or two contradict each other

The status codes are those of the OpenAI dialect; each dialect has one table that maps the classes
to its own shape. A message says what was wrong, what was expected and what to do.
"""


class StokerError(Exception):
    """Base of every error that Stoker raises on purpose; `str(error)` is for the person reading it."""


class RequestError(StokerError):
    """The request cannot be served as it is; the caller can fix it."""


class InvalidRequestError(RequestError):
    """A field is malformed or out of range.

    Args:
        message: What was wrong, what was expected and what to do.
        param: The field's path in the request (``messages.0.content``), or None for the whole.
        code: A short machine-readable reason, as the dialect spells them, or None.
    """

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class ContextLengthError(InvalidRequestError):
    """Prompt and requested output together exceed the model's context; the message says by how much."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message, param=param, code="context_length_exceeded")


class UnsupportedFieldError(InvalidRequestError):
    """A field of the dialect that would change the answer and is not supported."""

    def __init__(self, message: str, *, param: str) -> None:
        super().__init__(message, param=param, code="unsupported_parameter")


class AuthenticationError(RequestError):
    """No API key was sent, or a wrong one."""


class ModelNotFoundError(RequestError):
    """The request names a model that this server does not serve.

    Args:
        message: Which one, and which there are.
        param: The request's field that names it.
    """

    def __init__(self, message: str, *, param: str = "model") -> None:
        super().__init__(message)
        self.param = param


class PinNotFoundError(RequestError):
    """The request names a pinned prefix that there is not."""


class ForbiddenError(RequestError):
    """The request comes from where, or is addressed to a name that, this server does not answer."""


class ConflictError(RequestError):
    """The request contradicts the state of the server, such as loading a model that is loaded."""


class PayloadTooLargeError(RequestError):
    """The request body is over the configured limit."""


class RequestTimeoutError(RequestError):
    """The request body did not arrive in the time allowed."""


class SlowReaderError(RequestError):
    """The client leaves too much of its stream unread."""


class ClientGoneError(RequestError):
    """The client closed the connection; nobody reads this error, logs and metrics count it as 499."""


class CapacityError(StokerError):
    """Nothing is wrong with the request; the server cannot take it now."""


class QueueFullError(CapacityError):
    """Every running and waiting place is taken; `retry_after_s` is when to try again."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QueueTimeoutError(CapacityError):
    """The request's turn did not come within its queue time limit; `retry_after_s` is when to try again."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineError(CapacityError):
    """The request was not finished within its time limit."""


class NotReadyError(CapacityError):
    """No engine is ready to produce a token."""


class ShuttingDownError(CapacityError):
    """The server finishes what it has and takes nothing new."""


class EngineError(StokerError):
    """The engine failed under a request."""


class EngineDiedError(EngineError):
    """The engine process ended while it held a request."""


class RequestQuarantinedError(EngineError):
    """Engine processes die of this request, so it is not given to another one for a while."""


class ModelError(StokerError):
    """A model cannot be fetched, read or loaded."""


class UnknownModelError(ModelError):
    """Neither the catalogue nor the model store nor the disk knows this name."""


class SourceError(ModelError):
    """A model could not be fetched from its source, or what arrived has the wrong checksum."""


class CorruptFileError(ModelError):
    """A model file is truncated or malformed."""


class UnsupportedModelError(ModelError):
    """A well-formed model file whose architecture, tensor types or tokenizer Stoker cannot run."""


class OutOfMemoryError(ModelError):
    """Weights or KV cache do not fit the memory that this process may use."""


class SettingsError(StokerError):
    """A setting is wrong, or two settings contradict each other."""
