{{- /* A Role and its binding in a namespace, or a ClusterRole and its binding without one. */ -}}
{{- define "almenara.granted" }}
{{- $metadata := include "almenara.metadata" (dict "root" .root "suffix" .suffix) | fromYaml }}
{{- if .namespace }}
{{- $_ := set $metadata "namespace" .namespace }}
{{- else }}
{{- /* Of the whole cluster: the namespace keeps two releases of one name apart. */}}
{{- $_ := set $metadata "name" (printf "%s-%s" (include "almenara.namespace" .root) $metadata.name) }}
{{- $_ := unset $metadata "namespace" }}
{{- end }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ ternary "Role" "ClusterRole" (ne .namespace "") }}
metadata:
  {{- toYaml $metadata | nindent 2 }}
rules:
  {{- toYaml .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ ternary "RoleBinding" "ClusterRoleBinding" (ne .namespace "") }}
metadata:
  {{- toYaml $metadata | nindent 2 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ ternary "Role" "ClusterRole" (ne .namespace "") }}
  name: {{ $metadata.name }}
subjects:
  - kind: ServiceAccount
    name: {{ include "almenara.serviceAccountName" .root }}
    namespace: {{ include "almenara.namespace" .root }}
{{ end }}
