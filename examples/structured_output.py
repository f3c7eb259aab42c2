"""Have a running `stoker serve` answer in the shape of a Python type."""

from typing import Annotated

from openai import OpenAI
from pydantic import BaseModel, Field


class Person(BaseModel):
    """What the answer must be."""

    name: str = Field(max_length=40)
    age: int = Field(ge=0, le=150)
    hobbies: list[Annotated[str, Field(max_length=20)]] = Field(max_length=3)


client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")
stream = client.chat.completions.create(
    model="smollm2-135m-instruct",
    messages=[{"role": "user", "content": "Anna is 31 and likes chess and rowing. Who is she, as JSON?"}],
    response_format={
        "type": "json_schema",
        "json_schema": {"name": "person", "schema": Person.model_json_schema(), "strict": True},
    },
    max_tokens=300,
    temperature=0,
    stream=True,
)
answer = ""
for chunk in stream:
    piece = chunk.choices[0].delta.content or ""
    answer += piece
    print(piece, end="", flush=True)
print("\n", Person.model_validate_json(answer))
