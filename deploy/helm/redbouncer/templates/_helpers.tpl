{{- define "redbouncer.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains .Chart.Name .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "redbouncer.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "redbouncer.labels" -}}
{{ include "redbouncer.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "redbouncer.secret" -}}
{{- .Values.upstream.existingSecret | default (include "redbouncer.fullname" .) }}
{{- end }}

{{- /* The configuration file: the settings, and those that follow from other values. */}}
{{- define "redbouncer.file" -}}
{{- $own := list "upstream" "listen" "http-listen" "shutdown-delay" "shutdown-timeout" "tls-cert-file" "tls-key-file" "tls-ca-cert-file" "tls-auth-clients" }}
{{- $said := dict }}
{{- range $name, $value := .Values.settings }}
{{- if has $name $own }}
{{- fail (printf "settings.%s: this setting has a value of its own in the chart (upstream, tls, shutdown or service); set that instead" $name) }}
{{- end }}
{{- /* Helm has made 1e+06 of 1000000, and true of yes. */}}
{{- if and (kindIs "float64" $value) (eq (floor $value) $value) }}
{{- $value = int64 $value }}
{{- else if kindIs "bool" $value }}
{{- $value = ternary "yes" "no" $value }}
{{- end }}
{{- $_ := set $said $name $value }}
{{- end }}
{{- $file := dict "shutdown-delay" (printf "%ds" (int .Values.shutdown.delay)) "shutdown-timeout" (printf "%ds" (int .Values.shutdown.timeout)) }}
{{- if .Values.tls.secretName }}
{{- $_ := set $file "tls-cert-file" "/etc/redbouncer-tls/tls.crt" }}
{{- $_ := set $file "tls-key-file" "/etc/redbouncer-tls/tls.key" }}
{{- $_ := set $file "tls-auth-clients" .Values.tls.authClients }}
{{- if ne .Values.tls.authClients "no" }}
{{- $_ := set $file "tls-ca-cert-file" "/etc/redbouncer-tls/ca.crt" }}
{{- end }}
{{- end }}
{{- if .Values.upstream.caSecret }}
{{- $_ := set $file "upstream-tls-ca-cert-file" "/etc/redbouncer-upstream/ca.crt" }}
{{- end }}
{{- toYaml (mergeOverwrite $said $file) }}
{{- end }}

{{- define "redbouncer.spread" -}}
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- topologyKey: {{ . }}
  maxSkew: 1
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "redbouncer.selector" $ | nindent 6 }}
{{- end }}
{{- end }}

{{- define "redbouncer.pod" -}}
metadata:
  labels:
    {{- include "redbouncer.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- $annotations := deepCopy .Values.podAnnotations }}
  {{- if .Values.metrics.annotations }}
  {{- $_ := set $annotations "prometheus.io/scrape" "true" }}
  {{- $_ := set $annotations "prometheus.io/port" "9121" }}
  {{- end }}
  {{- with $annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ add .Values.shutdown.delay .Values.shutdown.timeout 10 }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    seccompProfile:
      type: RuntimeDefault
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml .Values.topologySpreadConstraints | nindent 4 }}
  {{- else if eq .Values.mode "deployment" }}
  topologySpreadConstraints:
    {{- include "redbouncer.spread" . | trim | nindent 4 }}
  {{- end }}
  containers:
    - name: redbouncer
      image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args:
        - serve
        - --config
        - /etc/redbouncer/redbouncer.yaml
        {{- with .Values.extraArgs }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      env:
        - name: REDBOUNCER_LISTEN
          value: {{ ternary "tls://:6380" ":6380" (ne .Values.tls.secretName "") | quote }}
        - name: REDBOUNCER_HTTP_LISTEN
          value: ":9121"
        - name: REDBOUNCER_UPSTREAM
          valueFrom:
            secretKeyRef:
              name: {{ include "redbouncer.secret" . }}
              key: {{ ternary .Values.upstream.existingSecretKey "upstream" (ne .Values.upstream.existingSecret "") }}
        {{- with .Values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - name: redis
          containerPort: 6380
        - name: http
          containerPort: 9121
      startupProbe:
        httpGet:
          path: /healthz
          port: http
        periodSeconds: 1
        failureThreshold: 30
      readinessProbe:
        httpGet:
          path: /readyz
          port: http
        periodSeconds: 3
        timeoutSeconds: 3
        failureThreshold: 2
      livenessProbe:
        httpGet:
          path: /healthz
          port: http
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 3
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop:
            - ALL
      volumeMounts:
        - name: settings
          mountPath: /etc/redbouncer
          readOnly: true
        {{- if .Values.tls.secretName }}
        - name: tls
          mountPath: /etc/redbouncer-tls
          readOnly: true
        {{- end }}
        {{- if .Values.upstream.caSecret }}
        - name: upstream-ca
          mountPath: /etc/redbouncer-upstream
          readOnly: true
        {{- end }}
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: settings
      configMap:
        name: {{ include "redbouncer.fullname" . }}
    {{- with .Values.tls.secretName }}
    - name: tls
      secret:
        secretName: {{ . }}
        defaultMode: 0440
    {{- end }}
    {{- with .Values.upstream.caSecret }}
    - name: upstream-ca
      secret:
        secretName: {{ . }}
        items:
          - key: ca.crt
            path: ca.crt
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
