{{- define "almenara.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "almenara.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride }}
{{- else }}
{{- $name := include "almenara.name" . }}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "almenara.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride }}
{{- end }}

{{- define "almenara.serviceAccountName" -}}
{{- $own := ternary (include "almenara.fullname" .) "default" .Values.serviceAccount.create }}
{{- default $own .Values.serviceAccount.name }}
{{- end }}

{{- define "almenara.image" -}}
{{- $tag := default .Chart.AppVersion .Values.image.tag }}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository $tag }}
{{- end }}
{{- end }}

{{- define "almenara.selector" -}}
app.kubernetes.io/name: {{ include "almenara.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* Metadata of an object: a dict of `root`, and maybe `suffix`, `component`, `labels`,
`annotations`. */ -}}
{{- define "almenara.metadata" -}}
{{- $annotations := merge (dict) (default dict .annotations) .root.Values.commonAnnotations -}}
name: {{ include "almenara.fullname" .root }}{{ with .suffix }}-{{ . }}{{ end }}
namespace: {{ include "almenara.namespace" .root }}
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

{{- /* Every name that a browser may ask for. */ -}}
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

{{- /* How the pod is spoken to: https where it has a certificate of its own. */ -}}
{{- define "almenara.scheme" -}}
{{- ternary "https" "http" (not (empty .Values.config.server.tls)) }}
{{- end }}

{{- define "almenara.tlsSecretName" -}}
{{- default (printf "%s-tls" (include "almenara.fullname" .)) .Values.ingress.tls.secretName }}
{{- end }}
