"""Why a model is slow, in one line with the numbers."""

from collections.abc import Callable
from typing import Final

QUEUE_SHARE: Final = 0.3
"""Share of the time to the first token that requests wait, from which on that is the cause."""
CACHE_FULL: Final = 0.9
LONG_PROMPT: Final = 4_000
"""Tokens of the mean prompt from which on its computation is the cause."""
COLD_SHARE: Final = 0.1
"""Hit rate of the prefix cache below which it is cold."""
COLD_PROMPT: Final = 500
"""Tokens of the mean prompt from which on a cold cache matters."""
PREFILL_SHARE: Final = 0.3
"""Share of prefill and decode together from which on prompts are the cause."""

Read = Callable[[str], float | None]
"""Returns the newest sample of a metric; None where there is no recent one."""


def explain(read: Read) -> str:
    """Return the main reason why requests are slow; empty where nothing stands out."""
    cache, waiting = read("kv_cache"), read("waiting") or 0.0
    preemptions = read("preemptions") or 0.0
    if preemptions > 0:
        usage = f", KV cache {cache:.0%} full" if cache is not None else ""
        return (
            f"Cache pressure: {preemptions * 60:.0f} preemptions a minute{usage}. Lower"
            " --max-num-seqs or the length of prompts, or add memory."
        )
    queue, first = read("queue_mean") or 0.0, read("first_token_mean") or 0.0
    if waiting > 0 and (not first or queue >= QUEUE_SHARE * first):
        share = f", {queue:.1f} s of the {first:.1f} s to the first token" if first else ""
        return f"Queueing: {waiting:.0f} requests wait{_waiting_reason(read)}{share}. Add replicas."
    prefill, decode = read("prefill_mean") or 0.0, read("decode_mean") or 0.0
    length, hit_rate = read("prompt_length_mean") or 0.0, read("cache_hit_rate")
    is_cold = hit_rate is not None and hit_rate < COLD_SHARE
    if length >= LONG_PROMPT and prefill > decode:
        cold = f" The prefix cache is cold: {hit_rate:.0%} hits." if is_cold else ""
        return f"Long prompts: {length:,.0f} tokens on average, computed in {prefill:.1f} s.{cold}"
    if is_cold and length >= COLD_PROMPT and prefill >= PREFILL_SHARE * (prefill + decode) > 0:
        return (
            f"Cold cache: {hit_rate:.0%} of the prompt tokens are in the prefix cache, and"
            f" {length:,.0f} tokens on average are computed in {prefill:.1f} s."
        )
    if cache is not None and cache >= CACHE_FULL:
        return f"Cache pressure: KV cache {cache:.0%} full, preemptions are near."
    return ""


def _waiting_reason(read: Read) -> str:
    capacity, deferred = read("waiting_capacity") or 0.0, read("waiting_deferred") or 0.0
    if deferred > capacity:
        return " (deferred: adapters or transfers of the KV cache)"
    return " for capacity" if capacity > 0 else ""
