{{- define "etegrec.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "etegrec.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "etegrec.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "etegrec.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Labels that select the pods of one part: (dict "root" $ "part" "service") */}}
{{- define "etegrec.selector" -}}
app.kubernetes.io/name: {{ include "etegrec.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "etegrec.labels" -}}
{{ include "etegrec.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* Name of an image; an own one without a repository is the service's: (dict "root" $ "image" .Values.batch.image) */}}
{{- define "etegrec.image" -}}
{{- $image := ternary .image .root.Values.images.service (ne .image.repository "") }}
{{- if $image.digest }}
{{- printf "%s@%s" $image.repository $image.digest }}
{{- else }}
{{- printf "%s:%s" $image.repository (default .root.Chart.AppVersion $image.tag) }}
{{- end }}
{{- end }}

{{- define "etegrec.store" -}}
{{- default "/models" .Values.modelStore.url }}
{{- end }}

{{- define "etegrec.storeClaim" -}}
{{- default (printf "%s-models" (include "etegrec.fullname" .)) .Values.modelStore.volume.existingClaim }}
{{- end }}

{{/* A claim on storage: (dict "root" $ "part" "trainer" "name" "…" "volume" .Values.trainer.work) */}}
{{- define "etegrec.claim" -}}
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ .name }}
  labels: {{- include "etegrec.labels" . | nindent 4 }}
  annotations:
    helm.sh/resource-policy: keep
spec:
  accessModes: {{- toYaml .volume.accessModes | nindent 4 }}
  {{- with .volume.storageClass }}
  storageClassName: {{ . }}
  {{- end }}
  resources:
    requests:
      storage: {{ .volume.size }}
{{- end }}

{{/* An account without rights, whose annotations may give it some in a cloud: (dict "root" $ "part" "service") */}}
{{- define "etegrec.serviceAccount" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "etegrec.fullname" .root }}-{{ .part }}
  labels: {{- include "etegrec.labels" . | nindent 4 }}
  {{- with (index .root.Values .part).serviceAccount.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end }}

{{/* Labels and annotations of a part's pods. */}}
{{- define "etegrec.podMetadata" -}}
labels: {{- include "etegrec.labels" . | nindent 2 }}
{{- with (index .root.Values .part).podAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/*
What all pods have in common: the user of the images, no token, no rights.
The processes of a pod share one list, so that none of ours is process 1: as such, Python would ignore a SIGTERM that
comes while no handler is set.
*/}}
{{- define "etegrec.pod" -}}
{{- $own := index .root.Values .part -}}
serviceAccountName: {{ include "etegrec.fullname" .root }}-{{ .part }}
automountServiceAccountToken: false
enableServiceLinks: false
shareProcessNamespace: true
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with $own.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $own.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* What all containers have in common. */}}
{{- define "etegrec.container" -}}
imagePullPolicy: {{ .root.Values.images.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
resources: {{- toYaml (index .root.Values .part).resources | nindent 2 }}
{{- end }}

{{/* Whether a part leaves traces: "true", or nothing. */}}
{{- define "etegrec.isTraced" -}}
{{- if and .root.Values.tracing.endpoint (ne .part "batch") }}true{{ end }}
{{- end }}

{{/*
Variables of a part; secrets come as files. The settings are those of all parts: what one writes, others read. What the
part's own `env` names is left out of the rest, as a name may be there once.
*/}}
{{- define "etegrec.env" -}}
{{- $own := (index .root.Values .part).env }}
{{- $names := list }}
{{- range $own }}
{{- $names = append $names .name }}
{{- end -}}
- {name: ETEGREC_STORE, value: {{ include "etegrec.store" .root | quote }}}
- {name: ETEGREC_SECRETS_DIR, value: /secrets}
{{- if .root.Values.signing.trustedKeysConfigMap }}
- {name: ETEGREC_TRUSTED_KEYS_FILE, value: {{ printf "/trusted/%s" .root.Values.signing.trustedKeysFile | quote }}}
{{- end }}
{{- range $name, $value := .root.Values.settings }}
{{- if not (has $name $names) }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}
{{- if include "etegrec.isTraced" . }}
{{- $traced := list (dict "name" "ETEGREC_TRACING" "value" "true") }}
{{- $traced = append $traced (dict "name" "OTEL_EXPORTER_OTLP_ENDPOINT" "value" .root.Values.tracing.endpoint) }}
{{- range concat $traced .root.Values.tracing.env }}
{{- if not (has .name $names) }}
{{ toYaml (list .) }}
{{- end }}
{{- end }}
{{- end }}
{{- with $own }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Mounts of a part; only the trainer writes the model store. */}}
{{- define "etegrec.volumeMounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: secrets, mountPath: /secrets, readOnly: true}
{{- if not .root.Values.modelStore.url }}
- {name: models, mountPath: /models{{ if ne .part "trainer" }}, readOnly: true{{ end }}}
{{- end }}
{{- if .root.Values.signing.trustedKeysConfigMap }}
- {name: trusted-keys, mountPath: /trusted, readOnly: true}
{{- end }}
{{- range (index .root.Values .part).mounts }}
- {name: {{ printf "mount-%s" .name }}, mountPath: {{ .path | quote }}, readOnly: true}
{{- end }}
{{- end }}

{{/* The volumes of these mounts; only the service gets the API keys, all get the keys of attributions, if there are any. */}}
{{- define "etegrec.volumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 1Gi}
- name: secrets
  projected:
    defaultMode: 0440
    sources:
      - secret:
          name: {{ .root.Values.redis.existingSecret }}
          items: [{key: {{ .root.Values.redis.key | quote }}, path: etegrec_redis_url}]
      {{- if not .root.Values.apiKeys.openToEveryone }}
      - secret:
          name: {{ .root.Values.apiKeys.existingSecret }}
          {{- if ne .part "service" }}
          optional: true
          items: [{key: etegrec_attribution_keys, path: etegrec_attribution_keys}]
          {{- end }}
      {{- end }}
{{- if not .root.Values.modelStore.url }}
- name: models
  persistentVolumeClaim: {claimName: {{ include "etegrec.storeClaim" .root }}}
{{- end }}
{{- if .root.Values.signing.trustedKeysConfigMap }}
- name: trusted-keys
  configMap: {name: {{ .root.Values.signing.trustedKeysConfigMap }}}
{{- end }}
{{- range (index .root.Values .part).mounts }}
- name: {{ printf "mount-%s" .name }}
  {{- if .secret }}
  secret: {secretName: {{ .secret }}, defaultMode: 0440}
  {{- else }}
  configMap: {name: {{ .configMap }}}
  {{- end }}
{{- end }}
{{- end }}
