# A Kafka Connect worker with the Debezium plugins, from the same poms and versions as the stack without Docker.
FROM maven:3.9.9-eclipse-temurin-17 AS jars
WORKDIR /build
COPY stack/versions.toml ./
COPY stack/kafka/pom.xml kafka.xml
COPY stack/debezium/pom.xml debezium.xml
RUN sed -nE '/^\[maven\]/,/^\[images\]/ s/^([a-z0-9-]+) = "(.+)"$/-D\1.version=\2/p' versions.toml > versions.args
RUN mvn --batch-mode --quiet --file kafka.xml $(cat versions.args) \
      dependency:copy-dependencies -DoutputDirectory=/opt/kafka
COPY docker/fetch-plugin /usr/local/bin/fetch-plugin
# Whoever asks for a plugin gets it, or no image. Where a registry does not serve one that is not needed:
# --build-arg PLUGINS="postgres mysql". The worker looks into the folders of all three.
ARG PLUGINS="postgres mysql mariadb"
RUN mkdir -p /opt/plugins/postgres /opt/plugins/mysql /opt/plugins/mariadb \
    && for plugin in $PLUGINS; do sh /usr/local/bin/fetch-plugin "$plugin" || exit 1; done

FROM eclipse-temurin:17.0.15_6-jre-noble
RUN useradd --system --uid 10001 --no-create-home connect
COPY --from=jars /opt/kafka /opt/kafka
COPY --from=jars /opt/plugins /opt/plugins
COPY connectors/connect/worker.properties /opt/connect/worker.properties
COPY connectors/connect/rest-jaas.conf /opt/connect/rest-jaas.conf
COPY stack/kafka/log4j2.xml /opt/connect/log4j2.xml
COPY --chmod=755 docker/connect-worker /usr/local/bin/connect-worker
USER connect
ENTRYPOINT ["connect-worker"]
