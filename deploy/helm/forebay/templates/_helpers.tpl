{{- define "forebay.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "forebay.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "forebay.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "forebay.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "forebay.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ include "forebay.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* The labels that select a part's pods. (dict "root" $ "part" "server") */}}
{{- define "forebay.selector" -}}
app.kubernetes.io/name: {{ include "forebay.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end -}}

{{/* (dict "root" $ "image" .Values.image) */}}
{{- define "forebay.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "forebay.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "forebay.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end -}}

{{/* The DNS name of the servers, which a certificate must contain. */}}
{{- define "forebay.host" -}}
{{ include "forebay.fullname" . }}.{{ .Release.Namespace }}.svc
{{- end -}}

{{- define "forebay.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "forebay.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* A dataset's path, below data.mountPath unless it is absolute or a URL. (dict "root" $ "path" "train") */}}
{{- define "forebay.path" -}}
{{- if or (hasPrefix "/" .path) (contains "://" .path) -}}{{ .path }}{{- else -}}{{ .root.Values.data.mountPath }}/{{ .path }}{{- end -}}
{{- end -}}

{{/* The datasets that one is mixed of, as JSON: one path is a list of itself. */}}
{{- define "forebay.parts" -}}
{{- if kindIs "slice" . }}{{ toJson . }}{{ else }}{{ list (dict "path" .) | toJson }}{{ end -}}
{{- end -}}

{{/* Whether indexes are stored apart from the data: if a pod builds them or a volume contains them. */}}
{{- define "forebay.index.apart" -}}
{{- if or .Values.index.volume (eq .Values.index.build "pod") -}}true{{- end -}}
{{- end -}}

{{- define "forebay.volumes" -}}
{{- range $name, $dataset := .Values.datasets }}
{{- range include "forebay.parts" $dataset | fromJsonArray }}
{{- if not (or $.Values.data.volume (contains "://" .path)) }}
{{- fail (printf "data.volume is required: the dataset %s is not in a bucket" $name) }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.data.volume }}
- name: data
{{- toYaml . | nindent 2 }}
{{- end }}
{{- if include "forebay.index.apart" . }}
- name: index
{{- .Values.index.volume | default (dict "emptyDir" dict) | toYaml | nindent 2 }}
{{- end }}
{{- end -}}

{{/* A container that indexes each dataset: one for each path, which several may share. */}}
{{- define "forebay.index.containers" -}}
{{- $seen := dict }}
{{- range $name, $dataset := .Values.datasets }}
{{- range $part := include "forebay.parts" $dataset | fromJsonArray }}
{{- $path := include "forebay.path" (dict "root" $ "path" $part.path) }}
{{- if not (hasKey $seen $path) }}
{{- $_ := set $seen $path true }}
- name: index-{{ len $seen }}-{{ $name | lower | replace "_" "-" | replace "." "-" }}
  image: {{ include "forebay.image" (dict "root" $ "image" $.Values.image) }}
  imagePullPolicy: {{ $.Values.image.pullPolicy }}
  args:
    - index
    - {{ $path | quote }}
    - --index-dir={{ $.Values.index.mountPath }}
  {{- with cat (include "forebay.threads" $) (include "forebay.storage.env" $) | trim }}
  env:
    {{- include "forebay.threads" $ | trim | nindent 4 }}
    {{- include "forebay.storage.env" $ | trim | nindent 4 }}
  {{- end }}
  {{- with $.Values.storage.envFrom }}
  envFrom: {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext: {{- include "forebay.containerSecurity" $ | nindent 4 }}
  resources: {{- $.Values.index.resources | default (omit $.Values.resources "claims") | toYaml | nindent 4 }}
  volumeMounts:
    {{- if $.Values.data.volume }}
    - {name: data, mountPath: {{ $.Values.data.mountPath }}, readOnly: true}
    {{- end }}
    - {name: index, mountPath: {{ $.Values.index.mountPath }}}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The volume of the disk cache. Kubernetes evicts a pod whose emptyDir takes more than its sizeLimit. */}}
{{- define "forebay.cache.volume" -}}
{{- with .Values.storage.cache }}
{{- with dig "emptyDir" "sizeLimit" "" .volume }}
{{- $bytes := $.Values.storage.cache.bytes }}
{{- if not $bytes }}
{{- fail "storage.cache.bytes is required with a sizeLimit: its default is 9/10 of what is free on the node's disk" }}
{{- else if ge (include "forebay.bytes" $bytes | float64) (include "forebay.bytes" . | float64) }}
{{- fail (printf "storage.cache.bytes (%v) must be below the sizeLimit (%v) of storage.cache.volume" $bytes .) }}
{{- end }}
{{- end }}
{{- .volume | toYaml }}
{{- end }}
{{- end -}}

{{/* Bytes of a size such as 190GiB, or of a quantity of Kubernetes such as 200Gi or 1.5T. */}}
{{- define "forebay.bytes" -}}
{{- $units := dict "" 1 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "P" 1e15 "E" 1e18 "Pi" 1125899906842624 "Ei" 1152921504606846976 -}}
{{- if kindIs "string" . -}}
{{- $unit := regexFind "[A-Za-z]+$" . | trimSuffix "B" -}}
{{- if not (hasKey $units $unit) -}}{{- fail (printf "%s is not a size: expected a unit such as GiB or Gi" .) -}}{{- end -}}
{{- printf "%.0f" (mulf (regexFind "^[0-9.]+" . | float64) (get $units $unit | float64)) -}}
{{- else -}}
{{- printf "%.0f" (float64 .) -}}
{{- end -}}
{{- end -}}

{{- define "forebay.storage.env" -}}
{{- with .Values.storage.env }}{{ toYaml . }}{{- end }}
{{- end -}}

{{/* As many threads as requested cores. The default would be all cores of the node. */}}
{{- define "forebay.threads" -}}
{{- if .Values.server.threads }}
- {name: FOREBAY_THREADS, value: {{ .Values.server.threads | int64 | quote }}}
{{- else if dig "requests" "cpu" "" .Values.resources }}
- name: FOREBAY_THREADS
  valueFrom: {resourceFieldRef: {resource: requests.cpu, divisor: "1"}}
{{- end }}
{{- end -}}

{{/* Seconds of a duration such as 25s or 2m. */}}
{{- define "forebay.seconds" -}}
{{- if hasSuffix "m" . -}}{{ mul (trimSuffix "m" . | int64) 60 }}{{- else -}}{{ trimSuffix "s" . | int64 }}{{- end -}}
{{- end -}}

{{/* Access of clients: environment, mounts and volumes. */}}
{{- define "forebay.client.env" -}}
{{- with .Values.clients }}
{{- if .tls.secretName }}
- {name: FOREBAY_TLS_CA, value: /etc/forebay/tls/ca.crt}
{{- if $.Values.tls.clientCertificates }}
- {name: FOREBAY_TLS_CERT, value: /etc/forebay/tls/tls.crt}
- {name: FOREBAY_TLS_KEY, value: /etc/forebay/tls/tls.key}
{{- end }}
{{- end }}
{{- if .token.secretName }}
- {name: FOREBAY_TOKEN_FILE, value: /etc/forebay/token/{{ .token.key }}}
{{- end }}
{{- end }}
{{- end -}}

{{- define "forebay.client.mounts" -}}
{{- with .Values.clients }}
{{- if .tls.secretName }}
- {name: tls, mountPath: /etc/forebay/tls, readOnly: true}
{{- end }}
{{- if .token.secretName }}
- {name: token, mountPath: /etc/forebay/token, readOnly: true}
{{- end }}
{{- end }}
{{- end -}}

{{- define "forebay.client.volumes" -}}
{{- with .Values.clients }}
{{- if .tls.secretName }}
- {name: tls, secret: {secretName: {{ .tls.secretName }}, defaultMode: 0440}}
{{- end }}
{{- if .token.secretName }}
- {name: token, secret: {secretName: {{ .token.secretName }}, defaultMode: 0440}}
{{- end }}
{{- end }}
{{- end -}}

{{/* A hash of everything in a client's Job. A Job is immutable, so a changed setting makes another Job. */}}
{{- define "forebay.job.hash" -}}
{{- $root := index . 1 -}}
{{- list (index . 0) $root.Values.clients $root.Values.tls $root.Values.image.pullPolicy $root.Values.imagePullSecrets $root.Values.server.port $root.Chart.AppVersion | toJson | sha256sum | trunc 8 -}}
{{- end -}}
