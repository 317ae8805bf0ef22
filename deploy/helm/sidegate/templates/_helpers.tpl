{{- define "sidegate.name" -}}
{{- if contains "sidegate" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-sidegate" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end -}}
{{- end }}

{{- define "sidegate.selector" -}}
app.kubernetes.io/name: sidegate
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "sidegate.labels" -}}
{{ include "sidegate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "valkey.selector" -}}
app.kubernetes.io/name: valkey
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "valkey.labels" -}}
{{ include "valkey.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* The store: Valkey's where that is the release's own, else what the settings say. */ -}}
{{- define "sidegate.store" -}}
{{- if .Values.valkey.enabled }}redis{{ else }}{{ .Values.settings.SESSION_STORE | default "memory" }}{{ end -}}
{{- end }}

{{- define "sidegate.replicated" -}}
{{- if or .Values.autoscaling.enabled (gt (int .Values.replicas) 1) }}yes{{ end -}}
{{- end }}

{{- /* The public host, by the redirect URL. */ -}}
{{- define "sidegate.host" -}}
{{- (urlParse (required "settings.OAUTH_REDIRECT_URL: the public address is needed" .Values.settings.OAUTH_REDIRECT_URL)).hostname -}}
{{- end }}

{{- define "sidegate.hosts" -}}
{{- prepend .extra (include "sidegate.host" .root) | uniq | toJson -}}
{{- end }}

{{- /* What would start and be wrong. */ -}}
{{- define "sidegate.check" -}}
{{- if and (include "sidegate.replicated" .) (eq (include "sidegate.store" .) "memory") }}
{{- fail "more than one replica needs a store that they share, since each keeps its own sessions in memory: set valkey.enabled, or settings.SESSION_STORE to redis or jwt" }}
{{- end }}
{{- range $name, $value := .Values.settings }}
{{- if regexMatch "(_SECRET|_PASSWORD|_REDIS_URL|_KEY)$" $name }}
{{- fail (printf "settings.%s: a secret would stand in a ConfigMap: put it into the Secret that secretName names" $name) }}
{{- end }}
{{- if has $name (list "LISTEN_ADDR" "ADMIN_ADDR" "SIDEGATE_CONFIG" "OAUTH_CLIENT_SECRET_FILE" "SESSION_SECRET_FILE" "SESSION_REDIS_URL_FILE") }}
{{- fail (printf "settings.%s: the chart sets it" $name) }}
{{- end }}
{{- end }}
{{- end }}
