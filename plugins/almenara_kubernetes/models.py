"""The fields of Kubernetes objects that are decoded; msgspec skips the others.

What is not named here never gets into memory: managed fields, values of environment variables,
data of secrets and config maps. Field names are those of the API, in its camel case:
https://kubernetes.io/docs/reference/kubernetes-api/.
"""

from typing import Any

import msgspec

from almenara_kube.objects import Condition, KubernetesObject, Part

# Pods


class Running(Part, frozen=True):
    started_at: str = ""


class Waiting(Part, frozen=True):
    reason: str = ""
    message: str = ""


class Terminated(Part, frozen=True):
    exit_code: int = 0
    signal: int = 0
    reason: str = ""
    message: str = ""
    started_at: str = ""
    finished_at: str = ""


class ContainerState(Part, frozen=True):
    running: Running | None = None
    waiting: Waiting | None = None
    terminated: Terminated | None = None


class ContainerStatus(Part, frozen=True):
    name: str = ""
    ready: bool = False
    started: bool | None = None
    restart_count: int = 0
    image: str = ""
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()


class ContainerPort(Part, frozen=True):
    name: str = ""
    container_port: int = 0
    protocol: str = "TCP"


class ResourceRequirements(Part, frozen=True):
    requests: dict[str, str | int | float] = {}
    limits: dict[str, str | int | float] = {}


class Container(Part, frozen=True):
    name: str = ""
    image: str = ""
    restart_policy: str = ""
    resources: ResourceRequirements = ResourceRequirements()
    ports: list[ContainerPort] = []


class ReadinessGate(Part, frozen=True):
    condition_type: str = ""


class PodSpec(Part, frozen=True):
    node_name: str = ""
    containers: list[Container] = []
    init_containers: list[Container] = []
    ephemeral_containers: list[Container] = []
    readiness_gates: list[ReadinessGate] = []
    overhead: dict[str, str | int | float] = {}
    resources: ResourceRequirements = ResourceRequirements()
    service_account_name: str = ""
    priority_class_name: str = ""


class PodStatus(Part, frozen=True):
    phase: str = ""
    reason: str = ""
    message: str = ""
    pod_ip: str = msgspec.field(default="", name="podIP")
    qos_class: str = ""
    start_time: str = ""
    nominated_node_name: str = ""
    conditions: list[Condition] = []
    container_statuses: list[ContainerStatus] = []
    init_container_statuses: list[ContainerStatus] = []
    ephemeral_container_statuses: list[ContainerStatus] = []


class Pod(KubernetesObject, frozen=True):
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


# Workloads


class PodTemplate(Part, frozen=True):
    spec: PodSpec = PodSpec()


class LabelSelector(Part, frozen=True):
    match_labels: dict[str, str] = {}


class RollingUpdate(Part, frozen=True):
    partition: int = 0


class Strategy(Part, frozen=True):
    type: str = ""
    rolling_update: RollingUpdate = RollingUpdate()


class WorkloadSpec(Part, frozen=True):
    """The spec of Deployments, StatefulSets, DaemonSets and ReplicaSets."""

    replicas: int | None = None
    paused: bool = False
    selector: LabelSelector = LabelSelector()
    template: PodTemplate = PodTemplate()
    strategy: Strategy = Strategy()
    update_strategy: Strategy = Strategy()


class WorkloadStatus(Part, frozen=True):
    observed_generation: int = 0
    replicas: int = 0
    updated_replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    unavailable_replicas: int = 0
    current_revision: str = ""
    update_revision: str = ""
    current_number_scheduled: int = 0
    desired_number_scheduled: int = 0
    updated_number_scheduled: int = 0
    number_ready: int = 0
    number_available: int = 0
    number_misscheduled: int = 0
    conditions: list[Condition] = []


class Workload(KubernetesObject, frozen=True):
    spec: WorkloadSpec = WorkloadSpec()
    status: WorkloadStatus = WorkloadStatus()


