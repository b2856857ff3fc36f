"""Check of generation: the engine's tokens and log-probabilities against transformers' plain forward."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from headwater.llm.selftest.checks import Found
from headwater.llm.selftest.place import Place
from headwater.llm.selftest.training import Precision, Sizes, sharp

BOUND = {"fp32": 1e-4, "bf16": 0.1, "fp16": 0.02}
"""Nats by which a log-probability may differ, and by which a token may be behind the likeliest."""
PROMPTS, TOKENS = (3, 11, 20), 16
"""Lengths of the prompts, which share a batch; tokens of each completion."""


def generated(sizes: Sizes, place: Place, precision: Precision) -> Iterator[Found]:
    """Greedy completions of prompts in one batch. A plain loop without a cache reads each alone, token by
    token; it must find each token the likeliest, as likely as the engine said."""
    likeliest, behind, apart = place.run(completions, sizes, place.device, precision)
    bound = BOUND[precision]
    yield Found(
        behind <= bound and apart <= bound,
        f"{likeliest} of {len(PROMPTS) * TOKENS} tokens the likeliest, {behind:.1e} nats behind at most; "
        f"log-probabilities off by {apart:.1e}",
        f"at most {bound:g} nats",
    )


def completions(sizes: Sizes, device: str, precision: Precision) -> tuple[int, float, float]:
    """Tokens that the plain loop finds likeliest; the most nats by which one is behind the likeliest; the
    largest difference of a log-probability."""
    import torch

    from headwater.data_pipeline.tokens.tokenizer import train, wrap
    from headwater.llm.hardware.precision import torch_dtype
    from headwater.llm.inference.base import Sampling
    from headwater.llm.inference.torch_engine import TorchEngine

    model: Any = sharp(sizes).to(device, torch_dtype(precision))
    engine = TorchEngine(model, wrap(train(["a b c"], 300, 2)))
    prompts = [[(7 * n + 3 * place) % sizes.vocabulary for place in range(n)] for n in PROMPTS]
    made = engine.generate(prompts, Sampling(max_tokens=TOKENS, temperature=0, ignore_eos=True))
    likeliest, behind, apart = 0, 0.0, 0.0
    for prompt, completion in zip(prompts, made, strict=True):
        for number, (token, logprob) in enumerate(zip(completion.ids, completion.logprobs, strict=True)):
            ids = torch.tensor([prompt + completion.ids[:number]], device=device)
            with torch.inference_mode():
                own_V = model(input_ids=ids, use_cache=False).logits[0, -1].float().log_softmax(-1)
            likeliest += int(own_V.argmax()) == token
            behind = max(behind, float(own_V.max() - own_V[token]))
            apart = max(apart, abs(float(own_V[token]) - logprob))
    return likeliest, behind, apart
