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

{{- /* The milliseconds of a duration, as the program reads it: 500ms, 90s, 1h30m. */ -}}
{{- define "sidegate.milliseconds" -}}
{{- $units := dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 "d" 86400000 -}}
{{- $sum := 0 -}}
{{- range regexFindAll "[0-9]+(ms|s|m|h|d)" . -1 -}}
{{- $unit := regexFind "[a-z]+" . -}}
{{- $sum = add $sum (mul (trimSuffix $unit . | trimPrefix "0" | int64) (get $units $unit)) -}}
{{- end -}}
{{- $sum -}}
{{- end }}

{{- /* What would start and be wrong. */ -}}
{{- define "sidegate.check" -}}
{{- if and (include "sidegate.replicated" .) (eq (include "sidegate.store" .) "memory") }}
{{- fail "more than one replica needs a store that they share, since each keeps its own sessions in memory: set valkey.enabled, or settings.SESSION_STORE to redis or jwt" }}
{{- end }}
{{- $delay := .Values.settings.SHUTDOWN_DELAY | default "5s" | toString }}
{{- $timeout := .Values.settings.SHUTDOWN_TIMEOUT | default "30s" | toString }}
{{- $drain := add (int64 (include "sidegate.milliseconds" $delay)) (int64 (include "sidegate.milliseconds" $timeout)) }}
{{- if ge $drain (mul 1000 .Values.terminationGracePeriodSeconds) }}
{{- fail (printf "terminationGracePeriodSeconds: must be longer than SHUTDOWN_DELAY (%s) and SHUTDOWN_TIMEOUT (%s) together, else open requests are cut off" $delay $timeout) }}
{{- end }}
{{- if contains "@" (.Values.settings.OAUTH_PROXY | toString) }}
{{- fail "settings.OAUTH_PROXY: a password would stand in a ConfigMap: put the address into the Secret that secretName names, as oauth-proxy, and set OAUTH_PROXY_FILE to /run/secrets/sidegate/oauth-proxy" }}
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
