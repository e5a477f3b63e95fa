{{- /* The part of a pod that all pods of the chart share. */ -}}
{{- define "almenara.pod.common" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with include "almenara.pullSecrets" . | fromJsonArray }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.hostAliases }}
hostAliases:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.dnsPolicy }}
dnsPolicy: {{ . }}
{{- end }}
{{- with .Values.dnsConfig }}
dnsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* The part of a container that all containers with Almenara share. */ -}}
{{- define "almenara.container.common" -}}
image: {{ include "almenara.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  {{- toYaml .Values.securityContext | nindent 2 }}
{{- with .Values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
env:
  - name: ALMENARA_CONFIG
    value: /etc/almenara/almenara.yaml
  {{- if .Values.plugins.install.enabled }}
  - name: PYTHONPATH
    value: /site
  {{- end }}
  {{- with .Values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "almenara.mounts.common" -}}
- name: config
  mountPath: /etc/almenara/almenara.yaml
  subPath: almenara.yaml
  readOnly: true
- name: tmp
  mountPath: /tmp
{{- range $name, $_ := .Values.secrets }}
- name: secret-{{ $name }}
  mountPath: /etc/almenara/secrets/{{ $name }}
  readOnly: true
{{- end }}
{{- if or .Values.plugins.files .Values.plugins.existingConfigMap }}
- name: plugins
  mountPath: /etc/almenara/plugins
  readOnly: true
{{- end }}
{{- if .Values.plugins.install.enabled }}
- name: site
  mountPath: /site
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "almenara.volumes.common" -}}
{{- include "almenara.volumes" (dict "root" . "name" (include "almenara.fullname" .)) }}
{{- end }}

{{- /* The volumes of a pod: a dict of `root`, and `name`, that of the ConfigMap with the
configuration, with which the names of the other objects of the chart start. */ -}}
{{- define "almenara.volumes" -}}
{{- $name := .name }}
{{- with .root }}
- name: config
  configMap:
    name: {{ $name | quote }}
    defaultMode: 0444
- name: tmp
  emptyDir:
    sizeLimit: {{ .Values.tmpSize }}
{{- range $key, $secret := .Values.secrets }}
- name: secret-{{ $key }}
  secret:
    secretName: {{ default (printf "%s-%s" $name $key) $secret.existingSecret | quote }}
    defaultMode: 0440
{{- end }}
{{- if or .Values.plugins.files .Values.plugins.existingConfigMap }}
- name: plugins
  projected:
    defaultMode: 0444
    sources:
      {{- if .Values.plugins.files }}
      - configMap:
          name: {{ printf "%s-plugins" $name | quote }}
      {{- end }}
      {{- with .Values.plugins.existingConfigMap }}
      - configMap:
          name: {{ . | quote }}
      {{- end }}
{{- end }}
{{- if .Values.plugins.install.enabled }}
- name: site
  emptyDir:
    sizeLimit: {{ .Values.plugins.install.size }}
{{- if .Values.plugins.install.existingSecret }}
- name: index
  secret:
    secretName: {{ .Values.plugins.install.existingSecret | quote }}
    defaultMode: 0440
{{- end }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end }}

{{- /* The token of the ServiceAccount: bound to the pod, short-lived and rotated, in place of the
automatic mount. */ -}}
{{- define "almenara.tokenVolume" -}}
- name: token
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 3607
      - configMap:
          name: kube-root-ca.crt
          items:
            - key: ca.crt
              path: ca.crt
      - downwardAPI:
          items:
            - path: namespace
              fieldRef:
                apiVersion: v1
                fieldPath: metadata.namespace
{{- end }}

{{- /* Resources of the init container. Installed distributions count as ephemeral storage of the pod,
whose limit is the larger of an init container's and the sum of the other containers'. */ -}}
{{- define "almenara.installResources" -}}
{{- $resources := deepCopy .Values.resources }}
{{- with dig "limits" "ephemeral-storage" "" $resources }}
{{- if regexMatch "^[0-9]+[KMGT]i$" . }}
{{- $whole := add (include "almenara.bytes" . | int64) (include "almenara.bytes" $.Values.plugins.install.size | int64) }}
{{- $_ := set $resources.limits "ephemeral-storage" (toString $whole) }}
{{- end }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{- define "almenara.installContainer" -}}
- name: install
  image: {{ include "almenara.otherImage" (dict "root" . "image" .Values.plugins.install.image) | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [python, -m, pip, install]
  args:
    - --require-hashes
    - "--only-binary=:all:"
    - --no-deps
    - --no-cache-dir
    # Replaces the files of an interrupted attempt.
    - --upgrade
    - --disable-pip-version-check
    - --index-url={{ .Values.plugins.install.indexUrl }}
    - --target=/site
    - --requirement=/etc/almenara/requirements.txt
  {{- with .Values.extraEnvFrom }}
  envFrom:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  env:
    # Wheels are unpacked on the target volume, because /tmp is too small for large ones.
    - name: TMPDIR
      value: /site
    {{- if .Values.plugins.install.existingSecret }}
    - name: NETRC
      value: /etc/almenara/index/netrc
    {{- end }}
    {{- with .Values.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  securityContext:
    {{- toYaml .Values.securityContext | nindent 4 }}
  resources:
    {{- include "almenara.installResources" . | nindent 4 }}
  volumeMounts:
    - name: config
      mountPath: /etc/almenara/requirements.txt
      subPath: requirements.txt
      readOnly: true
    - name: site
      mountPath: /site
    - name: tmp
      mountPath: /tmp
    {{- if .Values.plugins.install.existingSecret }}
    - name: index
      mountPath: /etc/almenara/index
      readOnly: true
    {{- end }}
    {{- with .Values.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{- define "almenara.probe" -}}
httpGet:
  path: {{ .path }}
  port: http
  scheme: {{ .scheme }}
{{ toYaml .timing }}
{{- end }}
