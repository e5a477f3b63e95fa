{{- /* The image of Almenara, with the registry of the parent chart in place of its own. */ -}}
{{- define "almenara.image" -}}
{{- $registry := default .Values.image.registry (default dict .Values.global).imageRegistry }}
{{- $repository := ternary (printf "%s/%s" $registry .Values.image.repository) .Values.image.repository (not (empty $registry)) }}
{{- if .Values.image.digest }}
{{- printf "%s@%s" $repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" $repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{- /* Another image: a dict of `root` and `image`. One that names its registry keeps it. */ -}}
{{- define "almenara.otherImage" -}}
{{- $image := .image }}
{{- $registry := (default dict .root.Values.global).imageRegistry }}
{{- $first := splitList "/" $image | first }}
{{- $named := and (contains "/" $image) (or (contains "." $first) (contains ":" $first) (eq $first "localhost")) }}
{{- ternary (printf "%s/%s" $registry $image) $image (and (not (empty $registry)) (not $named)) }}
{{- end }}

{{- /* The pull secrets of the parent chart and of the release, as JSON; a parent chart may list names
or objects with a name. */ -}}
{{- define "almenara.pullSecrets" -}}
{{- $names := list }}
{{- range concat (default list (default dict .Values.global).imagePullSecrets) .Values.image.pullSecrets }}
{{- $names = append $names (ternary . (dict "name" .) (kindIs "map" .)) }}
{{- end }}
{{- $names | uniq | toJson }}
{{- end }}
