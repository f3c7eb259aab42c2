"""Search texts by their embeddings, with the official OpenAI client and a running `stoker serve`."""

from openai import OpenAI

TEXTS = ["The cat sleeps on the sofa.", "Banks raised interest rates.", "The train to Rome is late."]

client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")
answer = client.embeddings.create(model="smollm2-135m-instruct", input=["A dog lies on the bed.", *TEXTS])
query, *vectors = (each.embedding for each in answer.data)
scores = [sum(a * b for a, b in zip(query, vector, strict=True)) for vector in vectors]
for score, text in sorted(zip(scores, TEXTS, strict=True), reverse=True):
    print(f"{score:.3f} {text}")
