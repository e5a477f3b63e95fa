"""The settings of the sample store."""

import re
from pathlib import Path
from typing import Annotated, Final

import msgspec

from almenara.config.common import Count, Positive
from almenara.config.secrets import Secret, parse_http_url

SECONDS_PER_DAY: Final = 86_400.0
LABEL_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
SERIES_LABELS: Final = ("__name__", "kind", "namespace", "name", "origin", "le")
"""Labels that a series has itself."""


class RemoteWriteSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A receiver that samples are also sent to, with remote write 1.0: Prometheus,
    VictoriaMetrics, Mimir, Thanos and others."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)] = "remote-write"
    """Name on the Sources page, unique among sources. Its position in the log is stored by it."""
    url: str
    """Address, such as `http://prometheus:9090/api/v1/write`."""
    bearer: Secret | None = None
    """Token for the header `Authorization: Bearer`."""
    username: str = ""
    """User name, together with `password`."""
    password: Secret | None = None
    """Password for the header `Authorization: Basic`."""
    headers: dict[str, Secret] = {}
    """Headers to send, such as `X-Scope-OrgID`; each value may be a secret."""
    ca: Path | None = None
    """File with the certificates of the authorities to trust, instead of the system's."""
    timeout: Positive = 30.0
    """Seconds until a request fails; it is then repeated."""
    metrics: list[str] = []
    """Names or patterns of the metrics to send, such as `cpu` or `http.*`; all by default."""
    labels: dict[str, str] = {}
    """Labels to add to every series, such as `cluster: production`."""

    def __post_init__(self) -> None:
        owner = f"the receiver {self.name}"
        parse_http_url(self.url, owner, "use bearer, or username and password")
        if self.username and self.password is None:
            raise ValueError(f"{owner} has a username and no password; set both")
        if self.password is not None and self.bearer is not None:
            raise ValueError(f"{owner} has both bearer and password; choose one")
        for label in self.labels:
            if label in SERIES_LABELS or not LABEL_NAME.fullmatch(label):
                raise ValueError(
                    f"{owner} cannot add the label {label!r}; a label has letters, digits and _,"
                    f" and is none of {', '.join(SERIES_LABELS)}"
                )


class SampleSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The sample store, which charts are read from: a database of its own in `storage.dir`."""

    retention_age: Annotated[float, msgspec.Meta(ge=21_600)] = 2 * SECONDS_PER_DAY
    """Seconds after which single samples are deleted."""
    minute_retention_age: Positive = 30 * SECONDS_PER_DAY
    """Seconds after which minimum, maximum and mean of each minute are deleted."""
    hour_retention_age: Positive = 400 * SECONDS_PER_DAY
    """Seconds after which minimum, maximum and mean of each hour are deleted."""
    retention_size: Count = 2 * 1024**3
    """Maximum size of the sample store in bytes; beyond it, the ages above shrink alike."""
    flush_interval: Positive = 300.0
    """Seconds between two writes. What was not written when Almenara was killed is read again from
    the log, as long as `storage.sample_retention_age` keeps it there."""
    max_series: Count = 1_000_000
    """Maximum stored series of one source. Beyond it, new ones are left out and reported, until
    those that ended more than a day ago have been removed for them."""
    remote_write: list[RemoteWriteSettings] = []
    """Receivers that samples are also sent to."""

    def __post_init__(self) -> None:
        names = [receiver.name for receiver in self.remote_write]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two receivers of remote_write are named {name!r}; rename one")
