{{- /* Names that start with a digit are not valid for a Service, so the chart's name comes first. */ -}}
{{- define "almenara.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "almenara.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride }}
{{- else }}
{{- $name := include "almenara.name" . }}
{{- $release := .Release.Name }}
{{- $full := ternary $release (printf "%s-%s" $release $name) (contains $name $release) }}
{{- if regexMatch "^[0-9]" $full }}
{{- $full = printf "%s-%s" (ternary "almenara" $name (regexMatch "^[0-9]" $name)) $release }}
{{- end }}
{{- $full | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "almenara.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride }}
{{- end }}

{{- define "almenara.serviceAccountName" -}}
{{- $default := ternary (include "almenara.fullname" .) "default" .Values.serviceAccount.create }}
{{- default $default .Values.serviceAccount.name }}
{{- end }}

{{- /* Labels that select the pods of the release. */ -}}
{{- define "almenara.selector" -}}
app.kubernetes.io/name: {{ include "almenara.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- /* Metadata of an object: a dict of `root`, and optionally `suffix`, `component`, `labels`,
`annotations`. */ -}}
{{- define "almenara.metadata" -}}
{{- $annotations := merge (dict) (default dict .annotations) .root.Values.commonAnnotations -}}
{{- $suffix := ternary (printf "-%s" .suffix) "" (not (empty .suffix)) -}}
name: {{ printf "%s%s" (include "almenara.fullname" .root) $suffix | quote }}
namespace: {{ include "almenara.namespace" .root | quote }}
labels:
  {{- include "almenara.labels" . | nindent 2 }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "almenara.labels" -}}
{{- $standard := include "almenara.selector" .root | fromYaml }}
{{- $_ := set $standard "app.kubernetes.io/component" (default "server" .component) }}
{{- $_ = set $standard "app.kubernetes.io/version" .root.Chart.AppVersion }}
{{- $_ = set $standard "app.kubernetes.io/part-of" "almenara" }}
{{- $_ = set $standard "app.kubernetes.io/managed-by" .root.Release.Service }}
{{- $_ = set $standard "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_") }}
{{- toYaml (merge $standard (default dict .labels) .root.Values.commonLabels) }}
{{- end }}

{{- /* "yes" if several pods share the bus, else empty. */ -}}
{{- define "almenara.sharesBus" -}}
{{- if ne (dig "bus" "kind" "embedded" .Values.config) "embedded" }}yes{{ end }}
{{- end }}

{{- /* "yes" if a Job creates and updates streams, else empty. */ -}}
{{- define "almenara.appliesStreams" -}}
{{- ternary (include "almenara.sharesBus" .) (ternary "yes" "" (eq .Values.streams.apply true)) (kindIs "invalid" .Values.streams.apply) }}
{{- end }}

{{- /* "yes" if the Job that creates the bus runs before the objects of the release exist, else empty:
servers of the release are not there before. */ -}}
{{- define "almenara.appliesStreamsFirst" -}}
{{- if and (include "almenara.sharesBus" .) (or (not .Values.nats.enabled) .Values.migration.fromClaim) }}yes{{ end }}
{{- end }}

{{- /* The host names of ingress and gateway. */ -}}
{{- define "almenara.hosts" -}}
{{- $hosts := list }}
{{- if .Values.ingress.enabled }}
{{- $hosts = concat $hosts (list .Values.ingress.host) .Values.ingress.extraHosts }}
{{- end }}
{{- if .Values.gateway.enabled }}
{{- $hosts = concat $hosts .Values.gateway.hostnames }}
{{- end }}
{{- toYaml (dict "hosts" ($hosts | uniq)) }}
{{- end }}

{{- /* The scheme of the web port: https if the server has a certificate. */ -}}
{{- define "almenara.scheme" -}}
{{- ternary "https" "http" (not (empty .Values.config.server.tls)) }}
{{- end }}

{{- define "almenara.tlsSecretName" -}}
{{- default (printf "%s-tls" (include "almenara.fullname" .)) .Values.ingress.tls.secretName }}
{{- end }}
