{{- /* What the schema cannot say: keys that must fit each other. */ -}}
{{- define "almenara.checks" -}}
{{- $server := .Values.config.server }}
{{- $needed := add (default 4 $server.drain_period | ceil) (default 10 $server.shutdown_timeout) 5 }}
{{- if lt (int .Values.terminationGracePeriodSeconds) (int $needed) }}
{{- fail (printf "terminationGracePeriodSeconds is %d, and ending takes up to %d: config.server.drain_period, config.server.shutdown_timeout and 5 for the bus. Raise it, or lower those." (int .Values.terminationGracePeriodSeconds) (int $needed)) }}
{{- end }}
{{- if (default dict $server.tls).client_ca }}
{{- fail "config.server.tls.client_ca: with it nobody connects without a certificate, and the kubelet has none for its probes, so that the pod would be restarted for ever. Leave it out, and keep others away by networkPolicy.ingress.from." }}
{{- end }}
{{- if and $server.tls .Values.gateway.enabled }}
{{- fail "config.server.tls and gateway.enabled: a gateway speaks https to a service only where a BackendTLSPolicy says how, which this chart does not make. Turn one off." }}
{{- end }}
{{- $size := include "almenara.bytes" .Values.persistence.size | int64 }}
{{- with (default dict .Values.config.storage).retention_size }}
{{- if gt (int64 .) $size }}
{{- fail (printf "config.storage.retention_size is %d bytes, and persistence.size gives the volume %d. Raise the size, or leave out retention_size: it is then four fifths of it." (int64 .) $size) }}
{{- end }}
{{- end }}
{{- $own := include "almenara.known" . | fromJsonArray }}
{{- range .Values.plugins.enabled }}
{{- if and (not (has . $own)) (not (hasKey $.Values.plugins.settings .)) }}
{{- fail (printf "plugins.enabled names %s, which does not come with Almenara (those that do: %s). If your image or plugins.install brings it, say so with plugins.settings.%s, {} for none." . (join ", " $own) .) }}
{{- end }}
{{- end }}
{{- range $name, $_ := .Values.plugins.settings }}
{{- if has $name $own }}
{{- fail (printf "plugins.settings.%s: that plugin comes with Almenara; its settings belong in config.plugins.%s, where they are checked." $name $name) }}
{{- end }}
{{- end }}
{{- if and .Values.ingress.enabled .Values.gateway.enabled (eq .Values.ingress.host (first .Values.gateway.hostnames)) }}
{{- fail (printf "ingress and gateway are both on for %s; turn one off." .Values.ingress.host) }}
{{- end }}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) .Values.rbac.create (include "almenara.needsApiServer" .) }}
{{- fail "serviceAccount.create is off and serviceAccount.name empty, so that the rights would go to the namespace's default ServiceAccount and all its pods. Name one, or turn rbac.create off." }}
{{- end }}
{{- if and .Values.streams.apply (not (dig "plugins" "nats" "apply" list .Values.config)) }}
{{- fail "streams.apply is on, and config.plugins.nats.apply lists no stream." }}
{{- end }}
{{- if and (or .Values.streams.apply .Values.test.subject) (not (has "nats" .Values.plugins.enabled)) }}
{{- fail "streams.apply and test.subject need NATS; add nats to plugins.enabled." }}
{{- end }}
{{- end }}

{{- /* Whether others of the cluster are to come to the web port; empty where nobody is. */ -}}
{{- define "almenara.expected" -}}
{{- if or .Values.ingress.enabled .Values.gateway.enabled .Values.metrics.serviceMonitor.enabled }}yes{{ end }}
{{- end }}

{{- /* Whether something asks the API server; empty where nothing does. */ -}}
{{- define "almenara.needsApiServer" -}}
{{- include "almenara.watchesOwnCluster" . }}{{ include "almenara.asksOwnCluster" . }}
{{- end }}

{{- /* Whether the cluster we are in is asked who somebody is and what they may; else empty. */ -}}
{{- define "almenara.asksOwnCluster" -}}
{{- $auth := default dict .Values.config.auth }}
{{- $asked := or (eq (toString $auth.mode) "kubernetes") (eq (toString $auth.authorization) "kubernetes") }}
{{- if and $asked (not (default dict $auth.kubernetes).server) }}yes{{ end }}
{{- end }}

{{- /* The resources of the container. A bus in an emptyDir counts as ephemeral storage. */ -}}
{{- define "almenara.resources" -}}
{{- $resources := deepCopy .Values.resources }}
{{- if and (not .Values.persistence.enabled) (dig "limits" "ephemeral-storage" "" $resources) }}
{{- $_ := set $resources.limits "ephemeral-storage" .Values.persistence.size }}
{{- end }}
{{- toYaml $resources }}
{{- end }}
