"""Likely secrets are found by names and forms, and little else is."""

import pytest

from almenara.likely_secrets import is_secret_name, mask_secrets

PLANTED = "hunter2"


@pytest.mark.parametrize(
    "name",
    [
        "--requirepass", "--masterpass", "--pass", "-pass", "DB_PASS", "REDIS_PASS1", "userPass",
        "--password", "PGPASSWORD", "MYSQL_ROOT_PASSWORD", "--passphrase", "DB_PWD", "dbpwd",
        "--token", "--auth-token", "HF_TOKEN", "accessToken", "auth_tokens", "--client-secret",
        "--secret-key", "secretAccessKey", "--access-key", "AWS_ACCESS_KEY_ID", "--apikey",
        "--api-key", "apiKey", "--account-key", "--encryption-key", "privateKey", "--credential",
        "--credentials", "--creds", "--dest-creds", "--connection-string", "connectionString",
        "--dsn", "SENTRY_DSN", "--auth", "basicAuth", "authorization", "session-cookie", "--psk",
    ],
)  # fmt: skip
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "--bypass", "--proxy-bypass", "compass", "encompass", "--surpass", "trespass", "--overpass",
        "passes", "--pass-host-header", "passthrough", "PWD", "OLDPWD", "--pwd", "--max-tokens",
        "max_tokens", "tokenizer", "--author", "authority", "--authenticate", "--keyring",
        "topologyKey", "--key-count", "monkey", "--port", "-p", "image",
    ],
)  # fmt: skip
def test_names_of_other_values(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("redis-server --requirepass hunter2 --port 1", "redis-server --requirepass *** --port 1"),
        ("--requirepass=hunter2", "--requirepass=***"),
        ("run --pass=hunter2 now", "run --pass=*** now"),
        ("run --pass hunter2", "run --pass ***"),
        ('["--pass", "hunter2", "a"]', '["--pass", ***, "a"]'),
        ("['--pass', '--verbose', 'a']", "['--pass', '--verbose', 'a']"),
        ("PGPASSWORD=hunter2 psql", "PGPASSWORD=*** psql"),
        ("export DB_PASS='two words'; run", "export DB_PASS=***; run"),
        ("password:123456", "password:***"),
        ("--bypass hunter2 --compass=hunter2", "--bypass hunter2 --compass=hunter2"),
        ("amqp://user:hunter2@host/x", "amqp://***@host/x"),
        ("amqp://user:hunter2@one,amqp://u:hunter2@two", "amqp://***@one,amqp://***@two"),
        ("amqp://user:hun@ter2@host:5672", "amqp://***@host:5672"),
        ("amqp://user:hun/ter2@host:5672", "amqp://***@host:5672"),
        ("redis://:hunter2@host", "redis://***@host"),
        ("https://hunter2@github.com/a", "https://***@github.com/a"),
        ("oci://host:5000/app@sha256:abc", "oci://host:5000/app@sha256:abc"),
        ("Authorization: Bearer hunter2hunter2", "Authorization: Bearer ***"),
        ("authorization=Basic hunter2", "authorization=Basic ***"),
        ('{"auth": "hunter2"}', '{"auth": ***}'),
        ("AccountKey=hunter2;Suffix=x", "AccountKey=***;Suffix=x"),
        ("acme/auth:v1.2 and token-service:8080", "acme/auth:v1.2 and token-service:8080"),
        ("Proxy-Authorization: Basic abc", "Proxy-Authorization: Basic ***"),
        ("auth: failed for me", "auth: failed for me"),
        ("-----BEGIN PRIVATE KEY-----\nhunter2", "***"),
        ("x -----BEGIN RSA PRIVATE KEY-----hunter2-----END RSA PRIVATE KEY----- y", "x *** y"),
        ("jwt eyJhbGciOiJI.eyJzdWIiOiIx.c2ln end", "jwt *** end"),
    ],
)  # fmt: skip
def test_mask_secrets_in_text(text: str, masked: str) -> None:
    assert mask_secrets(text) == masked


def test_mask_is_inserted_unchanged() -> None:
    assert mask_secrets("a://u:p@h token=x Bearer abcdefghij", r"\1") == (
        r"a://\1@h token=\1 Bearer \1"
    )


PIECES = (
    "token.", "a.", "--token ", "token:", 'token="', 'token=\\"', "://a", "://a:b", "bearer ", "-_",
    "-eyJaaaaaaaa", "-----BEGIN ", "-----BEGIN PRIVATE KEY-----", "pass", "a_", "--pass  ",
)  # fmt: skip


@pytest.mark.parametrize("piece", PIECES)
def test_mask_secrets_takes_linear_time(piece: str) -> None:
    # Quadratic time would take minutes.
    mask_secrets(piece * 50_000)
