{{- /* Checks that the schema cannot express: values that contradict each other. */ -}}
{{- define "almenara.checks" -}}
{{- $server := .Values.config.server }}
{{- $needed := add (default 4 $server.drain_period | ceil) (default 10 $server.shutdown_timeout) 5 }}
{{- if lt (int .Values.terminationGracePeriodSeconds) (int $needed) }}
{{- fail (printf "terminationGracePeriodSeconds is %d, but shutdown takes up to %d: config.server.drain_period, config.server.shutdown_timeout, and 5 for the bus. Raise it, or lower those." (int .Values.terminationGracePeriodSeconds) (int $needed)) }}
{{- end }}
{{- if (default dict $server.tls).client_ca }}
{{- fail "config.server.tls.client_ca requires a certificate from every client, but the kubelet has none for its probes, so the pod would restart forever. Remove it, and restrict clients with networkPolicy.ingress.from." }}
{{- end }}
{{- if and $server.tls .Values.gateway.enabled }}
{{- fail "config.server.tls and gateway.enabled cannot be combined: a gateway connects to a Service with HTTPS only if a BackendTLSPolicy exists, which this chart does not create. Disable one of them." }}
{{- end }}
{{- $size := include "almenara.bytes" .Values.persistence.size | int64 }}
{{- with (default dict .Values.config.storage).retention_size }}
{{- if gt (int64 .) $size }}
{{- fail (printf "config.storage.retention_size is %d bytes, but persistence.size is only %d. Raise persistence.size, or remove retention_size, which is then 80 %% of it." (int64 .) $size) }}
{{- end }}
{{- end }}
{{- $bundled := include "almenara.bundledPlugins" . | fromJsonArray }}
{{- range .Values.plugins.enabled }}
{{- if and (not (has . $bundled)) (not (hasKey $.Values.plugins.settings .)) }}
{{- fail (printf "plugins.enabled contains %s, which is not a bundled plugin (%s). If your image or plugins.install provides it, set plugins.settings.%s, {} without settings." . (join ", " $bundled) .) }}
{{- end }}
{{- end }}
{{- range $name, $_ := .Values.plugins.settings }}
{{- if has $name $bundled }}
{{- fail (printf "plugins.settings.%s: this plugin is bundled. Move its settings to config.plugins.%s, where they are validated." $name $name) }}
{{- end }}
{{- end }}
{{- if and .Values.ingress.enabled .Values.gateway.enabled (eq .Values.ingress.host (first .Values.gateway.hostnames)) }}
{{- fail (printf "ingress and gateway are both enabled for %s. Disable one of them." .Values.ingress.host) }}
{{- end }}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) .Values.rbac.create (include "almenara.needsApiServer" .) }}
{{- fail "serviceAccount.create is false and serviceAccount.name is empty, so the permissions would go to the default ServiceAccount and all pods that use it. Set serviceAccount.name, or set rbac.create to false." }}
{{- end }}
{{- $shared := include "almenara.sharesBus" . }}
{{- if not $shared }}
{{- if gt (int .Values.replicaCount) 1 }}
{{- fail (printf "replicaCount is %d, but config.bus.kind is embedded, and only one process may write the embedded bus. Set config.bus: see docs/operations/high-availability.md." (int .Values.replicaCount)) }}
{{- end }}
{{- if .Values.autoscaling.enabled }}
{{- fail "autoscaling.enabled is true, but config.bus.kind is embedded, and only one process may write the embedded bus. Set config.bus: see docs/operations/high-availability.md." }}
{{- end }}
{{- if .Values.migration.fromClaim }}
{{- fail "migration.fromClaim moves a history to a shared bus, but config.bus.kind is embedded. Set config.bus, or remove it." }}
{{- end }}
{{- else }}
{{- if dig "bus" "replica" "" .Values.config }}
{{- fail "config.bus.replica would be the same in all pods. Remove it: the default is the name of the pod." }}
{{- end }}
{{- if or .Values.persistence.existingClaim .Values.persistence.volumeName }}
{{- fail "persistence.existingClaim and persistence.volumeName name one volume, but pods that share a bus have one each. Remove them; migration.fromClaim moves the history of an existing claim." }}
{{- end }}
{{- if and .Values.migration.fromClaim (not (include "almenara.appliesStreams" .)) }}
{{- fail "migration.fromClaim needs the Job of streams.apply, which is false. Remove streams.apply." }}
{{- end }}
{{- if and .Values.migration.fromClaim .Values.nats.enabled }}
{{- /* Without a cluster, as in `helm template`, nothing is found, and nothing is known. */}}
{{- $found := lookup "apps/v1" "StatefulSet" .Release.Namespace "" }}
{{- $servers := include "almenara.nats.name" . }}
{{- $names := list }}
{{- range (default (dict "items" list) $found).items }}
{{- $names = append $names .metadata.name }}
{{- end }}
{{- if and $found (not (has $servers $names)) }}
{{- fail (printf "migration.fromClaim moves the history before the upgrade, but the NATS servers of nats.enabled (StatefulSet %s) are created by it. Upgrade with nats.enabled and without config.bus and migration.fromClaim first; when the servers run, upgrade again with all three." $servers) }}
{{- end }}
{{- end }}
{{- if gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas) }}
{{- fail "autoscaling.minReplicas is larger than autoscaling.maxReplicas." }}
{{- end }}
{{- if and .Values.autoscaling.enabled (not .Values.autoscaling.targetCpuUtilization) (not .Values.autoscaling.targetConnectedPages) }}
{{- fail "autoscaling.enabled is true without a target. Set autoscaling.targetCpuUtilization or autoscaling.targetConnectedPages." }}
{{- end }}
{{- end }}
{{- if and (eq .Values.streams.apply true) (not $shared) (not (dig "plugins" "nats" "apply" list .Values.config)) }}
{{- fail "streams.apply is true, but config.plugins.nats.apply lists no stream." }}
{{- end }}
{{- if and (or .Values.streams.apply .Values.test.subject $shared .Values.nats.enabled) (not (has "nats" .Values.plugins.enabled)) }}
{{- fail "streams.apply, test.subject, nats.enabled and a shared bus need NATS. Add nats to plugins.enabled." }}
{{- end }}
{{- end }}

