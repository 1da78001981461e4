{{- define "prefix" -}}
{{- if kindIs "string" .Values.namePrefix }}{{ .Values.namePrefix }}{{ else }}{{ .Release.Name }}-{{ end -}}
{{- end -}}

{{- /* Labels of an object, and of the Pods that belong to a component. Usage: include "labels" (list . "keyd") */ -}}
{{- define "labels" -}}
{{- $ := index . 0 -}}
{{ include "selector" . }}
app.kubernetes.io/part-of: phantom-authz
app.kubernetes.io/managed-by: {{ $.Release.Service }}
helm.sh/chart: {{ $.Chart.Name }}-{{ $.Chart.Version }}
{{- end -}}

{{- define "selector" -}}
{{- $ := index . 0 -}}
app.kubernetes.io/name: {{ index . 1 }}
app.kubernetes.io/instance: {{ $.Release.Name }}
{{- end -}}

{{- define "containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "image" -}}
{{ .repository }}:{{ .tag }}
{{- end -}}

{{- define "pull" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "certificate" -}}
items:
- {key: tls.crt, path: tls/tls.crt}
- {key: tls.key, path: tls/tls.key}
- {key: ca.crt, path: tls/ca.crt}
{{- end -}}

{{- define "envoy.yaml" -}}
{{- $text := .Files.Get "files/envoy.yaml" -}}
{{- $text = replace "address: keyd, port_value: 8083" (printf "address: %skeyd, port_value: 8083" (include "prefix" .)) $text -}}
{{- $text = replace "address: upstream, port_value: 8080" (printf "address: %s, port_value: %d" .Values.upstream.host (int .Values.upstream.port)) $text -}}
{{- $text -}}
{{- end -}}

{{- define "authzd.yaml" -}}
{{- $own := dict
  "listen" (dict "check" (list "unix:///run/phantom/authz.sock") "admin" "tcp://[::]:9192")
  "key_api" (dict "url" (printf "https://%skeyd:8080" (include "prefix" .)) "token_file" "secrets/key-api.token"
    "tls" (dict "ca_file" "tls/ca.crt" "cert_file" "tls/tls.crt" "key_file" "tls/tls.key")) -}}
{{- mergeOverwrite (deepCopy .Values.gateway.authzd.config) $own | toYaml -}}
{{- end -}}

{{- define "keyd.yaml" -}}
{{- $operators := list -}}
{{- range .Values.keyd.operators }}{{ $operators = append $operators (dict "name" . "token_file" (printf "/etc/phantom-operators/%s" .)) }}{{ end -}}
{{- $own := dict
  "listen" (dict "sidecars" "tcp://[::]:8080" "operators" "unix:///run/phantom/operators.sock" "owners" "tcp://[::]:8083" "admin" "tcp://[::]:8082"
    "tls" (dict "cert_file" "tls/tls.crt" "key_file" "tls/tls.key" "client_ca_file" "tls/ca.crt")
    "client_names" (dict "sidecars" (list "authzd") "owners" (list "envoy")))
  "sidecar_token_files" (list "secrets/key-api.token")
  "operators" $operators -}}
{{- if eq .Values.keyd.store "postgres" -}}
{{- $_ := set $own "store" .Values.keyd.postgres.url -}}
{{- $_ := set $own "store_password_file" "/etc/phantom-store/password" -}}
{{- end -}}
{{- mergeOverwrite (deepCopy .Values.keyd.config) $own | toYaml -}}
{{- end -}}
