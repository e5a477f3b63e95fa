{{- /* The configuration of the application: `config`, and the settings that the chart derives. */ -}}
{{- define "almenara.configuration" -}}
{{- $config := deepCopy .Values.config }}
{{- $server := default dict $config.server }}
{{- $service := include "almenara.fullname" . }}
{{- $namespace := include "almenara.namespace" . }}
{{- $serviceHosts := list "localhost" $service (printf "%s.%s" $service $namespace) (printf "%s.%s.svc" $service $namespace) (printf "%s.%s.svc.%s" $service $namespace .Values.clusterDomain) }}
{{- $hosts := concat (default list $server.allowed_hosts) ((include "almenara.hosts" . | fromYaml).hosts) $serviceHosts | uniq }}
{{- $_ := set $config "server" (set $server "allowed_hosts" $hosts) }}
{{- /* With a shared bus, the volume needs space for a copy of the databases, from which snapshots are
written. */}}
{{- $share := ternary 2 1 (not (empty (include "almenara.sharesBus" .))) }}
{{- $storage := default dict $config.storage }}
{{- $_ = set $storage "dir" "/data" }}
{{- if not (hasKey $storage "retention_size") }}
{{- $_ = set $storage "retention_size" (div (mul (include "almenara.bytes" .Values.persistence.size | int64) 4) (mul 5 $share)) }}
{{- end }}
{{- $_ = set $config "storage" $storage }}
{{- $samples := default dict $config.samples }}
{{- if not (hasKey $samples "retention_size") }}
{{- $_ = set $samples "retention_size" (div (include "almenara.bytes" .Values.persistence.size | int64) (mul 10 $share)) }}
{{- end }}
{{- $_ = set $config "samples" $samples }}
{{- $checkpoints := default dict $config.checkpoints }}
{{- if not (hasKey $checkpoints "retention_size") }}
{{- $_ = set $checkpoints "retention_size" (div (mul (include "almenara.bytes" .Values.persistence.size | int64) 3) (mul 100 $share)) }}
{{- end }}
{{- $_ = set $config "checkpoints" $checkpoints }}
{{- $plugins := dict }}
{{- $disabled := list }}
{{- range $name, $settings := default dict $config.plugins }}
{{- if has $name $.Values.plugins.enabled }}
{{- $_ = set $plugins $name $settings }}
{{- end }}
{{- end }}
{{- range $name := include "almenara.bundledPlugins" . | fromJsonArray }}
{{- if not (has $name $.Values.plugins.enabled) }}
{{- $disabled = append $disabled $name }}
{{- end }}
{{- end }}
{{- $_ = set $plugins "disabled" $disabled }}
{{- if .Values.nats.enabled }}
{{- $_ = set $plugins "nats" (set (default dict $plugins.nats) "servers" (include "almenara.nats.servers" . | fromJsonArray)) }}
{{- end }}
{{- if has "kubernetes" .Values.plugins.enabled }}
{{- with include "almenara.kubernetesClusters" . | fromJsonArray }}
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

