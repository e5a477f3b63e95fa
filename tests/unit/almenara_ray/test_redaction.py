"""Secrets in commands, messages and runtime environments are redacted."""

import pytest

from almenara_ray.redaction import redact, redact_tree


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("python train.py --api-key=abc123 --epochs 3", "python train.py --api-key=*** --epochs 3"),
        ("redis-server --requirepass hunter2", "redis-server --requirepass ***"),
        ("x --pass=hunter2 --bypass=no", "x --pass=*** --bypass=no"),
        ("HF_TOKEN=hf_abc python x.py", "HF_TOKEN=*** python x.py"),
        ("run --password 'two words' now", "run --password *** now"),
        ("pip install https://me:pw@host/simple", "pip install https://***@host/simple"),
        ("curl -H 'Authorization: Bearer abcdefghij'", "curl -H 'Authorization: Bearer ***'"),
        ("GET /x?X-Amz-Signature=abcdef&b=1", "GET /x?X-Amz-Signature=***&b=1"),
        ("train --tokenizer bert --max_tokens=9", "train --tokenizer bert --max_tokens=9"),
        ("python plain.py --epochs 3", "python plain.py --epochs 3"),
        (
            """x --config '{"api_key": "sk-abc", "n": 1}'""",
            """x --config '{"api_key": ***, "n": 1}'""",
        ),
        (
            r"""{"a": "{\"password\": \"w0rd\", \"n\": 1}"}""",
            r"""{"a": "{\"password\": ***, \"n\": 1}"}""",
        ),
        ("cfg={'password': 'hunter2', 'n': 1}", "cfg={'password': ***, 'n': 1}"),
        (r"""password="a\"b" n=1""", "password=*** n=1"),
        ("password:hunter2 n:1", "password:*** n:1"),
        ("run --token 'cut off in its mid", "run --token ***"),
        ('File "token_stream.py:45", line 3', 'File "token_stream.py:45", line 3'),
    ],
)
def test_redact_hides_likely_secrets(text: str, redacted: str) -> None:
    assert redact(text) == redacted


def test_redact_tree_hides_every_environment_variable() -> None:
    tree = {"env_vars": {"A": "1"}, "pip": ["x"], "deep": {"secret_key": {"a": 1}}}
    assert redact_tree(tree) == {"env_vars": {"A": "***"}, "pip": ["x"],
                                 "deep": {"secret_key": "***"}}  # fmt: skip


PIECES = ("token.", "a.", "--token ", "token:", 'token="', 'token=\\"', "://a", "bearer ", "-_")


@pytest.mark.parametrize("piece", PIECES)
def test_redact_takes_linear_time(piece: str) -> None:
    # Quadratic time would take minutes.
    redact(piece * 50_000)
