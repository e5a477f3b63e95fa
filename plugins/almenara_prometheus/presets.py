"""Ready-made mappings of pages that many people have.

vLLM: https://docs.vllm.ai/en/stable/usage/metrics/ ; older servers call the use of the cache
`gpu_cache_usage_perc` and the time between tokens `time_per_output_token_seconds`.
"""

from typing import Any, Final

_MODEL: Final = {"kind": "vllm.model", "name": "{model_name}"}
_PROCESS: Final = {"kind": "process", "name": "{target}"}

PRESETS: Final[dict[str, list[dict[str, Any]]]] = {
    "vllm": [
        {**_MODEL, "metric": "vllm:num_requests_running", "sample": "running"},
        {**_MODEL, "metric": "vllm:num_requests_waiting", "sample": "waiting"},
        {**_MODEL, "metric": "vllm:kv_cache_usage_perc", "sample": "kv_cache"},
        {**_MODEL, "metric": "vllm:gpu_cache_usage_perc", "sample": "kv_cache"},
        {
            **_MODEL, "metric": "vllm:prompt_tokens_total", "sample": "prompt_tokens",
            "rate": True, "unit": "1/s",
        },
        {
            **_MODEL, "metric": "vllm:generation_tokens_total", "sample": "generated_tokens",
            "rate": True, "unit": "1/s",
        },
        {
            **_MODEL, "metric": "vllm:request_success_total", "sample": "requests",
            "rate": True, "unit": "1/s",
        },
        {
            **_MODEL, "metric": "vllm:num_preemptions_total", "sample": "preemptions",
            "rate": True, "unit": "1/s",
        },
        {
            **_MODEL, "metric": "vllm:time_to_first_token_seconds", "sample": "first_token_p95",
            "quantile": 0.95, "unit": "s",
        },
        {
            **_MODEL, "metric": "vllm:inter_token_latency_seconds",
            "sample": "between_tokens_p95", "quantile": 0.95, "unit": "s",
        },
        {
            **_MODEL, "metric": "vllm:time_per_output_token_seconds",
            "sample": "between_tokens_p95", "quantile": 0.95, "unit": "s",
        },
        {
            **_MODEL, "metric": "vllm:e2e_request_latency_seconds", "sample": "request_p95",
            "quantile": 0.95, "unit": "s",
        },
    ],
    "process": [
        {**_PROCESS, "metric": "process_resident_memory_bytes", "sample": "memory", "unit": "By"},
        {**_PROCESS, "metric": "process_cpu_seconds_total", "sample": "cpu", "rate": True},
        {**_PROCESS, "metric": "process_open_fds", "sample": "open_files"},
    ],
}  # fmt: skip