class JobSpec(Part, frozen=True):
    completions: int | None = None
    parallelism: int | None = None
    backoff_limit: int | None = None
    suspend: bool = False
    template: PodTemplate = PodTemplate()


class JobStatus(Part, frozen=True):
    active: int = 0
    succeeded: int = 0
    failed: int = 0
    ready: int = 0
    start_time: str = ""
    completion_time: str = ""
    conditions: list[Condition] = []


class Job(KubernetesObject, frozen=True):
    spec: JobSpec = JobSpec()
    status: JobStatus = JobStatus()


class JobTemplate(Part, frozen=True):
    spec: JobSpec = JobSpec()


class CronJobSpec(Part, frozen=True):
    schedule: str = ""
    time_zone: str = ""
    suspend: bool = False
    job_template: JobTemplate = JobTemplate()


class ObjectReference(Part, frozen=True):
    api_version: str = ""
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""


class CronJobStatus(Part, frozen=True):
    active: list[ObjectReference] = []
    last_schedule_time: str = ""
    last_successful_time: str = ""


class CronJob(KubernetesObject, frozen=True):
    spec: CronJobSpec = CronJobSpec()
    status: CronJobStatus = CronJobStatus()


# Nodes


class Taint(Part, frozen=True):
    key: str = ""
    value: str = ""
    effect: str = ""


class NodeSpec(Part, frozen=True):
    unschedulable: bool = False
    taints: list[Taint] = []


class NodeInfo(Part, frozen=True):
    kubelet_version: str = ""
    os_image: str = ""
    architecture: str = ""
    container_runtime_version: str = ""


class NodeStatus(Part, frozen=True):
    capacity: dict[str, str | int | float] = {}
    allocatable: dict[str, str | int | float] = {}
    conditions: list[Condition] = []
    node_info: NodeInfo = NodeInfo()


class Node(KubernetesObject, frozen=True):
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


# Network


class ServicePort(Part, frozen=True):
    name: str = ""
    port: int = 0
    target_port: int | str = ""
    node_port: int = 0
    protocol: str = "TCP"


class ServiceSpec(Part, frozen=True):
    type: str = ""
    cluster_ip: str = msgspec.field(default="", name="clusterIP")
    external_ips: list[str] = msgspec.field(default_factory=list, name="externalIPs")
    external_name: str = ""
    ports: list[ServicePort] = []
    selector: dict[str, str] = {}


class LoadBalancerIngress(Part, frozen=True):
    ip: str = ""
    hostname: str = ""


class LoadBalancer(Part, frozen=True):
    ingress: list[LoadBalancerIngress] = []


class NetworkStatus(Part, frozen=True):
    load_balancer: LoadBalancer = LoadBalancer()


class Service(KubernetesObject, frozen=True):
    spec: ServiceSpec = ServiceSpec()
    status: NetworkStatus = NetworkStatus()


class EndpointConditions(Part, frozen=True):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Endpoint(Part, frozen=True):
    addresses: list[str] = []
    conditions: EndpointConditions = EndpointConditions()
    target_ref: ObjectReference = ObjectReference()


class EndpointSlice(KubernetesObject, frozen=True):
    endpoints: list[Endpoint] = []


class BackendPort(Part, frozen=True):
    name: str = ""
    number: int = 0


class BackendService(Part, frozen=True):
    name: str = ""
    port: BackendPort = BackendPort()


class Backend(Part, frozen=True):
    service: BackendService = BackendService()


class IngressPath(Part, frozen=True):
    path: str = ""
    backend: Backend = Backend()


class IngressPaths(Part, frozen=True):
    paths: list[IngressPath] = []


class IngressRule(Part, frozen=True):
    host: str = ""
    http: IngressPaths = IngressPaths()


class IngressTLS(Part, frozen=True):
    hosts: list[str] = []
    secret_name: str = ""


class IngressSpec(Part, frozen=True):
    ingress_class_name: str = ""
    default_backend: Backend = Backend()
    rules: list[IngressRule] = []
    tls: list[IngressTLS] = []


class Ingress(KubernetesObject, frozen=True):
    spec: IngressSpec = IngressSpec()
    status: NetworkStatus = NetworkStatus()


