{{- /* A Role and its binding in a namespace, or without one a ClusterRole and its binding. */ -}}
{{- define "almenara.roleAndBinding" }}
{{- $metadata := include "almenara.metadata" (dict "root" .root "suffix" .suffix) | fromYaml }}
{{- if .namespace }}
{{- $_ := set $metadata "namespace" .namespace }}
{{- else }}
{{- /* Cluster-wide names contain the namespace, because two namespaces may have a release of the
same name. */}}
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
  name: {{ $metadata.name | quote }}
subjects:
  - kind: ServiceAccount
    name: {{ include "almenara.serviceAccountName" .root | quote }}
    namespace: {{ include "almenara.namespace" .root | quote }}
{{ end }}
