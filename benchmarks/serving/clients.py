"""Other people's clients of OpenAI's API at a running endpoint, unchanged: does each call work?

    python -m benchmarks.serving.clients URL [--model NAME] [--key KEY]

Needs those of litellm, langchain-openai and llama-index-llms-openai-like that are to be tried, and nothing of
Headwater: it can run in an environment of its own. Exits with 1 if a call fails.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
from collections.abc import Callable
from typing import Any

QUESTION = "What is this about?"
SCHEMA = {
    "type": "object",
    "title": "digit",
    "description": "A digit.",
    "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["a"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": SCHEMA}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "digit", "schema": SCHEMA, "strict": True}}
Calls = dict[str, Callable[[], Any]]


def litellm(url: str, model: str, key: str) -> Calls:
    """The calls of LiteLLM."""
    lib: Any = importlib.import_module("litellm")
    where = {"api_base": url, "api_key": key}
    ask = where | {"model": f"openai/{model}", "messages": [{"role": "user", "content": QUESTION}]}
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    return {
        "completion": lambda: lib.completion(**ask, max_tokens=20).choices[0].message.content,
        "async": lambda: asyncio.run(lib.acompletion(**ask, max_tokens=20)).choices[0].message.content,
        "stream": lambda: [*lib.completion(**ask, stream=True, max_tokens=20)],
        "stream with usage": lambda: [*lib.completion(**ask, **usage, max_tokens=20)][-1].usage,
        "tools": lambda: (
            lib.completion(**ask, tools=[TOOL], tool_choice="required", max_tokens=80)
            .choices[0]
            .message.tool_calls
        ),
        "JSON schema": lambda: (
            lib.completion(**ask, response_format=FORMAT, max_tokens=40).choices[0].message.content
        ),
        "embedding": lambda: lib.embedding(**where, model=f"openai/{model}", input=["a", "b"]).data[1],
        "text": lambda: (
            lib.text_completion(
                **where, model=f"text-completion-openai/{model}", prompt="The", max_tokens=5
            ).choices
        ),
        "responses": lambda: (
            lib.responses(**where, model=f"openai/{model}", input=QUESTION, max_output_tokens=20).output
        ),
        "unknown model": lambda: _refused(lambda: lib.completion(**ask | {"model": "openai/no-such-model"})),
    }


def langchain(url: str, model: str, key: str) -> Calls:
    """The calls of LangChain."""
    lib: Any = importlib.import_module("langchain_openai")
    where = {"base_url": url, "api_key": key, "model": model}
    chat = lib.ChatOpenAI(**where, max_tokens=80)
    embed = lib.OpenAIEmbeddings(**where, check_embedding_ctx_length=False)
    return {
        "invoke": lambda: chat.invoke(QUESTION).content,
        "stream": lambda: [*chat.stream(QUESTION)],
        "batch": lambda: chat.batch([QUESTION] * 3)[2].content,
        "structured output": lambda: chat.with_structured_output(SCHEMA).invoke("x")["a"] in range(10),
        "structured output by a function": lambda: (
            chat.with_structured_output(SCHEMA, method="function_calling").invoke("x")["a"] in range(10)
        ),
        "bind_tools": lambda: chat.bind_tools([TOOL], tool_choice="look").invoke("x").tool_calls,
        "logprobs": lambda: (
            chat.bind(logprobs=True, top_logprobs=2).invoke("x").response_metadata["logprobs"]["content"]
        ),
        "embeddings": lambda: embed.embed_documents(["a", "b"])[1],
        "completions": lambda: lib.OpenAI(**where, max_tokens=5).invoke("The") is not None,
        "responses": lambda: (
            lib.ChatOpenAI(**where, use_responses_api=True, max_tokens=20).invoke(QUESTION).content
        ),
    }


def llama_index(url: str, model: str, key: str) -> Calls:
    """The calls of LlamaIndex."""
    lib: Any = importlib.import_module("llama_index.llms.openai_like")
    llms: Any = importlib.import_module("llama_index.core.llms")
    tools: Any = importlib.import_module("llama_index.core.tools")
    where = {"api_base": url, "api_key": key, "model": model, "context_window": 512, "max_tokens": 80}
    chat = lib.OpenAILike(**where, is_chat_model=True, is_function_calling_model=True)
    plain = lib.OpenAILike(**where, is_chat_model=False)
    asked = [llms.ChatMessage(role="user", content=QUESTION)]

    def look(a: int) -> int:
        """Looks."""
        return a

    tool = tools.FunctionTool.from_defaults(look)
    return {
        "chat": lambda: chat.chat(asked).message.content,
        "stream": lambda: [*chat.stream_chat(asked)],
        "complete": lambda: chat.complete(QUESTION).text,
        "completions": lambda: plain.complete("The") is not None,
        "stream of completions": lambda: [*plain.stream_complete("The")],
        "tools": lambda: chat.get_tool_calls_from_response(
            chat.chat_with_tools([tool], user_msg="x", tool_required=True, max_tokens=80)
        ),
    }


CLIENTS = {"litellm": litellm, "langchain": langchain, "llama_index": llama_index}


def _refused(call: Callable[[], Any]) -> str:
    try:
        call()
    except Exception as error:  # noqa: BLE001  each client has errors of its own
        return str(error)
    raise AssertionError("was not refused")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("url", help="of the endpoint, such as http://127.0.0.1:8000")
    parser.add_argument("--model", default="headwater", help="its name for clients")
    parser.add_argument("--key", default="none")
    options = parser.parse_args()
    failed = 0
    for name, client in CLIENTS.items():
        try:
            calls = client(f"{options.url}/v1", options.model, options.key)
        except ImportError as error:
            print(f"{name}: skipped ({error})")
            continue
        for what, call in calls.items():
            try:
                told = "works" if call() else "gives nothing"
            except Exception as error:  # noqa: BLE001  whatever it is, it is told
                told = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            failed += told != "works"
            print(f"{name}, {what}: {told}")
    raise SystemExit(failed > 0)


if __name__ == "__main__":
    main()