{{- /* "yes" if other pods of the cluster connect to the web port, else empty. */ -}}
{{- define "almenara.acceptsPods" -}}
{{- if or .Values.ingress.enabled .Values.gateway.enabled .Values.metrics.serviceMonitor.enabled }}yes{{ end }}
{{- end }}

{{- /* Not empty if the server uses the API server of its own cluster. */ -}}
{{- define "almenara.needsApiServer" -}}
{{- include "almenara.watchesOwnCluster" . }}{{ include "almenara.reviewsAccess" . }}
{{- end }}

{{- /* "yes" if the API server of the own cluster reviews tokens and access, else empty. */ -}}
{{- define "almenara.reviewsAccess" -}}
{{- $auth := default dict .Values.config.auth }}
{{- $kubernetes := or (eq (toString $auth.mode) "kubernetes") (eq (toString $auth.authorization) "kubernetes") }}
{{- if and $kubernetes (not (default dict $auth.kubernetes).server) }}yes{{ end }}
{{- end }}

{{- /* Resources of the server. A bus in an emptyDir counts as ephemeral storage. */ -}}
{{- define "almenara.serverResources" -}}
{{- $resources := deepCopy .Values.resources }}
{{- if and (not .Values.persistence.enabled) (dig "limits" "ephemeral-storage" "" $resources) }}
{{- $_ := set $resources.limits "ephemeral-storage" .Values.persistence.size }}
{{- end }}
{{- toYaml $resources }}
{{- end }}
