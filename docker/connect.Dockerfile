# A Kafka Connect worker with the Debezium plugins, from the same poms and versions as the stack without Docker.
FROM maven:3.9-eclipse-temurin-17 AS jars
WORKDIR /build
COPY stack/versions.toml ./
COPY stack/kafka/pom.xml kafka.xml
COPY stack/debezium/pom.xml debezium.xml
RUN sed -nE 's/^([a-z0-9-]+) = "(.+)"$/-D\1.version=\2/p' versions.toml > versions.args
RUN mvn --batch-mode --quiet --file kafka.xml $(cat versions.args) \
      dependency:copy-dependencies -DoutputDirectory=/opt/kafka
COPY docker/fetch-plugin /usr/local/bin/fetch-plugin
RUN sh /usr/local/bin/fetch-plugin postgres && sh /usr/local/bin/fetch-plugin mysql
# Not every registry serves it, and the default source, PostgreSQL, does without.
RUN sh /usr/local/bin/fetch-plugin mariadb || echo "going on without the MariaDB plugin"

FROM eclipse-temurin:17-jre
RUN useradd --system --no-create-home connect
COPY --from=jars /opt/kafka /opt/kafka
COPY --from=jars /opt/plugins /opt/plugins
COPY connectors/connect/worker.properties /opt/connect/worker.properties
COPY connectors/connect/rest-jaas.conf /opt/connect/rest-jaas.conf
COPY stack/kafka/log4j2.xml /opt/connect/log4j2.xml
COPY --chmod=755 docker/connect-worker /usr/local/bin/connect-worker
USER connect
ENTRYPOINT ["connect-worker"]
