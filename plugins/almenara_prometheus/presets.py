"""Predefined mappings of widely used pages.

vLLM: https://docs.vllm.ai/en/stable/usage/metrics/ ; older servers call the usage of the cache
`gpu_cache_usage_perc` and the time between tokens `time_per_output_token_seconds`. Ray Serve
exports the same metrics as `ray_vllm_…`, older versions as `ray_vllm:…`.
"""

from typing import Any, Final

Mapping = dict[str, Any]

VLLM_PREFIXES: Final = ("vllm:", "ray_vllm_", "ray_vllm:")

VLLM_GAUGES: Final = {
    "num_requests_running": "running",
    "num_requests_waiting": "waiting",
    "kv_cache_usage_perc": "kv_cache",
    "gpu_cache_usage_perc": "kv_cache",
}
VLLM_COUNTERS: Final = {
    "prompt_tokens_total": "prompt_tokens",
    "generation_tokens_total": "generated_tokens",
    "request_success_total": "requests",
    "num_preemptions_total": "preemptions",
    "prefix_cache_queries_total": "prefix_cache_queries",
    "prefix_cache_hits_total": "prefix_cache_hits",
    "mm_cache_queries_total": "multimodal_cache_queries",
    "mm_cache_hits_total": "multimodal_cache_hits",
    "spec_decode_num_drafts_total": "drafts",
    "spec_decode_num_draft_tokens_total": "draft_tokens",
    "spec_decode_num_accepted_tokens_total": "accepted_draft_tokens",
    "corrupted_requests_total": "corrupted_requests",
}
VLLM_LABELED_GAUGES: Final = {
    ("num_requests_waiting_by_reason", "reason"): {
        "capacity": "waiting_capacity",
        "deferred": "waiting_deferred",
    },
    ("engine_sleep_state", "sleep_state"): {
        "awake": "engines_awake",
        "weights_offloaded": "engines_offloaded",
        "discard_all": "engines_discarded",
    },
}
"""By metric and label: the sample of each value of the label."""
VLLM_LABELED_COUNTERS: Final = {
    ("request_success_total", "finished_reason"): {
        "stop": "finished_stop",
        "length": "finished_length",
        "abort": "finished_abort",
        "error": "finished_error",
        "repetition": "finished_repetition",
    },
    ("prompt_tokens_by_source_total", "source"): {
        "local_compute": "prompt_tokens_computed",
        "local_cache_hit": "prompt_tokens_cached",
        "external_kv_transfer": "prompt_tokens_transferred",
    },
}
VLLM_HISTOGRAMS: Final = {  # nosec B105 # names of metrics
    "time_to_first_token_seconds": "first_token_p95",
    "inter_token_latency_seconds": "between_tokens_p95",
    "time_per_output_token_seconds": "between_tokens_p95",
    "e2e_request_latency_seconds": "request_p95",
    "request_queue_time_seconds": "queue_p95",
    "request_prefill_time_seconds": "prefill_p95",
    "request_decode_time_seconds": "decode_p95",
}


def vllm_mappings() -> list[Mapping]:
    """The mappings of a vLLM server. The usage of the cache of several engines is their highest."""
    mappings: list[Mapping] = []
    for prefix in VLLM_PREFIXES:
        model = {"kind": "vllm.model", "name": "{model_name}"}
        for metric, sample in VLLM_GAUGES.items():
            combine = {"combine": "max"} if sample == "kv_cache" else {}
            mappings.append({**model, "metric": prefix + metric, "sample": sample, **combine})
        rate = {"rate": True, "unit": "1/s"}
        for metric, sample in VLLM_COUNTERS.items():
            mappings.append({**model, "metric": prefix + metric, "sample": sample, **rate})
        for table, more in ((VLLM_LABELED_GAUGES, {}), (VLLM_LABELED_COUNTERS, rate)):
            for (metric, label), samples in table.items():
                mappings += [
                    {
                        **model, "metric": prefix + metric, "labels": {label: value},
                        "sample": sample, **more,
                    }
                    for value, sample in samples.items()
                ]  # fmt: skip
        for metric, sample in VLLM_HISTOGRAMS.items():
            p95 = {"quantile": 0.95, "unit": "s"}
            mappings.append({**model, "metric": prefix + metric, "sample": sample, **p95})
    return mappings


def process_mappings() -> list[Mapping]:
    """The mappings of what most client libraries export about their process."""
    process = {"kind": "process", "name": "{target}"}
    memory = {"metric": "process_resident_memory_bytes", "sample": "memory", "unit": "By"}
    processor = {"metric": "process_cpu_seconds_total", "sample": "cpu", "rate": True}
    files = {"metric": "process_open_fds", "sample": "open_files"}
    return [{**process, **mapping} for mapping in (memory, processor, files)]


PRESETS: Final[dict[str, list[Mapping]]] = {
    "vllm": vllm_mappings(),
    "process": process_mappings(),
}
