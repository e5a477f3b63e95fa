{{- /* The name of the NATS servers of the release. */ -}}
{{- define "almenara.nats.name" -}}
{{- printf "%s-nats" (include "almenara.fullname" .) }}
{{- end }}

{{- /* Labels that select the pods of the NATS servers. */ -}}
{{- define "almenara.nats.selector" -}}
{{- include "almenara.selector" . }}
app.kubernetes.io/component: nats
{{- end }}

{{- /* The addresses of the NATS servers, as JSON: those of the release, or else those of `config`. */ -}}
{{- define "almenara.nats.servers" -}}
{{- if .Values.nats.enabled }}
{{- list (printf "nats://%s:4222" (include "almenara.nats.name" .)) | toJson }}
{{- else }}
{{- dig "plugins" "nats" "servers" list .Values.config | toJson }}
{{- end }}
{{- end }}

{{- /* The configuration of each NATS server. */ -}}
{{- define "almenara.nats.configuration" -}}
{{- $name := include "almenara.nats.name" . -}}
server_name: $POD_NAME
port: 4222
http_port: 8222
jetstream {
  store_dir: /data
  max_memory_store: 64MB
  # The rest of the volume is for what the servers store beside messages.
  max_file_store: {{ div (mul (include "almenara.bytes" .Values.nats.size | int64) 9) 10 }}
  # What is acknowledged is on the disk, also after a power failure of all servers.
  sync_interval: always
}
cluster {
  name: {{ $name }}
  port: 6222
  routes: [
    {{- range $number := until 3 }}
    nats://{{ $name }}-{{ $number }}.{{ $name }}-headless:6222
    {{- end }}
  ]
}
{{- end }}