# Storage, certificates, scaling


class ClaimSpec(Part, frozen=True):
    volume_name: str = ""
    storage_class_name: str = ""
    access_modes: list[str] = []
    resources: ResourceRequirements = ResourceRequirements()


class ClaimStatus(Part, frozen=True):
    phase: str = ""
    capacity: dict[str, str | int | float] = {}
    conditions: list[Condition] = []


class PersistentVolumeClaim(KubernetesObject, frozen=True):
    spec: ClaimSpec = ClaimSpec()
    status: ClaimStatus = ClaimStatus()


class CertificateSpec(Part, frozen=True):
    secret_name: str = ""
    dns_names: list[str] = []
    common_name: str = ""
    issuer_ref: ObjectReference = ObjectReference()


class CertificateStatus(Part, frozen=True):
    not_before: str = ""
    not_after: str = ""
    renewal_time: str = ""
    conditions: list[Condition] = []


class Certificate(KubernetesObject, frozen=True):
    spec: CertificateSpec = CertificateSpec()
    status: CertificateStatus = CertificateStatus()


class MetricValue(Part, frozen=True):
    average_utilization: int | None = None
    average_value: str | int | float = ""
    value: str | int | float = ""


class MetricIdentifier(Part, frozen=True):
    name: str = ""


class MetricSource(Part, frozen=True):
    """The source of any type of metric; each type has some of these fields."""

    name: str = ""
    container: str = ""
    metric: MetricIdentifier = MetricIdentifier()
    described_object: ObjectReference = ObjectReference()
    target: MetricValue = MetricValue()
    current: MetricValue = MetricValue()


class ScalingMetric(Part, frozen=True):
    type: str = ""
    resource: MetricSource = MetricSource()
    container_resource: MetricSource = MetricSource()
    pods: MetricSource = MetricSource()
    object: MetricSource = MetricSource()
    external: MetricSource = MetricSource()


class AutoscalerSpec(Part, frozen=True):
    scale_target_ref: ObjectReference = ObjectReference()
    min_replicas: int = 1
    max_replicas: int = 0
    metrics: list[ScalingMetric] = []


class AutoscalerStatus(Part, frozen=True):
    current_replicas: int = 0
    desired_replicas: int = 0
    last_scale_time: str = ""
    current_metrics: list[ScalingMetric] = []
    conditions: list[Condition] = []


class Autoscaler(KubernetesObject, frozen=True):
    spec: AutoscalerSpec = AutoscalerSpec()
    status: AutoscalerStatus = AutoscalerStatus()


# Events


class EventSeries(Part, frozen=True):
    count: int = 0
    last_observed_time: str = ""


class EventSource(Part, frozen=True):
    component: str = ""
    host: str = ""


class KubernetesEvent(KubernetesObject, frozen=True):
    """An event of `events.k8s.io/v1`; older clients write the deprecated fields."""

    event_time: str = ""
    series: EventSeries | None = None
    reporting_controller: str = ""
    reporting_instance: str = ""
    action: str = ""
    reason: str = ""
    note: str = ""
    type: str = ""
    regarding: ObjectReference = ObjectReference()
    related: ObjectReference = ObjectReference()
    deprecated_source: EventSource = EventSource()
    deprecated_first_timestamp: str = ""
    deprecated_last_timestamp: str = ""
    deprecated_count: int = 0


# Resource usage


class ContainerUsage(Part, frozen=True):
    name: str = ""
    usage: dict[str, str | int | float] = {}


class PodMetrics(KubernetesObject, frozen=True):
    timestamp: str = ""
    window: str = ""
    containers: list[ContainerUsage] = []


class NodeMetrics(KubernetesObject, frozen=True):
    timestamp: str = ""
    window: str = ""
    usage: dict[str, str | int | float] = {}


# Custom resources


class CustomObject(KubernetesObject, frozen=True):
    """An object of a kind that the configuration names."""

    whole: Any = None
    """The whole object, since columns may point anywhere in it."""
