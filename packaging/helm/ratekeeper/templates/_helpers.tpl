{{- define "ratekeeper.name" -}}
{{- default .Release.Name .Values.nameOverride | trunc 53 | trimSuffix "-" -}}
{{- end -}}

{{- define "ratekeeper.selector" -}}
app.kubernetes.io/name: ratekeeper
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "ratekeeper.labels" -}}
{{ include "ratekeeper.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "ratekeeper.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ default (include "ratekeeper.name" .) .Values.serviceAccount.name }}
{{- else -}}
{{ default "default" .Values.serviceAccount.name }}
{{- end -}}
{{- end -}}

{{- define "ratekeeper.image" -}}
{{- if .Values.image.digest -}}
{{ printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else -}}
{{ printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end -}}
{{- end -}}

{{- define "ratekeeper.rulesConfigMap" -}}
{{ default (printf "%s-rules" (include "ratekeeper.name" .)) .Values.rules.existingConfigMap }}
{{- end -}}

{{/* What cannot be meant is refused here. */}}
{{- define "ratekeeper.check" -}}
{{- $many := or .Values.autoscaling.enabled (gt (int .Values.replicaCount) 1) -}}
{{- $memory := and (eq .Values.store.address "memory") (not .Values.store.existingSecret.name) -}}
{{- if and $many $memory (not .Values.store.separateCounters) -}}
{{- fail "several replicas that count in memory admit several times every limit: set store.address (or store.separateCounters, if that is meant)" -}}
{{- end -}}
{{- if and .Values.tls.enabled (not .Values.tls.secretName) -}}
{{- fail "tls.enabled needs tls.secretName" -}}
{{- end -}}
{{- if and .Values.store.tls.clientCertificate (not .Values.store.tls.secretName) -}}
{{- fail "store.tls.clientCertificate needs store.tls.secretName" -}}
{{- end -}}
{{- end -}}

{{- define "ratekeeper.env" -}}
- {name: RATEKEEPER_RULES, value: /etc/ratekeeper/rules}
- {name: RATEKEEPER_COMPAT, value: {{ .Values.compat | quote }}}
- {name: RATEKEEPER_WORKERS, value: {{ .Values.workers | quote }}}
- {name: RATEKEEPER_DRAIN_DELAY, value: {{ printf "%ds" (int .Values.drain.delaySeconds) }}}
- {name: RATEKEEPER_DRAIN_TIMEOUT, value: {{ printf "%ds" (int .Values.drain.timeoutSeconds) }}}
- {name: LOG_LEVEL, value: {{ .Values.log.level }}}
- {name: LOG_FORMAT, value: {{ .Values.log.format }}}
{{- if .Values.store.existingSecret.name }}
- name: RATEKEEPER_STORE
  valueFrom:
    secretKeyRef:
      name: {{ .Values.store.existingSecret.name }}
      key: {{ .Values.store.existingSecret.key }}
{{- else }}
- {name: RATEKEEPER_STORE, value: {{ .Values.store.address | quote }}}
{{- end }}
- {name: RATEKEEPER_ON_STORE_FAILURE, value: {{ .Values.store.onFailure }}}
- {name: RATEKEEPER_STORE_TIMEOUT, value: {{ .Values.store.timeout | quote }}}
- {name: RATEKEEPER_MAX_COUNTERS, value: {{ int64 .Values.store.maxCounters | quote }}}
{{- if .Values.store.tls.secretName }}
- {name: REDIS_TLS_CACERT, value: /etc/ratekeeper/store-tls/ca.crt}
{{- if .Values.store.tls.clientCertificate }}
- {name: REDIS_TLS_CLIENT_CERT, value: /etc/ratekeeper/store-tls/tls.crt}
- {name: REDIS_TLS_CLIENT_KEY, value: /etc/ratekeeper/store-tls/tls.key}
{{- end }}
{{- end }}
{{- if .Values.tls.enabled }}
- {name: GRPC_SERVER_USE_TLS, value: "true"}
- {name: GRPC_SERVER_TLS_CERT, value: /etc/ratekeeper/tls/tls.crt}
- {name: GRPC_SERVER_TLS_KEY, value: /etc/ratekeeper/tls/tls.key}
{{- if .Values.tls.requireClientCertificate }}
- {name: GRPC_CLIENT_TLS_CACERT, value: /etc/ratekeeper/tls/ca.crt}
{{- end }}
{{- end }}
- {name: USE_STATSD, value: "false"}
{{- if .Values.metrics.referenceNames }}
- {name: USE_PROMETHEUS, value: "true"}
- {name: PROMETHEUS_ADDR, value: {{ printf ":%d" (int .Values.metrics.port) | quote }}}
{{- end }}
{{- range $name, $value := .Values.env }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}
