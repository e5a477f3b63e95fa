{{- /* The template of the claims of a StatefulSet, from a dict of `root`, `name` (of the StatefulSet), `claim` and `labels`.

Kubernetes refuses to change it, with a message that does not say what to do. So it has no values that change from one upgrade to the next, such as commonAnnotations, and other differences are refused here. */ -}}
{{- define "almenara.claimTemplates" -}}
{{- $template := dict "labels" .labels "annotations" (default dict .claim.annotations) "spec" (include "almenara.claim" .claim | fromYaml) }}
{{- include "almenara.checkClaims" (dict "root" .root "name" .name "template" $template) -}}
- apiVersion: v1
  kind: PersistentVolumeClaim
  metadata:
    name: data
    labels:
      {{- toYaml $template.labels | nindent 6 }}
    {{- with $template.annotations }}
    annotations:
      {{- toYaml . | nindent 6 }}
    {{- end }}
  spec:
    {{- toYaml $template.spec | nindent 4 }}
{{- end }}

{{- /* Fail where an existing StatefulSet has other claims. Without a cluster, as in `helm template`, none exists. */ -}}
{{- define "almenara.checkClaims" -}}
{{- $differences := list }}
{{- with lookup "apps/v1" "StatefulSet" .root.Release.Namespace .name }}
{{- $claims := default list .spec.volumeClaimTemplates }}
{{- if ne (empty $claims) (empty $.template) }}
{{- fail (printf "The StatefulSet %s has other volumes with config.bus than without, and Kubernetes cannot change them. Stop it with `kubectl --namespace %s delete statefulset %s`, which keeps the claims, and upgrade again: docs/operations/high-availability.md (Move a history to a shared bus, and back)." $.name $.root.Release.Namespace $.name) }}
{{- end }}
{{- if $claims }}
{{- $old := first $claims }}
{{- $new := $.template }}
{{- $sizes := list }}
{{- range list $old.spec $new.spec }}
{{- $sizes = append $sizes .resources.requests.storage }}
{{- end }}
{{- if ne (include "almenara.bytes" (first $sizes)) (include "almenara.bytes" (last $sizes)) }}
{{- $differences = append $differences (printf "size %s instead of %s" (last $sizes) (first $sizes)) }}
{{- end }}
{{- range $key := list "accessModes" "storageClassName" "selector" "volumeName" }}
{{- if ne (get $old.spec $key | toJson) (get $new.spec $key | toJson) }}
{{- $differences = append $differences (printf "another value of %s" $key) }}
{{- end }}
{{- end }}
{{- range $key := list "labels" "annotations" }}
{{- if ne (get $old.metadata $key | default dict | toJson) (get $new $key | default dict | toJson) }}
{{- $differences = append $differences (printf "other %s" $key) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- if $differences }}
{{- fail (printf "Kubernetes cannot change the claims of the StatefulSet %s: %s. Delete it with `kubectl --namespace %s delete statefulset %s --cascade=orphan`, which keeps pods and claims, change the existing claims yourself, and upgrade again: docs/operations/upgrade.md (Volumes of replicas)." .name (join ", " $differences) .root.Release.Namespace .name) }}
{{- end }}
{{- end }}
