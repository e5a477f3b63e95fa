{{- /* Written by `make chart`. The plugins that come with Almenara. */ -}}
{{- define "almenara.known" -}}
["demo", "http", "nats", "prometheus"]
{{- end }}