{{- /* The ports that the server connects to, from the URLs in `config`, as JSON. */ -}}
{{- define "almenara.egressPorts" -}}
{{- $plugins := default dict .Values.config.plugins }}
{{- $urls := list }}
{{- if has "nats" .Values.plugins.enabled }}
{{- range include "almenara.nats.servers" . | fromJsonArray }}
{{- /* The NATS client accepts addresses without a scheme. */}}
{{- $urls = append $urls (contains "://" . | ternary . (printf "nats://%s" .)) }}
{{- end }}
{{- end }}
{{- if has "http" .Values.plugins.enabled }}
{{- range default list (default dict $plugins.http).checks }}
{{- $urls = concat $urls (list .url) (empty .proxy | ternary list (list .proxy)) }}
{{- end }}
{{- end }}
{{- if has "prometheus" .Values.plugins.enabled }}
{{- range default list (default dict $plugins.prometheus).targets }}
{{- $urls = append $urls .url }}
{{- end }}
{{- end }}
{{- if has "valkey" .Values.plugins.enabled }}
{{- range default list (default dict $plugins.valkey).deployments }}
{{- if dig "discover" true . }}
{{- /* Sentinels and nodes name other servers, which are mostly at the default port. */}}
{{- $urls = append $urls "redis://discovered" }}
{{- end }}
{{- range .urls }}
{{- $urls = append $urls . }}
{{- end }}
{{- end }}
{{- end }}
{{- if has "neo4j" .Values.plugins.enabled }}
{{- range default list (default dict $plugins.neo4j).deployments }}
{{- range .urls }}
{{- $urls = append $urls . }}
{{- end }}
{{- end }}
{{- end }}
{{- if has "vllm" .Values.plugins.enabled }}
{{- range default list (default dict $plugins.vllm).servers }}
{{- $urls = append $urls .url }}
{{- end }}
{{- range default list (default dict $plugins.vllm).ray }}
{{- /* The pages of metrics of the nodes are at the default port of KubeRay. */}}
{{- $urls = concat $urls (list .url "http://ray:8080") }}
{{- end }}
{{- range include "almenara.vllmClusters" . | fromJsonArray }}
{{- $urls = append $urls (printf "http://vllm:%d" (int (default 8000 .port))) }}
{{- end }}
{{- end }}
{{- if has "ray" .Values.plugins.enabled }}
{{- range default list (default dict $plugins.ray).clusters }}
{{- $urls = append $urls .url }}
{{- end }}
{{- range include "almenara.kuberayClusters" . | fromJsonArray }}
{{- $urls = append $urls (default "http://ray:8265" .dashboard | replace "{service}" "ray" | replace "{namespace}" "ray") }}
{{- end }}
{{- end }}
{{- if has "notifiers" .Values.plugins.enabled }}
{{- $mail := dict "starttls" 587 "tls" 465 "none" 25 }}
{{- range dig "alerting" "receivers" list .Values.config }}
{{- $settings := default dict .settings }}
{{- if eq .kind "email" }}
{{- $port := default (get $mail (default "starttls" $settings.security)) $settings.port }}
{{- $urls = append $urls (printf "smtp://mail:%d" (int $port)) }}
{{- else }}
{{- /* An address in a secret is not known here; receivers are mostly services on port 443. */}}
{{- $urls = append $urls (kindIs "string" $settings.url | ternary $settings.url "https://secret") }}
{{- end }}
{{- end }}
{{- end }}
{{- if dig "alerting" "heartbeat" "" .Values.config }}
{{- $urls = append $urls "https://secret" }}
{{- end }}
{{- range dig "samples" "remote_write" list .Values.config }}
{{- $urls = append $urls .url }}
{{- end }}
{{- with dig "auth" "oidc" "issuer" "" .Values.config }}
{{- $urls = append $urls . }}
{{- end }}
{{- with dig "auth" "kubernetes" "server" "" .Values.config }}
{{- $urls = append $urls . }}
{{- end }}
{{- if .Values.plugins.install.enabled }}
{{- $urls = append $urls .Values.plugins.install.indexUrl }}
{{- end }}
{{- $defaults := dict "nats" 4222 "tls" 4222 "ws" 80 "wss" 443 "redis" 6379 "rediss" 6379 "valkey" 6379 "valkeys" 6379 "bolt" 7687 "bolt+s" 7687 "neo4j" 7687 "neo4j+s" 7687 "http" 80 "https" 443 }}
{{- $ports := list }}
{{- range $urls }}
{{- $parts := urlParse . }}
{{- $port := regexFind "[0-9]+$" (regexFind ":[0-9]+$" $parts.host) }}
{{- $ports = append $ports (int (default (get $defaults $parts.scheme | default 443) $port)) }}
{{- end }}
{{- range .Values.networkPolicy.egress.ports }}
{{- $ports = append $ports (int .) }}
{{- end }}
{{- $ports | uniq | toJson }}
{{- end }}

{{- /* The observed Kubernetes clusters, as JSON: those of `config`, or else the own one. */ -}}
{{- define "almenara.kubernetesClusters" -}}
{{- $clusters := dig "plugins" "kubernetes" "clusters" list .Values.config }}
{{- default (list dict) $clusters | toJson }}
{{- end }}

{{- /* The clusters in which KubeRay resources are observed, as JSON. */ -}}
{{- define "almenara.kuberayClusters" -}}
{{- if has "ray" .Values.plugins.enabled }}
{{- default (list) (dig "plugins" "ray" "kuberay" (list) .Values.config) | toJson }}
{{- else }}[]
{{- end }}
{{- end }}

{{- /* The clusters in which vLLM servers are searched for, as JSON. */ -}}
{{- define "almenara.vllmClusters" -}}
{{- if has "vllm" .Values.plugins.enabled }}
{{- default (list) (dig "plugins" "vllm" "kubernetes" (list) .Values.config) | toJson }}
{{- else }}[]
{{- end }}
{{- end }}

{{- /* "yes" if the server connects to the API server of any cluster, else empty. */ -}}
{{- define "almenara.connectsToApiServer" -}}
{{- $clusters := concat (include "almenara.kuberayClusters" . | fromJsonArray) (include "almenara.vllmClusters" . | fromJsonArray) }}
{{- if has "kubernetes" .Values.plugins.enabled }}
{{- $clusters = concat $clusters (include "almenara.kubernetesClusters" . | fromJsonArray) }}
{{- end }}
{{- if or $clusters (include "almenara.needsApiServer" .) }}yes{{ end }}
{{- end }}

{{- /* Not empty if the own cluster is observed. */ -}}
{{- define "almenara.watchesOwnCluster" -}}
{{- $clusters := concat (include "almenara.kuberayClusters" . | fromJsonArray) (include "almenara.vllmClusters" . | fromJsonArray) }}
{{- if has "kubernetes" .Values.plugins.enabled }}
{{- $clusters = concat $clusters (include "almenara.kubernetesClusters" . | fromJsonArray) }}
{{- end }}
{{- range $clusters }}
{{- if not .kubeconfig }}yes{{ end }}
{{- end }}
{{- end }}
