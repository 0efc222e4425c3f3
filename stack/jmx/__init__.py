"""The Prometheus agent inside the JVMs, switched on by EMRSYNC_JMX_PORT: JMX metrics of the broker and of Connect."""
