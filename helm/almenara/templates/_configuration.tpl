{{- /* The application's configuration: what `config` says, and what only the chart can know. */ -}}
{{- define "almenara.configuration" -}}
{{- $config := deepCopy .Values.config }}
{{- $server := default dict $config.server }}
{{- $service := include "almenara.fullname" . }}
{{- $namespace := include "almenara.namespace" . }}
{{- $inside := list "localhost" $service (printf "%s.%s" $service $namespace) (printf "%s.%s.svc" $service $namespace) (printf "%s.%s.svc.%s" $service $namespace .Values.clusterDomain) }}
{{- $hosts := concat (default list $server.allowed_hosts) ((include "almenara.hosts" . | fromYaml).hosts) $inside | uniq }}
{{- $_ := set $config "server" (set $server "allowed_hosts" $hosts) }}
{{- $storage := default dict $config.storage }}
{{- $_ = set $storage "dir" "/data" }}
{{- if not (hasKey $storage "retention_size") }}
{{- $_ = set $storage "retention_size" (div (mul (include "almenara.bytes" .Values.persistence.size | int64) 4) 5) }}
{{- end }}
{{- $_ = set $config "storage" $storage }}
{{- $plugins := dict }}
{{- $disabled := list }}
{{- range $name, $said := default dict $config.plugins }}
{{- if has $name $.Values.plugins.enabled }}
{{- $_ = set $plugins $name $said }}
{{- end }}
{{- end }}
{{- range $name := include "almenara.known" . | fromJsonArray }}
{{- if not (has $name $.Values.plugins.enabled) }}
{{- $disabled = append $disabled $name }}
{{- end }}
{{- end }}
{{- $_ = set $plugins "disabled" $disabled }}
{{- if has "kubernetes" .Values.plugins.enabled }}
{{- with include "almenara.clusters" . | fromJsonArray }}
{{- $_ = set $plugins "kubernetes" (merge (dict "clusters" .) (default dict $plugins.kubernetes)) }}
{{- end }}
{{- end }}
{{- $_ = set $config "plugins" (merge $plugins (deepCopy .Values.plugins.settings)) }}
{{- if or .Values.plugins.files .Values.plugins.existingConfigMap }}
{{- $_ = set $config "plugins_dir" "/etc/almenara/plugins" }}
{{- end }}
{{- toYaml $config }}
{{- end }}

{{- define "almenara.bytes" -}}
{{- $unit := regexFind "[A-Z]i$" . }}
{{- $number := trimSuffix $unit . | int64 }}
{{- $factor := get (dict "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776) $unit }}
{{- mul $number (int64 $factor) }}
{{- end }}

{{- /* Ports of what is observed, from the addresses in `config`, as JSON. */ -}}
{{- define "almenara.egressPorts" -}}
{{- $plugins := default dict .Values.config.plugins }}
{{- $addresses := list }}
{{- if has "nats" .Values.plugins.enabled }}
{{- range default list (default dict $plugins.nats).servers }}
{{- /* The library takes them without a scheme as well. */}}
{{- $addresses = append $addresses (contains "://" . | ternary . (printf "nats://%s" .)) }}
{{- end }}
{{- end }}
{{- if has "http" .Values.plugins.enabled }}
{{- range default list (default dict $plugins.http).checks }}
{{- $addresses = append $addresses .url }}
{{- end }}
{{- end }}
{{- if has "prometheus" .Values.plugins.enabled }}
{{- range default list (default dict $plugins.prometheus).targets }}
{{- $addresses = append $addresses .url }}
{{- end }}
{{- end }}
{{- if has "ray" .Values.plugins.enabled }}
{{- range default list (default dict $plugins.ray).clusters }}
{{- $addresses = append $addresses .url }}
{{- end }}
{{- range include "almenara.kuberay" . | fromJsonArray }}
{{- $addresses = append $addresses (default "http://ray:8265" .dashboard | replace "{service}" "ray" | replace "{namespace}" "ray") }}
{{- end }}
{{- end }}
{{- with dig "auth" "oidc" "issuer" "" .Values.config }}
{{- $addresses = append $addresses . }}
{{- end }}
{{- with dig "auth" "kubernetes" "server" "" .Values.config }}
{{- $addresses = append $addresses . }}
{{- end }}
{{- if .Values.plugins.install.enabled }}
{{- $addresses = append $addresses .Values.plugins.install.indexUrl }}
{{- end }}
{{- $defaults := dict "nats" 4222 "tls" 4222 "ws" 80 "wss" 443 "http" 80 "https" 443 }}
{{- $ports := list }}
{{- range $addresses }}
{{- $parts := urlParse . }}
{{- $port := regexFind "[0-9]+$" (regexFind ":[0-9]+$" $parts.host) }}
{{- $ports = append $ports (int (default (get $defaults $parts.scheme | default 443) $port)) }}
{{- end }}
{{- range .Values.networkPolicy.egress.ports }}
{{- $ports = append $ports (int .) }}
{{- end }}
{{- $ports | uniq | toJson }}
{{- end }}

{{- /* The clusters that are watched, as JSON: those of `config`, or the one we are in; none where
one is simulated. */ -}}
{{- define "almenara.clusters" -}}
{{- $clusters := dig "plugins" "kubernetes" "clusters" list .Values.config }}
{{- $otherwise := ternary list (list dict) (gt (int (dig "plugins" "kubernetes" "simulated" 0 .Values.config)) 0) }}
{{- default $otherwise $clusters | toJson }}
{{- end }}

{{- /* What KubeRay makes, in which clusters, as JSON. */ -}}
{{- define "almenara.kuberay" -}}
{{- if has "ray" .Values.plugins.enabled }}
{{- default (list) (dig "plugins" "ray" "kuberay" (list) .Values.config) | toJson }}
{{- else }}[]
{{- end }}
{{- end }}

{{- /* Whether the API server of any cluster is spoken to; empty where none is. */ -}}
{{- define "almenara.reachesApiServer" -}}
{{- $places := include "almenara.kuberay" . | fromJsonArray }}
{{- if has "kubernetes" .Values.plugins.enabled }}
{{- $places = concat $places (include "almenara.clusters" . | fromJsonArray) }}
{{- end }}
{{- if or $places (include "almenara.needsApiServer" .) }}yes{{ end }}
{{- end }}

{{- /* Whether the cluster we are in is watched; empty where it is not. */ -}}
{{- define "almenara.watchesOwnCluster" -}}
{{- $places := include "almenara.kuberay" . | fromJsonArray }}
{{- if has "kubernetes" .Values.plugins.enabled }}
{{- $places = concat $places (include "almenara.clusters" . | fromJsonArray) }}
{{- end }}
{{- range $places }}
{{- if not .kubeconfig }}yes{{ end }}
{{- end }}
{{- end }}
